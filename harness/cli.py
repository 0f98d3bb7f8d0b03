"""Own the command line: its words become dataclasses; nothing is measured or formatted here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
import typer.exceptions
from rich.console import Console
from rich.table import Table

from harness import (
    axes,
    blas,
    doctor,
    ladder,
    locality,
    machine,
    plan,
    plugin,
    recipes,
    registry,
    resume,
    sweep,
)  # fmt: skip
from harness.console import Display
from harness.errors import UsageError
from harness.plan import Plan, SweepSpec
from harness.process import MeasuringProcess
from harness.records import FORCING, Run, load_run

app = typer.Typer(
    name="harness",
    help="Measure conditional (FFF) against dense (FF) feedforward layers, honestly.\n\n"
    "Begin with `python -m harness sweep --quick`.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_PLUGIN = typer.Option(
    "--plugin",
    help="Python file that declares implementations of your own. Repeatable; see "
    "docs/adding-an-implementation.md.",
    metavar="FILE.py",
)
_RUN = typer.Argument(help="Folder of a run, as a sweep prints it.", metavar="RUN")


def _positive(option: str, value: float | None) -> None:
    if value is not None and value <= 0:
        raise UsageError(f"{option}: need a number above 0, got {value:g}")


def _make_spec(
    *, levels: str, device: str, models: str, batch: str | None, width: str, only: list[str],
    skip: list[str], blas_names: list[str], threads: int, seed: int, passes: int | None,
    budget: float | None, processes: int, quick: bool, keep_blas_env: bool, out: Path | None,
    plugins: Sequence[Path] = (), timeout: float | None = None, strict: bool = False,
    data: str = "random", rows: str = "distinct", routing: str = "uniform", weights: str = "hot",
    order: str = "interleaved",
) -> SweepSpec:  # fmt: skip
    for option, value in (("--threads", threads), ("--passes", passes), ("--budget", budget),
                          ("--processes", processes), ("--timeout", timeout)):  # fmt: skip
        _positive(option, value)
    if threads > machine.cores():
        raise UsageError(
            f"--threads: need 1 to {machine.cores()}, the processors here, got {threads}"
        )
    if seed < 0:
        raise UsageError(f"--seed: need 0 or more, got {seed}")
    if passes is not None and budget is not None:
        raise UsageError(
            "--passes and --budget: give one of them; each decides when the sweep ends"
        )
    default_batch = str(plan.QUICK_BATCH if quick else axes.PAPER_BATCH)
    default_budget = plan.QUICK_BUDGET_S if quick else plan.BUDGET_S
    names = list(dict.fromkeys(name for text in blas_names for name in text.split(",") if name))
    return SweepSpec(
        levels=axes.parse_levels(levels), device=device, models=axes.parse_models(models),
        batches=axes.parse_extents("--batch", batch or default_batch),
        widths=axes.parse_extents("--width", width), only=_patterns(only), skip=_patterns(skip),
        blas=names or [blas.DEFAULT], threads=threads, seed=seed, passes=passes or 0,
        budget_s=budget or default_budget,
        processes=min(processes, passes) if passes else processes,
        quick=quick, keep_blas_env=keep_blas_env, out=out, strict=strict,
        plugins=[str(path.resolve()) for path in plugins], timeout_s=timeout or 0.0,
        data=axes.parse_choices("--data", data, recipes.DATA),
        rows=axes.parse_choices("--rows", rows, recipes.ROWS), routing=axes.parse_routing(routing),
        weights=axes.parse_choices("--weights", weights, locality.WEIGHTS),
        order=axes.parse_order(order),
    )  # fmt: skip


def _patterns(texts: Sequence[str]) -> list[str]:
    return [part for text in texts for part in text.split(",") if part]


def _print_plan(spec: SweepSpec, made: Plan) -> None:
    from harness.table import format_time

    table = Table("cell", "GFLOP", "a pass, predicted", "workspace MiB")
    for cell in made.cells:
        table.add_row(
            cell.id, f"{cell.work()[0] / 1e9:.3g}", format_time(cell.predicted_s() * 1e9),
            f"{cell.workspace_bytes / 2**20:.0f}",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for cell, reason in made.unavailable:
        print(f"unavailable: {cell.id}: {reason}")
    print(
        f"{len(made.cells)} cells, {spec.processes} fresh processes a provider, about "
        f"{made.blocks(spec)} blocks; predicted {made.predicted_s(spec):.0f} s and "
        f"{made.memory_bytes() / 2**20:.0f} MiB in the measuring processes. "
        f"The run would stand in {sweep.run_folder(spec)}."
    )


def _write_outputs(folder: Path) -> bool:
    """Print a run's table and write what is derived from it; say whether that could be written."""
    from harness import plot, table

    run = load_run(folder)
    print(table.format_markdown(run))
    if run.samples.empty:
        print(f"{folder}: nothing was sampled, so there are no figures", file=sys.stderr)
    try:
        files = [*table.write_tables(run), *([] if run.samples.empty else plot.write_plots(run))]
    except OSError as error:
        _print_error(f"can't write the tables and figures to {folder}: {error.strerror}; `python -m harness "
                     "table` and `plot` make them from the samples")  # fmt: skip
        return False
    print(f"Written to {folder}: {', '.join(p.name for p in files)}")
    return True


