"""Own the command line: its words become dataclasses; nothing is measured or formatted here."""

from __future__ import annotations

import typer.exceptions

from harness.cli import explain, machine, options, runs, sweep
from harness.errors import UsageError

app = typer.Typer(
    name="harness",
    help="Measure conditional (FFF) against dense (FF) feedforward layers, honestly.\n\n"
    "Begin with `python -m harness sweep --quick`.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("sweep")(options.take_axes(sweep.sweep_command, behind="processes"))
app.command("explain")(explain.explain_command)
app.command("table")(runs.table_command)
app.command("plot")(runs.plot_command)
app.command("compare")(runs.compare_command)
app.command("merge")(runs.merge_command)
app.command("doctor")(machine.doctor_command)
app.command("list")(machine.list_command)
app.command("include-dir")(machine.include_dir_command)


def run(arguments: list[str]) -> int:
    """Carry out a command line and return its exit status. Raises UsageError for a mistake in it."""
    command = typer.main.get_command(app)
    try:
        status = command.main(
            args=arguments or ["--help"], prog_name="python -m harness", standalone_mode=False
        )
    except typer.exceptions.TyperException as error:
        raise UsageError(error.format_message()) from None
    except typer.Abort:
        return 130
    return int(status or 0)
