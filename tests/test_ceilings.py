"""The ceilings: their kernels, the sets that they run on, and what they say of the cells of a run."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import native
from harness.analysis import ceilings as analysis_ceilings
from harness.analysis import points as analysis_points
from harness.analysis import roofline, rows
from harness.backends import registry
from harness.backends.registry import Context
from harness.machine import resources
from harness.problem import ceilings
from harness.problem.check import check, poison
from harness.problem.models import BASELINE, parse_models
from harness.problem.operands import Operands, make_operands
from harness.problem.problem import Problem
from harness.records import reader, schema, writer
from harness.report import csv as report_csv
from harness.report import figures, frames, table
from harness.sweep import ceilings as sweep_ceilings
from harness.sweep import plan
from harness.sweep import run as sweep_run
from harness.sweep.spec import SweepSpec

OWN = ("ceiling_fma", "ceiling_read", "ceiling_write", "ceiling_copy", "ceiling_stream",
       "ceiling_gather")  # fmt: skip
SQUARE = ("ceiling_fma", "ceiling_copy", "ceiling_stream")  # d_in = d_out
KIB, MIB = 1 << 10, 1 << 20


def run_kernel(
    implementation: str, problem: Problem, operands: Operands, isa: str = "", threads: int = 1
) -> None:
    """Run one pass over a poisoned output."""
    context = Context(
        provider=None, workspace=lambda size: np.empty(size, np.uint8), isa=isa, threads=threads
    )
    poison(operands.y)
    registry.get(implementation).prepare(problem, operands, context).forward()


def make_problem(implementation: str, batch: int, d_in: int, d_out: int, hidden: int) -> Problem:
    """Return a problem that the ceiling takes."""
    if implementation in SQUARE:
        d_out = d_in
    return Problem(layer="ceiling", batch=batch, d_in=d_in, d_out=d_out, hidden=hidden, seed=d_in)


# ---- the kernels --------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize("implementation", OWN)
@pytest.mark.parametrize("d_in", [1, 7, 8, 31, 33, 127, 128, 129, 384, 769])
def test_agrees_with_the_oracle(implementation: str, d_in: int, isa: str) -> None:
    """Each ceiling gives its known answer for every instruction set, at widths beside every vector's edge."""
    for batch, d_out, hidden in ((1, 1, 1), (8, 5, 3), (32, 1, 2)):
        problem = make_problem(implementation, batch, d_in, d_out, hidden)
        operands = make_operands(problem)
        run_kernel(implementation, problem, operands, isa)
        verdict = check(problem, operands, implementation=implementation)
        assert verdict.ok, verdict.reason


@pytest.mark.parametrize("threads", [2, 3, 40])
@pytest.mark.parametrize("hidden", [1, 5])
@pytest.mark.parametrize("implementation", OWN)
def test_right_whatever_the_threads(implementation: str, hidden: int, threads: int) -> None:
    """Threads that share the rows, walked once or often, write what one thread writes, and it is right."""
    problem = make_problem(implementation, 32, 130, 1, hidden)
    operands = make_operands(problem)
    run_kernel(implementation, problem, operands)
    alone = operands.y.copy()
    run_kernel(implementation, problem, operands, threads=threads)
    np.testing.assert_array_equal(operands.y, alone)
    verdict = check(problem, operands, implementation=implementation)
    assert verdict.ok, verdict.reason


@pytest.mark.parametrize("implementation", OWN)
def test_writes_its_output_and_nothing_else(implementation: str) -> None:
    """Guard rows around the output survive, and the operands are unchanged."""
    problem = make_problem(implementation, 16, 37, 3, 2)
    made = make_operands(problem)
    guarded = np.full((problem.batch + 2, problem.d_out), 42.0, np.float32)
    operands = dataclasses.replace(made, y=guarded[1:-1])
    before = [operands.x.copy(), operands.w_in.copy(), operands.w_out.copy()]
    run_kernel(implementation, problem, operands)
    assert (guarded[[0, -1]] == 42.0).all()
    for array, old in zip((operands.x, operands.w_in, operands.w_out), before, strict=True):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("implementation", OWN)
