"""What a core gets of the caches, from made-up curves of reading."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_curves import L2, L3, SETS, TOLD, VIRTUAL, make_curve
from made_machines import GIB, KIB, MIB, SMALL

from harness.machine import caches
from harness.records.facts import CacheWalk, ReadRate


def find(
    told: Mapping[str, int], curve: Sequence[ReadRate], threads: int = 1, last_level_caches: int = 1
) -> CacheWalk:
    """Return what a curve says of caches that are told."""
    return caches.find_effective(
        told, curve, threads=threads, last_level_caches=last_level_caches, seconds=3.0
    )


def test_sizes_that_the_curve_agrees_with_stand() -> None:
    """Where the rate falls at the last level that is told, the told sizes are kept to the byte."""
    told = {**TOLD, "L3": 33 * MIB}
    found = find(told, make_curve([L2, L3]))
    assert (found.caches, found.found) == (told, "told")


def test_a_hosts_last_level_is_not_the_guests() -> None:
    """Of 480 MiB that are told and 32 that are there, 32 count; the levels before stay as told."""
    found = find(VIRTUAL, make_curve([L2, L3]))
    assert found.found == "measured"
    assert found.caches == {**VIRTUAL, "L3": found.caches["L3"]}
    assert 32 * MIB <= found.caches["L3"] <= 48 * MIB
    assert found.curve == make_curve([L2, L3])


def test_what_neighbours_hold_for_now_is_no_other_size() -> None:
    """A last level of which neighbours hold more than half stands as told, one of a fifth does not."""
    held, small = make_curve([L2, (12 * MIB, 30.0)]), make_curve([L2, (6 * MIB, 30.0)])
    assert (find(TOLD, held).caches, find(TOLD, held).found) == (TOLD, "told")
    assert find(TOLD, small).caches["L3"] < 12 * MIB


def test_a_large_last_level_that_is_there_stands() -> None:
    """A real last level of 480 MiB is believed where the curve falls behind it, or never falls."""
    beyond, within = (
        make_curve([L2, (480 * MIB, 30.0)]),
        make_curve([L2, (480 * MIB, 30.0)], most=256 * MIB),
    )
    assert (find(VIRTUAL, beyond).caches, find(VIRTUAL, beyond).found) == (VIRTUAL, "told")
    assert (find(VIRTUAL, within).caches, find(VIRTUAL, within).found) == (VIRTUAL, "unseen")


@pytest.mark.parametrize("told_caches", [1, 2])
def test_threads_share_two_last_levels(told_caches: int) -> None:
    """Two of the last level hold twice as much; where one is told for both, it counts as one larger one."""
    threads = 4
    curve = make_curve([(threads * MIB, 240.0), (64 * MIB, 120.0)], 40.0)
    found = find(TOLD, curve, threads, told_caches)
    if told_caches == 2:
        assert (found.caches, found.found) == (TOLD, "told")
    else:
        assert found.found == "measured"
        assert 64 * MIB <= found.caches["L3"] <= 96 * MIB


def test_a_last_level_that_is_hidden_is_found() -> None:
    """Where no third level is told and the curve shows one, it is one of the caches."""
    told = {"L1d": 32 * KIB, "L2": MIB}
    found = find(told, make_curve([L2, L3]))
    assert found.found == "measured"
    assert 32 * MIB <= found.caches.pop("L3") <= 48 * MIB
    assert found.caches == told


def test_a_machine_without_a_third_level_has_none() -> None:
    """Where the rate falls to the memory's behind the second level, no third one is made up."""
    told = {"L1d": 64 * KIB, "L2": MIB}
    found = find(told, make_curve([L2]))
    assert (found.caches, found.found) == (told, "unseen")


def test_untold_sizes_are_seen() -> None:
    """Where the system tells nothing, the last level is measured beside the usual first two."""
    found = find({}, make_curve([L2, (8 * MIB, 30.0)]))
    assert found.found == "measured"
    assert (found.caches["L1d"], found.caches["L2"]) == (32 * KIB, MIB)
    assert 8 * MIB <= found.caches["L3"] <= 12 * MIB
    assert (find({}, []).caches, find({}, []).found) == ({}, "unseen")


def test_a_last_level_as_slow_as_memory_stands_as_told() -> None:
    """Where a third level that is told gives no more than the memory, its size can't be seen and stands."""
    found = find(VIRTUAL, make_curve([L2, (32 * MIB, 15.0)]))
    assert (found.caches, found.found) == (VIRTUAL, "unseen")


@given(st.integers(0, 10_000), st.floats(0.0, 0.3))
def test_disturbances_change_nothing_of_it(seed: int, noise: float) -> None:
    """Points that are slowed by up to 30 % leave the finding, and the size within a step of the sets."""
    found = find(VIRTUAL, make_curve([L2, L3], noise=noise, seed=seed))
    assert found.found == "measured"
    assert 24 * MIB <= found.caches["L3"] <= 64 * MIB


@given(st.lists(st.tuples(st.integers(0, len(SETS) - 1), st.floats(0.1, 500.0)), max_size=40))
def test_the_smooth_curve_never_rises(points: list[tuple[int, float]]) -> None:
    """Whatever was measured, in any order, the smooth curve falls with the set and is nowhere below it."""
    curve = [ReadRate(set_bytes=SETS[i], gbs=gbs) for i, gbs in points]
    smooth = caches.smooth(curve)
    assert [r.set_bytes for r in smooth] == sorted(r.set_bytes for r in curve)
    assert all(a.gbs >= b.gbs for a, b in itertools.pairwise(smooth))
    for point in curve:
        assert max(r.gbs for r in smooth if r.set_bytes == point.set_bytes) >= point.gbs
    assert find(VIRTUAL, curve).caches["L3"] > 0


def test_a_machine_takes_what_the_walk_found() -> None:
    """Plans are made for the caches that a core gets, and the record still has those that are told."""
    walk = find(SMALL.caches, make_curve([(128 * KIB, 60.0), (8 * MIB, 30.0)]))
    machine = SMALL.with_walk(walk)
    assert machine.caches == walk.caches
    assert machine.last_level_bytes() == walk.caches["L3"]
    assert machine.told_caches == SMALL.caches
    assert SMALL.with_walk(None) is SMALL
    assert machine.with_walk(walk) == machine
    two = SMALL.__class__(
        **{f: getattr(SMALL, f) for f in SMALL.__slots__} | {"last_level_caches": 2}
    )
    assert [two.last_level_bytes(threads) // MIB for threads in (1, 2, 8)] == [1, 2, 2]
    assert machine.last_level_bytes() < GIB
