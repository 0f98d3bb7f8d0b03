"""What a newcomer meets when something is missing is one line that says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def bare_tree(tmp_path: Path) -> Path:
    """Copy the source tree without its compiled part."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("harness", "native"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_source_tree_without_compiled_part_says_what_to_do(bare_tree: Path) -> None:
    """A source folder that shadows an installed package ends in one line, not in a traceback."""
    # Without site's .pth files: an editable install would lend its compiled part to the bare tree.
    environment = dict(os.environ, PYTHONPATH=sysconfig.get_path("purelib"))
    done = subprocess.run(
        [sys.executable, "-S", "-m", "harness", "list"],
        cwd=bare_tree, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "pip install -e ." in done.stderr


@pytest.mark.parametrize("command", ["no-such-compiler", "env no-such-compiler -O2"])
def test_missing_compiler_is_named_with_its_remedy(bare_tree: Path, command: str) -> None:
    """A build without a C compiler, alone or behind a wrapper, names it and says what to install."""
    pytest.importorskip("setuptools", "77", reason="the build's own requirement")
    environment = dict(os.environ, CC=command)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=bare_tree, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "no-such-compiler" in last
    assert "apt install gcc" in last


def test_readme_has_its_two_commands() -> None:
    """The quick start holds two fenced commands of one line each: the sweep and the tests."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (part,) = [p for p in text.split("\n## ") if p.startswith("Quick start")]
    commands = [block.split("```")[0].strip() for block in part.split("```sh\n")[1:]]
    assert len(commands) == 2
    assert all("\n" not in command for command in commands)
    assert "harness sweep --levels 1,2,3 --device cpu" in commands[0]
    assert commands[1].endswith("python -m pytest")
