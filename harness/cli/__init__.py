"""The command line: words in, exit status out; a command a file."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
import typer.exceptions

from harness.cli.exit_status import EPILOG, ExitStatus
from harness.errors import UsageError

# Each command's module, and the first words of its help.
COMMANDS = {
    "sweep": (
        "sweep",
        "Measure the paper's Table 2 here, the CPU half or with --device cuda the GPU half.",
    ),
    "check": (
        "check",
        "Check all that a sweep would measure against the float64 oracle; time nothing, write nothing.",
    ),
    "explain": (
        "explain",
        "Say what the published speedup is made of: from its protocol to a strict one, a fault at a time.",
    ),
    "model": (
        "model",
        "Say whether a whole model is faster with an FFF as its FF, by how much, and why not by more.",
    ),
    "table": (
        "runs",
        "Print a run's tables and write table.md, table.csv, speeds.csv and table.tex from its samples.",
    ),
    "plot": ("runs", "Draw a run's figures as PNG, SVG and PDF from its samples."),
    "report": (
        "runs",
        "Write one page of HTML of a run or of several, with all tables and figures; it loads nothing.",
    ),
    "compare": (
        "compare",
        "Say of each cell whether a run is faster, slower or the same as another, or its history over many.",
    ),
    "merge": (
        "runs",
        "Put the runs of several machines into one table, a row for each machine and shape, or whole model.",
    ),
    "submit": (
        "submit",
        "Submit whole sweeps to many machines: one a node, alone on it and pinned.",
    ),
    "collect": (
        "collect",
        "Say what came of a submission, and put its runs into one table, a row for each machine and shape.",
    ),
    "export": (
        "export",
        "Write a run in the format of another program: of trackers, monitors, benchmark tools, frames.",
    ),
    "doctor": (
        "machine",
        "Say what is wrong for measuring here and what to do about it; nothing is changed.",
    ),
    "list": (
        "machine",
        "Show the implementations and BLAS providers, with the reason where one is unavailable.",
    ),
    "completion": (
        "completion",
        "Print the script by which a shell completes the commands and options of fff-harness.",
    ),
    "include-dir": ("machine", "Print the folder of ffk.h, for compiling a kernel of your own."),
}


def _not_asked() -> None:
    """Stand for a command in the list of all."""


def make_app(asked: str) -> typer.Typer:
    """Return the command line, of whose commands the one that is asked for can be carried out.

    Its module alone is imported: a page about a finished run needs no compiled extension, and help loads
    nothing. The others are there for the list and for what was misspelt.
    """
    app = typer.Typer(
        name="harness",
        help="Measure conditional (FFF) against dense (FF) feedforward layers, honestly.\n\n"
        "Begin with `python -m harness sweep --quick`.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        epilog=EPILOG,
    )
    for name, (module, summary) in COMMANDS.items():
        if name == asked:
            home = import_module(f"harness.cli.{module}")
            app.command(name, epilog=EPILOG)(getattr(home, f"{name.replace('-', '_')}_command"))
        else:
            app.command(name, help=summary)(_not_asked)
    return app


def read_commands() -> dict[str, Any]:
    """Return every command with its arguments, options and help, as Typer has them; loads all of them."""
    groups = ((name, typer.main.get_command(make_app(name))) for name in COMMANDS)
    return {name: group.commands[name] for name, group in groups}  # type: ignore[attr-defined]


def run(arguments: list[str]) -> ExitStatus:
    """Carry out a command line and return its exit status. Raises UsageError for a mistake in it."""
    command = typer.main.get_command(make_app(arguments[0] if arguments else ""))
    try:
        status = command.main(
            args=arguments or ["--help"], prog_name="python -m harness", standalone_mode=False
        )
    except typer.exceptions.TyperException as error:
        raise UsageError(error.format_message()) from None
    except typer.Abort:
        return ExitStatus.INTERRUPTED
    # Typer itself returns a number for --help.
    return ExitStatus(status or ExitStatus.CLEAN)
