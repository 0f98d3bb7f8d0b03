"""Own the protocol of one cell: warm-up, loops of a sample, the sample itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter_ns, process_time_ns, sleep
from typing import Any

from harness.backends.timer import TimePasses
from harness.machine.disturbance import read_disturbance

# Shorter samples would measure the timer and single interrupts: 20 ms is 1e5 times the clock's step.
MIN_SAMPLE_NS = 20_000_000
# A cell that follows others finds its weights evicted; repeated passes would find them where they were.
# Untimed passes before each sample make that the state of the first pass too. One does not do it: a cache
# that another cell has streamed through takes its new lines up slowly (passes of 0.5 ms became 3 %
# faster from the 5th to the 15th), so that short samples of few passes would be slower than those of
# many. For a longer pass the refill (some ms) is no longer worth a second pass.
_WARM_NS = 10_000_000
_REWARM_BELOW_NS = 500_000_000
# Longer samples are cut into slices of the batch where the implementation's tokens are independent, so
# that they interleave with the other cells as finely as those do.
MAX_SAMPLE_NS = 1_000_000_000
_MAX_SLICES = 64
_MAX_LOOPS = 1 << 30
# A thread that spins takes all of a processor; 1 ms of 5 is more than being asked takes.
_REST_S, _AT_REST_NS, _MOST_RESTS = 0.005, 1_000_000, 100


# What a timer tells may fall short of the wall time around its call by what the call itself takes: some
# microseconds from Python, and whatever interrupts it there. An interruption passes, a wrong clock stays;
# where more threads compute than there are processors, three calls in a row were seen to be interrupted.
_TOLD_SHARE, _TOLD_NS, _ASKED_AGAIN = 0.02, 200_000, 10


class ClockError(RuntimeError):
    """Say that an implementation tells another time than passes by around its passes."""


def watch(time: TimePasses, wall_ns: Callable[[], int] = perf_counter_ns) -> TimePasses:
    """Return a timer that compares what another tells with the wall time around it.

    wall_ns: the clock to compare with, in ns. The result raises ClockError where the told time is longer than
    the call took, or shorter by more than a call costs, ten times in a row.
    """

    def watched(loops: int) -> int:
        for _ in range(_ASKED_AGAIN):
            called = wall_ns()
            told = time(loops)
            wall = wall_ns() - called
            if 0 <= wall - told <= max(_TOLD_NS, _TOLD_SHARE * wall):
                return told
        raise ClockError(
            f"its clock told {told / 1e6:.3g} ms for {loops} passes that took {wall / 1e6:.3g} ms by the "
            "wall clock: no implementation brings a clock of its own"
        )

    return watched


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Hold one timed value and what disturbed it. From wall_ns to throttle a device's, see gpu_clock.py.

    cpu_ns: the processor time that all threads of the process took for it. parts_ns: of elapsed_ns, by the
    part of a whole model.
    """

    loops: int
    elapsed_ns: int
    switches: int
    faults: int
    steal_ticks: int
    call_ns: int = 0
    cpu_ns: int = 0
    wall_ns: int = 0
    sm_clock_mhz: int = 0
    power_w: float = 0.0
    throttle: tuple[str, ...] = ()
    parts_ns: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Hold the passes of a sample, and about how long one takes that is not the first of its process."""

    loops: int
    pass_ns: float


def calibrate(time: TimePasses, min_sample_ns: int = MIN_SAMPLE_NS) -> Calibration:
    """Return the passes that make one sample at least `min_sample_ns` long; this is the warm-up too.

    The checked pass before says nothing of those to come: it may have compiled, loaded a library or made
    a pool of threads. Passes are run until an interval is long enough, doubling or better, so that caches
    and the clock frequency have settled too before the first sample; a pass longer than that is run once.
    """
    loops = 1
    while True:
        elapsed = max(1, time(loops))
        if elapsed >= min_sample_ns or loops == _MAX_LOOPS:
            break
        # Aim a little above, so that a small speed-up does not need another round.
        loops = max(2 * loops, min(64 * loops, int(1.2 * loops * min_sample_ns / elapsed)))
        loops = min(loops, _MAX_LOOPS)
    pass_ns = elapsed / loops
    if 1 < loops < _MAX_LOOPS:
        # Not the loops that the doubling came to: those differ by up to two from run to run.
        loops = math.ceil(1.2 * min_sample_ns / pass_ns)
    return Calibration(loops=loops, pass_ns=pass_ns)


def count_slices(batch: int, token_block: int, pass_ns: float) -> int:
    """Return into how many equal slices of whole token blocks a sample of one pass is cut, 1 for none."""
    slices = 1
    while (
        token_block
        and pass_ns / slices > MAX_SAMPLE_NS
        and slices < _MAX_SLICES
        and batch % (2 * slices * token_block) == 0
    ):
        slices *= 2
    return slices


def count_warming(expected_ns: float) -> int:
    """Return the untimed passes before a sample of passes that take about so long."""
    if expected_ns >= _REWARM_BELOW_NS:
        return 0
    return max(1, math.ceil(_WARM_NS / max(1.0, expected_ns)))


def sample(time: TimePasses, loops: int, expected_ns: float) -> Sample:
    """Take one sample: `loops` passes as one interval, with the disturbances counted around it.

    expected_ns: about how long one pass takes; short ones are run before, untimed, for 10 ms or once.
    """
    warming = count_warming(expected_ns)
    if warming:
        time(warming)
    before, computed = read_disturbance(), process_time_ns()
    called = perf_counter_ns()
    elapsed = time(loops)
    call_ns = perf_counter_ns() - called - elapsed
    cpu_ns = process_time_ns() - computed
    disturbed: dict[str, Any] = read_disturbance().since(before)
    return Sample(loops=loops, elapsed_ns=elapsed, call_ns=call_ns, cpu_ns=cpu_ns, **disturbed)


def rest(
    computed_ns: Callable[[], int] = process_time_ns, pause: Callable[[float], None] = sleep
) -> None:
    """Wait until the other threads of this process rest, half a second at most.

    The threads of a pool spin for a while after a product in wait for the next (OpenBLAS's for 0.1 s), and
    would take processors from the next cell. computed_ns: the processor time of all threads.
    """
    before = computed_ns()
    for _ in range(_MOST_RESTS):
        pause(_REST_S)
        now = computed_ns()
        if now - before < _AT_REST_NS:
            return
        before = now
