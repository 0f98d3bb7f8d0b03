"""What a command loads: what reads a finished run goes without the compiled extension, help without all."""

from __future__ import annotations

import inspect
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


@pytest.fixture
def ladder_run(data_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the fabricated run of the ladder."""
    return shutil.copytree(data_folder / "run-ladder", tmp_path / "ladder")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["table", "RUN"], "Speedups of conditional over dense"),
        (["plot", "RUN"], "speedup.png"),
        (["compare", "RUN", "RUN"], "cells: "),
        (["merge", "RUN", "--out", "RUN/merged"], "Speedups on 1 machines"),
        (["explain", "LADDER"], "Is it 78 times faster?"),
        (["--help"], "Commands:"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_finished_run_is_read_without_the_extension(
    golden_run: Path, ladder_run: Path, words: list[str], says: str
) -> None:
    """What is said of samples that lie on disk needs none of the code that took them."""
    folders = {"RUN": str(golden_run), "LADDER": str(ladder_run)}
    for name, folder in folders.items():
        words = [word.replace(name, folder) for word in words]
    done = _run_without(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert says in done.stdout


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
        (["explain", "--help"], {"pandas", "scipy", "matplotlib", "harness.native"}),
        (["table", "RUN"], {"matplotlib", "torch", "harness.native"}),
        (["merge", "RUN", "--out", "RUN/merged"], {"matplotlib", "torch", "harness.native"}),
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
