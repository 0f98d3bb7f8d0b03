"""Prove that conditions become cells, ids, records and sections, and mistakes one line."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from made_machines import MACHINES, SMALL

from harness import cli
from harness.analysis import contrasts
from harness.analysis.analysis import analyse
from harness.analysis.index import index_run
from harness.errors import UsageError
from harness.problem import axes
from harness.problem.axes import lists
from harness.problem.models import parse_models
from harness.problem.problem import Problem
from harness.records.reader import load_run
from harness.records.schema import CellRecord, SampleRecord, SweepRecord
from harness.report import csv as report_csv
from harness.report import frames, table
from harness.sweep import plan
from harness.sweep import run as sweep_run
from harness.sweep.cell import Cell, make_twin
from harness.sweep.spec import SweepSpec

SPEC = SweepSpec(
    levels=[1], device="cpu", models=parse_models("ff-40,1x3"), batches=[20], widths=[24],
    only=["*_l1_blas"], skip=["ceiling_*"], blas=["scipy"], threads=1, seed=0, passes=2,
    budget_s=60.0, processes=1, quick=True, keep_blas_env=False, out=None,
)  # fmt: skip


class Silent:
    """Hear a sweep and say nothing."""

    def stage(self, text: str) -> None:
        """Hear what is being done."""

    def progress(self, elapsed_s: float, predicted_s: float) -> None:
        """Hear how far the sweep is."""

    def cell(self, record: CellRecord) -> None:
        """Hear the outcome of a cell's gate."""

    def sample(self, record: SampleRecord) -> None:
        """Hear a sample."""


def own_cells(spec: SweepSpec) -> dict[str, Cell]:
    """Return a plan's cells but the baseline's, by what stands behind the provider in their ids."""
    cells = [c for c in plan.make_plan(spec, SMALL).cells if c.model == "ultrafastbert-1x3"]
    return {c.id.partition("/scipy")[2]: c for c in cells}


def test_default_ids_stay() -> None:
    """A sweep without conditions has the ids and problems that it always had."""
    cells = own_cells(SPEC)
    assert list(cells) == [""]
    assert cells[""].id == "fff_l1_blas/ultrafastbert-1x3/b20/w24/scipy"
    assert cells[""].problem == Problem(layer="fff", batch=20, d_in=24, d_out=24, depth=3, trees=1)
    assert cells[""].conditions == axes.DEFAULTS


def test_lists_become_cells() -> None:
    """Every combination that makes sense is a cell with a suffix where it differs; the rest is told."""
    spec = replace(
        SPEC,
        axes=lists(
            data=["random", "zeros"], rows=["distinct", "same"], routing=["uniform", "zipf"],
            weights=["hot", "flushed"],
        ),
    )  # fmt: skip
    cells = own_cells(spec)
    assert set(cells) == {
        "", "/flushed", "/zipf", "/zipf/flushed", "/rows-same", "/rows-same/flushed", "/zeros",
        "/zeros/flushed",
    }  # fmt: skip
    assert cells["/zipf/flushed"].problem.routing == "zipf"
    assert cells["/zipf/flushed"].weights == "flushed"
    notices = plan.make_plan(spec, SMALL).notices
    assert sum("left out" in notice for notice in notices) == 2


def test_ff_and_fff_share_their_input() -> None:
    """Under each condition the FF's cells have the input of the FFF's."""
    spec = replace(
        SPEC,
        axes=lists(
            data=["random", "zeros"], rows=["distinct", "same"], routing=["uniform", "zipf"]
        ),
    )
    keys: dict[str, set[object]] = {}
    for cell in plan.make_plan(spec, SMALL).cells:
        keys.setdefault(cell.id.partition("/scipy")[2], set()).add(cell.problem.input_key())
    assert len(keys) == 4
    assert all(len(found) == 1 for found in keys.values())
    assert len(set.union(*keys.values())) == 4


def test_twins_keep_their_conditions() -> None:
    """The second name of a cell is measured under the first's conditions."""
    cell = own_cells(replace(SPEC, axes=lists(weights=["flushed"])))["/flushed"]
    twin = make_twin(cell)
    assert (twin.id, twin.role) == (f"{cell.id}/again", "aa")
    assert replace(twin, id=cell.id, role=cell.role) == cell


