"""Own the command `sweep`: what it was asked for, its plan, its run, and how that ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness import plugin
from harness.backends import blas
from harness.cli import options, signals
from harness.cli.exit_status import ExitStatus
from harness.cli.runs import write_outputs
from harness.cli.streams import print_error, print_notice, say
from harness.cli.sweep_options import make_spec
from harness.errors import UsageError
from harness.machine import cache_walk, facts
from harness.machine.facts import Machine
from harness.paper.published import PAPER_WIDTH
from harness.problem.models import BASELINE
from harness.records.reader import Run, load_run
from harness.sweep import defaults, plan, preflight, resume
from harness.sweep import run as sweep_run
from harness.sweep.plan import Plan
from harness.sweep.spec import SweepSpec


def _format_walk_ahead(made: Plan) -> str:
    """Return what a sweep of the CPU does about the caches before it measures, and what its plan assumes."""
    from harness.report.formats import format_caches

    if made.on_device() or made.spec.architecture or made.machine.cache_walk is not None:
        return ""
    told = format_caches(made.machine.caches) or "none, so usual ones"
    return (
        f"Before it, working sets of many sizes are read, for at most {cache_walk.MOST_S:.0f} s, to see what "
        f"a core gets of the caches; this plan assumes what the system tells: {told}. "
    )


def print_plan(made: Plan) -> None:
    """Print the cells of a plan with their predicted time, and what the whole will take."""
    from harness.report.formats import format_time, format_unavailable

    table = Table("cell", "GFLOP", "a pass, predicted", "workspace MiB")
    for cell in made.cells:
        table.add_row(
            cell.id, f"{cell.work()[0] / 1e9:.3g}", format_time(cell.predicted_s() * 1e9),
            f"{cell.workspace_bytes / 2**20:.0f}",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 120).print(table, markup=False)
    lacking = [(cell.implementation, reason) for cell, reason in made.unavailable]
    for line in format_unavailable(lacking):
        say(line)
    say(
        f"{len(made.cells)} cells, {made.processes()} fresh processes a provider, about "
        f"{made.blocks()} blocks; predicted {made.predicted_s():.0f} s and "
        f"{made.memory_bytes() / 2**20:.0f} MiB in the measuring processes. "
        f"{_format_walk_ahead(made)}The run would stand in {sweep_run.run_folder(made.spec)}."
    )


def see_caches(
    spec: SweepSpec, machine: Machine, make: Callable[[SweepSpec, Machine], Plan]
) -> Machine:
    """Return a machine with the caches that a core really gets; of no meaning on a device, where it stays.

    make: makes the plan. Raises what it raises for any caches, before seconds are spent on seeing them.
    """
    if spec.device != "cpu":
        return machine
    make(spec, replace(machine, caches={}))
    if sys.stderr.isatty():
        print_notice(f"seeing what a core gets of the caches, at most {cache_walk.MOST_S:.0f} s")
    seen, notices = preflight.walk_caches(
        machine, threads=spec.threads, isa=spec.isa, keep_blas_env=spec.keep_blas_env
    )
    for notice in notices:
        print_notice(notice)
    return seen


# What of a sweep's options stands in the spec under another name, and those that may stand by --resume.
_FIELDS = {
    "batch": "batches", "width": "widths", "blas_names": "blas", "budget": "budget_s",
    "timeout": "timeout_s", "controls": "models",
}  # fmt: skip
_BESIDE_RESUME = ("resume_run", "dry_run", "out", "figures", "style", "page", "strict")


def _given_options(
    context: typer.Context, fields: Mapping[str, str]
) -> dict[str, tuple[str, object]]:
    """Return the options that stand on the command line: field of the spec -> option and its value."""
    return {
        fields.get(name, name): (option, context.params[name])
        for name, option in options.find_given(context).items()
        if name not in _BESIDE_RESUME
    }


def take_up(
    context: typer.Context, folder: Path, asked: SweepSpec, fields: Mapping[str, str] = _FIELDS
) -> tuple[Run, SweepSpec]:
    """Return the run to take up and its own spec.

    fields: of the spec, by the options that are called otherwise.

    Raises UsageError where the options contradict it, or it is of another command.
    """
    run = load_run(folder)
    if (run.head.sweep.architecture is None) != (asked.architecture is None):
        whole = run.head.sweep.architecture is not None
        what, command = ("whole models", "model") if whole else ("layers", "sweep")
        raise UsageError(f"--resume: {folder} is a run of {what}; take it up with `{command}`")
    if (run.cells["role"] == "ladder").any():
        raise UsageError(f"--resume: {folder} is a ladder; begin `explain` anew")
    if asked.out is not None and asked.out.resolve() != folder.resolve():
        raise UsageError(f"--out: a resumed sweep goes on in its own folder, {folder}")
    resume.check_options(run, _given_options(context, fields), asked)
    for warning in run.warnings:
        print_notice(f"notice: {warning}")
    if run.head.machine.commit.endswith("-dirty"):
        print_notice("notice: the run was measured with uncommitted changes; whether they are still the same "
                     "can't be told")  # fmt: skip
    resume.check_code(run, asked)
    return run, replace(resume.find_spec(run), strict=asked.strict)


def print_missing(run: Run, made: Plan) -> None:
    """Print how many blocks of a run to take up are missing."""
    missing = resume.find_progress(run, made).missing()
    text = "blocks as the budget allows" if missing is None else f"{missing} blocks"
    say(f"{run.folder}: {text} are missing; they would be measured in fresh processes.")


@partial(options.take_axes, behind="processes")
def sweep_command(
    context: typer.Context,
    levels: options.Levels = "1,2,3",
    device: options.DeviceName = "cpu",
    models: options.Models = options.PAPER,
    baseline: options.Baseline = BASELINE,
    controls: options.Controls = False,
    batch: Annotated[str | None, options.batch(defaults.QUICK_BATCH)] = None,
    width: options.Width = str(PAPER_WIDTH),
    only: options.Only = None,
    skip: options.Skip = None,
    blas_names: options.Blas = None,
    threads: options.Threads = 1,
    seed: options.Seed = 0,
    passes: options.Passes = None,
    budget: Annotated[
        float | None, options.budget(defaults.BUDGET_S, defaults.QUICK_BUDGET_S)
    ] = None,
    processes: options.Processes = defaults.PROCESSES,
    isa: options.Isa = "",
    order: Annotated[
        str,
        typer.Option(help="Order of the samples: interleaved, or blocked (cell after cell)."),
    ] = "interleaved",
    quick: options.Quick = False,
    keep_blas_env: options.KeepBlasEnv = False,
    plugins: options.Plugins = None,
    timeout: options.Timeout = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse to measure over what `doctor` calls serious."),
    ] = False,
    dry_run: options.DryRun = False,
    figures: options.Figures = True,
    style: options.DrawingStyleName = "screen",
    page: options.Page = True,
    out: options.Out = None,
    resume_run: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Take up a run that was killed or interrupted and measure only what is missing; the "
            "options are those of the run.",
        ),
    ] = None,
    **asked: str | None,
) -> ExitStatus:
    """Measure the paper's Table 2 here, the CPU half or with --device cuda the GPU half.

    Every cell is checked against a float64 oracle before it is timed. Samples are taken in interleaved
    random order. Ctrl-C, SIGTERM and SIGHUP keep what is finished, and --resume goes on from there.
    """
    options.require_style(style)
    plugin.load_all(plugins or [])
    resumed: Run | None = None
    spec = make_spec(
        levels=levels, device=device, models=models, batch=batch, width=width, only=only,
        skip=skip, blas_names=blas_names, threads=threads, seed=seed, passes=passes,
        budget=budget, processes=processes, quick=quick, keep_blas_env=keep_blas_env, out=out,
        plugins=plugins or [], timeout=timeout, strict=strict, order=order, isa=isa,
        baseline=baseline, controls=controls, **asked,
    )  # fmt: skip
    if resume_run is not None:
        resumed, spec = take_up(context, resume_run, spec)
    machine = facts.read_machine(device=spec.device, missing_providers=blas.find_missing(spec.blas))
    if resumed is not None:  # its sets and tiles stay those that it began with
        machine = machine.with_walk(resumed.head.machine.cache_walk)
    elif not dry_run:
        machine = see_caches(spec, machine, plan.make_plan)
    made = plan.make_plan(spec, machine)
    for notice in made.notices:
        print_notice(notice)
    if dry_run:
        print_missing(resumed, made) if resumed else print_plan(made)
        return ExitStatus.CLEAN
    if resumed and resume.has_ended(resumed):
        print_notice(f"{resumed.folder}: nothing is missing")
        written = write_outputs(resumed.folder, figures=figures, page=page, style=style)
        return ExitStatus.CLEAN if written else ExitStatus.BAD
    return signals.end_in_order(
        partial(measure, made, resumed, figures=figures, page=page, style=style)
    )


def measure(
    made: Plan, resumed: Run | None, *, figures: bool, page: bool, style: str = "screen",
    command: str = "sweep",
) -> ExitStatus:  # fmt: skip
    """Carry out a plan and write what is derived; return the exit status.

    command: that takes the run up again.
    """
    from harness.cli.progress import Display  # loads what analyses: a plan is printed without it

    with Display(made.spec.baseline) as display:
        outcome = sweep_run.run(made, display, resumed)
    return _conclude(outcome, figures=figures, page=page, style=style, command=command)


def _conclude(
    outcome: sweep_run.Outcome, *, figures: bool, page: bool, style: str, command: str
) -> ExitStatus:
    """Write what is derived from a run and say how it ended; return the status."""
    if outcome.trouble:
        print_error(outcome.trouble)
    if outcome.reason == "interrupted" or outcome.trouble:
        # Before the tables: whoever can't wait for them, or has closed the output, reads it still.
        print_notice(f"`python -m harness {command} --resume {outcome.folder}` goes on from here")
    written = write_outputs(outcome.folder, figures=figures, page=page, style=style)
    if outcome.reason == "interrupted":
        return ExitStatus.RESUMABLE
    bad = outcome.wrong or outcome.failed or outcome.trouble or not written
    return ExitStatus.BAD if bad else ExitStatus.CLEAN
