"""The ceilings of a sweep: the sets that they run on, their place in the plan, and a run from end to end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fabricated_ceilings import (
    KIB,
    MIB,
    make_spec,
)
from hypothesis import given
from hypothesis import strategies as st
from made_curves import L2, L3, VIRTUAL, make_curve
from made_machines import MACHINES, SMALL

from harness.analysis import ceilings as analysis_ceilings
from harness.analysis.analysis import analyse
from harness.machine import caches
from harness.machine.facts import Machine
from harness.measure.process_key import ProcessKey
from harness.problem import axes, ceilings
from harness.records import reader, schema
from harness.sweep import ceilings as sweep_ceilings
from harness.sweep import plan
from harness.sweep import run as sweep_run


@given(st.integers(0, 16))
def test_the_scattered_order_visits_each_row_once(bits: int) -> None:
    """The gather's order is a permutation of the rows, whatever power of two their number is."""
    rows = 1 << bits
    order = ceilings.scattered(np.arange(rows), rows)
    np.testing.assert_array_equal(np.sort(order), np.arange(rows))


# The loops of our own in float32, and those of them that are streams through every place.
OWN = {"ceiling_fma", "ceiling_gather"} | {c.id for c in ceilings.CEILINGS.values() if c.places}
EVERYWHERE = {c.id for c in ceilings.CEILINGS.values() if c.places == "every"}


def test_the_scattered_order_has_no_stride() -> None:
    """No step between one row and the next is taken by more than a tenth of the visits."""
    order = ceilings.scattered(np.arange(4096), 4096)
    _, counts = np.unique(np.diff(order) % 4096, return_counts=True)
    assert counts.max() < 410


def test_sets_fill_half_of_each_cache() -> None:
    """Sets are half of a cache, and four times the last one in memory."""
    caches = {"L1d": 48 * KIB, "L2": 2 * MIB, "L3": 24 * MIB}
    sets, notices = sweep_ceilings.choose_sets(caches, 64 << 30)
    assert sets == {"L1": 24 * KIB, "L2": MIB, "L3": 12 * MIB, "memory": 96 * MIB}
    assert notices == []


def test_unknown_caches_are_assumed_and_said_so() -> None:
    """Where the system tells no cache, usual sizes are taken and the caller is told."""
    sets, notices = sweep_ceilings.choose_sets({}, 64 << 30)
    assert set(sets) == {"L1", "L2", "L3", "memory"}
    assert len(notices) == 1
    assert "32 KiB" in notices[0]