def test_rotation_counts_in_time_and_memory() -> None:
    """A plan that rotates predicts its further sets of weights, and more time for their gates."""
    hot, rotated = (
        plan.make_plan(replace(SPEC, axes=lists(weights=[w])), SMALL) for w in ("hot", "rotated")
    )
    further = sum((c.sets - 1) * c.problem.weight_bytes() for c in rotated.cells)
    assert min(c.sets for c in rotated.cells) >= 2
    assert rotated.memory_bytes() - hot.memory_bytes() == further
    assert rotated.gate_s(0) > hot.gate_s(0)
    flushed = plan.make_plan(replace(SPEC, axes=lists(weights=["flushed"])), SMALL)
    assert flushed.memory_bytes() - hot.memory_bytes() == 2 * SMALL.last_level_bytes()
    assert flushed.block_s() > hot.block_s()


def test_too_little_touched_is_unavailable() -> None:
    """Where an FFF touches too little to rotate past the cache its cell is unavailable; the FF's is not."""
    spec = replace(SPEC, models=parse_models("ff-4000,1x9"), widths=[256], batches=[1])
    large = MACHINES["L3 of 480 MiB"]
    made = plan.make_plan(replace(spec, axes=lists(weights=["hot", "rotated"])), large)
    assert [c.problem.layer for c, _ in made.unavailable] == ["fff"]
    assert "--weights flushed" in made.unavailable[0][1]


OPTIONS = [
    (["--data", "ones"], "--data: unknown value 'ones'; known: random, zeros"),
    (["--data", ","], "--data: need at least one of random, zeros"),
    (["--rows", "other"], "--rows: unknown value 'other'; known: distinct, same"),
    (["--weights", "cold"], "--weights: unknown value 'cold'; known: hot, rotated, flushed"),
    (["--order", "sorted"], "--order: unknown value 'sorted'; known: interleaved, blocked"),
    (["--routing", "skewed"], "--routing: unknown value 'skewed'; known: uniform, zipf, single"),
    (["--routing", "trace:nowhere.txt"], "there is no trace file 'nowhere.txt'"),
    (["--routing", "zipf", "--models", "family"], "--models has 12"),
    (["--routing", "zipf", "--models", "bert-base-4095"], "--models has 0 (none)"),
    (["--routing", "zipf", "--models", "1x3,leaf-2x3"], "--models has 2"),
    (["--routing", "zipf", "--models", "leaf-4x2,leaf-2x3"], "--models has 2"),
    (["--routing", "trained", "--models", "leaf-2x11"], "a leaf FFF takes trace:FILE"),
    (["--routing", "single", "--width", "8"], "needs d_in of at least 15, got 8"),
    (["--data", "zeros", "--routing", "zipf"], "data zeros has one row and one path already"),
    (["--rows", "same", "--routing", "zipf"], "rows same sends every token along one path"),
]


@pytest.mark.parametrize(
    ("options", "text"), OPTIONS, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_mistakes_are_one_line(options: list[str], text: str) -> None:
    """A mistake in a condition is a UsageError of one line that says what is known or needed."""
    with pytest.raises(UsageError) as caught:
        cli.run(["sweep", "--dry-run", "--batch", "20", *options])
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("1\n2\n", "need a row a token, 20, got 2"),
        ("4095\n" * 20, "need leaves from 0 to 2047, got 4095"),
        ("1 2\n" * 20, "need a column a tree, 1, got 2"),
        ("leaf\n" * 20, "rows of integers in text"),
    ],
)
def test_bad_trace_is_one_line(tmp_path: Path, content: str, text: str) -> None:
    """A trace that does not fit the batch or the tree is refused before anything is measured."""
    path = tmp_path / "trace.txt"
    path.write_text(content)
    with pytest.raises(UsageError, match=text):
        cli.run(["sweep", "--dry-run", "--batch", "20", "--routing", f"trace:{path}"])


