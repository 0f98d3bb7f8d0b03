"""The protocol of a cell, with a clock that is made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count, pairwise

import pytest

from harness.backends import timer
from harness.measure import clock


def _fake(pass_ns: float, asked: list[int]) -> Callable[[int], int]:
    def time(loops: int) -> int:
        asked.append(loops)
        return int(loops * pass_ns)

    return time


@pytest.mark.parametrize("pass_ns", [0.5, 3, 100, 12_345, 1e6, 19e6, 25e6])
def test_a_sample_is_long_enough(pass_ns: float) -> None:
    """The loops make a sample at least as long as asked, and not many times longer; a pass's time is told."""
    asked: list[int] = []
    found = clock.calibrate(_fake(pass_ns, asked), 20_000_000)
    assert found.loops * pass_ns >= 20_000_000
    assert found.loops == 1 or found.loops * pass_ns < 4 * 20_000_000
    assert found.pass_ns == pytest.approx(pass_ns, rel=0.01)
    assert asked[0] == 1
    assert all(later >= 2 * earlier for earlier, later in pairwise(asked))


def test_a_long_pass_is_run_once() -> None:
    """A pass that is longer than a sample is run once more behind the gate's, and no further."""
    asked: list[int] = []
    found = clock.calibrate(_fake(1e9, asked), 20_000_000)
    assert found == clock.Calibration(loops=1, pass_ns=1e9)
    assert asked == [1]


def test_a_clock_that_stands_still_ends() -> None:
    """A pass that takes no time by the clock ends the calibration at its bound."""
    assert clock.calibrate(lambda loops: 0, 20_000_000).loops == 1 << 30


def test_sample_counts_disturbances(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample holds its loops, its time, and the differences of the counters around it."""
    from harness.machine.disturbance import Disturbance

    readings = [
        Disturbance(switches=5, faults=10, steal_ticks=100),
        Disturbance(switches=7, faults=10, steal_ticks=103),
    ]
    monkeypatch.setattr(clock, "read_disturbance", lambda: readings.pop(0))
    calls: list[int] = []
    taken = clock.sample(_fake(10, calls), 7, expected_ns=10)
    assert calls == [1_000_000, 7]  # passes of 10 ns are run before, untimed
    assert taken.call_ns > -70
    found = replace(taken, call_ns=0, cpu_ns=0)
    assert found == clock.Sample(
        loops=7, elapsed_ns=70, switches=2, faults=0, steal_ticks=3, call_ns=0
    )


def test_a_sample_has_the_processor_time_of_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the threads of the process computed during a sample stands in it, so that more than one shows."""
    readings = iter([1_000, 1_150])
    monkeypatch.setattr(clock, "process_time_ns", lambda: next(readings))
    assert clock.sample(_fake(10, []), 7, expected_ns=6e8).cpu_ns == 150


@pytest.mark.parametrize(
    ("pass_ns", "warming"),
    [(1e5, 100), (4e5, 25), (9e6, 2), (2e7, 1), (4.9e8, 1), (5e8, 0), (1e18, 0)],
)
def test_short_passes_warm_the_caches_for_a_while(pass_ns: float, warming: int) -> None:
    """Passes are run untimed for 10 ms before a sample, a longer one once, half a second's not at all."""
    assert clock.count_warming(pass_ns) == warming


@pytest.mark.parametrize("first_ns", [4e5, 6e5, 9e5, 1.4e6])
def test_loops_do_not_hang_on_the_first_pass(first_ns: float) -> None:
    """A first pass that was slower by chance leaves the loops as they are, so that runs sample alike."""

    def time(loops: int) -> int:
        return int(first_ns if loops == 1 else loops * 4e5)

    assert clock.calibrate(time, 10_000_000).loops == 30


def test_a_long_pass_is_not_run_before_its_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second and more is worth no second pass to bring back what the caches lost."""
    calls: list[int] = []
    clock.sample(_fake(10, calls), 3, expected_ns=6e8)
    assert calls == [3]


def test_python_passes_come_in_turn() -> None:
    """Several passes, one for each set of weights, are taken one after the other from the first on."""
    called: list[int] = []
    timer.make_python_timer(*(partial(called.append, i) for i in range(3)))(4)
    timer.make_python_timer(partial(called.append, 9))(2)
    assert called == [0, 1, 2, 0, 9, 9]


@pytest.mark.parametrize(
    ("batch", "block", "pass_ns", "slices"),
    [
        (16384, 1, 14_000_000_000, 16), (16384, 64, 7_300_000_000, 8), (16384, 0, 9_000_000_000, 1),
        (16384, 1, 900_000_000, 1), (100, 64, 9_000_000_000, 1), (96, 1, 10**12, 32),
    ],
)  # fmt: skip
def test_slices_hold_whole_blocks(batch: int, block: int, pass_ns: int, slices: int) -> None:
    """A long pass is cut in halves until a slice lasts a second, never through a block of tokens."""
    assert clock.count_slices(batch, block, pass_ns) == slices


@pytest.mark.parametrize(("computed_ms", "pauses"), [([0, 0], 1), ([3, 8, 13, 13.4], 3)])
def test_rest_lasts_until_no_thread_computes(computed_ms: list[float], pauses: int) -> None:
    """It waits while other threads take processor time, and no longer."""
    slept: list[float] = []
    clock.rest(iter([int(1e6 * ms) for ms in computed_ms]).__next__, slept.append)
    assert len(slept) == pauses


def test_rest_ends_beside_a_thread_that_never_rests() -> None:
    """A thread that computes for ever is waited for half a second and not longer."""
    slept: list[float] = []
    clock.rest(count(step=5_000_000).__next__, slept.append)
    assert sum(slept) == pytest.approx(0.5)


@pytest.mark.parametrize("told", [0.5, 0.97, 1.5], ids=["half", "too little", "too much"])
def test_a_told_time_that_is_not_the_wall_time_is_refused(told: float) -> None:
    """A timer whose passes take longer or shorter by the wall clock than it tells has no sample."""
    now = [0]

    def time(loops: int) -> int:
        now[0] += loops * 1_000_000
        return int(told * loops * 1_000_000)

    with pytest.raises(clock.ClockError, match="for 30 passes that took 30 ms by the wall clock"):
        clock.watch(time, lambda: now[0])(30)


@pytest.mark.parametrize("interruptions", [0, 1, 5, 9])
def test_interruptions_of_the_call_cost_no_cell(interruptions: int) -> None:
    """A right timer is asked again where something came between its time and the wall clock's."""
    now, left = [0], [interruptions]

    def time(loops: int) -> int:
        now[0] += loops * 1_000_000 + 5_000_000 * (left[0] > 0)
        left[0] -= 1
        return loops * 1_000_000

    assert clock.watch(time, lambda: now[0])(30) == 30_000_000
