"""Own the command `export`: a run in the format of another program, printed or written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.cli.exit_status import ExitStatus
from harness.cli.streams import print_notice, say
from harness.errors import UnknownNameError, UsageError
from harness.records.reader import load_run

_NAMED = 5  # cells that are left out by name; the others are counted


def export_command(
    run: options.RunFolder,
    name: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="pytest-benchmark, google-benchmark, bencher, github-action-benchmark, openmetrics, asv, or "
            "parquet (all samples; needs pyarrow).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="File to write to; of asv the folder of its results. [default: standard output; needed for "
            "asv and parquet]",
        ),
    ] = None,
) -> ExitStatus:
    """Write a run in the format of another program: of trackers, monitors, benchmark tools, frames.

    Every right cell stands there under its id, with its time, interval and samples as far as the format holds
    them, beside machine and commit. docs/export.md says what becomes of what.
    """
    from harness.analysis.measurements import find_measurements
    from harness.report import export

    if name not in export.FORMATS:
        raise UnknownNameError("format", name, export.FORMATS)
    chosen = export.FORMATS[name]
    if out is None and isinstance(chosen, export.FileFormat):
        raise UsageError(f"--out: --format {name} needs {chosen.needs}")
    measured = find_measurements(load_run(run))
    if not measured.found:
        raise UsageError(f"{run} has no cell with a right result and a sample: nothing to export")
    for cell, why in measured.left_out[:_NAMED]:
        print_notice(f"left out: {cell} is {why}")
    if (more := len(measured.left_out) - _NAMED) > 0:
        print_notice(f"left out: {more} more")
    if out is None:
        assert isinstance(chosen, export.TextFormat)  # the others need a place
        say(chosen.make(measured).removesuffix("\n"))
        return ExitStatus.CLEAN
    try:
        written = export.write_export(measured, name, out)
    except OSError as error:
        raise UsageError(f"--out: can't write to {out}: {error.strerror}") from None
    say(f"Written: {', '.join(map(str, written))}")
    return ExitStatus.CLEAN