@pytest.mark.parametrize(
    ("last", "available", "memory"),
    [
        (96 * MIB, 64 << 30, 256 * MIB),
        (512 * MIB, 64 << 30, 1 << 30),
        (512 * MIB, 4 << 30, None),
        (32 * MIB, 256 * MIB, None),
    ],
)
def test_sets_never_exceed_what_fits(last: int, available: int, memory: int | None) -> None:
    """No set passes twice the last cache, 256 MiB at least, or an eighth of what is available.

    A set that is shortened or left out for that is said.
    """
    sets, notices = sweep_ceilings.choose_sets({"L1d": 32 * KIB, "L2": MIB, "L3": last}, available)
    assert all(size <= min(max(256 * MIB, 2 * last), available // 8) for size in sets.values())
    assert sets.get("memory") == memory
    assert len(notices) == 1


@pytest.mark.parametrize("width", [1, 64, 768, 4096])
def test_extents_stay_within_their_sets(width: int) -> None:
    """Each ceiling's arrays fit the set of their place; a gather's table is at least a quarter of it."""
    sets, _ = sweep_ceilings.choose_sets({"L1d": 32 * KIB, "L2": MIB, "L3": 32 * MIB}, 64 << 30)
    found = sweep_ceilings.place_all(sets, [width], seed=3)
    for extent in found:
        p = extent.problem
        ceiling = ceilings.CEILINGS[extent.implementation]
        size = 4 * p.batch * (bool(ceiling.reads) * p.d_in + bool(ceiling.writes) * p.d_out)
        if extent.place == ceilings.MEMORY:
            assert sets["memory"] / 2 <= size <= sweep_ceilings.MAX_SET_BYTES
        elif extent.place:
            assert sets[extent.place] / 4 <= size <= sets[extent.place]
    assert {e.place for e in found if e.implementation == "ceiling_read"} == set(sets)
    assert not [e for e in found if e.implementation == "ceiling_gather" and e.place == "L1"]
    assert [e.place for e in found if e.implementation == "ceiling_stream"] == [ceilings.MEMORY]


def test_all_levels_but_the_last_are_a_cores_own() -> None:
    """Several threads have as many of each cache as they are, but for the last, which all cores share."""
    caches = {"L1d": 32 * KIB, "L2": MIB, "L3": 32 * MIB}
    assert ceilings.find_capacities(caches, 3) == {"L1": 96 * KIB, "L2": 3 * MIB, "L3": 32 * MIB}
    assert ceilings.find_capacities({"L1d": KIB}, 3) == {"L1": KIB}


def test_several_last_caches_are_one_larger_one() -> None:
    """Threads have as many last caches as there are and as they are; the memory's set is beyond all."""
    caches = {"L1d": 32 * KIB, "L2": MIB, "L3": 16 * MIB}
    found = [ceilings.find_capacities(caches, threads, 2)["L3"] // MIB for threads in (1, 2, 16)]
    assert found == [16, 32, 32]
    two = dataclasses.replace(SMALL, caches=caches, last_level_caches=2)
    memory = []
    for machine, threads in (
        (two, 1),
        (two, 2),
        (two, 4),
        (dataclasses.replace(two, last_level_caches=1), 4),
    ):
        made = plan.make_plan(make_spec(threads=threads), machine)
        reads = {c.place: c.problem for c in made.cells if c.implementation == "ceiling_read"}
        memory.append(4 * reads["memory"].batch * reads["memory"].d_in // MIB)
        assert 4 * reads["L3"].batch * reads["L3"].d_in * 8 // MIB == memory[-1]
    assert memory == [64, 128, 128, 64]


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_each_thread_gets_a_set_in_its_own_caches(threads: int) -> None:
    """With several threads sets of caches of a core's own and the FMA loop grow with them; others stay."""
    caches = {"L1d": 32 * KIB, "L2": MIB, "L3": 32 * MIB}
    alone = sweep_ceilings.place_all(sweep_ceilings.choose_sets(caches, 64 << 30)[0], [768], seed=3)
    for one, several in zip(alone, sweep_ceilings.spread(alone, caches, threads), strict=True):
        times = several.problem.batch / one.problem.batch
        assert dataclasses.replace(several.problem, batch=one.problem.batch) == one.problem
        if one.place in ("L3", ceilings.MEMORY):
            assert times == 1
        elif one.implementation == "ceiling_gather":
            assert several.problem.batch.bit_count() == 1
            assert threads / 2 < times <= threads
        else:
            assert times == threads


def test_sets_are_of_the_caches_that_a_core_gets() -> None:
    """Where a walk found 32 of 480 MiB that are told, sets, flushes and rotation are those of 32 MiB."""
    told = dataclasses.replace(SMALL, caches=VIRTUAL)
    walk = caches.find_effective(
        VIRTUAL, make_curve([L2, L3]), threads=1, last_level_caches=1, seconds=3.0
    )
    walked = told.with_walk(walk)
    plain = dataclasses.replace(SMALL, caches=walk.caches)
    spec = make_spec(only=["ff_l1_blas"], axes=axes.lists(weights=["hot", "rotated", "flushed"]))
    assert {c.id for c in plan.make_plan(spec, walked).cells} == {
        c.id for c in plan.make_plan(spec, plain).cells
    }
    assert plan.make_plan(spec, walked).memory_bytes() < plan.make_plan(spec, told).memory_bytes()
    assert any("ceiling_read/memory/" in c.id for c in plan.make_plan(spec, walked).cells)


@pytest.mark.parametrize("together", [False, True], ids=["one thread", "all cores"])
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_the_plan_holds_each_ceiling_once_by_place(machine: Machine, together: bool) -> None:
    """The loops of our own are planned once, without provider, with their place in the id.

    Every place of a machine has its ceilings, but for a memory that is too short for a set beyond the caches:
    that is said.
    """
    made = plan.make_plan(make_spec(threads=machine.cores if together else 1), machine)
    own = [c for c in made.cells if c.role == "ceiling" and not c.provider]
    assert len({c.id for c in own}) == len(own)
    assert {c.runs_in for c in own} == {ProcessKey(provider="scipy")}
    assert all(c.place in c.id.split("/") for c in own if c.place)
    measured = any(c.id.startswith("ceiling_read/memory/") for c in own)
    assert measured != any(n.startswith("no ceiling of the memory: ") for n in made.notices)
    assert {c.implementation for c in own} == OWN - (set() if measured else {"ceiling_stream"})
    told = {name.removesuffix("d") for name in machine.caches} or {"L1", "L2", "L3"}
    reads = {c.place for c in own if c.implementation == "ceiling_read"}
    if measured:
        assert reads == told | {"memory"}
    else:
        assert told - {"L3"} <= reads <= told


def test_a_block_of_ceilings_is_short() -> None:
    """One sample of each loop of our own is predicted to take less than a second a block."""
    cells = [
        c
        for c in plan.make_plan(make_spec(), SMALL).cells
        if c.role == "ceiling" and not c.provider
    ]
    assert sum(max(c.predicted_s(), 0.02) for c in cells) < 1.0


def test_skip_leaves_the_ceilings_out() -> None:
    """`--skip 'ceiling*'` leaves out every ceiling and the notices about them."""
    made = plan.make_plan(make_spec(skip=["ceiling*"]), SMALL)
    assert {c.role for c in made.cells} == {"layer"}


class Silent:
    """Hear nothing of a sweep."""

    def stage(self, text: str) -> None:
        """Hear what is being done."""

    def progress(self, elapsed_s: float, predicted_s: float) -> None:
        """Hear how far the sweep is."""

    def cell(self, record: schema.CellRecord) -> None:
        """Hear the outcome of a cell's gate."""

    def sample(self, record: schema.SampleRecord) -> None:
        """Hear a sample."""


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_sweep_measures_and_prints_the_ceilings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """In a real sweep every ceiling passes its gate and is sampled once a block, by place."""
    monkeypatch.setattr(sweep_ceilings, "_CEILING_EXTENT", 64)
    machine = dataclasses.replace(SMALL, caches={"L1d": 32 * KIB, "L2": 128 * KIB})
    spec = make_spec(
        out=tmp_path / "run", only=["ff_l1_blas"], widths=[64], passes=2, threads=threads
    )
    outcome = sweep_run.run(plan.make_plan(spec, machine), Silent())
    assert (outcome.reason, outcome.wrong, outcome.failed) == ("complete", 0, 0)
    run = reader.load_run(outcome.folder)
    own = run.cells[(run.cells["role"] == "ceiling") & (run.cells["provider"] == "")]
    places = {(c.implementation, analysis_ceilings.place_name(c)) for c in own.itertuples()}
    streams = {(name, place) for name in EVERYWHERE for place in ("L1", "L2", "memory")}
    streams.add(("ceiling_stream", "memory"))
    gathers = {("ceiling_gather", "L2"), ("ceiling_gather", "memory")}
    assert places == streams | gathers | {("ceiling_fma", "")}
    counts = run.samples[run.samples["cell"].isin(own["cell"])].groupby(["cell", "block"]).size()
    assert len(counts) == 2 * len(own)
    assert (counts == 1).all()
    known = analyse(run).ceilings
    assert set(known.bandwidth) == {"L1", "L2", "memory"}
    assert known.threads == threads
    assert np.isfinite(analyse(run).points[0].speeds[0].of_ceiling)
