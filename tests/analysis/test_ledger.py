"""Claims on the ledger: which published cells a run reproduces, and why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripted
from made_machines import SMALL

from harness.analysis import ledger
from harness.analysis.analysis import analyse
from harness.analysis.stats import Ratio
from harness.paper.published import FASTEST_FF, PublishedCell, table2
from harness.records.reader import Run
from harness.report.files import write_tables
from harness.sweep import plan

# Seconds a pass at the paper's problem: level 2 is 78x over the fastest FF and 255x at its own level.
TIMES = {
    "ff_l1_blas": 10.0, "ff_l2_blas": 25.5, "ff_l3_blas": 7.8, "ff_l3_tiled": 9.0,
    "fff_l1_blas": 0.5, "fff_l2_blas": 0.1, "ceiling_sgemm": 0.1,
}  # fmt: skip


def by_table(implementation: str, _protocol: str) -> float:
    """Return the table's time."""
    return TIMES.get(implementation, 0.1)  # the ceilings are of no meaning here


def make_run(folder: Path, monkeypatch: pytest.MonkeyPatch, script: scripted.Script = by_table,
             **changes: Any) -> Run:  # fmt: skip
    """Return a sweep's run of scripted times, by the implementations of the table alone."""
    asked = {"only": list(TIMES)[:-1], **changes}
    spec = scripted.make_spec(folder, **asked)
    return scripted.run(monkeypatch, plan.make_plan(spec, SMALL), script)


def find(
    run: Run, column: str, model: str = "ultrafastbert-1x11", *, over: str = ""
) -> ledger.Entry:
    """Return one entry of a run's ledger."""
    found = [
        e
        for e in analyse(run).ledger
        if (e.model, e.column) == (model, column) and e.baseline == (over or "bert-base-4095")
    ]
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a complete run at the paper's problem."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return make_run(tmp_path_factory.mktemp("ledger") / "run", monkeypatch)


def make_cell(speedup: float) -> PublishedCell:
    """Return a published cell."""
    return PublishedCell(
        model="ultrafastbert-1x11", implementation="level 2", device="cpu", speedup=speedup,
        text=str(speedup), baseline=FASTEST_FF, provenance="abstract",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "finding"),
    [
        (99, 101, "reproduced"), (91, 95, "reproduced"), (50, 90, "reproduced"),
        (110, 130, "reproduced"), (50, 89.9, "not reproduced"), (110.1, 130, "not reproduced"),
        (20, 300, "reproduced"),
    ],
)  # fmt: skip
def test_rule(low: float, high: float, finding: str) -> None:
    """A cell is reproduced just where the interval overlaps the published value within ten percent."""
    measured = Ratio(value=(low + high) / 2, low=low, high=high, blocks=5)
    got, reason = ledger.judge(measured, make_cell(100.0))
    assert got == finding
    if finding == "not reproduced":
        assert ("below" if high < 100 else "above") in reason


def test_no_interval_decides_nothing() -> None:
    """A ratio from one block is not called reproduced, even where it equals the published value."""
    single = Ratio(value=100.0, low=np.nan, high=np.nan, blocks=1)
    assert ledger.judge(single, make_cell(100.0))[0] == "not comparable here"


def test_each_published_cell_has_one_entry(swept: Run) -> None:
    """The ledger has the published cells in their order, each with figure, provenance and a reason."""
    entries = analyse(swept).ledger
    assert [(e.model, e.column, e.published, e.provenance) for e in entries] == [
        (c.model, c.implementation, c.speedup, c.provenance) for c in table2()
    ]
    assert all(e.reason for e in entries)
    assert sum(ledger.count(entries).values()) == len(entries)


def test_measured_cells_are_judged(swept: Run) -> None:
    """Cells at the paper's problem are reproduced or not, with their interval and provider."""
    best = find(swept, "level 2", over=FASTEST_FF)
    assert best.finding == "reproduced"
    assert best.low is not None
    assert best.low <= 78 <= best.high
    assert best.provider == "scipy"
    assert find(swept, "level 2").finding == "reproduced"
    lower = find(swept, "level 1", over=FASTEST_FF)
    assert lower.finding == "not reproduced"
    assert "below" in lower.reason
    assert lower.measured == pytest.approx(15.6, rel=0.03)


