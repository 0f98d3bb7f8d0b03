"""The command `check`, and the commands that records name to repeat what was found."""

from __future__ import annotations

import shlex
from pathlib import Path

import planted_worker
import pytest
from made_machines import SMALL
from planted_worker import RIGHT, TURNS_WRONG, WRONG

from harness import cli
from harness.errors import UsageError
from harness.machine import facts
from harness.records.reader import load_run
from harness.sweep import check, repro
from harness.sweep.plan import Plan, make_plan
from harness.sweep.state import CellTable

TINY = ["--batch", "9", "--width", "16", "--models", "bert-base-4095,2x3"]


@pytest.fixture(autouse=True)
def _planted_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Know the planted implementations in every process, in an empty folder."""
    planted_worker.install(monkeypatch, tmp_path)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


def repeated(printed: str) -> list[list[str]]:
    """Return the words of the commands that an output names to repeat what it found."""
    lines = [line for line in printed.splitlines() if "repeat with: " in line]
    return [shlex.split(line.partition("repeat with: ")[2]) for line in lines]


def test_every_cell_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Each chosen cell is checked once and told; one that is wrong makes the status 1; nothing is written."""
    assert cli.run(["check", *TINY, "--only", f"ff_l1_blas,{RIGHT},{WRONG}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("[")] == ["ok", "ok", "WRONG"]
    assert lines[-1] == "3 cells: 2 ok, 1 wrong."
    assert list(Path().iterdir()) == []


def test_what_is_right_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    """Right cells alone make the status 0, and no command is named."""
    assert cli.run(["check", *TINY, "--only", f"ff_l1_blas,{RIGHT}"]) == 0
    assert repeated(capsys.readouterr().out) == []


def test_a_named_command_repeats_the_finding(capsys: pytest.CaptureFixture[str]) -> None:
    """The command of a wrong line checks that cell alone, on the same tokens, with the same finding."""
    cli.run(["check", *TINY, "--only", f"ff_l1_blas,{WRONG}"])
    printed = capsys.readouterr().out
    (words,) = repeated(printed)
    assert words[:4] == ["python", "-m", "harness", "check"]
    assert cli.run(words[3:]) == 1
    again = capsys.readouterr().out
    assert repeated(again) == [words]
    (before,) = [line.partition("] ")[2] for line in printed.splitlines() if "] WRONG" in line]
    assert again.startswith(f"[1/1] {before}\n")


def test_a_wrong_record_of_a_sweep_names_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong in the gate or behind a sample, the record names its check, and the sweep prints it."""
    out = tmp_path / "run"
    only = ["--only", f"ff_l1_blas,{WRONG},{TURNS_WRONG}"]
    words = [
        *TINY, *only, "--skip", "ceiling*", "--passes", "6", "--processes", "1", "--no-figures",
    ]  # fmt: skip
    assert cli.run(["sweep", *words, "--out", str(out)]) == 1
    told = repeated(capsys.readouterr().err)
    cells = load_run(out).cells.set_index("implementation")
    for wrong in (WRONG, TURNS_WRONG):
        words = shlex.split(cells.loc[wrong, "repro"])
        assert words in told
        assert wrong in words
    assert set(cells.loc["ff_l1_blas", "repro"]) == {""}
    assert cli.run(shlex.split(cells.loc[WRONG, "repro"])[3:]) == 1


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--seed", "3", "--isa", "generic"],
        ["--dtype", "float32,bfloat16"],
        ["--routing", "zipf,single", "--models", "2x3,ff-30", "--baseline", "ff-30"],
        ["--routing", "zipf,single", "--models", "leaf-2x3,ff-30", "--baseline", "ff-30"],
        ["--data", "zeros", "--weights", "hot,rotated,flushed"],
        ["--rows", "same", "--batch", "1,7"],
    ],
    ids=" ".join,
)
def test_a_command_names_its_cell_alone(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command of each cell of a sweep, whatever its axes, plans to check that cell and no other."""
    plans: list[Plan] = []

    def note(made: Plan, *_: object) -> CellTable:
        plans.append(made)
        return CellTable(states=check.chosen(made))

    monkeypatch.setattr(facts, "read_machine", lambda **_: SMALL)
    monkeypatch.setattr(check, "check", note)
    assert cli.run(["check", *TINY, "--only", "*_l1_blas,fff_cpu_fused", *words]) == 0
    spec = plans[0].spec
    states = [s for s in check.chosen(plans.pop()) if s.status == "ok"]
    assert states
    for state in states:
        command = repro.command(spec, state.cell, 5)
        assert cli.run(shlex.split(command)[3:]) == 0
        found = [s.cell.id for s in check.chosen(plans.pop()) if s.status == "ok"]
        assert found == [state.cell.id], command
    capsys.readouterr()


def test_a_seed_below_0_is_refused() -> None:
    """A seed that none can be is a usage error that names the option."""
    with pytest.raises(UsageError, match="--check-seed: need 0 or more, got -1"):
        cli.run(["check", *TINY, "--check-seed", "-1"])


def test_a_dry_run_checks_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --dry-run the cells are listed, and no process starts."""
    monkeypatch.setattr(check, "check", make_plan)  # would fail with what it is called with
    assert cli.run(["check", *TINY, "--only", RIGHT, "--dry-run"]) == 0
    assert RIGHT in capsys.readouterr().out
