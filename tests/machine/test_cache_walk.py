"""The walk over working sets: which are read, for how long, and what a real one comes to."""

from __future__ import annotations

import itertools
import subprocess
from dataclasses import replace

import pytest
from made_machines import GIB, KIB, MACHINES, MIB, SMALL

from harness.errors import UnavailableError
from harness.machine import cache_walk
from harness.machine.cache_walk import take  # before conftest.py puts another in its place
from harness.machine.facts import Machine


@pytest.mark.parametrize("threads", [1, 3, 16])
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_sets_reach_beyond_what_is_told(machine: Machine, threads: int) -> None:
    """Sets rise by a third or a half from within the second level to beyond the last, as memory allows."""
    sets = cache_walk.choose_sets(machine, threads)
    assert all(1.3 < b / a < 1.6 for a, b in itertools.pairwise(sets))
    assert sets[0] <= threads * 256 * KIB
    most = min(
        max(GIB, 4 * machine.last_level_bytes(threads)), 4 * GIB, machine.available_bytes // 4
    )
    assert most / 1.5 < sets[-1] <= most


def test_short_memory_shortens_the_walk() -> None:
    """No set takes more than a quarter of the available memory; where none fits there is no walk."""
    assert cache_walk.choose_sets(replace(SMALL, available_bytes=64 * MIB), 1)[-1] == 16 * MIB
    with pytest.raises(UnavailableError, match="0 MiB of available memory are too few"):
        take(replace(SMALL, available_bytes=0), threads=1, isa="", keep_blas_env=False)


class Reader:
    """Read at a chosen rate on a clock of its own."""

    def __init__(self, seconds: float, gbs: float) -> None:
        """Begin with so many seconds left."""
        self.left, self.gbs = seconds, gbs
        self.seen: list[int] = []

    def __call__(self, size: int) -> tuple[int, int]:
        """Read a set twice, every second time at half the rate."""
        self.seen.append(size)
        took_ns = 2 * size / self.gbs * (1 + len(self.seen) % 2)
        self.left -= took_ns / 1e9
        return 2 * size, int(took_ns)


def test_each_set_counts_with_its_fastest_pass() -> None:
    """All sets are read in two rounds, small ones in more, and a pass that was disturbed doesn't count."""
    reader = Reader(1e9, gbs=20.0)
    found = cache_walk.read_rates([MIB, GIB], reader, lambda: reader.left)
    assert [(rate.set_bytes, rate.gbs) for rate in found] == [
        (MIB, pytest.approx(20, 0.01)), (GIB, pytest.approx(20, 0.01)),
    ]  # fmt: skip
    assert reader.seen == 2 * [MIB, MIB, GIB, GIB] + 8 * [MIB]


@pytest.mark.parametrize("gbs", [0.5, 2.0, 50.0])
def test_a_slow_machine_ends_the_walk_in_time(gbs: float) -> None:
    """Sets that the seconds don't last for are left out, the largest first, and the seconds hold."""
    reader, sets = Reader(4.0, gbs), cache_walk.choose_sets(SMALL, 1)
    found = cache_walk.read_rates(sets, reader, lambda: reader.left)
    assert [rate.set_bytes for rate in found] == sets[: len(found)]
    assert reader.left > -2.0
    assert (len(found) == len(sets)) == (gbs == 50.0)


def test_a_walk_is_taken_in_a_process_of_its_own() -> None:
    """On this machine a small walk reads every set, on two threads, and finds some caches."""
    small = replace(SMALL, available_bytes=32 * MIB)
    walk = take(small, threads=2, isa="generic", keep_blas_env=False)
    assert [rate.set_bytes for rate in walk.curve] == cache_walk.choose_sets(small, 2)
    assert walk.threads == 2
    assert set(walk.caches) == set(SMALL.caches)


def test_a_walk_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends or prints nonsense is a reason and no traceback."""

    def fail(*words: object, **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, stdout="nonsense")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(UnavailableError, match="the process that reads them failed"):
        take(SMALL, threads=1, isa="", keep_blas_env=False)
