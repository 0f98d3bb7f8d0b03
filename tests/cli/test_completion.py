"""The completion scripts: made for each shell, and asked in bash as a person would."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from harness import cli
from harness.cli.completion import SHELLS, make_script
from harness.errors import UsageError

make = cache(make_script)
# What bash does when a line is typed and the key pressed: the words, the last of which is completed.
ASK = """
source "$1"; shift
function=$(complete -p fff-harness | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
"$function" fff-harness "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Return a file of bash's script."""
    path = tmp_path / "fff-harness"
    path.write_text(make("bash"), encoding="utf-8")
    return path


def ask(script: Path, *words: str) -> list[str]:
    """Return what bash offers for the last of the words."""
    done = subprocess.run(
        ["bash", "-c", ASK, "ask", script, "fff-harness", *words],
        cwd=script.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_offers_commands_options_and_files(script):
    """First a command, then that command's options and no other's, and files where a path is wanted."""
    assert ask(script, "") == [*cli.COMMANDS]
    assert ask(script, "com") == ["compare", "completion"]
    assert ask(script, "compare", "--fa") == ["--fail-on-slower"]
    assert ask(script, "table", "--fa") == []
    (script.parent / "results").mkdir()
    assert ask(script, "compare", "res") == ["results"]
    assert ask(script, "sweep", "--out", "res") == ["results"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_option_is_in_every_script(shell, tmp_path, capsys):
    """A script is sound to its shell, where that is here, and names all commands and all of their options."""
    assert cli.run(["completion", shell]) == 0
    text = capsys.readouterr().out
    for name, command in cli.read_commands().items():
        assert name in text
        for param in command.params:
            for word in (*param.opts, *param.secondary_opts):
                assert param.param_type_name == "argument" or word.removeprefix("--") in text, word
    path = tmp_path / "script"
    path.write_text(text, encoding="utf-8")
    if shutil.which(shell):
        subprocess.run([shell, "-n", path], check=True)


def test_another_shell_is_named():
    """A shell without a script is a usage error that lists those with one."""
    with pytest.raises(UsageError, match="unknown shell 'tcsh'; known: bash, zsh, fish"):
        cli.run(["completion", "tcsh"])
