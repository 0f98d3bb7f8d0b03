"""Own the protocol of one cell: warm-up, loops of a sample, the sample itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns

from harness.machine import read_disturbance

# Shorter samples would measure the timer, the call from Python and single interrupts: 20 ms is
# 1e5 times the step of the clock and 1e4 times the call.
MIN_SAMPLE_NS = 20_000_000
_MAX_LOOPS = 1 << 30
_OVERHEAD_LOOPS = 10_000

TimePasses = Callable[[int], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Hold one timed value and what disturbed it."""

    loops: int
    elapsed_ns: int
    switches: int
    faults: int
    steal_ticks: int


def calibrate(time: TimePasses, gate_ns: int, min_sample_ns: int = MIN_SAMPLE_NS) -> int:
    """Return the passes that make one sample at least `min_sample_ns` long; this is the warm-up too.

    gate_ns: the time of the checked pass. A pass longer than a sample needs no calibration. Shorter
    passes are run until an interval is long enough, doubling or better, so that lazily loaded code,
    caches and the clock frequency have settled before the first sample.
    """
    if gate_ns >= 10 * min_sample_ns:
        return 1
    loops = 1
    while loops < _MAX_LOOPS:
        elapsed = max(1, time(loops))
        if elapsed >= min_sample_ns:
            return loops
        # Aim a little above, so that a small speed-up does not need another round.
        loops = max(2 * loops, min(64 * loops, int(1.2 * loops * min_sample_ns / elapsed)))
    return _MAX_LOOPS


def sample(time: TimePasses, loops: int) -> Sample:
    """Take one sample: `loops` passes as one interval, with the disturbances counted around it."""
    before = read_disturbance()
    elapsed = time(loops)
    return Sample(loops=loops, elapsed_ns=elapsed, **read_disturbance().since(before))


def make_python_timer(forward: Callable[[], object]) -> TimePasses:
    """Return a timer of passes that are Python calls; the loop is Python's too."""

    def time(loops: int) -> int:
        start = perf_counter_ns()
        for _ in range(loops):
            forward()
        return perf_counter_ns() - start

    return time


def _nothing() -> None:
    pass


def python_overhead_ns() -> float:
    """Return what the Python loop itself costs per pass: the least of several runs over no work."""
    time = make_python_timer(partial(_nothing))
    return min(time(_OVERHEAD_LOOPS) for _ in range(5)) / _OVERHEAD_LOOPS
