"""Claims on the published speedups of leaf FFFs beside those of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import scripted
from made_machines import SMALL

from harness.analysis import leaf as analysis_leaf
from harness.analysis.analysis import analyse
from harness.analysis.index import index_run
from harness.analysis.ledger import Entry
from harness.paper import leaf
from harness.paper.leaf import LeafCell, leaf_table1
from harness.records.reader import Run, load_run
from harness.report.files import write_tables
from harness.report.page import format_page
from harness.sweep import plan

# Seconds a pass, by implementation: FF level 3 is the fastest FF, level 2 the faster leaf FFF: 1.5 times.
TIMES = {
    "ff_l1_blas": 9.0, "ff_l3_blas": 3.0, "leaf_l1_blas": 4.0, "leaf_l2_blas": 2.0,
}  # fmt: skip


def make_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, models: str = "ff-16,leaf-8x1,leaf-4x2,ff-64",
    width: str = "784", batch: str = "2048",
) -> Run:  # fmt: skip
    """Return a sweep's run of scripted times."""
    spec = scripted.make_spec(
        folder, only=list(TIMES), models=models, width=width, batch=batch, baseline="ff-64"
    )
    made = plan.make_plan(spec, SMALL)
    return scripted.run(monkeypatch, made, lambda name, _protocol: TIMES.get(name, 0.1))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run with two published pairs, at the width and the batch of one data set."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return make_run(tmp_path_factory.mktemp("leaf") / "run", monkeypatch)


def find(run: Run, model: str, dataset: str, baseline: str = "ff-16") -> Entry:
    """Return one entry."""
    [found] = [
        e
        for e in analyse(run).leaf_ledger
        if (e.model.removesuffix("-relu"), e.column, e.baseline) == (model, dataset, baseline)
    ]
    return found


def test_each_published_cell_has_one_entry(swept: Run) -> None:
    """The entries are the published cells in their order, each with its figure, provenance and a reason."""
    entries = analyse(swept).leaf_ledger
    assert [(e.model, e.column, e.baseline, e.published, e.provenance) for e in entries] == [
        (c.model, c.dataset, c.baseline, c.speedup, c.provenance) for c in leaf_table1()
    ]
    assert all(e.reason for e in entries)


def test_a_rows_baseline_is_its_own(swept: Run) -> None:
    """The ratio is over the FF of the training width, not over the run's baseline; fastest over fastest."""
    assert swept.head.sweep.baseline == "ff-64"
    for model in ("leaf-8x1", "leaf-4x2"):
        entry = find(swept, model, "MNIST")
        assert entry.measured == pytest.approx(1.5, rel=0.03)
        assert entry.low is not None
        assert entry.high is not None
        assert entry.low <= entry.measured <= entry.high
        assert entry.provider == "leaf_l2_blas scipy over ff_l3_blas scipy"


def test_what_differs_is_the_reason(swept: Run) -> None:
    """Another device, other widths and another activation are named; a batch where it is another."""
    same, other = find(swept, "leaf-8x1", "MNIST"), find(swept, "leaf-8x1", "USPS")
    for entry in (same, other):
        assert entry.finding == "not comparable here"
        assert "a GPU; this run measured on CPU" in entry.reason
        assert "GELU" in entry.reason
        assert "batch" not in entry.reason
    assert "784 in and 10 out, measured at 784 in and 784 out" in same.reason
    assert "256 in and 10 out, measured at 784 in and 784 out" in other.reason


def test_a_pair_that_is_not_whole_has_no_ratio(swept: Run) -> None:
    """An FF without its leaf FFF, and a leaf FFF without its FF, are not set against the published."""
    entry = find(swept, "leaf-8x3", "MNIST", "ff-64")
    assert (entry.measured, entry.finding) == (None, "not comparable here")
    assert entry.reason == "this run did not measure both leaf-8x3 and ff-64"


def test_the_nearest_problem_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several widths and batches each cell is set beside the one that is its own, or the nearest."""
    run = make_run(
        tmp_path / "run", monkeypatch, models="ff-16,leaf-8x1", width="128,256,784", batch="64,2048"
    )
    for dataset, width in (("USPS", 256), ("MNIST", 784)):
        entry = find(run, "leaf-8x1", dataset)
        assert f"measured at {width} in" in entry.reason
        assert "batch" not in entry.reason


def test_the_papers_activation_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a run has the layer with the ReLU of the authors' package, that one is taken."""
    run = make_run(tmp_path / "run", monkeypatch, models="ff-16,leaf-8x1,leaf-8x1-relu")
    entry = find(run, "leaf-8x1", "MNIST")
    assert entry.model == "leaf-8x1-relu"
    assert "GELU" not in entry.reason


@pytest.mark.parametrize(
    ("speedup", "finding"), [(1.5, "reproduced"), (3.9, "not reproduced"), (0.9, "not reproduced")]
)
def test_a_pair_without_a_difference_is_judged(
    speedup: float, finding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing but the machine differs the ledger's rule decides."""
    run = make_run(tmp_path / "run", monkeypatch, models="ff-16,leaf-8x1-relu")
    monkeypatch.setattr(analysis_leaf, "LEAF_PAPER_DEVICE", "cpu")
    cell: LeafCell = replace(leaf.leaf_table1()[16], d_out=784, speedup=speedup)
    entry = analysis_leaf.judge(index_run(run), cell)
    assert (entry.column, entry.finding) == ("MNIST", finding)
    assert "interval" in entry.reason


def test_measured_rows_stand_in_table_json_and_page(swept: Run) -> None:
    """The table and the page show the rows that have a ratio; ledger.json has all of them."""
    analysis = analyse(swept)
    files = {p.name: p for p in write_tables(analysis)}
    section = files["table.md"].read_text(encoding="utf-8").split("## Ledger of the published")[1]
    rows = [line for line in section.splitlines() if line.startswith("| Leaf-FFF")]
    assert len(rows) == 2 * 3  # two layers, three data sets
    assert all("| not comparable here " in row and "| paper" in row for row in rows)
    data = json.loads(files["ledger.json"].read_text(encoding="utf-8"))
    assert [c["published"] for c in data["leaf"]["cells"]] == [c.speedup for c in leaf_table1()]
    assert "2308.14711" in data["leaf"]["source"]
    page = format_page([analysis])
    assert page.count(">Leaf-FFF-8x1, MNIST, over FF-16<") == 1


def test_a_run_without_leaves_says_nothing_of_them(golden_run: Path) -> None:
    """Where no pair was measured the table does not mention the paper of the leaves."""
    text = {p.name: p for p in write_tables(analyse(load_run(golden_run)))}["table.md"]
    assert "2308.14711" not in text.read_text(encoding="utf-8")
