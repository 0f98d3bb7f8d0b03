"""Own where the cells of a sweep stand: one state for each, in one table, and which blocks are missing."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from harness.measure.process import MeasuringProcess
from harness.records.schema import Status
from harness.sweep.cell import Cell
from harness.sweep.plan import Plan

_PAIRS_NEEDED = 2  # whole blocks below which a ratio has no interval


@dataclass(slots=True, kw_only=True)
class CellState:
    """Hold where one cell stands.

    status: `ok` until it is out, then with the reason. gated: whether it passed its gate in any process.
    process: the one that it was last prepared in. loops, slices: of a sample, 0 until a gate tells them.
    pass_s: a pass over the whole batch, by its last sample; before one, by the passes that its gate warmed
    up with. tile: its implementation's choice in the first process, kept for the run.
    untimed_s: of a sample, what stands before and between its timed passes. passes_s: of each
    sample so far. blocks: that it was sampled in. joined: blocks that the run had before the cell came to
    it. unproved: sampled in its process since its output was last judged there.
    """

    cell: Cell
    status: Status = "ok"
    reason: str = ""
    gated: bool = False
    process: MeasuringProcess | None = None
    loops: int = 0
    slices: int = 0
    pass_s: float = 0.0
    untimed_s: float = 0.0
    tile: str = ""
    passes_s: list[float] = field(default_factory=list)
    blocks: set[int] = field(default_factory=set)
    joined: int = 0
    unproved: bool = False

    def lose(self, status: Status, reason: str) -> None:
        """Put the cell out: it is neither gated nor sampled any more."""
        self.status, self.reason = status, reason

    def is_live(self) -> bool:
        """Say whether the cell is not out."""
        return self.status == "ok"

    def is_ready(self) -> bool:
        """Say whether the cell is prepared in a process that still runs."""
        return self.process is not None and self.process.alive()

    def slice_s(self) -> float:
        """Return the time of a pass over one slice."""
        return self.pass_s / self.slices

    def sample_s(self) -> float:
        """Return what a sample takes."""
        return self.loops * self.slice_s() + self.untimed_s

    def add_sample(self, block: int, pass_s: float, untimed_s: float) -> None:
        """Count a sample of a block."""
        self.blocks.add(block)
        self.passes_s.append(pass_s)
        self.pass_s, self.untimed_s = pass_s, untimed_s

    def typical_pass_s(self) -> float:
        """Return the median pass of the samples, as the tables have it; before one, `pass_s`."""
        return statistics.median(self.passes_s) if self.passes_s else self.pass_s


@dataclass(slots=True, kw_only=True)
class CellTable:
    """Hold the states of all cells of a sweep. goal: blocks that each is to have, 0 where seconds decide."""

    states: list[CellState]
    goal: int = 0

    @classmethod
    def begin(cls, plan: Plan) -> CellTable:
        """Return the cells of a plan as they stand before anything is measured, largest workspace first."""
        cells = sorted(plan.cells, key=lambda cell: -cell.workspace_bytes)
        states = [CellState(cell=cell) for cell in (*cells, *plan.published)]
        return cls(states=states, goal=plan.spec.passes)

    def live(self) -> list[CellState]:
        """Return the cells that are sampled in blocks and are not out."""
        return [s for s in self.states if s.cell.role != "ladder" and s.is_live()]

    def published(self) -> list[CellState]:
        """Return the ladder's cells, which stand in no block, that are not out."""
        return [s for s in self.states if s.cell.role == "ladder" and s.is_live()]

    def count(self, status: Status) -> int:
        """Return how many cells have a status."""
        return sum(s.status == status for s in self.states)

    def missing(self) -> int:
        """Return the blocks that the live cells still lack, where their number was decided before."""
        live = self.live()
        if not live or not self.goal:
            return 0
        return max(_lacking_pairs(live, self.goal), *(_lack(s, self.goal) for s in live), 0)

    def wanting(self) -> list[CellState]:
        """Return the live cells that the next block samples: their planned samples are not all there yet.

        A ratio pairs samples of one block. Where a block was cut short, cells that it had reached rest in
        the last new block, except where too few whole blocks would be left to make a ratio of.
        """
        live = self.live()
        if not self.goal or _lacking_pairs(live, self.goal):
            return live
        return [s for s in live if _lack(s, self.goal) > 0]


def _lack(state: CellState, goal: int) -> int:
    return goal - state.joined - len(state.blocks)


def _lacking_pairs(live: list[CellState], goal: int) -> int:
    """Return how many whole blocks more a ratio needs; a cell that came later pairs with what it has."""
    if not live:
        return 0
    whole = set.intersection(
        *([s.blocks for s in live if not s.joined] or [s.blocks for s in live])
    )
    return max(0, min(_PAIRS_NEEDED, goal) - len(whole))
