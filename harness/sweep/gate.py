"""Own the gate of a sweep's cells: none is sampled in a process before its output passed there."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.errors import UsageError
from harness.measure import clock
from harness.measure.process import ProcessError
from harness.measure.protocol import GateRequest, Unavailable
from harness.sweep.cell import Cell
from harness.sweep.estimate import LONG_PASS_S
from harness.sweep.journal import Journal
from harness.sweep.processes import Crew
from harness.sweep.state import Pace

_QUICK_MIN_SAMPLE_NS = 10_000_000


@dataclass(slots=True, kw_only=True)
class Gate:
    """Take cells through their gate, and remember what that told of them.

    paces: of each cell that passed. gated: the cells that passed in any process.
    """

    journal: Journal
    crew: Crew
    paces: dict[str, Pace] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)

    def prepare(self, cell: Cell) -> None:
        """Take a cell through its gate in the process that runs now, and record the outcome."""
        journal = self.journal
        journal.monitor.stage(f"checking {cell.id}")
        pace = self.paces.get(cell.id, Pace())
        least_ns = _QUICK_MIN_SAMPLE_NS if journal.spec.quick else clock.MIN_SAMPLE_NS
        try:
            request = GateRequest(
                cell=cell.id, implementation=cell.implementation, problem=cell.problem,
                loops=pace.loops, slices=pace.slices, count_nodes=cell.id not in self.gated,
                head_only=self._by_head(cell), weights=cell.weights, sets=cell.sets,
                min_sample_ns=least_ns, isa=journal.spec.isa, threads=journal.spec.threads,
                launch=cell.launch,
            )  # fmt: skip
            answer = self.crew.ask(cell, request, cell.predicted_s() + cell.compile_s())
        # A fresh process that refuses what an earlier one accepted costs the cells that run in it.
        except (ProcessError, UsageError) as error:
            journal.record_cell(cell, "failed", str(error))
            return
        if isinstance(answer, Unavailable):
            journal.record_cell(cell, "unavailable", answer.reason)
            return
        verdict = answer.verdict
        journal.record_cell(
            cell, "ok" if verdict.ok else "wrong", verdict.reason, verdict=verdict,
            loops=answer.loops, slices=answer.slices or 1, gate_ns=answer.gate_ns,
            touched=answer.touched, notes=answer.notes,
        )  # fmt: skip
        if verdict.ok:
            self.crew.ready[cell.id] = cell.runs_in
            self.gated.add(cell.id)
            pace.loops = pace.loops or answer.loops
            pace.slices = pace.slices or answer.slices
            pace.pass_s = pace.pass_s or answer.gate_ns / 1e9
            self.paces[cell.id] = pace
        journal.progress()

    def _by_head(self, cell: Cell) -> bool:
        """Say whether a cell that passed its gate before is too long to be run whole once more for it."""
        long = self.paces.get(cell.id, Pace()).pass_s >= LONG_PASS_S
        hot = cell.weights == "hot" and cell.launch == "eager"
        return cell.id in self.gated and long and hot
