"""The exit statuses: one table for all commands, in the code, in their help and in the docs."""

from __future__ import annotations

import ast
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest
from fabricated_runs import Fake

from harness import cli
from harness.cli import main
from harness.cli.exit_status import EPILOG, ExitStatus
from harness.errors import UnavailableError, UnfitMachineError, UnknownNameError, UsageError
from harness.gpu import probe

ROOT = Path(main.__file__).parents[2]


def _end(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Return the status that a command line ends with, in this process."""
    monkeypatch.setattr(sys, "argv", ["harness", *words])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return int(str(ended.value.code))


def test_the_page_has_the_table_of_the_code() -> None:
    """docs/exit-statuses.md names each status with what the code says of it, in order, and no other."""
    text = (ROOT / "docs" / "exit-statuses.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", text, flags=re.M)
    assert rows == [(f"{status:d}", status.meaning) for status in ExitStatus]


@pytest.mark.parametrize("name", ["", *cli.COMMANDS])
def test_help_ends_with_the_statuses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The help of the whole and of each command ends with what its status says."""
    assert _end(monkeypatch, *filter(None, [name]), "--help") == ExitStatus.CLEAN
    assert " ".join(capsys.readouterr().out.split()).endswith(EPILOG)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_takes_its_status_from_the_table(name: str) -> None:
    """A command returns a status of the table, and its module holds none of its own."""
    module = import_module(f"harness.cli.{cli.COMMANDS[name][0]}")
    command = getattr(module, f"{name.replace('-', '_')}_command")
    assert get_type_hints(command)["return"] is ExitStatus
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
        value = node.value if isinstance(node, ast.Return) else None
        ends = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
        plain = [end.value for end in ends if isinstance(end, ast.Constant)]
        assert not any(type(number) is int for number in plain), ast.dump(node)


ENDS: dict[str, tuple[BaseException, ExitStatus]] = {
    "usage": (UsageError("--x: no"), ExitStatus.USAGE),
    "name": (UnknownNameError("level", "9", "1"), ExitStatus.USAGE),
    "missing": (UnavailableError("no device"), ExitStatus.USAGE),
    "unfit": (UnfitMachineError("--strict: no"), ExitStatus.UNFIT),
    "Ctrl-C": (KeyboardInterrupt(), ExitStatus.INTERRUPTED),
    "disk": (OSError(28, "No space left on device"), ExitStatus.BAD),
    "reader": (BrokenPipeError(), ExitStatus.READER_GONE),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_ends_a_command_has_its_status(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """Mistakes, a missing device, an unfit machine, a full disk and an interrupt are told apart."""
    error, status = ENDS[end]

    def run(_: object) -> ExitStatus:
        raise error

    monkeypatch.setattr(cli, "run", run)
    monkeypatch.setattr("harness.cli.streams.abandon_output", lambda: None)
    assert _end(monkeypatch, "list") == status


def test_a_device_that_is_missing_is_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep of a device that is not here ends before it begins."""
    monkeypatch.setattr(probe, "find_cuda", lambda: probe.Found(reason="no such thing"))
    assert _end(monkeypatch, "sweep", "--device", "cuda", "--dry-run") == ExitStatus.USAGE


def test_a_regression_is_bad_only_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A comparison is done and clean whatever it finds, until it is told to fail."""
    quiet = {"noise": 0.003, "process_noise": 0.001}
    a = Fake(seed=1, **quiet).write(tmp_path / "a")
    b = Fake(seed=2, factors={"fff_l1": 1.5}, **quiet).write(tmp_path / "b")
    words = ["compare", str(a), str(b)]
    assert _end(monkeypatch, *words) == ExitStatus.CLEAN
    assert _end(monkeypatch, *words, "--fail-on-slower", "5") == ExitStatus.BAD
