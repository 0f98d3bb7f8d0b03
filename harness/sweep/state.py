"""Own the state of a sweep's cells: how each is sampled, and what of it is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Pace:
    """Hold how a cell is sampled and how long that takes; 0 where it is not known yet.

    pass_s: a pass over the whole batch, by its last sample. turn: samples taken, since slices come in turn.
    untimed_s: of a sample, what stands before and between its timed passes.
    """

    loops: int = 0
    slices: int = 0
    pass_s: float = 0.0
    untimed_s: float = 0.0
    turn: int = 0

    def slice_s(self) -> float:
        """Return the time of a pass over one slice."""
        return self.pass_s / self.slices

    def sample_s(self) -> float:
        """Return what a sample takes."""
        return self.loops * self.slice_s() + self.untimed_s


_PAIRS_NEEDED = 2  # whole blocks below which a ratio has no interval


@dataclass(slots=True)
class Tally:
    """Count in which blocks each cell was sampled. goal: blocks that the run is to have, 0 if undecided."""

    goal: int = 0
    blocks: dict[str, set[int]] = field(default_factory=dict)

    def add(self, cell: str, block: int) -> None:
        """Count a sample."""
        self.blocks.setdefault(cell, set()).add(block)

    def _done(self, cell: str) -> set[int]:
        return self.blocks.get(cell, set())

    def _whole_missing(self, live: Sequence[str]) -> int:
        whole = set.intersection(*(self._done(cell) for cell in live))
        return max(0, min(_PAIRS_NEEDED, self.goal) - len(whole))

    def missing(self, live: Sequence[str]) -> int:
        """Return the blocks that the live cells still lack."""
        if not live or not self.goal:
            return 0
        most = max(self.goal - len(self._done(cell)) for cell in live)
        return max(self._whole_missing(live), most, 0)

    def wants(self, cell: str, live: Sequence[str]) -> bool:
        """Say whether the next block samples a cell: its planned samples are not all there yet.

        A ratio pairs samples of one block. Where a block was cut short, cells that it had reached rest in
        the last new block, except where too few whole blocks would be left to make a ratio of.
        """
        if not self.goal or self._whole_missing(live):
            return True
        return len(self._done(cell)) < self.goal