def _print_error(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)


# What of a sweep's options stands in the spec under another name, and those that may stand by --resume.
_FIELDS = {"batch": "batches", "width": "widths", "blas_names": "blas", "budget": "budget_s"}
_BESIDE_RESUME = ("resume_run", "dry_run", "out")


def _given_options(context: typer.Context) -> dict[str, tuple[str, object]]:
    """Return the options that stand on the command line: field of the spec -> option and its value."""
    found: dict[str, tuple[str, object]] = {}
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name not in _BESIDE_RESUME and source is not None and source.name == "COMMANDLINE":
            found[_FIELDS.get(name, name)] = (parameter.opts[0], context.params[name])
    return found


def _take_up(context: typer.Context, folder: Path, asked: SweepSpec) -> tuple[Run, SweepSpec]:
    """Return the run to take up and its own spec. Raises UsageError where the options contradict it."""
    run = load_run(folder)
    if (run.cells["role"] == "ladder").any():
        raise UsageError(f"--resume: {folder} is a ladder; begin `explain` anew")
    if asked.out is not None and asked.out.resolve() != folder.resolve():
        raise UsageError(f"--out: a resumed sweep goes on in its own folder, {folder}")
    resume.check_options(run, _given_options(context), asked)
    for warning in run.warnings:
        print(f"notice: {warning}", file=sys.stderr)
    if run.head.machine.commit.endswith("-dirty"):
        print("notice: the run was measured with uncommitted changes; whether they are still the same can't "
              "be told", file=sys.stderr)  # fmt: skip
    spec = resume.find_spec(run)
    plugin.load_all([Path(name) for name in spec.plugins])
    return run, spec


def _print_missing(run: Run, made: Plan) -> None:
    missing = resume.find_progress(run).missing(made)
    text = "blocks as the budget allows" if missing is None else f"{missing} blocks"
    print(f"{run.folder}: {text} are missing; they would be measured in fresh processes.")


