"""Own the sampling of a sweep: blocks that hold every cell, in an order drawn for each."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from harness.measure.process import ProcessError
from harness.measure.protocol import SampleRequest, WrongOutput
from harness.sweep.cell import Cell
from harness.sweep.gate import Gate
from harness.sweep.journal import Journal
from harness.sweep.processes import Crew
from harness.sweep.state import Tally

_SHARE_OF_BLOCK = 0.02  # a cell is sampled up to _MAX_REPEATS times a block within this share of it
_MAX_REPEATS = 5


@dataclass(slots=True, kw_only=True)
class Sampling:
    """Sample cells that passed their gate. tally: the blocks that each has by now."""

    journal: Journal
    crew: Crew
    gate: Gate
    cells: list[Cell]
    tally: Tally

    def live(self) -> list[Cell]:
        """Return the cells that are not out."""
        return [cell for cell in self.cells if cell.id not in self.journal.lost]

    def sample(self, cell: Cell) -> None:
        """Take one sample of a cell and record it; one that fails, or whose output is wrong, is out."""
        journal = self.journal
        journal.monitor.stage(f"sampling {cell.id}")
        # Another cell may have taken the process with it: this one is then prepared in a fresh one and
        # sampled in the same block, so that blocks stay whole. Both stand under one process number; a
        # plugin shares its process with its own file's cells alone, so none of ours begin again with it.
        if not self.crew.has_ready(cell):
            self.gate.prepare(cell)
        if cell.id in journal.lost:
            return
        pace = self.gate.paces[cell.id]
        # Without bound where no pass may warm the caches before the timed ones.
        expected_ns = 1e9 * pace.slice_s() if cell.weights == "hot" else 1e18
        started = time.monotonic()
        try:
            request = SampleRequest(
                cell=cell.id, loops=pace.loops, turn=pace.turn, expected_ns=expected_ns
            )
            answer = self.crew.ask(cell, request, pace.sample_s())
        except ProcessError as error:
            journal.record_cell(cell, "failed", str(error))
            return
        if isinstance(answer, WrongOutput):
            journal.record_cell(cell, "wrong", answer.verdict.reason, verdict=answer.verdict)
            return
        record = journal.record_sample(cell, started, journal.block, answer.sample)
        pace.turn += 1
        self.tally.add(cell.id, journal.block)
        pace.pass_s = record.elapsed_ns / pace.loops * pace.slices / 1e9
        pace.untimed_s = time.monotonic() - started - record.elapsed_ns / 1e9
        journal.show_sample(record)

    def repeats(self) -> dict[str, int]:
        """Return how often each cell is sampled in a block: short ones several times, spread over it.

        Ceilings once: there are many, and what counts of them is the fastest sample of the run.
        """
        cost = {cell.id: self.gate.paces[cell.id].sample_s() for cell in self.live()}
        allowed = _SHARE_OF_BLOCK * sum(cost.values())
        once = {cell.id for cell in self.live() if cell.role == "ceiling"}
        return {
            i: 1 if i in once else int(np.clip(allowed / c, 1, _MAX_REPEATS))
            for i, c in cost.items()
        }

    def block_s(self) -> float:
        """Return what a block takes."""
        times = self.repeats()
        return sum(self.gate.paces[c.id].sample_s() * times[c.id] for c in self.live())

    def missing(self) -> int:
        """Return the blocks that the live cells lack, where their number was decided before."""
        return self.tally.missing([cell.id for cell in self.live()])

    def run_block(self) -> None:
        """Sample every live cell that still wants samples, in an order drawn for this block."""
        journal, repeats = self.journal, self.repeats()
        live = [cell.id for cell in self.live()]
        wanting = [cell for cell in self.live() if self.tally.wants(cell.id, live)]
        order = [cell for cell in wanting for _ in range(repeats[cell.id])]
        rng = np.random.default_rng([journal.spec.seed, journal.block])
        for i in rng.permutation(len(order)):
            if order[i].id not in journal.lost:
                self.sample(order[i])
        journal.block += 1

    def run_blocked(self, blocks: int) -> None:
        """Sample cell after cell: all that `blocks` blocks hold of one, then the next, in a drawn order."""
        journal, repeats, live = self.journal, self.repeats(), self.live()
        first = journal.block
        rng = np.random.default_rng([journal.spec.seed, first])
        for i in rng.permutation(len(live)):
            for journal.block in range(first, first + blocks):
                for _ in range(repeats[live[i].id]):
                    if live[i].id not in journal.lost:
                        self.sample(live[i])
        journal.block = first + blocks
