"""Own the command `explain`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options, signals
from harness.cli.exit_status import ExitStatus
from harness.cli.runs import try_to_write, write_report_page
from harness.cli.streams import print_error, print_notice, say
from harness.paper import ladder as paper_ladder
from harness.paper.published import PAPER_WIDTH
from harness.records.reader import load_run
from harness.sweep import defaults

if TYPE_CHECKING:
    from harness.sweep.plan import Plan


def explain_command(
    run: Annotated[
        Path | None,
        typer.Argument(help="Folder of a ladder's run, to write its page anew.", metavar="[RUN]"),
    ] = None,
    quick: options.Quick = False,
    blas_names: options.Blas = None,
    batch: Annotated[str | None, options.batch(defaults.LADDER_QUICK_BATCH)] = None,
    width: options.Width = str(PAPER_WIDTH),
    seed: options.Seed = 0,
    passes: options.Passes = None,
    budget: Annotated[
        float | None, options.budget(defaults.LADDER_BUDGET_S, defaults.LADDER_QUICK_BUDGET_S)
    ] = None,
    processes: options.Processes = defaults.PROCESSES,
    dry_run: options.DryRun = False,
    style: options.DrawingStyleName = "screen",
    out: options.Out = None,
) -> ExitStatus:
    """Say what the published speedup is made of: from its protocol to a strict one, a fault at a time.

    Measures UltraFastBERT-1x11 against the fastest FF first as the benchmark published with the paper did,
    then with one fault mended after the other, and writes the page explain.md with a table and a figure.
    """
    options.require_style(style)
    if run is not None:
        return ExitStatus.CLEAN if _write_page(run, style) else ExitStatus.BAD
    # What measures needs the compiled extension, which a page of a finished run does without.
    from harness.backends import blas
    from harness.cli.sweep import print_plan, see_caches
    from harness.cli.sweep_options import make_spec
    from harness.machine import facts
    from harness.sweep import ladder as sweep_ladder

    quick_batch = str(defaults.LADDER_QUICK_BATCH) if quick else None
    default_budget = defaults.LADDER_QUICK_BUDGET_S if quick else defaults.LADDER_BUDGET_S
    spec = sweep_ladder.ask(
        make_spec(
            models=paper_ladder.FFF_MODEL, batch=batch or quick_batch, width=width,
            blas_names=blas_names, seed=seed, passes=passes,
            budget=budget or (None if passes else default_budget), processes=processes,
            quick=quick, out=out,
        )
    )  # fmt: skip
    machine = facts.read_machine(device=spec.device, missing_providers=blas.find_missing(spec.blas))
    if not dry_run:
        machine = see_caches(spec, machine, sweep_ladder.make_ladder)
    made = sweep_ladder.make_ladder(spec, machine)
    for notice in made.notices:
        print_notice(notice)
    if dry_run:
        print_plan(made)
        return ExitStatus.CLEAN
    return signals.end_in_order(partial(_measure, made, style))


def _measure(made: Plan, style: str) -> ExitStatus | None:
    """Carry out a ladder and write its page; return the exit status, None where it was interrupted.

    `sweep --resume` refuses a ladder, so that an interrupted one has nothing to resume.
    """
    from harness.cli.progress import Display  # loads what analyses: a plan is printed without it
    from harness.sweep import run as sweep_run

    with Display() as display:
        outcome = sweep_run.run(made, display)
    if outcome.trouble:
        print_error(outcome.trouble)
    written = _write_page(outcome.folder, style)
    if outcome.reason == "interrupted":
        return None
    bad = outcome.wrong or outcome.failed or outcome.trouble or not written
    return ExitStatus.BAD if bad else ExitStatus.CLEAN


def _write_page(folder: Path, style: str) -> bool:
    """Write a ladder's page with its figure and print it; say whether all could be written."""
    from harness.analysis.analysis import analyse
    from harness.report import ladder as report_ladder

    analysis = analyse(load_run(folder))
    written = try_to_write(
        analysis, "of the page", partial(report_ladder.write_page, style=style), "explain"
    )
    page = write_report_page(analysis)
    say(report_ladder.format_page(analysis))
    if names := [path.name for path in (*(written or ()), *(page or ()))]:
        say(f"Written to {folder}: {', '.join(names)}")
    return None not in (written, page)
