"""Own the command `completion`: the scripts by which shells complete the words of the program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Any, get_args

import shtab
import typer

from harness.cli.exit_status import ExitStatus
from harness.cli.streams import say
from harness.errors import UnknownNameError

PROGRAM = "fff-harness"  # what a shell completes: the console script, not a module of Python
SHELLS = ("bash", "zsh", "fish")


def completion_command(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.", metavar="SHELL")],
) -> ExitStatus:
    """Print the script by which a shell completes the commands and options of fff-harness.

    bash: eval "$(fff-harness completion bash)" in ~/.bashrc. zsh: fff-harness completion zsh into a file
    _fff-harness of a folder of fpath. fish: fff-harness completion fish into
    ~/.config/fish/completions/fff-harness.fish.
    """
    if shell not in SHELLS:
        raise UnknownNameError("shell", shell, SHELLS)
    say(make_script(shell).removesuffix("\n"))
    return ExitStatus.CLEAN


def make_script(shell: str) -> str:
    """Return the script of a shell: commands, their options, and files where a path is wanted."""
    script: str = shtab.complete(_make_parser(), shell=shell)
    return script


def _make_parser() -> argparse.ArgumentParser:
    """Return the command line as argparse has it, which is what scripts are made of; it parses nothing."""
    from harness.cli import read_commands

    parser = argparse.ArgumentParser(prog=PROGRAM, add_help=False)
    _add_help(parser)
    commands = parser.add_subparsers()
    for name, command in read_commands().items():
        brief = _brief(command.get_short_help_str(limit=200))
        own = commands.add_parser(name, help=brief, add_help=False)
        _add_help(own)
        for param in command.params:
            _add_parameter(own, param)
    return parser


def _add_help(parser: argparse.ArgumentParser) -> None:
    """Add the help as it is spelt here: argparse would add a short word for it."""
    parser.add_argument("--help", action="store_true", help="Show this message and exit")


def _add_parameter(parser: argparse.ArgumentParser, param: Any) -> None:
    """Add an option or argument of Typer's to a parser of argparse's."""
    words: dict[str, Any] = {}
    if param.param_type_name == "argument":
        names = [param.name]
        words["nargs"] = "*" if param.nargs == -1 else None
    else:
        names, words["help"] = [*param.opts, *param.secondary_opts], _brief(param.help or "")
        if param.is_flag:
            words["action"] = "store_true"
    action = parser.add_argument(*names, **words)
    annotation = param.type_descriptor.annotation
    if Path in (annotation, *get_args(annotation)):
        action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it


def _brief(text: str) -> str:
    """Return the first sentence of a help: there is one line for it. argparse reads a percent sign."""
    return " ".join(text.split()).partition(". ")[0].removesuffix(".").replace("%", "%%")