@app.command("sweep")
def sweep_command(
    context: typer.Context,
    levels: Annotated[
        str, typer.Option(help="BLAS levels to measure, a list of 1, 2, 3.")
    ] = "1,2,3",
    device: Annotated[str, typer.Option(help="Device to measure on.")] = "cpu",
    models: Annotated[
        str,
        typer.Option(
            help="Layer shapes: bert-base-4095, bert-base-3072, ultrafastbert-1x11, ff-HIDDEN, KxD (K trees "
            "of depth D), or `family` for the paper's twelve from 3072x0 to 1x11."
        ),
    ] = ",".join(axes.PAPER_MODELS),
    batch: Annotated[
        str | None,
        typer.Option(
            help="Batches (tokens): a list with ranges, such as 1,16,2^4..2^14. "
            f"[default: {axes.PAPER_BATCH}; with --quick {plan.QUICK_BATCH}]"
        ),
    ] = None,
    width: Annotated[str, typer.Option(help="d_in = d_out, a list.")] = str(axes.PAPER_WIDTH),
    only: Annotated[
        list[str] | None,
        typer.Option(help="Implementations to measure, ids or globs: 'fff*'. Repeatable."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(help="Implementations to leave out, ids or globs. Repeatable."),
    ] = None,
    blas_names: Annotated[
        list[str] | None,
        typer.Option(
            "--blas",
            help="BLAS provider: scipy, mkl, openblas, blis, aocl, or a path to a .so. Repeatable; each "
            "gets a measuring process of its own. [default: scipy]",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of the provider's pool.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the operands and of the order.")] = 0,
    passes: Annotated[
        int | None, typer.Option(help="Blocks to sample; each samples every cell at least once.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help=f"Seconds for the whole sweep, instead of --passes. [default: {plan.BUDGET_S:g}; with "
            f"--quick {plan.QUICK_BUDGET_S:g}]"
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option(help="Fresh measuring processes a provider, one after the other.")
    ] = plan.PROCESSES,
    data: Annotated[
        str, typer.Option(help="What x and the weights hold: a list of random, zeros (all 0).")
    ] = "random",
    rows: Annotated[
        str, typer.Option(help="Tokens: a list of distinct, same (every token is one row).")
    ] = "distinct",
    routing: Annotated[
        str,
        typer.Option(
            help="Paths of the tokens through the FFF: a list of uniform (left to random data), zipf (leaves "
            "by Zipf's law, exponent 1), single (one path, distinct rows), trace:FILE (leaves from a file)."
        ),
    ] = "uniform",
    weights: Annotated[
        str,
        typer.Option(
            help="Where the weights stand as a pass begins: a list of hot (as the last pass left them), "
            "rotated (several sets in turn, twice the last-level cache), flushed (caches evicted)."
        ),
    ] = "hot",
    order: Annotated[
        str,
        typer.Option(help="Order of the samples: interleaved, or blocked (cell after cell)."),
    ] = "interleaved",
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute, a small batch; not for quoting.")
    ] = False,
    keep_blas_env: Annotated[
        bool,
        typer.Option(
            "--keep-blas-env",
            help=f"Keep variables that force a BLAS kernel ({', '.join(FORCING)}).",
        ),
    ] = False,
    plugins: Annotated[list[Path] | None, _PLUGIN] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds that a measuring process may take to answer before its cell is given up. "
            "[default: 30, with --quick 20, or 50 times the prediction where that is longer]"
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse to measure over what `doctor` calls serious."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its predicted time; run nothing.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run. [default: results/<UTC time>-<host>-<commit>]"),
    ] = None,
    resume_run: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Take up a run that was killed or interrupted and measure only what is missing; the "
            "options are those of the run.",
        ),
    ] = None,
) -> int:
    """Measure the CPU half of the paper's Table 2 here and put it beside the published figures.

    Every cell is checked against a float64 oracle before it is timed. Samples are taken in interleaved
    random order. Ctrl-C keeps what is finished. Exit status: 0 done, 1 a result was wrong or a cell failed,
    2 usage, 130 interrupted.
    """
    plugin.load_all(plugins or [])
    resumed: Run | None = None
    spec = _make_spec(
        levels=levels, device=device, models=models, batch=batch, width=width, only=only or [],
        skip=skip or [], blas_names=blas_names or [], threads=threads, seed=seed, passes=passes,
        budget=budget, processes=processes, quick=quick, keep_blas_env=keep_blas_env, out=out,
        plugins=plugins or [], timeout=timeout, strict=strict,
        data=data, rows=rows, routing=routing, weights=weights, order=order,
    )  # fmt: skip
    if resume_run is not None:
        resumed, spec = _take_up(context, resume_run, spec)
    made = plan.make_plan(spec)
    for notice in made.notices:
        print(notice, file=sys.stderr)
    if dry_run:
        _print_missing(resumed, made) if resumed else _print_plan(spec, made)
        return 0
    if resumed and resume.has_ended(resumed):
        print(f"{resumed.folder}: nothing is missing", file=sys.stderr)
        return 0 if _write_outputs(resumed.folder) else 1
    with Display() as display:
        outcome = sweep.run(spec, made, display, resumed)
    written = _write_outputs(outcome.folder)
    if outcome.trouble:
        _print_error(outcome.trouble)
    if outcome.reason == "interrupted" or outcome.trouble:
        print(
            f"`python -m harness sweep --resume {outcome.folder}` goes on from here",
            file=sys.stderr,
        )
    if outcome.reason == "interrupted":
        return 130
    bad = outcome.wrong or outcome.failed or outcome.trouble or not written
    return 1 if bad else 0


