"""Where output goes: whatever becomes of the streams and of a figure, the tables lie in the folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fabricated_runs import Fake

from harness import cli
from harness.cli import runs
from harness.report import drawing, figures
from harness.report.files import FIGURES, TABLE_FILES

ROOT = Path(__file__).parents[2]
PICTURES = {f"{name}.{kind}" for name in FIGURES for kind in drawing.FORMATS}


# Several commands in one process, each of which would load pandas anew.
END = "# end of a command"
EACH = f"""
import json, sys
from harness.cli.main import main
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    print({END!r})
"""


def _shell(script: str, run: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Carry out a line of bash in which `harness` is the command line and $RUN a run."""
    start = f"set -o pipefail; harness() {{ '{sys.executable}' -m harness \"$@\"; }}; "
    return subprocess.run(
        ["bash", "-c", start + script], capture_output=True, text=True, check=False, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RUN": str(run)} | environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("script", "status", "says"),
    [
        ("harness table $RUN >/dev/full", 1, "the output can't be written: No space left"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("harness table $RUN | true", 141, ""),
                ("harness table $RUN >&-", 1, "standard output is closed"),
                ("harness table $RUN >&- 2>&-", 1, ""),
                ("harness table $RUN 2>&- >/dev/null", 0, ""),
                ("harness table $RUN <&- >/dev/null", 0, ""),
            )
        ),
    ],
)
def test_files_are_there_whatever_becomes_of_the_output(
    golden_run: Path, script: str, status: int, says: str
) -> None:
    """A reader that went away is status 141, an output that takes nothing one line; the files are written."""
    done = _shell(script, golden_run)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == bool(says)
    assert {name for name in TABLE_FILES if (golden_run / name).stat().st_size} == set(TABLE_FILES)


@pytest.mark.parametrize(
    "script",
    [
        "list | true",
        pytest.param("doctor >/dev/full", marks=pytest.mark.slow),
        pytest.param("doctor | true", marks=pytest.mark.slow),
        pytest.param("list >&-", marks=pytest.mark.slow),
    ],
)
def test_commands_on_this_machine_end_without_a_traceback(golden_run: Path, script: str) -> None:
    """What prints tables for a terminal ends as the others do."""
    done = _shell(f"harness {script}", golden_run)
    assert done.returncode == (141 if "|" in script else 1), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 1


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(e, marks=pytest.mark.slow) for e in ("latin-1", "cp437"))]
)
def test_output_of_any_encoding(golden_run: Path, encoding: str) -> None:
    """A character that the stream can't take is replaced, and all the rest is there."""
    run = str(golden_run)
    commands = [["table", run], ["compare", run, run], ["merge", run, "--out", f"{run}/m.md"]]
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps(commands)], capture_output=True, check=False,
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    printed = done.stdout.decode(encoding).split(END)
    assert [text.count("\n") > 10 for text in printed] == [True, True, True, False]
    assert "–" in (golden_run / "table.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_backend_that_is_not_installed(golden_run: Path) -> None:
    """The backend that a notebook's kernel names is not asked for."""
    done = _shell("harness plot $RUN", golden_run, MPLBACKEND="module://no_such_module.backend")
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in golden_run.iterdir()} >= PICTURES


@pytest.mark.slow
def test_settings_of_the_current_folder_draw_nothing(golden_run: Path) -> None:
    """A matplotlibrc that lies in a run's folder hands no text to TeX."""
    (golden_run / "matplotlibrc").write_text("text.usetex: True\nfont.family: monospace\n")
    assert cli.run(["plot", str(golden_run)]) == 0
    first = (golden_run / "speedup.svg").read_bytes()
    done = _shell("cd $RUN && harness plot .", golden_run)
    assert (done.returncode, done.stderr) == (0, "")
    assert (golden_run / "speedup.svg").read_bytes() == first


@pytest.mark.parametrize("broken", ["drawn", pytest.param("written", marks=pytest.mark.slow)])
def test_a_figure_costs_nothing_else(
    golden_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    broken: str,
) -> None:  # fmt: skip
    """A figure that can't be drawn or written is one line and status 1; the others are there."""
    if broken == "drawn":
        monkeypatch.setattr(figures, "time_figure", lambda *_: 1 / 0)
    else:
        (golden_run / "time_per_token.png").mkdir()
    assert cli.run(["plot", str(golden_run)]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "Error" in captured.err or "directory" in captured.err
    assert {p.name for p in golden_run.iterdir() if p.is_file()} >= {"speedup.png", "speedup.pdf"}


def test_a_table_that_is_not_written_is_printed(
    golden_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file that can't be written costs no other, and the table is printed all the same."""
    (golden_run / "table.md").mkdir()
    assert cli.run(["table", str(golden_run)]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("# Speedups of conditional over dense")
    assert captured.err.count("\n") == 1
    assert (golden_run / "ledger.json").is_file()


@pytest.mark.parametrize(
    "command",
    [
        "table",
        *(pytest.param(c, marks=pytest.mark.slow) for c in ("plot", "report", "explain", "merge")),
    ],
)
def test_nothing_is_written_through_links(
    golden_run: Path, data_folder: Path, tmp_path: Path, command: str
) -> None:
    """A link in a run's folder under the name of any file that a command writes is replaced, not followed."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    if command == "explain":
        for name in ("run.json", "records.jsonl"):
            (golden_run / name).write_bytes((data_folder / "run-ladder" / name).read_bytes())
    pages = {f"explain.{kind}" for kind in ("md", "csv", "png", "svg")} | {
        "merged.md",
        "merged.csv",
        "report.html",
    }
    for name in {*TABLE_FILES, *PICTURES, *pages}:
        (golden_run / name).symlink_to(victim)
    words = [command, str(golden_run), *(["--out", str(golden_run)] if command == "merge" else [])]
    assert cli.run(words) == 0
    assert victim.read_text() == "mine"


def test_names_of_folders_steer_no_terminal(
    golden_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder whose name holds controls or bytes of no text is named in visible characters."""
    for name in ("a\x1b[31m\nb", os.fsdecode(b"\xff\xfe")):
        folder = tmp_path / name
        golden_run.rename(folder)
        assert cli.run(["table", str(folder)]) == 0
        out = capsys.readouterr().out
        assert all(line.isprintable() for line in out.splitlines())
        folder.rename(golden_run)


def test_an_impossible_figure_fails_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell faster than its ceiling is named and a sweep's outputs do not stand; `table` only shows it."""
    folder = Fake(factors={"fff_l": 1e-6}, processes=2, blocks=2).write(tmp_path / "run")
    assert not runs.write_outputs(folder)
    error = capsys.readouterr().err
    assert error.startswith("error: IMPOSSIBLE: ")
    assert "fff_l1_blas/ultrafastbert-1x11" in error
    assert cli.run(["table", str(folder)]) == 0
    assert "IMPOSSIBLE" in capsys.readouterr().out
