"""Own the timer of passes that are Python calls, and what such a call costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from time import perf_counter_ns

_OVERHEAD_LOOPS = 10_000
TimePasses = Callable[[int], int]


def make_python_timer(*passes: Callable[[], object]) -> TimePasses:
    """Return a timer of passes that are Python calls; the loop is Python's too. Several come in turn."""
    forward = passes[0]

    def time(loops: int) -> int:
        start = perf_counter_ns()
        for _ in range(loops):
            forward()
        return perf_counter_ns() - start

    def time_in_turn(loops: int) -> int:
        start = perf_counter_ns()
        for i in range(loops):
            passes[i % len(passes)]()
        return perf_counter_ns() - start

    return time if len(passes) == 1 else time_in_turn


def _nothing() -> None:
    pass


@cache
def python_overhead_ns() -> float:
    """Return what the Python loop itself costs per pass: the least of several runs over no work."""
    time = make_python_timer(partial(_nothing))
    return min(time(_OVERHEAD_LOOPS) for _ in range(5)) / _OVERHEAD_LOOPS