@app.command("explain")
def explain_command(
    run: Annotated[
        Path | None,
        typer.Argument(help="Folder of a ladder's run, to write its page anew.", metavar="[RUN]"),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Less than a minute, a small batch; not for quoting."),
    ] = False,
    blas_names: Annotated[
        list[str] | None,
        typer.Option(
            "--blas",
            help="BLAS provider as in `sweep`, repeatable. The first serves the published protocol; the "
            "last step's baseline is the fastest of all. [default: scipy]",
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            help=f"Batch (tokens). [default: {axes.PAPER_BATCH}; with --quick {ladder.QUICK_BATCH}]"
        ),
    ] = None,
    width: Annotated[str, typer.Option(help="d_in = d_out.")] = str(axes.PAPER_WIDTH),
    seed: Annotated[int, typer.Option(help="Seed of the operands and of the order.")] = 0,
    passes: Annotated[
        int | None, typer.Option(help="Interleaved blocks to sample, instead of --budget.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help=f"Seconds for the whole ladder. [default: {ladder.BUDGET_S:g}; with --quick "
            f"{ladder.QUICK_BUDGET_S:g}]"
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option(help="Fresh measuring processes a provider, one after the other.")
    ] = plan.PROCESSES,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run. [default: results/<UTC time>-<host>-<commit>]"),
    ] = None,
) -> int:
    """Say what the published speedup is made of: from its protocol to a strict one, a fault at a time.

    Measures UltraFastBERT-1x11 against the fastest FF first as the benchmark published with the paper did,
    then with one fault mended after the other, and writes the page explain.md with a table and a figure.
    """
    from harness import explain

    if run is not None:
        loaded = load_run(run)
        files = explain.write_page(loaded)
        print(files[0].read_text(encoding="utf-8"))
        print(f"Written: {', '.join(map(str, files))}")
        return 0
    default_budget = ladder.QUICK_BUDGET_S if quick else ladder.BUDGET_S
    spec = ladder.ask(
        _make_spec(
            levels="1,2,3", device="cpu", models=ladder.FFF_MODEL,
            batch=batch or (str(ladder.QUICK_BATCH) if quick else None), width=width, only=[],
            skip=[], blas_names=blas_names or [], threads=1, seed=seed, passes=passes,
            budget=budget or (None if passes else default_budget), processes=processes,
            quick=quick, keep_blas_env=False, out=out,
        )
    )  # fmt: skip
    made = ladder.make_ladder(spec)
    with Display() as display:
        outcome = sweep.run(spec, made, display)
    loaded = load_run(outcome.folder)
    files = explain.write_page(loaded)
    print(files[0].read_text(encoding="utf-8"))
    print(f"Written to {outcome.folder}: {', '.join(p.name for p in files)}")
    if outcome.reason == "interrupted":
        return 130
    return 1 if outcome.wrong or outcome.failed else 0


@app.command("table")
def table_command(run: Annotated[Path, _RUN]) -> int:
    """Print a run's tables and write table.md, table.csv, speeds.csv and table.tex from its samples."""
    from harness import table

    loaded = load_run(run)
    print(table.format_markdown(loaded))
    try:
        files = table.write_tables(loaded)
    except OSError as error:
        _print_error(f"can't write the tables to {run}: {error.strerror}")
        return 1
    print(f"Written: {', '.join(map(str, files))}")
    return 0


@app.command("plot")
def plot_command(run: Annotated[Path, _RUN]) -> int:
    """Draw a run's figures as PNG and SVG from its samples."""
    from harness import plot

    loaded = load_run(run)
    if loaded.samples.empty:
        raise UsageError(f"{run} has no samples: there is nothing to draw")
    try:
        files = plot.write_plots(loaded)
    except OSError as error:
        _print_error(f"can't write the figures to {run}: {error.strerror}")
        return 1
    print(f"Written: {', '.join(map(str, files))}")
    return 0


@app.command("compare")
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
    from harness import compare, compare_table

    if csv and json:
        raise UsageError("--csv and --json: give one of them")
    if fail_on_slower is not None and not fail_on_slower >= 0:
        raise UsageError(f"--fail-on-slower: need 0 or more percent, got {fail_on_slower:g}")
    comparison = compare.compare(load_run(a), load_run(b))
    if csv:
        print(compare_table.format_comparison_csv(comparison), end="")
    elif json:
        print(compare_table.format_comparison_json(comparison), end="")
    else:
        print(compare_table.format_comparison(comparison), end="")
    if fail_on_slower is None:
        return 0
    slower = comparison.slower_than(fail_on_slower)
    for change in slower:
        text = compare_table.format_change(change.change) if change.change else change.reason
        _print_error(f"{change.cell} is {change.verdict}: {text}")
    return 1 if slower else 0


@app.command("merge")
def merge_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", metavar="RUN...")],
    out: Annotated[
        Path,
        typer.Option(help="A file ending in .md or .csv, or a folder for both.", metavar="PATH"),
    ],
) -> int:
    """Put the runs of several machines into one table, a row for each machine and shape."""
    from harness import merge

    loaded = [load_run(run) for run in runs]
    rows = merge.merged_rows(loaded)
    paths = merge.write_merged(loaded, rows, out)
    print(merge.format_merged(loaded, rows))
    print(f"Written: {', '.join(map(str, paths))}")
    return 0