def test_nan_and_inf_arrive_where_the_oracle_has_them(implementation: str) -> None:
    """A NaN and an infinity in the input come out in the places that the oracle says."""
    problem = make_problem(implementation, 8, 40, 2, 2)
    operands = make_operands(problem)
    operands.x[3, 0], operands.x[5, 0] = np.nan, np.inf
    run_kernel(implementation, problem, operands)
    assert check(problem, operands, implementation=implementation).ok
    assert not np.isfinite(operands.y).all()


@pytest.mark.parametrize("steps", [1, 5, 1023])
def test_the_check_sees_a_missing_step(steps: int) -> None:
    """An FMA loop that does one step too few is wrong, at the count of steps that the sweep uses too."""
    done = Problem(layer="ceiling", batch=4, d_in=96, d_out=96, hidden=steps)
    asked = dataclasses.replace(done, hidden=steps + 1)
    operands = make_operands(asked)
    fewer = dataclasses.replace(operands, w_in=operands.w_in[:-1], w_out=operands.w_out[:-1])
    run_kernel("ceiling_fma", done, fewer)
    assert not check(asked, operands, implementation="ceiling_fma").ok


@pytest.mark.parametrize(
    "implementation", ["ceiling_write", "ceiling_copy", "ceiling_stream", "ceiling_gather"]
)
def test_the_check_sees_a_missing_walk(implementation: str) -> None:
    """A ceiling that skips the last walk over its set is wrong."""
    asked = make_problem(implementation, 8, 64, 1, 4)
    operands = make_operands(asked)
    done = dataclasses.replace(asked, hidden=3)
    fewer = dataclasses.replace(operands, w_in=operands.w_in[:-1], w_out=operands.w_out[:-1])
    run_kernel(implementation, done, fewer)
    assert not check(asked, operands, implementation=implementation).ok


@pytest.mark.parametrize("implementation", ["ceiling_read", "ceiling_gather"])
def test_the_check_sees_a_line_that_was_not_read(implementation: str) -> None:
    """A row of which one cache line was left out is wrong."""
    problem = make_problem(implementation, 8, 2048, 1, 1)
    operands = make_operands(problem)
    whole = operands.x.copy()
    operands.x[5, 1024:1040] = 0
    run_kernel(implementation, problem, operands)
    operands.x[:] = whole
    assert not check(problem, operands, implementation=implementation).ok


@pytest.mark.parametrize(
    ("implementation", "extents"),
    [
        ("ceiling_fma", {"batch": 1, "d_in": 4, "d_out": 5, "hidden": 1}),
        ("ceiling_copy", {"batch": 1, "d_in": 4, "d_out": 5, "hidden": 1}),
        ("ceiling_stream", {"batch": 1, "d_in": 4, "d_out": 5, "hidden": 1}),
        ("ceiling_gather", {"batch": 6, "d_in": 4, "d_out": 1, "hidden": 1}),
    ],
)
def test_refuses_an_unfit_shape(implementation: str, extents: dict[str, int]) -> None:
    """A ceiling refuses extents on which its answer would not be defined."""
    problem = Problem(layer="ceiling", **extents)
    with pytest.raises(native.NativeError, match="bad shape"):
        run_kernel(implementation, problem, make_operands(problem))


@given(st.integers(0, 16))
def test_the_scattered_order_visits_each_row_once(bits: int) -> None:
    """The gather's order is a permutation of the rows, whatever power of two their number is."""
    rows = 1 << bits
    order = ceilings.scattered(np.arange(rows), rows)
    np.testing.assert_array_equal(np.sort(order), np.arange(rows))


def test_the_scattered_order_has_no_stride() -> None:
    """No step between one row and the next is taken by more than a tenth of the visits."""
    order = ceilings.scattered(np.arange(4096), 4096)
    _, counts = np.unique(np.diff(order) % 4096, return_counts=True)
    assert counts.max() < 410


