"""Own the sweep: from a plan to a run, a set of fresh measuring processes after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from harness.errors import UsageError
from harness.machine import record as machine_record
from harness.measure.process import ProcessError
from harness.records.reader import Run, load_run
from harness.records.schema import (
    SCHEMA_VERSION,
    BlocksRecord,
    EndRecord,
    ResumeRecord,
    RunHead,
    Status,
)
from harness.records.writer import WriteError, Writer
from harness.sweep import preflight, resume
from harness.sweep.budget import Budget
from harness.sweep.cell import Cell, make_twin
from harness.sweep.gate import Gate
from harness.sweep.journal import Journal, Monitor
from harness.sweep.ladder import run_published
from harness.sweep.plan import Plan
from harness.sweep.processes import Crew
from harness.sweep.resume import Progress
from harness.sweep.sampling import Sampling
from harness.sweep.spec import SweepSpec
from harness.sweep.state import Pace, Tally

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


class _Sweep:
    """Hold one sweep while it runs: its journal, processes, gate, sampling and budget."""

    def __init__(self, spec: SweepSpec, plan: Plan, monitor: Monitor) -> None:
        self.spec, self.plan = spec, plan
        self.journal = Journal(spec=spec, monitor=monitor, predicted_s=plan.predicted_s(spec))
        self.crew = Crew(journal=self.journal)
        self.gate = Gate(journal=self.journal, crew=self.crew)
        self.sampling = Sampling(
            journal=self.journal, crew=self.crew, gate=self.gate, tally=Tally(spec.passes),
            cells=sorted(plan.cells, key=lambda c: -c.workspace_bytes),
        )  # fmt: skip
        self.budget = Budget(journal=self.journal, gate=self.gate, sampling=self.sampling)
        self.left = spec.processes  # sets of fresh processes that are still to come
        self.recorded: set[str] = set()  # cells that the run that is taken up has a record of

    def take_up(self, progress: Progress) -> None:
        """Continue where a run was cut, with processes and blocks of new numbers."""
        journal = self.journal
        journal.process, journal.block, journal.order = (
            progress.process, progress.block, progress.order,
        )  # fmt: skip
        journal.elapsed_before_ns, journal.lost = progress.elapsed_ns, dict(progress.lost)
        self.left = progress.rounds
        self.sampling.tally = progress.tally
        self.gate.gated = set(progress.gated)
        self.gate.paces = {
            cell: Pace(
                loops=progress.loops[cell], slices=progress.slices.get(cell, 0), pass_s=pass_s
            )
            for cell, pass_s in progress.pass_s.items()
        }
        self.sampling.cells += [make_twin(c) for c in self.plan.cells if c.id in progress.twins]
        journal.append(
            ResumeRecord(
                resumed_utc=_utc(), host=machine_record.host(), process=journal.process,
                block=journal.block,
            )
        )  # fmt: skip

    def conditions(self, cell: Cell) -> tuple[object, ...]:
        """Return what two cells must share to be compared."""
        p = cell.problem
        return (
            p.batch,
            p.d_in,
            p.dtype,
            p.math,
            p.data,
            p.rows,
            p.routing,
            cell.weights,
            cell.launch,
        )

    def add_twins(self) -> None:
        """Add the fastest FF of each baseline problem a second time, as the A/A pair."""
        groups: dict[tuple[object, ...], list[Cell]] = {}
        have = {self.conditions(c) for c in self.sampling.cells if c.role == "aa"}
        paces = self.gate.paces
        for cell in self.sampling.live():
            if cell.model == self.spec.baseline and self.conditions(cell) not in have:
                groups.setdefault(self.conditions(cell), []).append(cell)
        for cells in groups.values():
            twinned = min(cells, key=lambda c: paces[c.id].pass_s)
            twin = make_twin(twinned)
            self.sampling.cells.append(twin)
            of = paces[twinned.id]
            paces[twin.id] = Pace(loops=of.loops, slices=of.slices)
            self.gate.prepare(twin)

    def open_processes(self) -> None:
        """Start what processes the live cells need, record their providers, gate every cell in them."""
        needed = {cell.runs_in for cell in self.sampling.live()}
        for key in self.plan.process_keys():
            # One that can't be started shows in its cells, which try again.
            with suppress(ProcessError, UsageError):
                if key in needed:
                    self.crew.record(self.crew.running.get(key) or self.crew.start(key))
        run_published(self.plan, self.journal, self.crew)
        for cell in self.sampling.live():
            reason = self.budget.leave_out(cell)
            if reason:
                self.journal.record_cell(cell, "unavailable", reason)
            else:
                self.gate.prepare(cell)
        self.add_twins()

    def run_process(self) -> None:
        """Gate every cell in a set of fresh processes and sample its blocks."""
        journal, sampling, budget = self.journal, self.sampling, self.budget
        before, began_s = set(self.gate.gated), journal.elapsed_s()
        self.open_processes()
        budget.note_gates(journal.elapsed_s() - began_s, before, self.plan.starts_s())
        self.left = budget.processes(self.left)
        # The first process samples whatever the budget says: a table needs one sample a cell.
        blocks = budget.blocks(self.left)
        least = 2 if self.plan.published and self.left == 1 else 1  # a step needs an interval
        if journal.block == 0:
            blocks = max(least, blocks)
        total = sampling.tally.goal or journal.block + blocks * self.left
        journal.append(BlocksRecord(process=journal.process, blocks=blocks, total=total))
        block_s = sampling.block_s()
        rest = (self.left - 1) * (budget.gate_s + blocks * block_s)
        journal.predicted_s = journal.elapsed_s() + blocks * block_s + rest
        if self.spec.order == "blocked":
            sampling.run_blocked(blocks)
            blocks = 0
        for _ in range(blocks):
            if budget.is_over() and journal.block >= least:
                break
            sampling.run_block()
        self.crew.stop()

    def run(self) -> EndReason:
        """Measure with all sets of processes, and return how that ended."""
        journal, sampling = self.journal, self.sampling
        for cell, reason in self.plan.unavailable:
            if cell.id not in self.recorded:
                journal.record_cell(cell, "unavailable", reason)
        first = True
        while self.left:
            if not sampling.live():
                return "failed"
            if sampling.tally.goal and not sampling.missing():
                return "complete"
            if not first and not self.budget.another_fits():
                return "budget"
            self.run_process()
            first = False
            self.left -= 1
            journal.process += 1
        return "complete" if sampling.live() else "failed"

    def finish(self, reason: EndReason) -> str:
        """Write the last record and release the folder; return why that failed, or an empty string."""
        trouble, writer = "", self.journal.writer
        if writer is None:
            return trouble
        try:
            self.journal.append(
                EndRecord(
                    ended_utc=_utc(), reason=reason, elapsed_s=self.journal.elapsed_s(),
                    peak_resident_bytes=self.crew.peak_bytes,
                )
            )  # fmt: skip
        except WriteError as error:
            trouble = str(error)
        try:
            writer.close()
        except WriteError as error:
            trouble = trouble or str(error)
        return trouble


def _open(sweep: _Sweep, resumed: Run | None) -> Path:
    """Open the folder for writing, a new one or that of the run to take up, and return it."""
    if resumed is None:
        head = RunHead(
            schema_version=SCHEMA_VERSION, started_utc=_utc(),
            machine=preflight.examine(sweep.spec, sweep.crew), sweep=sweep.spec.record(),
        )  # fmt: skip
        folder = run_folder(sweep.spec)
        sweep.journal.writer = Writer(folder, head)
        return folder
    preflight.examine(sweep.spec, sweep.crew)
    sweep.journal.writer = Writer(resumed.folder, None)
    return resumed.folder


def run(spec: SweepSpec, plan: Plan, monitor: Monitor, resumed: Run | None = None) -> Outcome:
    """Carry out a plan and return how it ended; Ctrl-C ends it early and keeps what is finished.

    With `resumed`, a run of this spec and plan that was cut, only what is missing in it is measured.

    Raises UsageError, before anything is written, where a provider is refused, the folder can't be
    written, `strict` is asked for and something here is serious, or the run to take up is not of this
    machine, code and provider.
    """
    sweep = _Sweep(spec, plan, monitor)
    reason: EndReason = "failed"
    try:
        monitor.stage("starting the measuring processes")
        for key in plan.process_keys():
            with suppress(ProcessError):  # shows in its cells, which try again
                sweep.crew.start(key)
        if resumed is not None:
            preflight.check_resumed(sweep.spec, sweep.crew, resumed)
        folder = _open(sweep, resumed)
        trouble = ""
        try:
            if resumed is not None:
                # Read again under the lock: what another sweep wrote until then counts.
                again = load_run(folder)
                sweep.recorded = set(again.cells["cell"])
                sweep.take_up(resume.find_progress(again))
            reason = sweep.run()
        except KeyboardInterrupt:
            reason = "interrupted"
        except WriteError as error:
            trouble = str(error)
        finally:
            at_the_end = sweep.finish(reason)
            trouble = trouble or at_the_end
    finally:
        sweep.crew.kill()
    statuses: Sequence[Status] = list(sweep.journal.lost.values())
    return Outcome(
        folder=folder, reason=reason, wrong=statuses.count("wrong"),
        failed=statuses.count("failed"), elapsed_s=sweep.journal.elapsed_s(), trouble=trouble,
    )  # fmt: skip
