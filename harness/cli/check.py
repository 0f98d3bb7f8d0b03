"""Own the command `check`: the gate of what a sweep would measure, without the measuring."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated, get_args

from harness import plugin
from harness.backends import blas
from harness.cli import options
from harness.cli.exit_status import ExitStatus
from harness.cli.streams import print_notice, say
from harness.cli.sweep_options import make_spec
from harness.errors import UsageError
from harness.machine import facts
from harness.paper.published import PAPER_WIDTH
from harness.problem.models import BASELINE
from harness.records.schema import CellRecord, SampleRecord, Status
from harness.report.formats import format_time
from harness.sweep import check as sweep_check
from harness.sweep import defaults
from harness.sweep.plan import make_plan
from harness.sweep.state import CellState, CellTable


class Lines:
    """Print a line for each cell as its check ends."""

    def __init__(self, total: int) -> None:
        """Begin with none of so many."""
        self.total, self.done = total, 0

    def stage(self, text: str) -> None:
        """Pass over what is being done: each cell has its line when it is."""

    def progress(self, elapsed_s: float, predicted_s: float) -> None:
        """Pass over how far it is: each line counts."""

    def cell(self, record: CellRecord) -> None:
        """Print the verdict on a cell, with the command that repeats it where it is bad."""
        self.done += 1
        says = record.reason or (
            f"{record.checked_tokens} tokens compared, the largest error {record.worst_error:.2g} of the "
            "tolerance"
        )
        word = record.status if record.status in ("ok", "unavailable") else record.status.upper()
        say(f"[{self.done}/{self.total}] {word} {record.cell}: {says}")
        if record.repro:
            say(f"    repeat with: {record.repro}")
        sys.stdout.flush()

    def sample(self, record: SampleRecord) -> None:
        """Hear of no sample: none is recorded."""


def _count(cells: CellTable) -> str:
    counts = [(cells.count(word), word) for word in get_args(Status)]
    return ", ".join(f"{number} {word}" for number, word in counts if number)


def _print_dry(states: Sequence[CellState]) -> None:
    """Print what would be checked, and how long a pass over it is predicted to take."""
    for state in states:
        says = state.reason or f"a pass of about {format_time(1e9 * state.cell.predicted_s())}"
        say(f"{'would be checked' if state.is_live() else state.status} {state.cell.id}: {says}")
    live = sum(state.is_live() for state in states)
    say(f"{live} cells would be checked, each once; nothing would be written.")


@partial(options.take_axes, behind="seed")
def check_command(
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
    check_seed: options.CheckSeed = 0,
    isa: options.Isa = "",
    quick: options.Quick = False,
    keep_blas_env: options.KeepBlasEnv = False,
    plugins: options.Plugins = None,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    **asked: str | None,
) -> ExitStatus:
    """Check all that a sweep would measure against the float64 oracle; time nothing, write nothing.

    Each cell passes the gate of a sweep, in the same measuring processes, and one sample's output is judged
    behind it. Without --only, ceilings are checked too. Every wrong or failed record of a run, and every bad
    line here, names the command that repeats it. Exit status 1 stands for something that is wrong or failed.
    """
    plugin.load_all(plugins or [])
    if check_seed < 0:
        raise UsageError(f"--check-seed: need 0 or more, got {check_seed}")
    spec = make_spec(
        levels=levels, device=device, models=models, batch=batch, width=width, only=only, skip=skip,
        blas_names=blas_names, threads=threads, seed=seed, passes=None, budget=None, processes=1,
        quick=quick, keep_blas_env=keep_blas_env, out=None, plugins=plugins or [], timeout=timeout,
        isa=isa, baseline=baseline, controls=controls, strict=False, order="interleaved", **asked,
    )  # fmt: skip
    made = make_plan(
        spec, facts.read_machine(device=device, missing_providers=blas.find_missing(spec.blas))
    )
    for notice in made.notices:
        print_notice(notice)
    chosen = sweep_check.chosen(made)
    if dry_run:
        _print_dry(chosen)
        return ExitStatus.CLEAN
    total = len(chosen)
    cells = sweep_check.check(made, Lines(total), check_seed)
    say(f"{total} cells: {_count(cells)}.")
    bad = cells.count("wrong") or cells.count("failed")
    return ExitStatus.BAD if bad else ExitStatus.CLEAN