def test_old_records_still_read() -> None:
    """Records that were written before there were conditions read as the defaults."""
    newer = {"order", *axes.COLUMNS}
    old = {k: v for k, v in SPEC.record().model_dump().items() if k not in newer}
    read = SweepRecord.model_validate(old)
    assert (read.axes, read.order) == (lists(), "interleaved")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny blocked run with every kind of condition in it."""
    base = tmp_path_factory.mktemp("conditions")
    trace = base / "tokens.txt"
    np.savetxt(trace, np.arange(20) % 8, fmt="%d")
    spec = replace(
        SPEC, models=parse_models("bert-base-4095,1x3"), order="blocked", out=base / "run",
        axes=lists(
            data=["random", "zeros"], routing=["uniform", "single", f"trace:{trace}"],
            weights=["hot", "flushed"],
        ),
    )  # fmt: skip
    outcome = sweep_run.run(plan.make_plan(spec, SMALL), Silent())
    assert (outcome.reason, outcome.wrong, outcome.failed) == ("complete", 0, 0)
    return outcome.folder


def test_every_condition_passes_its_gate_and_is_sampled(folder: Path) -> None:
    """FF and FFF pass the gate under all conditions, and every cell has samples in every block."""
    run = load_run(folder)
    assert set(run.cells["status"]) == {"ok"}
    assert set(run.cells["layer"]) == {"ff", "fff"}
    assert len(contrasts.of_cells(index_run(run).cells.values())) == 8
    assert (run.samples.groupby("cell")["block"].nunique() == 2).all()


def test_records_say_what_was_touched(folder: Path) -> None:
    """Each FFF record has nodes, an entropy a level and a working set; an FF's is all its weights."""
    cells = load_run(folder).cells
    own = cells[(cells["role"] == "layer") & (cells["weights"] == "hot")]
    fff = own[own["layer"] == "fff"].set_index(["data", "routing"])
    assert fff.loc[("random", "single"), "nodes_touched"] == 4
    assert fff.loc[("zeros", "uniform"), "entropy_bits"] == [0, 0, 0, 0]
    traced = next(r for r in fff.index if r[1].startswith("trace:"))
    assert fff.loc[traced, "nodes_touched"] == 15
    assert fff.loc[traced, "entropy_bits"][3] == pytest.approx(2.97, abs=0.01)
    assert (fff["working_set_bytes"] == fff["nodes_touched"] * 48 * 4).all()
    assert (own[own["layer"] == "ff"]["working_set_bytes"] == 4095 * 48 * 4).all()


def test_blocked_takes_cell_after_cell(folder: Path) -> None:
    """Under `blocked` a cell's samples stand in one stretch."""
    order = load_run(folder).samples.sort_values("order")["cell"].tolist()
    changes = sum(a != b for a, b in pairwise(order))
    assert changes == len(set(order)) - 1


def test_interleaved_mixes_cells(tmp_path: Path) -> None:
    """Under the default order some cell comes back after another was sampled."""
    spec = replace(SPEC, passes=4, out=tmp_path / "run")
    folder = sweep_run.run(plan.make_plan(spec, SMALL), Silent()).folder
    order = load_run(folder).samples.sort_values("order")["cell"].tolist()
    changes = sum(a != b for a, b in pairwise(order))
    assert changes > len(set(order)) - 1
    assert "Order: blocked" not in table.format_markdown(analyse(load_run(folder)))


def test_a_section_for_each_condition(folder: Path) -> None:
    """The report has a section a combination, the default's first and unchanged, and the contrasts."""
    run = load_run(folder)
    text = table.format_markdown(analyse(run))
    headings = [line for line in text.splitlines() if line.startswith("## Batch")]
    assert headings[0] == "## Batch 20, width 24"
    assert "## Batch 20, width 24, routing tokens.txt, weights flushed" in headings
    assert len(headings) == len(set(headings)) == 8
    assert "- Order: blocked." in text
    assert "## What data and locality change" in text
    frame = frames.contrast_frame(analyse(run).contrasts)
    assert len(frame) == 16
    assert (frame["times the first"] == "–").sum() == 2
    assert all(point.aa is not None for point in analyse(run).points)
    assert set(report_csv.csv_frame(analyse(run))["weights"]) == {"hot", "flushed"}


def test_flushed_cells_say_how(folder: Path) -> None:
    """A flushed cell's record says what was walked and the clock's share; a hot cell's says nothing."""
    cells = load_run(folder).cells
    for weights, notes in zip(cells["weights"], cells["notes"], strict=True):
        assert ("weights" in notes) == (weights == "flushed")
        assert weights == "hot" or "reading the clock takes at most" in notes["weights"]
        # Twice the last-level cache of the machine that it was planned for.
        assert weights == "hot" or notes["weights"].startswith("2 MiB walked")


@pytest.mark.slow
def test_rotated_sweep(tmp_path: Path) -> None:
    """A sweep over rotated weights is right, its samples are whole rounds, and the record says so."""
    models = parse_models("bert-base-4095,1x3")
    rotated = lists(weights=["rotated"])
    spec = replace(SPEC, models=models, axes=rotated, passes=1, out=tmp_path / "run")
    made = plan.make_plan(spec, SMALL)
    sets = {c.id: c.sets for c in made.cells}
    assert min(sets.values()) >= 2
    run = load_run(sweep_run.run(made, Silent()).folder)
    assert set(run.cells["status"]) == {"ok"}
    for cell, loops in zip(run.samples["cell"], run.samples["loops"], strict=True):
        assert loops % sets[cell.removesuffix("/again")] == 0
    assert all("sets in turn" in notes["weights"] for notes in run.cells["notes"])
