"""Own the commands that read runs: `table`, `plot`, `report`, `merge`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options
from harness.cli.exit_status import ExitStatus
from harness.cli.streams import print_error, print_notice, say
from harness.errors import UsageError
from harness.records.reader import Run, load_run

if TYPE_CHECKING:
    from harness.analysis.analysis import Analysis


def write_outputs(
    folder: Path, *, figures: bool = True, page: bool = True, style: str = "screen"
) -> bool:
    """Write what is derived from a run and print its table; say whether all is written and possible.

    figures: whether they are drawn too, in that style; nothing else of a command takes as long but measuring.
    page: whether that is written too. Whatever becomes of them and of standard output, the tables lie in the
    folder. A figure that no machine of these ceilings can reach is an error in what was measured, and is
    named as one.
    """
    from harness.analysis.analysis import analyse
    from harness.report import files, table

    analysis = analyse(load_run(folder))
    written = [try_to_write(analysis, "tables", files.write_tables, "table")]
    if figures and analysis.samples:
        written.append(
            try_to_write(analysis, "figures", partial(files.write_plots, style=style), "plot")
        )
    elif figures:
        print_notice(f"{folder}: nothing was sampled, so there are no figures")
    if page:
        written.append(write_report_page(analysis))
    say(table.format_markdown(analysis))
    if names := [path.name for found in written for path in found or []]:
        say(f"Written to {folder}: {', '.join(names)}")
    impossible = table.impossible(analysis.points)
    for line in impossible:
        print_error(f"IMPOSSIBLE: {line}")
    return None not in written and not impossible


def load_layers(folder: Path) -> Run:
    """Return a run of layers. Raises UsageError for one of whole models, of which there is no history."""
    run = load_run(folder)
    if run.head.sweep.architecture is not None:
        raise UsageError(
            f"{folder} is a run of whole models: two of them can be compared, and a history is of layers"
        )
    return run


def write_report_page(analysis: Analysis) -> list[Path] | None:
    """Write a run's page into its folder and return the file; None where it could not be, which is said."""
    from harness.report import page

    return try_to_write(analysis, "of the page", page.write_page, "report")


def try_to_write(
    analysis: Analysis, what: str, write: Callable[[Analysis], list[Path]], again: str
) -> list[Path] | None:
    """Write what is derived from a run and return the files; None where not all could be, which is said.

    again: the command that makes them from the samples.
    """
    from harness.report.drawing import FigureError

    try:
        return write(analysis)
    except (OSError, FigureError) as error:
        why = error.strerror if isinstance(error, OSError) else error
    print_error(f"can't write all {what} to {analysis.folder}: {why}; `python -m harness {again} "
                f"{analysis.folder}` makes them from the samples")  # fmt: skip
    return None


def table_command(run: options.RunFolder) -> ExitStatus:
    """Print a run's tables and write table.md, table.csv, speeds.csv and table.tex from its samples."""
    from harness.analysis.analysis import analyse
    from harness.report import files, table

    analysis = analyse(load_run(run))
    written = try_to_write(analysis, "tables", files.write_tables, "table")
    say(table.format_markdown(analysis))
    return _name(written)


def _name(written: list[Path] | None) -> ExitStatus:
    """Name the files that were written, and return the exit status."""
    if written is None:
        return ExitStatus.BAD
    say(f"Written: {', '.join(map(str, written))}")
    return ExitStatus.CLEAN


def plot_command(run: options.RunFolder, style: options.DrawingStyleName = "screen") -> ExitStatus:
    """Draw a run's figures as PNG, SVG and PDF from its samples."""
    from harness.analysis.analysis import analyse
    from harness.report import files

    options.require_style(style)
    analysis = analyse(load_run(run))
    if not analysis.samples:
        raise UsageError(f"{run} has no samples: there is nothing to draw")
    draw = partial(files.write_plots, style=style)
    return _name(try_to_write(analysis, "figures", draw, "plot"))


def report_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", metavar="RUN...")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File of the page. [default: report.html in the run's folder; needed for several]",
            metavar="page.html",
        ),
    ] = None,
) -> ExitStatus:
    """Write one page of HTML of a run or of several, with all tables and figures; it loads nothing.

    Of several runs a row each stands on top; no time of one machine is set over another's.
    """
    from harness.analysis.analysis import analyse
    from harness.report import page

    if out is None and len(runs) > 1:
        raise UsageError("--out: the page of several runs needs a file, such as --out page.html")
    path = out or runs[0] / page.PAGE_FILE
    if path.is_dir():
        raise UsageError(f"--out: need a file such as page.html, got the folder {path}")
    analyses = [analyse(load_run(run)) for run in runs]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        page.write_pages(analyses, path)
    except OSError as error:
        raise UsageError(f"--out: can't write to {path}: {error.strerror}") from None
    return _name([path])


def merge_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", metavar="RUN...")],
    out: Annotated[
        Path,
        typer.Option(help="A file ending in .md or .csv, or a folder for both.", metavar="PATH"),
    ],
) -> ExitStatus:
    """Put the runs of several machines into one table, a row for each machine and shape, or whole model."""
    from harness.analysis import merge
    from harness.analysis.analysis import analyse
    from harness.report import merge as report_merge
    from harness.report import transformer_merge

    loaded = [load_run(run) for run in runs]
    of_models = [run for run in loaded if run.head.sweep.architecture is not None]
    if of_models and len(of_models) < len(loaded):
        other = next(run for run in loaded if run.head.sweep.architecture is None)
        raise UsageError(
            f"{of_models[0].folder} is a run of whole models and {other.folder} one of layers: they can't "
            "stand in one table"
        )
    if of_models:
        merge.check_mix(loaded)
        analyses = [analyse(run) for run in loaded]
        text = transformer_merge.format_merged(loaded, analyses)
        frame = transformer_merge.merged_frame(analyses)
    else:
        rows = merge.merged_rows(loaded)
        text, frame = report_merge.format_merged(loaded, rows), report_merge.merged_frame(rows)
    paths = report_merge.write_table(text, frame, out)
    say(text)
    return _name(paths)
