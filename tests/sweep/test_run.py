"""Sweeps from end to end, tiny but real, through the command line."""

from __future__ import annotations

import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import planted_worker
import pytest
from planted_worker import (
    ANSWERS,
    DIES_TIMED,
    EXITS,
    KILLED,
    NO_INTEGER,
    RAISES,
    RIGHT,
    TURNS_WRONG,
    WRITES,
    WRONG,
)

from harness import cli
from harness.backends import registry
from harness.problem.problem import Problem
from harness.records.reader import Run, load_run
from harness.records.schema import SampleRecord
from harness.sweep import run as sweep_run

TINY = ["--batch", "9", "--width", "16", "--models", "bert-base-4095,2x3", "--skip", "ceiling*"]
LOST = {
    WRONG: "wrong", TURNS_WRONG: "wrong", KILLED: "failed", EXITS: "failed", RAISES: "failed",
    WRITES: "failed", ANSWERS: "failed", NO_INTEGER: "failed",
}  # fmt: skip
FILES = {
    "run.json", "records.jsonl", "report.html", "table.md", "table.csv", "speeds.csv", "table.tex",
    "speedup.png", "speedup.svg", "speedup.pdf", "time_per_token.png", "time_per_token.svg",
    "time_per_token.pdf", "ledger.json",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the samples: what is tested is what happens, not how long it takes."""
    monkeypatch.setattr("harness.measure.clock.MIN_SAMPLE_NS", 1000)
    monkeypatch.setattr("harness.report.files.write_plots", lambda run, style: [])


@pytest.fixture
def planted_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Know the planted implementations here and in every measuring process."""
    planted_worker.install(monkeypatch, tmp_path)


def _sweep(out: Path, *words: str, passes: int = 2, processes: int = 1) -> int:
    return cli.run(
        ["sweep", *TINY, "--passes", str(passes), "--processes", str(processes), "--out", str(out), *words]
    )  # fmt: skip


def _statuses(run: Run) -> dict[str, str]:
    return dict(zip(run.cells["implementation"], run.cells["status"], strict=True))


def test_whole_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep over all implementations ends with status 0, every file, every cell sampled alike, and
    tables that `table` regenerates byte for byte."""
    monkeypatch.undo()  # the figures too, once
    out = tmp_path / "run"
    assert _sweep(out, "--quick", passes=3, processes=2) == 0
    printed = capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == FILES
    run = load_run(out)
    assert run.warnings == []
    assert run.end is not None
    assert run.end.reason == "complete"
    assert set(run.cells["status"]) <= {"ok", "unavailable"}
    asked = [i for i in registry.layers() if "cpu" in i.devices and i.layer in ("ff", "fff")]
    lacking = {i.id for i in asked if i.unavailable()}
    ids = {i.id for i in asked}
    assert set(run.cells["implementation"]) == ids
    assert set(run.cells.loc[run.cells["status"] == "unavailable", "implementation"]) == lacking
    assert set(run.samples["block"]) == {0, 1, 2}
    assert set(run.samples["process"]) == {0, 1}
    # Every cell in every block; a second name that came in a later process, from then on.
    sampled = run.samples.groupby("cell")["block"].agg(lambda blocks: set(blocks))
    began = run.samples.groupby("process")["block"].min()
    for cell in run.cells[run.cells["status"] == "ok"].itertuples():
        first = began[cell.process] if cell.role == "aa" else 0
        assert sampled[cell.cell] == set(range(first, 3)), cell.cell
    assert run.samples["order"].tolist() == list(range(len(run.samples)))
    assert (run.samples["elapsed_ns"] > 0).all()
    again = run.cells[run.cells["role"] == "aa"]
    assert {t.removesuffix("/again") for t in again["cell"]} <= set(run.cells["cell"])
    assert again["process"].min() == 0
    scipy = [p for p in run.providers if p.name == "scipy"]
    assert len(scipy) == 2
    assert {p.threads for p in run.providers} == {1}
    text = (out / "table.md").read_text(encoding="utf-8")
    assert text in printed
    tables = {n: (out / n).read_bytes() for n in FILES if n.startswith(("table", "speeds"))}
    for name in tables:
        (out / name).unlink()
    assert cli.run(["table", str(out)]) == 0
    assert text in capsys.readouterr().out
    assert {n: (out / n).read_bytes() for n in tables} == tables


def test_order_is_interleaved(tmp_path: Path) -> None:
    """Every block samples all cells, in an order that differs from block to block."""
    _sweep(tmp_path / "run", "--only", "ff_l*,fff_l*", passes=3)
    samples = load_run(tmp_path / "run").samples.sort_values("order")
    # A short cell is sampled several times a block, by measured times; first occurrences show enough.
    blocks = [tuple(dict.fromkeys(group["cell"])) for _, group in samples.groupby("block")]
    assert len(blocks) == 3
    assert len(set(blocks)) > 1
    assert len({frozenset(block) for block in blocks}) == 1
    assert len(blocks[0]) == 7  # six implementations and the A/A twin


@dataclass(frozen=True, kw_only=True)
class Swept:
    """Hold a sweep over planted implementations: its status, what it printed, and its run."""

    status: int
    out: str
    err: str
    run: Run

    def find_reason(self, name: str) -> str:
        """Return why an implementation's cell is not right."""
        return self.run.cells.set_index("implementation").loc[name, "reason"]

    def count_blocks(self, name: str) -> int:
        """Return in how many blocks an implementation was sampled."""
        samples = self.run.samples
        return samples.loc[samples["implementation"] == name, "block"].nunique()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Return one sweep of six blocks in which each planted implementation fails in its own way."""
    folder = tmp_path_factory.mktemp("planted")
    out, err = StringIO(), StringIO()
    words = ["--only", ",".join(["ff_l1_blas", "fff_l1_blas", RIGHT, *LOST])]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        planted_worker.install(patch, folder)
        status = _sweep(folder / "run", *words, "--no-figures", passes=6)
    return Swept(
        status=status, out=out.getvalue(), err=err.getvalue(), run=load_run(folder / "run")
    )


def test_what_fails_costs_its_own_cell_only(swept: Swept) -> None:
    """Whatever planted implementations do, all others are sampled in every block, and the status is 1."""
    assert swept.status == 1
    right = {"ff_l1_blas", "fff_l1_blas", RIGHT}
    assert _statuses(swept.run) == dict.fromkeys(right, "ok") | LOST
    assert {name: swept.count_blocks(name) for name in right} == dict.fromkeys(right, 6)
    assert swept.run.end is not None
    assert swept.run.end.reason == "complete"


def test_wrong_is_never_timed(swept: Swept) -> None:
    """A wrong implementation is reported as wrong with its error, and has no sample."""
    cell = swept.run.cells.set_index("implementation").loc[WRONG]
    assert "times the tolerance" in cell["reason"]
    assert cell["worst_error"] > 1
    assert swept.count_blocks(WRONG) == 0
    assert "WRONG" in swept.out
    assert f"WRONG: {WRONG}" in swept.err.replace("\n", " ")


def test_what_turns_wrong_keeps_its_samples_and_no_ratio(swept: Swept) -> None:
    """A cell that is right in its gate and wrong behind its last sample is wrong: its samples stay in the
    run, and none of its ratios is printed."""
    reason = swept.find_reason(TURNS_WRONG)
    assert reason.startswith("behind a sample: the largest error")
    assert swept.count_blocks(TURNS_WRONG) == 5
    rows = [row for row in swept.out.splitlines() if f"| {TURNS_WRONG}" in row]
    assert rows
    assert all("WRONG" in row and "x [" not in row for row in rows)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (KILLED, "the measuring process ended with signal SIGKILL"),
        (EXITS, "the measuring process ended with exit status 3: giving up"),
        (RAISES, "RuntimeError: no such luck"),
        # A line in the pipe that is no answer, or answers something else, or can't be sent.
        (WRITES, "sent what is no answer (no message of version 1: Invalid JSON"),
        (ANSWERS, "sent what is no answer (answers 0, asked was"),
        (NO_INTEGER, "Expected `int`"),
    ],
)
def test_a_failed_cell_says_what_is_known_of_it(swept: Swept, name: str, reason: str) -> None:
    """An implementation that ends its process, raises or disturbs the answers fails in so many words."""
    assert reason in swept.find_reason(name)
    assert swept.count_blocks(name) == 0


def test_crash_while_sampled(tmp_path: Path, planted_processes: None) -> None:
    """An implementation that dies in a sample misses the rest of them, and the others go on."""
    assert _sweep(tmp_path / "run", "--only", f"ff_l1_blas,{RIGHT},{DIES_TIMED}", passes=4) == 1
    run = load_run(tmp_path / "run")
    assert _statuses(run) == {"ff_l1_blas": "ok", RIGHT: "ok", DIES_TIMED: "failed"}
    sampled = run.samples.groupby("implementation")["block"].nunique()
    assert sampled["ff_l1_blas"] == sampled[RIGHT] == 4
    # One or none: it dies at a call, and a clock that was interrupted is asked again.
    assert sampled.get(DIES_TIMED, 0) <= 1


def test_each_process_draws_the_tokens_that_it_checks(
    tmp_path: Path, planted_processes: None
) -> None:
    """The seed of the checked tokens is recorded with each gate, and no two processes share it."""
    assert _sweep(tmp_path / "run", "--only", f"ff_l1_blas,{RIGHT}", processes=2) == 0
    lines = (tmp_path / "run/records.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for line in lines if (record := json.loads(line))["kind"] == "cell"]
    seeds = {record["process"]: record["check_seed"] for record in records}
    assert len(set(seeds.values())) == len(seeds) == 2
    assert 0 not in seeds.values()
    assert all(record["check_seed"] == seeds[record["process"]] for record in records)


def test_everything_fails(tmp_path: Path, planted_processes: None) -> None:
    """A sweep whose every cell is lost ends as failed, with status 1 and a table."""
    assert _sweep(tmp_path / "run", "--only", RAISES) == 1
    run = load_run(tmp_path / "run")
    assert run.end is not None
    assert run.end.reason == "failed"
    assert run.samples.empty
    assert "FAILED" in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("when", ["before a cell", "gate", "sample"])
def test_interrupt_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    """Ctrl-C ends a sweep with status 75; finished samples, an end record and the table are there."""
    from harness.cli.progress import Display

    samples = 0

    def sampled(self: Display, record: SampleRecord) -> None:
        nonlocal samples
        samples += 1
        if samples == 5:
            raise KeyboardInterrupt

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if when == "sample":
        monkeypatch.setattr(Display, "sample", sampled)
    elif when == "gate":
        monkeypatch.setattr(Display, "cell", interrupt)
    else:
        monkeypatch.setattr(sweep_run.Sweep, "gate_cells", interrupt)
    assert _sweep(tmp_path / "run", "--only", "ff_l1_blas,fff_l1_blas", passes=50) == 75
    run = load_run(tmp_path / "run")
    assert run.warnings == []
    assert run.end is not None
    assert run.end.reason == "interrupted"
    assert len(run.samples) == {"before a cell": 0, "gate": 0, "sample": 5}[when]
    assert len(run.cells) == {"before a cell": 0, "gate": 1, "sample": 3}[when]
    assert "The run ended early (interrupted)" in capsys.readouterr().out


def test_another_runs_folder(tmp_path: Path) -> None:
    """A sweep into a folder that holds a run is refused, and leaves that run as it is."""
    from harness.errors import UsageError

    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="holds a run already"):
        _sweep(out, "--only", "fff_l1_blas")
    assert (out / "run.json").read_text(encoding="utf-8") == "{}"
    assert not (out / "records.jsonl").exists()


def test_several_batches_share_a_run(tmp_path: Path) -> None:
    """Each batch is a cell of its own, and has its own A/A pair."""
    words = ("--only", "ff_l3_blas,fff_l1_blas", "--batch", "1,2^2..2^2")
    assert _sweep(tmp_path / "run", *words, passes=1) == 0
    cells = load_run(tmp_path / "run").cells
    assert sorted(cells.loc[cells["role"] == "aa", "batch"]) == [1, 4]
    assert sorted(cells.loc[cells["implementation"] == "fff_l1_blas", "batch"]) == [1, 4]


def test_records_are_plain_json(tmp_path: Path) -> None:
    """Every line of a run is one JSON object of a known kind, and the cells state their problem."""
    assert _sweep(tmp_path / "run", "--only", "fff_l2_blas", passes=1) == 0
    text = (tmp_path / "run" / "records.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [x["kind"] for x in lines] == ["provider", "cell", "blocks", "sample", "end"]
    cell = lines[1]
    problem = Problem(layer="fff", batch=9, d_in=16, d_out=16, depth=3, trees=2)
    assert cell["flops"] == problem.flops()
    assert cell["checked_tokens"] == 9
    assert 1 <= cell["nodes_touched"] <= problem.neurons
    assert cell["notes"]["batched_gemv"] == "loop"
