"""Own the command `compare`: one run against another, or the history of many."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options
from harness.cli.exit_status import ExitStatus
from harness.cli.runs import load_layers
from harness.cli.streams import print_error, print_notice, say
from harness.errors import UnknownNameError, UsageError
from harness.records.reader import Run, find_runs, is_run, load_run

if TYPE_CHECKING:
    from harness.analysis.compare import Comparison
    from harness.analysis.history_rows import History, LeftOut

_FORMATS = ("table", "csv", "json", "junit")


def compare_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Two folders of runs, A and B, of which B is judged; or any number of folders of runs, and "
            "of folders that hold such, of whose runs the newest is judged.",
            metavar="RUN...",
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Run that the others are compared with: the name of its folder, or its commit. Exit 1 where "
            "the newest run is slower than it, as with --fail-on-slower 0. [default: the oldest run of the "
            "newest one's machine]",
        ),
    ] = None,
    fail_on_slower: Annotated[
        float | None,
        typer.Option(
            metavar="PCT",
            help="Exit 1 where a cell is slower by more than PCT percent, right in A and wrong in B, "
            "or measured in A and not in B.",
        ),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="With --fail-on-slower or --baseline: let cells pass that A measured and B did not.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Of many runs: write history.md, .csv and .json there, junit.xml and the figures.",
        ),
    ] = None,
    style: options.DrawingStyleName = "screen",
    name: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="table, csv, json, or junit: XML for continuous integration, where a regression is a "
            "failure. [default: table]",
        ),
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV: --format csv.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON: --format json.")] = False,
) -> ExitStatus:
    """Say of each cell whether a run is faster, slower or the same as another, or its history over many.

    Of two runs B is judged against A: faster, slower, the same, or ambiguous where it can't be told. On one
    machine times are compared, freed of the drift between the runs; across machines ratios are.
    Of more runs, or of a folder that holds them (`compare results/`), the history of each cell and speedup is
    printed, with the change points of its level, and the newest run is judged against the baseline.
    Exit status 1 is left to --fail-on-slower and --baseline: for a cell that they find, or one of A that B
    did not measure.
    """
    form = _find_format({"--csv": "csv" if csv else None, "--json": "json" if json else None,
                         "--format": name})  # fmt: skip
    if fail_on_slower is not None and not fail_on_slower >= 0:
        raise UsageError(f"--fail-on-slower: need 0 or more percent, got {fail_on_slower:g}")
    options.require_style(style)
    limit = 0.0 if fail_on_slower is None and baseline is not None else fail_on_slower
    is_pair = len(paths) == 2 and all(map(is_run, paths)) and baseline is None
    if is_pair and out is not None:
        raise UsageError("--out: two runs have no history; give more, or a folder that holds them")
    if is_pair:
        comparison = _compare_pair(*paths)
        say(_format_pair(comparison, form, limit, allow_missing).removesuffix("\n"))
        return _judge(comparison, limit, allow_missing)
    return _compare_many(paths, baseline, form, limit, allow_missing, out, style)


def _compare_pair(a: Path, b: Path) -> Comparison:
    """Return the comparison of two runs, both of layers or both of whole models. Raises UsageError."""
    from harness.analysis import compare, transformer_compare

    first, second = load_run(a), load_run(b)
    of_models = [run.head.sweep.architecture is not None for run in (first, second)]
    if of_models[0] != of_models[1]:
        which = (a, b) if of_models[0] else (b, a)
        raise UsageError(
            f"{which[0]} is a run of whole models and {which[1]} one of layers: they have nothing in common"
        )
    if of_models[0]:
        return transformer_compare.compare(first, second)
    return compare.compare(first, second)


def _find_format(given: dict[str, str | None]) -> str:
    """Return the format that was asked for. Raises UsageError for two, UnknownNameError."""
    chosen = {option: form for option, form in given.items() if form is not None}
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)}: give one of them")
    form = next(iter(chosen.values()), "table")
    if form not in _FORMATS:
        raise UnknownNameError("format", form, _FORMATS)
    return form


def _format_pair(
    comparison: Comparison, form: str, limit: float | None, allow_missing: bool
) -> str:
    from harness.report import compare as report_compare

    if form == "csv":
        return report_compare.format_comparison_csv(comparison)
    if form == "json":
        return report_compare.format_comparison_json(comparison)
    if form == "junit":
        lost = [] if allow_missing else comparison.lost
        slower = comparison.slower_than(limit or 0.0)
        return report_compare.format_comparison_junit(comparison, slower, lost)
    return report_compare.format_comparison(comparison)


def _judge(comparison: Comparison, limit: float | None, allow_missing: bool) -> ExitStatus:
    """Name what is slower by more than the limit, and return the exit status; None judges nothing."""
    from harness.report.compare import describe_change

    if limit is None:
        return ExitStatus.CLEAN
    lost = [] if allow_missing else comparison.lost
    slower = comparison.slower_than(limit)
    for line in [*lost, *map(describe_change, slower)]:
        print_error(line)
    return ExitStatus.BAD if slower or lost else ExitStatus.CLEAN


def _compare_many(
    paths: Sequence[Path], baseline: str | None, form: str, limit: float | None, allow_missing: bool,
    out: Path | None, style: str,
) -> ExitStatus:  # fmt: skip
    from harness.analysis.history import make_history
    from harness.report import history as report_history

    runs, left_out = _load_runs(paths)
    history = make_history(runs, baseline, left_out)
    if history.judged is None and (limit is not None or form == "junit"):
        what = "--format junit" if limit is None else "--fail-on-slower"
        raise UsageError(
            f"{what}: no older run shares a cell with the newest, {history.runs[-1].folder}: nothing can "
            "be judged"
        )
    judgement = ""
    if history.judged is not None:
        judgement = _format_pair(history.judged, "junit", limit, allow_missing)
    if form == "junit":
        text = judgement
    else:
        formats: dict[str, Callable[[History], str]] = {
            "csv": report_history.format_history_csv, "json": report_history.format_history_json,
            "table": report_history.format_history,
        }  # fmt: skip
        text = formats[form](history)
    say(text.removesuffix("\n"))
    written = out is None or _write(history, judgement, out, style)
    if history.judged is None:
        return ExitStatus.CLEAN if written else ExitStatus.BAD
    judged = _judge(history.judged, limit, allow_missing)
    return judged if written else ExitStatus.BAD


def _load_runs(paths: Sequence[Path]) -> tuple[list[Run], list[LeftOut]]:
    """Return the runs of layers among folders, and what lies there that is none, each with why.

    A folder that was named is an error where it holds no run, or can't be read; one that was found is left
    out.
    """
    from rich.console import Console
    from rich.progress import track

    from harness.analysis.history_rows import LeftOut

    named = [path for path in paths if is_run(path)]
    found = list(named)
    for path in paths:
        if path in named:
            continue
        if not path.is_dir():
            raise UsageError(f"{path} is no folder")
        inside = find_runs(path)
        if not inside:
            raise UsageError(f"{path} is not a run, and holds none: no folder in it has a run.json")
        found += inside
    runs: dict[Path, Run] = {}
    left_out = []
    console = Console(stderr=True)
    for path in track(found, "reading runs", console=console, transient=True,
                      disable=not sys.stderr.isatty()):  # fmt: skip
        if path.resolve() in runs:
            continue
        try:
            run = load_layers(path)
        except UsageError as error:
            if path in named:
                raise
            left_out.append(LeftOut(folder=path, reason=str(error)))
            continue
        why = _find_reason(run, runs.values())
        if why:
            left_out.append(LeftOut(folder=path, reason=why))
        else:
            runs[path.resolve()] = run
    return list(runs.values()), left_out


def _find_reason(run: Run, others: Iterable[Run]) -> str:
    """Return why a run takes no part in a history, empty where it does."""
    if run.samples.empty:
        return "it has no samples"
    for other in others:
        is_like = other.head.started_utc == run.head.started_utc
        if is_like and other.samples.equals(run.samples):
            return f"it is a copy of {other.folder}"
    return ""


def _write(history: History, judgement: str, out: Path, style: str) -> bool:
    """Write a history's files into a folder and name them; say whether all are written.

    judgement: of the newest run, as JUnit's XML; empty where there is none.
    """
    from harness.report import drawing
    from harness.report.files import write_texts
    from harness.report.history import HISTORY_FILES

    with drawing.plain_matplotlib():
        from harness.report import figure_history
        from harness.report.figure_style import STYLES
    try:
        out.mkdir(parents=True, exist_ok=True)
        texts = {out / name: make(history) for name, make in HISTORY_FILES.items()}
        written = write_texts(texts | ({out / "junit.xml": judgement} if judgement else {}))
        written += drawing.write_figures(
            out, figure_history.find_figures(history, STYLES[style]), drawing.FORMATS,
            drawing.find_settings(style),
        )  # fmt: skip
    except (OSError, drawing.FigureError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        print_error(f"can't write all of the history to {out}: {why}")
        return False
    print_notice(f"Written to {out}: {', '.join(path.name for path in written)}")
    return True
