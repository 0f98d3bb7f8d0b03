"""Own the A/A pairs: which FF is measured a second time, so that a run says what it can resolve."""

from __future__ import annotations

from harness.analysis.fastest import find_fastest
from harness.sweep.cell import Cell, make_twin
from harness.sweep.state import CellState, CellTable


def conditions(cell: Cell) -> tuple[object, ...]:
    """Return what two cells must share to be compared."""
    return (cell.problem.batch, cell.problem.d_in, *cell.conditions)


def make_missing(cells: CellTable, baseline: str, joined: int) -> list[CellState]:
    """Return a twin of the fastest FF of each problem of the baseline, where it has none yet.

    joined: blocks that the run has already.
    """
    groups: dict[tuple[object, ...], list[CellState]] = {}
    for state in cells.live():
        if state.cell.model == baseline and state.cell.role == "layer":
            groups.setdefault(conditions(state.cell), []).append(state)
    known = {state.cell.id for state in cells.states}
    fastest = [find_fastest((s, s.typical_pass_s()) for s in group) for group in groups.values()]
    return [
        CellState(cell=twin, loops=of.loops, slices=of.slices, tile=of.tile, joined=joined)
        for of in fastest
        if of is not None and (twin := make_twin(of.cell)).id not in known
    ]
