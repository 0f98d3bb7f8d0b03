"""Own the sweep: from a plan to a run, a set of fresh measuring processes after the other."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from harness.errors import UsageError
from harness.machine import record as machine_record
from harness.measure.process import ProcessError
from harness.records.reader import Run, load_run
from harness.records.schema import SCHEMA_VERSION, BlocksRecord, EndRecord, RunHead
from harness.records.writer import WriteError, Writer
from harness.sweep import gate, preflight, resume, sampling, twins
from harness.sweep.budget import Budget
from harness.sweep.journal import Journal, Monitor
from harness.sweep.ladder import run_published
from harness.sweep.plan import Plan
from harness.sweep.processes import Processes
from harness.sweep.resume import Progress
from harness.sweep.spec import SweepSpec
from harness.sweep.state import CellState, CellTable

EndReason = Literal["complete", "interrupted", "budget", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """State how a sweep ended, where its run is, and how many cells were wrong or failed.

    trouble: why records could not be written, empty where all were.
    """

    folder: Path
    reason: EndReason
    wrong: int
    failed: int
    elapsed_s: float
    trouble: str = ""


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_folder(spec: SweepSpec) -> Path:
    """Return the folder of a new run: --out, or results/<UTC time>-<host>-<commit>[-dirty]."""
    if spec.out is not None:
        return spec.out
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return Path("results") / f"{stamp}-{machine_record.host()}-{machine_record.commit_label()}"


class Sweep:
    """Hold one sweep while it runs. left: sets of fresh measuring processes that are still to come."""

    def __init__(self, plan: Plan, monitor: Monitor) -> None:
        """Begin a sweep that has measured nothing."""
        self.plan, self.spec = plan, plan.spec
        self.journal = Journal(spec=plan.spec, monitor=monitor, predicted_s=plan.predicted_s())
        self.processes = Processes(journal=self.journal, machine=plan.machine)
        self.cells = CellTable.begin(plan)
        self.left = plan.spec.processes
        self.recorded: frozenset[str] = frozenset()  # cells that a run that is taken up tells of

    def take_up(self, progress: Progress) -> None:
        """Continue where a run was cut, with processes and blocks of new numbers."""
        self.cells, self.left, self.recorded = progress.cells, progress.rounds, progress.recorded
        self.journal.take_up(progress)

    def measure(self) -> EndReason:
        """Measure with one set of fresh processes after the other, and return how that ended."""
        cells, journal = self.cells, self.journal
        budget = Budget(journal=journal, cells=cells)
        for cell, reason in self.plan.unavailable:
            if cell.id not in self.recorded:
                journal.record_cell(CellState(cell=cell, status="unavailable", reason=reason))
        first = True
        while self.left:
            if not cells.live():
                return "failed"
            if cells.goal and not cells.missing():
                return "complete"
            if not first and not budget.another_fits():
                return "budget"
            self.run_process(budget, first=first)
            self.processes.stop()
            journal.begin_processes()
            self.left -= 1
            first = False
        return "complete" if cells.live() else "failed"

    def run_process(self, budget: Budget, *, first: bool) -> None:
        """Gate every cell in a set of fresh processes, then sample blocks of them all."""
        cells, journal, processes = self.cells, self.journal, self.processes
        began_s, new = journal.elapsed_s(), [s for s in cells.live() if not s.gated]
        self.start_processes()
        run_published(self.plan, cells, journal, processes)
        self.gate_cells(budget)
        starts_s = self.plan.starts_s() if first else 0.0  # these had been started before
        gated = [state for state in new if state.gated]
        budget.note_gates(journal.elapsed_s() - began_s, gated, starts_s)
        blocks, least = self.decide_blocks(budget)
        if self.spec.order == "blocked":
            sampling.run_blocked(blocks, cells, journal, processes)
        else:
            for left in range(blocks, 0, -1):
                if budget.is_over() and journal.block >= least:
                    break
                last = left == 1 or (budget.is_over(2) and journal.block + 1 >= least)
                sampling.run_block(cells, journal, processes, last=last)
        sampling.prove(cells, journal, processes)

    def start_processes(self) -> None:
        """Start what processes the live cells need, and record their providers."""
        needed = {state.cell.runs_in for state in self.cells.live()}
        for key in self.plan.process_keys():
            # One that can't be started shows in its cells, which try again.
            with suppress(ProcessError, UsageError):
                if key in needed:
                    self.processes.record(
                        self.processes.running.get(key) or self.processes.start(key)
                    )

    def gate_cells(self, budget: Budget) -> None:
        """Take every live cell through its gate, and the fastest FFs a second time, under another name."""
        for state in self.cells.live():
            if reason := budget.leave_out(state):
                state.lose("unavailable", reason)
                self.journal.record_cell(state)
            else:
                gate.prepare(state, self.journal, self.processes)
        for twin in twins.make_missing(self.cells, self.spec.baseline, self.journal.block):
            self.cells.states.append(twin)
            gate.prepare(twin, self.journal, self.processes)

    def decide_blocks(self, budget: Budget) -> tuple[int, int]:
        """Return the blocks of the current processes, and how many are sampled whatever the budget says."""
        journal = self.journal
        self.left = budget.processes(self.left)
        blocks = budget.blocks(self.left)
        # The first process samples whatever the budget says: a table needs one sample a cell.
        least = 2 if self.plan.published and self.left == 1 else 1  # a step needs an interval
        if journal.block == 0:
            blocks = max(least, blocks)
        total = self.cells.goal or journal.block + blocks * self.left
        journal.append(BlocksRecord(process=journal.process, blocks=blocks, total=total))
        block_s = budget.block_s()
        rest_s = (self.left - 1) * (budget.gate_s + blocks * block_s)
        journal.predicted_s = journal.elapsed_s() + blocks * block_s + rest_s
        return blocks, least

    def finish(self, reason: EndReason) -> str:
        """Write the last record and release the folder; return why that failed, or an empty string."""
        trouble, writer = "", self.journal.writer
        if writer is None:
            return trouble
        try:
            self.journal.append(
                EndRecord(
                    ended_utc=_utc(), reason=reason, elapsed_s=self.journal.elapsed_s(),
                    peak_resident_bytes=self.processes.peak_bytes,
                )
            )  # fmt: skip
        except WriteError as error:
            trouble = str(error)
        try:
            writer.close()
        except WriteError as error:
            trouble = trouble or str(error)
        return trouble


def _open(sweep: Sweep, resumed: Run | None) -> Path:
    """Open the folder for writing, a new one or that of the run to take up, and return it."""
    examined = preflight.examine(sweep.spec, sweep.plan.machine, sweep.processes)
    if resumed is not None:
        sweep.journal.writer = Writer(resumed.folder, None)
        return resumed.folder
    head = RunHead(
        schema_version=SCHEMA_VERSION, started_utc=_utc(), machine=examined,
        sweep=sweep.spec.record(),
    )  # fmt: skip
    folder = run_folder(sweep.spec)
    sweep.journal.writer = Writer(folder, head)
    return folder


def run(plan: Plan, monitor: Monitor, resumed: Run | None = None) -> Outcome:
    """Carry out a plan and return how it ended; Ctrl-C ends it early and keeps what is finished.

    With `resumed`, a run of this plan that was cut, only what is missing in it is measured.

    Raises UsageError, before anything is written, where a provider is refused, the folder can't be
    written, `strict` is asked for and something here is serious, or the run to take up is not of this
    machine, code and provider.
    """
    sweep = Sweep(plan, monitor)
    reason: EndReason = "failed"
    try:
        monitor.stage("starting the measuring processes")
        for key in plan.process_keys():
            with suppress(ProcessError):  # shows in its cells, which try again
                sweep.processes.start(key)
        if resumed is not None:
            preflight.check_resumed(plan.spec, plan.machine, sweep.processes, resumed)
        folder = _open(sweep, resumed)
        trouble = ""
        try:
            if resumed is not None:
                # Read again under the lock: what another sweep wrote until then counts.
                sweep.take_up(resume.find_progress(load_run(folder), plan))
            reason = sweep.measure()
        except KeyboardInterrupt:
            reason = "interrupted"
        except WriteError as error:
            trouble = str(error)
        finally:
            at_the_end = sweep.finish(reason)
            trouble = trouble or at_the_end
    finally:
        sweep.processes.kill()
    return Outcome(
        folder=folder, reason=reason, wrong=sweep.cells.count("wrong"),
        failed=sweep.cells.count("failed"), elapsed_s=sweep.journal.elapsed_s(), trouble=trouble,
    )  # fmt: skip
