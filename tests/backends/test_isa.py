"""The instruction set of our own code: chosen by the processor, or forced by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli, native
from harness.analysis.analysis import analyse
from harness.errors import UsageError
from harness.records.reader import load_run
from harness.report import table

SWEEP = [
    "sweep", "--batch", "16", "--width", "24", "--models", "ff-17", "--passes", "2", "--processes", "1",
    "--only", "ff_l3_tiled", "--skip", "ceiling_*", "--no-figures",
]  # fmt: skip


@pytest.mark.parametrize(
    "isa", ["", "generic", *(pytest.param(i, marks=pytest.mark.slow) for i in native.isas()[:-1])]
)
def test_forced_isa_is_used_and_recorded(
    isa: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A forced set stands in the run's head, in each cell's notes and in the table; the fastest else."""
    folder = tmp_path / "run"
    forced = ["--isa", isa] if isa else []
    assert cli.run([*SWEEP, *forced, "--out", str(folder)]) == 0
    capsys.readouterr()
    run = load_run(folder)
    used = isa or native.isas()[0]
    assert run.head.sweep.isa == isa
    assert {notes["isa"] for notes in run.cells["notes"]} == {used}
    assert (f"; {used} (forced) kernels, " in table.format_markdown(analyse(run))) is bool(isa)
    assert (f"; {used} kernels, " in table.format_markdown(analyse(run))) is not bool(isa)


@pytest.mark.slow
def test_resumed_run_keeps_its_isa(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that is taken up again is of one instruction set: another one is refused."""
    folder = tmp_path / "run"
    assert cli.run([*SWEEP, "--isa", "generic", "--out", str(folder)]) == 0
    other = ["sweep", "--resume", str(folder), "--isa", native.isas()[0]]
    with pytest.raises(UsageError, match="--isa"):
        cli.run(other)
    capsys.readouterr()