@app.command("doctor")
def doctor_command(
    blas_names: Annotated[
        list[str] | None,
        typer.Option("--blas", help="BLAS provider that will be measured. [default: all here]"),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads that will be measured with.")] = 1,
    keep_blas_env: Annotated[
        bool, typer.Option("--keep-blas-env", help="Judge a sweep that is run with this option.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print facts, providers and findings as JSON.")
    ] = False,
) -> int:
    """Say what is wrong for measuring here and what to do about it; nothing is changed.

    Exit status: 0 nothing serious, 1 something is serious, 2 usage.
    """
    _positive("--threads", threads)
    names = list(dict.fromkeys(_patterns(blas_names or [])))
    seen = doctor.inspect(names, threads=threads, keep_blas_env=keep_blas_env or None)
    findings = doctor.judge(seen)
    if as_json:
        print(doctor.format_json(seen, findings))
    else:
        doctor.print_report(findings, Console(width=None if sys.stdout.isatty() else 140))
    return 1 if doctor.serious(findings) else 0


def _describe(provider: str) -> tuple[str, str]:
    """Return what a provider says of itself in a process of its own, or why it is unavailable."""
    try:
        process = MeasuringProcess(provider, threads=1, keep_blas_env=False)
    except UsageError as error:
        return "", str(error).removeprefix("--blas: ")
    facts = process.hello["provider"]
    process.close()
    parts = (facts["version"], facts["architecture"], f"{facts['int_bits']}-bit", facts["path"])
    return ", ".join(p for p in parts if p), ""


@app.command("list")
def list_command(plugins: Annotated[list[Path] | None, _PLUGIN] = None) -> int:
    """Show the implementations and BLAS providers, with the reason where one is unavailable."""
    plugin.load_all(plugins or [])
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("implementation", "layer", "level", "device", "what it is", "available")
    for i in registry.all():
        level = str(i.level) if i.level else "–"
        table.add_row(
            i.id, i.layer, level, ", ".join(i.devices), i.summary, i.unavailable() or "yes"
        )
    console.print(table)
    providers = Table("BLAS provider", "available", "what it is, or why not")
    for name, _, reason in blas.listing():
        facts, why = ("", reason) if reason else _describe(name)
        providers.add_row(name, "no" if why else "yes", why or facts)
    console.print(providers)
    return 0


@app.command("include-dir")
def include_dir_command() -> int:
    """Print the folder of ffk.h, for compiling a kernel of your own."""
    print(plugin.include_dir())
    return 0


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
