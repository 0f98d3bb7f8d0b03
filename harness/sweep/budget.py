"""Own how a sweep's seconds are spent: on which blocks and processes, by what those before took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.sweep import gate, sampling
from harness.sweep.estimate import count_processes
from harness.sweep.journal import Journal
from harness.sweep.state import CellState, CellTable

_MAX_BLOCKS = 60
_GATES_SHARE = 0.5  # of the budget, after which only what every table needs is still gated


@dataclass(slots=True, kw_only=True)
class Budget:
    """Spend the seconds of a sweep. gate_s: what the gates of one more set of processes will take."""

    journal: Journal
    cells: CellTable
    gate_s: float = 0.0

    def is_bounded(self) -> bool:
        """Say whether seconds decide, and not a number of blocks."""
        return not self.cells.goal

    def left_s(self) -> float:
        """Return the seconds that are not spent yet."""
        return self.journal.spec.budget_s - self.journal.elapsed_s()

    def block_s(self) -> float:
        """Return what a block takes."""
        return sampling.block_s(self.cells.live())

    def note_gates(self, seconds: float, first: Sequence[CellState], starts_s: float) -> None:
        """Learn from the gates that were just passed what those of the next processes take.

        first: the cells that passed for the first time. A long pass of one was run whole for its gate, and a
        slice of it to calibrate, which later gates do not repeat; most of what was compiled is kept on
        disk. starts_s: what starting the processes takes, where those that were just used had been started
        before.
        """
        long_s = sum(s.pass_s + s.slice_s() for s in first if gate.is_by_head(s))
        hot = [state.cell for state in first if state.cell.weights == "hot"]
        kept_s = sum(cell.compile_s() - cell.compile_s(kept=True) for cell in hot)
        self.gate_s = max(0.0, seconds - long_s - kept_s) + starts_s

    def blocks(self, left: int) -> int:
        """Return the blocks for the current process, so that the `left` sets of processes share the rest."""
        if not self.is_bounded():
            return -(-self.cells.missing() // left)
        rest_s = self.left_s() - (left - 1) * self.gate_s
        fit = int(rest_s / left / max(self.block_s(), 1e-3))
        return min(fit, _MAX_BLOCKS // self.journal.spec.processes)

    def processes(self, left: int) -> int:
        """Return how many of the `left` sets of processes, the current one among them, get a block."""
        if not self.is_bounded():
            return left
        return count_processes(left, self.left_s(), self.gate_s, self.block_s())

    def is_over(self, blocks: int = 1) -> bool:
        """Say whether so many blocks more would pass the budget."""
        return self.is_bounded() and blocks * self.block_s() > self.left_s()

    def another_fits(self) -> bool:
        """Say whether another set of processes fits into the budget with at least one block."""
        return not self.is_bounded() or self.gate_s + self.block_s() <= self.left_s()

    def leave_out(self, state: CellState) -> str:
        """Return why a cell is not even gated, or an empty string.

        However many implementations there are, and however slow their first pass is, a run by budget ends
        with a table: once the gates have taken half of it, what stands on no BLAS and is not the first of
        its layer stays out.
        """
        budget_s = self.journal.spec.budget_s
        spent_s = self.journal.elapsed_s()
        if not self.is_bounded() or spent_s <= _GATES_SHARE * budget_s:
            return ""
        layers = {known.cell.problem.layer for known in self.cells.states if known.gated}
        needed = state.cell.provider or state.cell.transformer
        if state.gated or needed or state.cell.problem.layer not in layers:
            return ""
        return (
            f"left out: {spent_s:.0f} of {budget_s:g} s were spent before its turn; give more with "
            "--budget, or choose with --only"
        )