def test_cells_without_a_measurement(swept: Run) -> None:
    """GPU cells, cells left out and the baseline itself are not comparable; a limit is arithmetic."""
    gpu = find(swept, "naive cuda")
    assert (gpu.finding, gpu.measured) == ("not comparable here", None)
    assert "GPU" in gpu.reason
    left_out = find(swept, "level 1", "bert-base-3072")
    assert left_out.finding == "not comparable here"
    assert "did not measure" in left_out.reason
    assert find(swept, "level 3", "bert-base-4095").finding == "not comparable here"
    assert find(swept, "limit").finding == "reproduced"
    assert find(swept, "limit").measured is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"batch": "512"}, "measured at batch 512"), ({"width": "64"}, "width 64"),
     ({"data": "zeros"}, "data zeros"), ({"rows": "same"}, "rows same"),
     ({"routing": "single"}, "routing single"), ({"weights": "flushed"}, "weights flushed"),
     ({"quick": True}, "quick run"), ({"passes": 1}, "no interval")],
)  # fmt: skip
def test_unfit_runs_decide_nothing(
    changes: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another batch or width, a quick run and a single block are not comparable, and say why."""
    run = make_run(tmp_path / "run", monkeypatch, **changes)
    for column, over in (("level 2", FASTEST_FF), ("level 1", "")):
        entry = find(run, column, over=over)
        assert entry.finding == "not comparable here"
        assert reason in entry.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"threads": 2}, "2 threads"), ({"order": "blocked"}, "blocked order"),
     ({"isa": "avx2"}, "held to avx2"), ({"keep_blas_env": True}, "reached it")],
)  # fmt: skip
def test_another_protocol_decides_nothing(changes: dict[str, Any], reason: str, swept: Run) -> None:
    """Threads, order, forced instructions and kept variables are a reason, whatever was measured."""
    sweep = swept.head.sweep.model_copy(update=changes)
    run = swept._replace(head=swept.head.model_copy(update={"sweep": sweep}))
    entry = find(run, "level 2", over=FASTEST_FF)
    assert entry.finding == "not comparable here"
    assert reason in entry.reason


def test_unknown_machine_decides_nothing(swept: Run) -> None:
    """A record that does not tell the machine is not set against the paper."""
    machine = swept.head.machine.model_copy(update={"processor": ""})
    run = swept._replace(head=swept.head.model_copy(update={"machine": machine}))
    entry = find(run, "level 2")
    assert entry.finding == "not comparable here"
    assert "which machine" in entry.reason


def test_wrong_cell_is_not_comparable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that failed its gate has no figure, and the ledger says that it was wrong."""

    def script(implementation: str, protocol: str) -> float:
        return -1.0 if implementation == "fff_l2_blas" else by_table(implementation, protocol)

    run = make_run(tmp_path / "run", monkeypatch, script)
    entry = find(run, "level 2")
    assert (entry.finding, entry.measured) == ("not comparable here", None)
    assert "wrong" in entry.reason
    assert find(run, "level 2", over=FASTEST_FF).finding == "not comparable here"


def test_paper_library_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run has several libraries a cell is judged with the paper's own, else with the first."""
    run = make_run(tmp_path / "a", monkeypatch, blas_names=["scipy", "mkl"])
    assert find(run, "level 2").provider == "mkl"
    assert find(run, "level 2", over=FASTEST_FF).provider == "mkl"
    run = make_run(tmp_path / "b", monkeypatch, blas_names=["openblas", "blis"])
    assert find(run, "level 2").provider == "openblas"


def test_ledger_stands_in_table_and_json(swept: Run) -> None:
    """The table's Markdown has the ledger, and ledger.json holds the same findings."""
    files = {p.name: p for p in write_tables(analyse(swept))}
    text = files["table.md"].read_text(encoding="utf-8")
    section = text.split("## Ledger of the published cells")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    judged = [
        e for e in analyse(swept).ledger if e.device == "cpu" and e.provenance != "arithmetic"
    ]
    assert len(rows) == len(
        judged
    )  # what follows by arithmetic or is a GPU's stands in the JSON alone
    assert all(f"| {e.finding} " in row for e, row in zip(judged, rows, strict=True))
    data = json.loads(files["ledger.json"].read_text(encoding="utf-8"))
    assert data["band"] == ledger.BAND
    assert [c["finding"] for c in data["cells"]] == [e.finding for e in analyse(swept).ledger]
    assert len(data["cells"]) == len(table2())
    assert all(c["provenance"] for c in data["cells"])