# ---- the sets -----------------------------------------------------------------------------------


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
    [(96 * MIB, 64 << 30, 256 * MIB), (512 * MIB, 64 << 30, None), (32 * MIB, 256 * MIB, None)],
)
def test_sets_never_exceed_what_fits(last: int, available: int, memory: int | None) -> None:
    """No set passes 256 MiB or an eighth of what is available; a shortened or left out one is said."""
    sets, notices = sweep_ceilings.choose_sets({"L1d": 32 * KIB, "L2": MIB, "L3": last}, available)
    assert all(size <= min(256 * MIB, available // 8) for size in sets.values())
    assert sets.get("memory") == memory
    assert len(notices) == 1


@pytest.mark.parametrize("width", [1, 64, 768, 4096])
def test_extents_stay_within_their_sets(width: int) -> None:
    """Each ceiling's arrays fit the set of their place; a gather's table is at least a quarter of it."""
    sets, _ = sweep_ceilings.choose_sets({"L1d": 32 * KIB, "L2": MIB, "L3": 32 * MIB}, 64 << 30)
    found = sweep_ceilings.place_all(sets, [width], seed=3)
    for extent in found:
        p = extent.problem
        size = 4 * p.batch * (p.d_out if extent.implementation == "ceiling_write" else p.d_in)
        if extent.implementation in ("ceiling_copy", "ceiling_stream"):
            size *= 2
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


def make_spec(**changes: Any) -> SweepSpec:
    """Return a small sweep."""
    spec = SweepSpec(
        levels=[1], device="cpu", models=parse_models("ff-8"), batches=[4], widths=[16],
        only=[], skip=[], blas=["scipy"], threads=1, seed=0, passes=1, budget_s=1.0, processes=1,
        quick=True, keep_blas_env=False, out=None,
    )  # fmt: skip
    return dataclasses.replace(spec, **changes)


def test_the_plan_holds_each_ceiling_once_by_place() -> None:
    """The loops of our own are planned once, without provider, with their place in the id."""
    made = plan.make_plan(make_spec())
    own = [c for c in made.cells if c.role == "ceiling" and not c.provider]
    assert {c.implementation for c in own} == set(OWN)
    assert len({c.id for c in own}) == len(own)
    assert {c.runs_in for c in own} == {"scipy"}
    assert all(c.place in c.id.split("/") for c in own if c.place)
    assert any(c.id.startswith("ceiling_read/memory/") for c in own)


def test_a_block_of_ceilings_is_short() -> None:
    """One sample of each loop of our own is predicted to take less than a second a block."""
    cells = [c for c in plan.make_plan(make_spec()).cells if c.role == "ceiling" and not c.provider]
    assert sum(max(c.predicted_s(), 0.02) for c in cells) < 1.0


def test_skip_leaves_the_ceilings_out() -> None:
    """`--skip 'ceiling*'` leaves out every ceiling and the notices about them."""
    made = plan.make_plan(make_spec(skip=["ceiling*"]))
    assert {c.role for c in made.cells} == {"layer"}


# ---- what they say of a run -----------------------------------------------------------------------

CACHES = {"L1d": 32 * KIB, "L2": MIB, "L3": 32 * MIB}
LIMITS = analysis_ceilings.Ceilings(
    flops=100.0,
    bandwidth={"L1": 200.0, "L2": 100.0, "L3": 50.0, "memory": 10.0},
    capacity={"L1": 32 * KIB, "L2": MIB, "L3": 32 * MIB},
)


def cell_record(cell: str, **changes: Any) -> schema.CellRecord:
    """Return the record of a cell that passed its gate, the baseline at level 1 unless told otherwise."""
    facts: dict[str, Any] = {
        "cell": cell, "role": "layer", "implementation": "ff_l1_blas", "layer": "ff", "level": 1,
        "model": BASELINE, "provider": "scipy", "threads": 1, "batch": 64, "d_in": 768,
        "d_out": 768, "hidden": 4095, "depth": 0, "trees": 0, "dtype": "float32", "data": "random",
        "seed": 0, "flops": 2 * 64 * 4095 * 1536, "bytes_moved": 0, "process": 0, "status": "ok",
        "reason": "", "loops": 1, "gate_ns": 1, "checked_tokens": 64, "near_ties": 0,
        "worst_error": 0.0, "nodes_touched": 0, "notes": {},
    }  # fmt: skip
    return schema.CellRecord(**{**facts, **changes})


def fff_record(cell: str, **changes: Any) -> schema.CellRecord:
    """Return the record of UltraFastBERT-1x11 at level 1."""
    facts = {
        "implementation": "fff_l1_blas", "layer": "fff", "model": "ultrafastbert-1x11", "hidden": 0,
        "depth": 11, "trees": 1, "flops": 2 * 64 * 12 * 1536, "nodes_touched": 382,
    }  # fmt: skip
    return cell_record(cell, **{**facts, **changes})


def ceiling_records() -> list[tuple[schema.CellRecord, float]]:
    """Return ceilings with the rates of LIMITS, and the time of a pass of each."""
    sizes = {"batch": 1, "d_in": 1, "d_out": 1, "hidden": 1, "model": "", "level": None}
    found = [
        (
            cell_record(
                "fma", role="ceiling", layer="ceiling", implementation="ceiling_fma", provider="",
                flops=10**8, **sizes,
            ),
            1e6,
        )
    ]  # fmt: skip
    for place, rate in LIMITS.bandwidth.items():
        record = cell_record(
            f"read/{place}", role="ceiling", layer="ceiling", implementation="ceiling_read",
            provider="", flops=0, bytes_moved=10**8, notes={"place": place}, **sizes,
        )  # fmt: skip
        found.append((record, 1e8 / rate))
    return found


def make_run(
    folder: Path, cells: list[tuple[schema.CellRecord, float]], blocks: int = 4
) -> reader.Run:
    """Write a run of the given cells and times of a pass in ns, equal in every block, and read it."""
    machine = schema.MachineRecord(
        host="h", system="s", processor="p", microarchitecture="m", isa=[], cores=2, caches=CACHES,
        memory_bytes=1 << 34, virtual_machine="", python="3", packages={},
        build={"isa": "avx2", "compiler": "gcc", "flags": ""}, harness_version="0", commit="c",
        environment={},
    )  # fmt: skip
    head = schema.RunHead(
        schema_version=schema.SCHEMA_VERSION, started_utc="2026-01-01T00:00:00+00:00",
        machine=machine, sweep=make_spec().record(),
    )  # fmt: skip
    made = writer.Writer(folder, head)
    for record, _ in cells:
        made.append(record)
    for block in range(blocks):
        for order, (record, pass_ns) in enumerate(cells):
            made.append(
                schema.SampleRecord(
                    cell=record.cell, process=0, block=block, order=order, started_ns=0, loops=1,
                    elapsed_ns=int(pass_ns), switches=0, faults=0, steal_ticks=0,
                )
            )  # fmt: skip
    made.close()
    return reader.load_run(folder)


def two_threads(
    cells: list[tuple[schema.CellRecord, float]], **notes: str
) -> list[tuple[schema.CellRecord, float]]:
    """Return the cells as a run with two threads records them; notes: of ceilings of our own."""
    return [
        (
            record.model_copy(
                update={
                    "threads": 2,
                    "notes": {**record.notes, **(notes if record.role == "ceiling" else {})},
                }
            ),
            time,
        )
        for record, time in cells
    ]


def row(record: schema.CellRecord) -> pd.Series:
    """Return a record as a row of a run's cells."""
    return pd.Series(record.model_dump())


def test_measured_ceilings_are_read_from_a_run(tmp_path: Path) -> None:
    """Peak and bandwidths are those of the samples, by place."""
    found = analysis_ceilings.measure(make_run(tmp_path / "run", ceiling_records()))
    assert found.flops == pytest.approx(LIMITS.flops)
    assert found.bandwidth == pytest.approx(LIMITS.bandwidth)
    assert found.capacity == LIMITS.capacity


def test_ceilings_of_two_threads_are_granted_once(tmp_path: Path) -> None:
    """Where the ceilings ran on two threads, a cell of two is granted their rates and not twice those."""
    cells = two_threads([*ceiling_records(), (cell_record("ff"), 2 * FF_FLOOR_NS)], threads="2")
    run = make_run(tmp_path / "run", cells)
    found = analysis_ceilings.measure(run)
    assert (found.threads, found.flops) == (2, pytest.approx(LIMITS.flops))
    assert found.bandwidth == pytest.approx(LIMITS.bandwidth)
    assert found.capacity == {"L1": 64 * KIB, "L2": 2 * MIB, "L3": 32 * MIB}
    assert analysis_points.points(run)[0].speeds[0].of_ceiling == pytest.approx(0.5)
    assert "measured in the same run, of 2 threads together:" in table.format_markdown(run)


def test_ceilings_of_one_thread_are_granted_to_each(tmp_path: Path) -> None:
    """An older run of two threads, whose loops ran on one, grants a cell twice what that one reached."""
    cells = two_threads([*ceiling_records(), (cell_record("ff"), 2 * FF_FLOOR_NS)])
    run = make_run(tmp_path / "run", cells)
    found = analysis_ceilings.measure(run)
    assert (found.threads, found.capacity) == (1, LIMITS.capacity)
    assert analysis_points.points(run)[0].speeds[0].of_ceiling == pytest.approx(0.25)
    assert "measured in the same run:" in table.format_markdown(run)


@pytest.mark.parametrize(("notes", "peak"), [({}, 150.0), ({"threads": "2"}, 300.0)])
def test_a_product_counts_by_the_threads_of_its_pool(
    tmp_path: Path, notes: dict[str, str], peak: float
) -> None:
    """A provider's product on two threads is a peak of two, or half of it where the loops ran on one."""
    product = cell_record(
        "sgemm", role="ceiling", layer="ceiling", implementation="ceiling_sgemm", model="",
        flops=3 * 10**8,
    )  # fmt: skip
    cells = [*two_threads(ceiling_records(), **notes), *two_threads([(product, 1e6)])]
    assert analysis_ceilings.measure(make_run(tmp_path / "run", cells)).flops == pytest.approx(peak)


def test_a_faster_place_is_never_slower(tmp_path: Path) -> None:
    """A disturbed ceiling of a cache counts at least with the bandwidth of the next slower place."""
    cells = [(r, 1e12 if r.cell == "read/L2" else t) for r, t in ceiling_records()]
    found = analysis_ceilings.measure(make_run(tmp_path / "run", cells))
    assert found.bandwidth["L2"] == pytest.approx(LIMITS.bandwidth["L3"])


def test_a_run_without_ceilings_judges_nothing(tmp_path: Path) -> None:
    """Where no ceiling was measured, shares are unknown and nothing is impossible by them."""
    run = make_run(tmp_path / "run", [(cell_record("ff"), 1e9)])
    point = analysis_points.points(run)[0]
    assert math.isnan(point.speeds[0].of_ceiling)
    assert table.impossible([point]) == []
    assert "of its ceiling" in table.format_markdown(run)


@given(st.integers(1, 1 << 32), st.integers(1, 1 << 20))
def test_traffic_is_bounded_by_the_fastest_and_slowest_place(size: int, more: int) -> None:
    """The time of a set grows with it, and lies between all of it from L1 and all of it from memory."""
    time = roofline.traffic_ns(LIMITS, size)
    assert size / 200.0 * (1 - 1e-9) <= time <= size / 10.0 * (1 + 1e-9)
    assert roofline.traffic_ns(LIMITS, size + more) > time


def test_a_set_of_one_cache_counts_no_slower_bandwidth() -> None:
    """A set within the first cache takes its bandwidth, one beyond all adds the excess from memory."""
    assert roofline.traffic_ns(LIMITS, 20 * KIB) == pytest.approx(20 * KIB / 200)
    beyond = roofline.traffic_ns(LIMITS, 40 * MIB) - roofline.traffic_ns(LIMITS, 32 * MIB)
    assert beyond == pytest.approx(8 * MIB / 10)


def test_the_floor_is_the_larger_of_work_and_traffic() -> None:
    """A dense layer is bound by its operations, a conditional one by its traffic; threads divide both.

    Not where as many threads were measured together.
    """
    dense, conditional = row(cell_record("ff")), row(fff_record("fff"))
    assert roofline.floor_ns(LIMITS, dense) == pytest.approx(dense["flops"] / 100.0)
    moved = 4 * 1536 * (64 + 382)
    assert roofline.compulsory_bytes(conditional) == moved
    assert roofline.floor_ns(LIMITS, conditional) == pytest.approx(
        roofline.traffic_ns(LIMITS, moved)
    )
    dense["threads"] = 2
    assert roofline.floor_ns(LIMITS, dense) == pytest.approx(dense["flops"] / 200.0)
    together = dataclasses.replace(LIMITS, threads=2)
    assert roofline.floor_ns(together, dense) == pytest.approx(dense["flops"] / 100.0)


def test_the_summed_floor_adds_work_and_traffic() -> None:
    """The share of floor is of operations at the peak plus bytes at the bandwidth; cold ones from memory."""
    cell = row(fff_record("fff"))
    moved = roofline.compulsory_bytes(cell)
    work = cell["flops"] / 100.0
    hot = work + roofline.traffic_ns(LIMITS, moved)
    assert roofline.summed_floor_ns(LIMITS, cell) == pytest.approx(hot)
    assert hot > roofline.floor_ns(LIMITS, cell)
    cell["weights"] = "flushed"
    assert roofline.summed_floor_ns(LIMITS, cell) == pytest.approx(work + moved / 10.0)
    cell["threads"] = 2
    assert roofline.summed_floor_ns(LIMITS, cell) == pytest.approx((work + moved / 10.0) / 2)
    together = dataclasses.replace(LIMITS, threads=2)
    assert roofline.summed_floor_ns(together, cell) == pytest.approx(work + moved / 10.0)


def test_bfloat16_is_bound_by_its_bytes_alone() -> None:
    """The peak of float32 bounds no bfloat16: the bound is of half the bytes; the aim counts work too."""
    cell = row(fff_record("fff"))
    moved = roofline.compulsory_bytes(cell)
    cell["dtype"] = "bfloat16"
    assert roofline.compulsory_bytes(cell) == moved // 2
    traffic = roofline.traffic_ns(LIMITS, moved // 2)
    assert roofline.floor_ns(LIMITS, cell) == pytest.approx(traffic)
    assert roofline.summed_floor_ns(LIMITS, cell) == pytest.approx(traffic + cell["flops"] / 100.0)


def test_share_of_floor_is_printed_beside_the_share_of_the_ceiling(tmp_path: Path) -> None:
    """Table and speeds.csv hold both shares, and the floor's is never the smaller one."""
    run = make_run(tmp_path / "run", [*ceiling_records(), (cell_record("ff"), 2 * FF_FLOOR_NS)])
    text = table.format_markdown(run)
    assert "| of its ceiling   | share of floor   |" in text
    assert "- share of floor: the same with the sum" in text
    frame = report_csv.speeds_csv_frame(run).set_index("cell")
    assert frame.loc["ff", "of_floor"] > frame.loc["ff", "of_ceiling"] == pytest.approx(0.5)


FF_FLOOR_NS = 2 * 64 * 4095 * 1536 / 100.0
STREAM_NS = 64 * 4095 * 1536 * 4 / 45.0  # all weights for each token, at 45 of L3's 50 GB/s


def test_a_cell_above_its_ceiling_is_impossible(tmp_path: Path) -> None:
    """A cell 10 % faster than its floor is flagged on its row and in the head; one at the floor is not."""
    cells = [*ceiling_records(), (cell_record("ff"), FF_FLOOR_NS / 1.1)]
    text = table.format_markdown(make_run(tmp_path / "fast", cells))
    assert "- **IMPOSSIBLE**: ff: faster than its ceiling allows" in text
    assert "110 %" in text
    cells = [*ceiling_records(), (cell_record("ff"), FF_FLOOR_NS)]
    text = table.format_markdown(make_run(tmp_path / "at", cells))
    assert "IMPOSSIBLE" not in text
    assert "100 %" in text


def judged(tmp_path: Path, ff_ns: float, speedup: float, **changes: Any) -> rows.Entry:
    """Return the FFF's entry at level 1 of a run with the given time and speedup."""
    cells = [
        *ceiling_records(), (cell_record("ff"), ff_ns), (fff_record("fff", **changes), ff_ns / speedup),
    ]  # fmt: skip
    entries = analysis_points.points(make_run(tmp_path / "run", cells))[0].entries["scipy"]
    return next(e for e in entries if e.model == "ultrafastbert-1x11" and e.level == 1)


def test_locality_explains_a_speedup_above_the_limit(tmp_path: Path) -> None:
    """An FF bound by streaming, beside an FFF whose upper rows fit a faster cache, may pass the limit."""
    entry = judged(tmp_path, STREAM_NS, 400.0)
    assert not entry.impossible
    assert "above the limit of 341x" in entry.remark
    assert "streaming 25 MB of weights per token from L3" in entry.remark
    assert frames.format_entry(entry).endswith("]‡")


@pytest.mark.parametrize(
    ("ff_ns", "speedup"),
    [
        (STREAM_NS, 5000.0),  # more than the caches' bandwidths allow
        (STREAM_NS * 20, 400.0),  # a baseline far below any bandwidth is slow for another reason
        (STREAM_NS / 2, 400.0),  # a baseline above the bandwidth did not stream its weights
    ],
)
def test_a_speedup_without_an_explanation_is_impossible(
    tmp_path: Path, ff_ns: float, speedup: float
) -> None:
    """A speedup above the limit that the measured bandwidths don't explain is flagged."""
    entry = judged(tmp_path, ff_ns, speedup)
    assert entry.impossible
    assert "IMPOSSIBLE" in frames.format_entry(entry)


def test_a_speedup_within_its_limit_has_no_remark(tmp_path: Path) -> None:
    """Nothing is said of a speedup below the operation count's limit."""
    entry = judged(tmp_path, STREAM_NS, 200.0)
    assert (entry.remark, entry.impossible) == ("", False)


def test_an_unjudged_speedup_is_remarked_on(tmp_path: Path) -> None:
    """Without a measured bandwidth a speedup above the limit is neither explained nor called impossible."""
    cells = [(cell_record("ff"), STREAM_NS), (fff_record("fff"), STREAM_NS / 400)]
    point = analysis_points.points(make_run(tmp_path / "run", cells))[0]
    assert not point.versus[0].impossible
    assert "no bandwidth was measured" in point.versus[0].remark


def test_weights_that_crowd_their_cache_explain_a_smaller_layer(tmp_path: Path) -> None:
    """A dense layer of 3072 may pass 1.33x where the FF of 4095 fills most of the last cache, not beyond."""

    def entry(name: str, speedup: float) -> rows.Entry:
        smaller = cell_record("small", model="bert-base-3072", hidden=3072)
        slow = 2 * STREAM_NS
        cells = [*ceiling_records(), (cell_record("ff"), slow), (smaller, slow / speedup)]
        entries = analysis_points.points(make_run(tmp_path / name, cells))[0].entries["scipy"]
        return next(e for e in entries if e.model == "bert-base-3072")

    assert "crowded out" in entry("within", 1.7).remark
    assert entry("beyond", 4.0).impossible


@pytest.mark.parametrize(
    ("rate", "speedup", "says"),
    [
        (3.5, 5.0, "DISTURBED"),
        (2.0, 5.0, "IMPOSSIBLE"),
        (3.5, 40.0, "IMPOSSIBLE"),
        (6.0, 4.0, "crowded"),
    ],
)
def test_a_baseline_that_was_held_up_is_not_called_impossible(
    tmp_path: Path, rate: float, speedup: float, says: str
) -> None:
    """Neighbours who push an FF's weights out of the shared cache disturb it; that has its own words.

    Not where the baseline is slower than that can make it, nor where the speedup would be too large anyhow.
    """
    ff_ns = STREAM_NS * 45.0 / rate
    smaller = cell_record("small", model="bert-base-3072", hidden=3072)
    cells = [*ceiling_records(), (cell_record("ff"), ff_ns), (smaller, ff_ns / speedup)]
    entries = analysis_points.points(make_run(tmp_path / "run", cells))[0].entries["scipy"]
    entry = next(e for e in entries if e.model == "bert-base-3072")
    assert says in entry.remark
    assert entry.impossible == (says == "IMPOSSIBLE")


def test_a_product_gives_no_excuse(tmp_path: Path) -> None:
    """Over an FF at level 3, whose tokens share the weights, a speedup above the limit is flagged."""
    ff_ns = 2 * FF_FLOOR_NS
    cells = [
        *ceiling_records(),
        (cell_record("ff", implementation="ff_l3_blas", level=3), ff_ns),
        (fff_record("fff"), ff_ns / 500),
    ]
    points = analysis_points.points(make_run(tmp_path / "run", cells))
    assert points[0].versus[0].impossible
    assert any("over the fastest FF" in line for line in table.impossible(points))


def test_the_ceilings_stand_in_the_table_with_their_units(tmp_path: Path) -> None:
    """The table shows GFLOP/s for the FMA loop and GB/s by place for the streams."""
    text = table.format_markdown(
        make_run(tmp_path / "run", [*ceiling_records(), (cell_record("ff"), 1e9)])
    )
    rows = [line for line in text.splitlines() if line.startswith(("| fma", "| read"))]
    assert len(rows) == 5
    assert "100 GFLOP/s" in rows[0]
    assert [r.split("|")[2].strip() for r in rows[1:]] == ["L1", "L2", "L3", "memory"]
    assert "50 GB/s" in rows[3]


@pytest.mark.parametrize("measured", [True, False])
def test_the_figure_draws_with_and_without_ceilings(tmp_path: Path, measured: bool) -> None:
    """The figure of the ceilings has a bar for each stream and layer, none where nothing was measured."""
    cells = [*(ceiling_records() if measured else []), (cell_record("ff"), 1e9)]
    left, right = figures.ceilings_figure(make_run(tmp_path / "run", cells)).axes
    assert (len(left.patches), len(right.patches)) == ((4, 1) if measured else (0, 0))


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


@pytest.mark.parametrize("threads", [1, 2])
def test_a_sweep_measures_and_prints_the_ceilings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """In a real sweep every ceiling passes its gate and is sampled once a block, by place."""
    # Small caches make small sets: nothing here depends on what the figures are.
    monkeypatch.setattr(resources, "caches", lambda: {"L1d": 32 * KIB, "L2": 128 * KIB})
    spec = make_spec(
        out=tmp_path / "run", only=["ff_l1_blas"], widths=[64], passes=2, threads=threads
    )
    outcome = sweep_run.run(spec, plan.make_plan(spec), Silent())
    assert (outcome.reason, outcome.wrong, outcome.failed) == ("complete", 0, 0)
    run = reader.load_run(outcome.folder)
    own = run.cells[(run.cells["role"] == "ceiling") & (run.cells["provider"] == "")]
    places = {(c["implementation"], analysis_ceilings.place_name(c)) for _, c in own.iterrows()}
    streams = {
        (f"ceiling_{n}", p) for n in ("read", "write", "copy") for p in ("L1", "L2", "memory")
    }
    streams.add(("ceiling_stream", "memory"))
    gathers = {("ceiling_gather", "L2"), ("ceiling_gather", "memory")}
    assert places == streams | gathers | {("ceiling_fma", "")}
    counts = run.samples[run.samples["cell"].isin(own["cell"])].groupby(["cell", "block"]).size()
    assert len(counts) == 2 * len(own)
    assert (counts == 1).all()
    known = analysis_ceilings.measure(run)
    assert set(known.bandwidth) == {"L1", "L2", "memory"}
    assert known.threads == threads
    assert np.isfinite(analysis_points.points(run)[0].speeds[0].of_ceiling)
