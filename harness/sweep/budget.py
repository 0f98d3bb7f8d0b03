"""Own how a sweep's seconds are spent: on which blocks and processes, by what those before took."""

from __future__ import annotations

from dataclasses import dataclass

from harness.sweep.cell import Cell
from harness.sweep.estimate import LONG_PASS_S, count_processes
from harness.sweep.gate import Gate
from harness.sweep.journal import Journal
from harness.sweep.sampling import Sampling

_MAX_BLOCKS = 60
_GATES_SHARE = 0.5  # of the budget, after which only what every table needs is still gated


@dataclass(slots=True, kw_only=True)
class Budget:
    """Spend the seconds of a sweep. gate_s: what the gates of one more set of processes will take."""

    journal: Journal
    gate: Gate
    sampling: Sampling
    gate_s: float = 0.0

    def is_bounded(self) -> bool:
        """Say whether seconds decide, and not a number of blocks."""
        return not self.sampling.tally.goal

    def note_gates(self, seconds: float, before: set[str], starts_s: float) -> None:
        """Learn from the gates that were just passed what those of the next processes take.

        before: the cells that had passed earlier. A long pass of another cell was run whole for its gate,
        which later gates do not repeat; most of what was compiled is kept on disk; and the first processes
        had been started before, which takes starts_s.
        """
        paces = self.gate.paces
        whole = [c for c in self.sampling.live() if c.id not in before and c.weights == "hot"]
        long_s = sum(s for c in whole if (s := paces[c.id].pass_s) >= LONG_PASS_S)
        kept_s = sum(c.compile_s() - c.compile_s(kept=True) for c in whole)
        self.gate_s = max(0.0, seconds - long_s - kept_s) + (0.0 if before else starts_s)

    def blocks(self, left: int) -> int:
        """Return the blocks for the current process, so that the `left` sets of processes share the rest."""
        sampling = self.sampling
        if not self.is_bounded():
            return -(-sampling.missing() // left)
        rest = self.journal.spec.budget_s - self.journal.elapsed_s() - (left - 1) * self.gate_s
        fit = int(rest / left / max(sampling.block_s(), 1e-3))
        return min(fit, _MAX_BLOCKS // self.journal.spec.processes)

    def processes(self, left: int) -> int:
        """Return how many of the `left` sets of processes, the current one among them, get a block."""
        if not self.is_bounded():
            return left
        rest = self.journal.spec.budget_s - self.journal.elapsed_s()
        return count_processes(left, rest, self.gate_s, self.sampling.block_s())

    def is_over(self) -> bool:
        """Say whether another block would pass the budget."""
        after = self.journal.elapsed_s() + self.sampling.block_s()
        return self.is_bounded() and after > self.journal.spec.budget_s

    def another_fits(self) -> bool:
        """Say whether another set of processes fits into the budget with at least one block."""
        after = self.journal.elapsed_s() + self.gate_s + self.sampling.block_s()
        return not self.is_bounded() or after <= self.journal.spec.budget_s

    def leave_out(self, cell: Cell) -> str:
        """Return why a cell is not even gated, or an empty string.

        However many implementations there are, and however slow their first pass is, a run by budget ends
        with a table: once the gates have taken half of it, what stands on no BLAS and is not the first of
        its layer stays out.
        """
        spec, spent_s = self.journal.spec, self.journal.elapsed_s()
        if not self.is_bounded() or spent_s <= _GATES_SHARE * spec.budget_s:
            return ""
        cells = [c for c in self.sampling.cells if c.id in self.gate.gated]
        first = not any(c.problem.layer == cell.problem.layer for c in cells)
        if cell.provider or first or cell.id in self.gate.gated:
            return ""
        return (
            f"left out: {spent_s:.0f} of {spec.budget_s:g} s were spent before its turn; give more with "
            "--budget, or choose with --only"
        )
