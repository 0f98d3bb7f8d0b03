"""What a command loads: what reads a finished run goes without the compiled extension, help without all."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from harness import cli

WITHOUT = "import sys; sys.modules['harness._native'] = None\n"
MAIN = "from harness.cli.main import main\n"
LOADED = """
import atexit
atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))
"""


def _python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


def _run_without(*words: str) -> subprocess.CompletedProcess[str]:
    """Carry out a command line where the extension can't be imported."""
    return _python(f"{WITHOUT}{MAIN}main()", *words)


# What reads a finished run, and what it prints.
READING = {
    "table": (["table", "RUN"], "Speedups of conditional over dense"),
    "plot": (["plot", "RUN"], "speedup.png"),
    "report": (["report", "RUN"], "report.html"),
    "export": (["export", "LADDER", "--format", "bencher"], '"latency"'),
    "compare": (["compare", "RUN", "RUN"], "cells: "),
    "merge": (["merge", "RUN", "--out", "RUN/merged"], "Speedups on 1 machines"),
    "explain": (["explain", "LADDER"], "Is it 78 times faster?"),
    "--help": (["--help"], "Commands:"),
}
# One process for all of them, since each would load pandas anew: a JSON list of status, output, errors.
ALL = f"""{WITHOUT}{MAIN}
import contextlib, io, json
done = []
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            done.append([end.code, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""


@pytest.mark.slow
def test_a_finished_run_is_read_without_the_extension(
    golden_run: Path, data_folder: Path, tmp_path: Path
) -> None:
    """What is said of samples that lie on disk needs none of the code that took them."""
    ladder = shutil.copytree(data_folder / "run-ladder", tmp_path / "ladder")

    def place(word: str) -> str:
        return word.replace("RUN", str(golden_run)).replace("LADDER", str(ladder))

    asked = [[place(word) for word in words] for words, _ in READING.values()]
    done = _python(ALL, json.dumps(asked))
    assert (done.returncode, done.stderr) == (0, "")
    for (name, (_, says)), (status, out, errors) in zip(
        READING.items(), json.loads(done.stdout), strict=True
    ):
        assert (name, status or 0, errors) == (name, 0, "")
        assert says in out


def test_frames_are_read_without_the_extension(golden_run: Path) -> None:
    """harness.load_run needs none of the code that took the samples."""
    code = f"{WITHOUT}import harness; print(len(harness.load_run(sys.argv[1]).samples))"
    done = _python(code, str(golden_run))
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 0


@pytest.mark.parametrize("words", [["sweep", "--quick"], ["explain", "--quick"], ["list"]], ids=str)
def test_what_measures_says_that_the_extension_is_missing(words: list[str]) -> None:
    """A command that runs kernels ends with one line where there are none."""
    done = _run_without(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the compiled part of harness is missing")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "spared"),
    [
        (["--help"], {"numpy", "pandas", "scipy", "matplotlib", "pydantic", "harness.native"}),
        (["table", "--help"], {"pandas", "scipy", "matplotlib", "harness.native"}),
        pytest.param(
            ["explain", "--help"],
            {"pandas", "scipy", "matplotlib", "harness.native"},
            marks=pytest.mark.slow,
        ),
        (["table", "RUN"], {"matplotlib", "torch", "harness.native"}),
        *(
            pytest.param(words, {"matplotlib", "torch", "harness.native"}, marks=pytest.mark.slow)
            for words in (["report", "RUN"], ["merge", "RUN", "--out", "RUN/merged"])
        ),
    ],
    # A set has no order of its own: names made of one differ between processes.
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_nothing_is_loaded_for_nothing(
    golden_run: Path, words: list[str], spared: set[str]
) -> None:
    """Help loads nothing that it does not print, and a table nothing that draws or measures."""
    words = [word.replace("RUN", str(golden_run)) for word in words]
    done = _python(f"import sys\n{LOADED}{MAIN}main()", *words)
    assert done.returncode == 0
    assert not spared & set(done.stderr.split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_list_of_commands_says_what_their_help_says(name: str) -> None:
    """A command's line in the list of commands is the first sentence of its own help."""
    module, summary = cli.COMMANDS[name]
    command = getattr(import_module(f"harness.cli.{module}"), f"{name.replace('-', '_')}_command")
    assert " ".join(inspect.getdoc(command).split("\n\n")[0].split()) == summary
