"""Own the commands that read runs: `table`, `plot`, `compare`, `merge`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options
from harness.errors import UsageError
from harness.records.reader import load_run

if TYPE_CHECKING:
    from harness.analysis.analysis import Analysis


def print_error(text: str) -> None:
    """Print a line of trouble where it does not mix with the output."""
    print(f"error: {text}", file=sys.stderr)


def write_outputs(folder: Path) -> bool:
    """Print a run's table and write what is derived from it; say whether that could be written."""
    from harness.analysis.analysis import analyse
    from harness.report import table
    from harness.report.files import write_plots, write_tables

    analysis = analyse(load_run(folder))
    print(table.format_markdown(analysis))
    if not analysis.samples:
        print(f"{folder}: nothing was sampled, so there are no figures", file=sys.stderr)
    try:
        files = [*write_tables(analysis), *(write_plots(analysis) if analysis.samples else [])]
    except OSError as error:
        print_error(f"can't write the tables and figures to {folder}: {error.strerror}; `python -m harness "
                     "table` and `plot` make them from the samples")  # fmt: skip
        return False
    print(f"Written to {folder}: {', '.join(p.name for p in files)}")
    return True


def _write(analysis: Analysis, what: str, write: Callable[[Analysis], list[Path]]) -> int:
    """Write what is derived from a run, name the files, and return the exit status."""
    try:
        files = write(analysis)
    except OSError as error:
        print_error(f"can't write the {what} to {analysis.folder}: {error.strerror}")
        return 1
    print(f"Written: {', '.join(map(str, files))}")
    return 0


def table_command(run: options.RunFolder) -> int:
    """Print a run's tables and write table.md, table.csv, speeds.csv and table.tex from its samples."""
    from harness.analysis.analysis import analyse
    from harness.report import table
    from harness.report.files import write_tables

    analysis = analyse(load_run(run))
    print(table.format_markdown(analysis))
    return _write(analysis, "tables", write_tables)


def plot_command(run: options.RunFolder) -> int:
    """Draw a run's figures as PNG and SVG from its samples."""
    from harness.analysis.analysis import analyse
    from harness.report.files import write_plots

    analysis = analyse(load_run(run))
    if not analysis.samples:
        raise UsageError(f"{run} has no samples: there is nothing to draw")
    return _write(analysis, "figures", write_plots)


def compare_command(
    a: Annotated[Path, typer.Argument(help="Folder of the run to compare with.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="Folder of the run that is judged.", metavar="B")],
    fail_on_slower: Annotated[
        float | None,
        typer.Option(
            metavar="PCT",
            help="Exit 1 where a cell is slower by more than PCT percent, or right in A and wrong in B.",
        ),
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """Say of each cell whether run B is faster, slower or the same as run A, or that it can't be told.

    On one machine times are compared, freed of the drift between the runs; across machines ratios are.
    Exit status: 0, or 1 where --fail-on-slower finds a cell.
    """
    from harness.analysis import compare
    from harness.report import compare as report_compare

    if csv and json:
        raise UsageError("--csv and --json: give one of them")
    if fail_on_slower is not None and not fail_on_slower >= 0:
        raise UsageError(f"--fail-on-slower: need 0 or more percent, got {fail_on_slower:g}")
    comparison = compare.compare(load_run(a), load_run(b))
    if csv:
        print(report_compare.format_comparison_csv(comparison), end="")
    elif json:
        print(report_compare.format_comparison_json(comparison), end="")
    else:
        print(report_compare.format_comparison(comparison), end="")
    if fail_on_slower is None:
        return 0
    slower = comparison.slower_than(fail_on_slower)
    for change in slower:
        text = report_compare.format_change(change.change) if change.change else change.reason
        print_error(f"{change.cell} is {change.verdict}: {text}")
    return 1 if slower else 0


def merge_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", metavar="RUN...")],
    out: Annotated[
        Path,
        typer.Option(help="A file ending in .md or .csv, or a folder for both.", metavar="PATH"),
    ],
) -> int:
    """Put the runs of several machines into one table, a row for each machine and shape."""
    from harness.analysis import merge
    from harness.report import merge as report_merge

    loaded = [load_run(run) for run in runs]
    rows = merge.merged_rows(loaded)
    paths = report_merge.write_merged(loaded, rows, out)
    print(report_merge.format_merged(loaded, rows))
    print(f"Written: {', '.join(map(str, paths))}")
    return 0
