"""What a command prints: it arrives in any encoding, steers nothing, and its loss is told."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.cli import main, runs, streams
from harness.report import figures

ROOT = Path(main.__file__).parents[2]


def _shell(command: str, *words: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command of the shell in which `$HARNESS` stands for the harness and `$@` for words."""
    harness = f"{shlex.quote(sys.executable)} -m harness"
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        ["bash", "-c", command.replace("$HARNESS", harness), "bash", *words],
        capture_output=True, check=False, cwd=ROOT, env=environment, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_any_encoding_will_do(golden_run: Path, encoding: str) -> None:
    """A dash that the encoding of a stream lacks is replaced, and the command ends as ever."""
    done = _shell('$HARNESS table "$@"', str(golden_run), PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Written: " in done.stdout


def test_a_backend_that_is_missing(golden_run: Path) -> None:
    """Figures are drawn where a notebook's kernel exports a backend that is not installed here."""
    backend = "module://matplotlib_inline_that_is_missing.backend_inline"
    done = _shell('$HARNESS plot "$@"', str(golden_run), MPLBACKEND=backend)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (golden_run / "speedup.png").exists()


@pytest.mark.parametrize(
    ("redirect", "status", "said"),
    [
        pytest.param(">&-", 1, b"error: standard output is closed", id="closed"),
        pytest.param(">/dev/full", 1, b"error: the output can't be written: ", id="full"),
    ],
)
def test_lost_output_is_told(golden_run: Path, redirect: str, status: int, said: bytes) -> None:
    """Where nothing can be printed the files are written all the same, and one line says so."""
    done = _shell(f'$HARNESS table "$@" {redirect}', str(golden_run))
    assert done.returncode == status
    assert done.stderr.startswith(said)
    assert done.stderr.count(b"\n") == 1
    assert (golden_run / "table.md").exists()


@pytest.mark.parametrize("words", ["table RUN", "list", "include-dir", "--help"])
def test_a_reader_that_goes_away(golden_run: Path, words: str) -> None:
    """`| true` and `| head` end a command with 141 and without a word."""
    asked = words.replace("RUN", shlex.quote(str(golden_run)))
    # The reader is gone before the first byte.
    done = _shell(f"{{ sleep 0.01; $HARNESS {asked}; echo status $? >&2; }} | true")
    assert done.stderr == b"status 141\n"
    if "RUN" in words:
        assert (golden_run / "table.md").exists()


def test_closed_output_stays_out_of_files(golden_run: Path) -> None:
    """Where all streams are closed, no file that is opened later becomes one of them."""
    done = _shell('$HARNESS table "$@" <&- >&- 2>&-', str(golden_run))
    assert done.returncode == 1
    assert (golden_run / "table.md").read_bytes().startswith(b"# Speedups")


def test_a_figure_that_fails_costs_no_table(
    golden_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The outputs of a sweep are its tables and the figures that can be drawn; one line names the other."""

    def fail(_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(figures, "time_figure", fail)
    assert not runs.write_outputs(golden_run)
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "can't draw time_per_token: RecursionError: too deep" in captured.err
    assert captured.out.startswith("# Speedups")
    assert {"table.md", "table.tex", "speedup.png"} <= {path.name for path in golden_run.iterdir()}


def test_files_are_written_before_anything_is_printed(
    golden_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends the printing, the tables and figures are there by then."""

    def lose(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(runs, "say", lose)
    with pytest.raises(BrokenPipeError):
        runs.write_outputs(golden_run)
    assert {"table.md", "speedup.png"} <= {path.name for path in golden_run.iterdir()}
    (golden_run / "table.md").unlink()
    with pytest.raises(BrokenPipeError):
        cli.run(["table", str(golden_run)])
    assert (golden_run / "table.md").exists()


def test_no_character_that_is_said_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines stay lines; escapes, carriage returns and marks of direction are shown as such."""
    streams.say("a\x1b[2J\nb\rc\u202e")
    streams.print_error("a\nb")
    captured = capsys.readouterr()
    assert captured.out == "a\\x1b[2J\nb\\rc\\u202e\n"
    assert captured.err == "error: a\\nb\n"
