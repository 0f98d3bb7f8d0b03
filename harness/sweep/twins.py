"""Own the A/A pairs: which FF is measured a second time, so that a run says what it can resolve."""

from __future__ import annotations

from harness.analysis.fastest import find_fastest
from harness.problem.transformer import DENSE
from harness.sweep.cell import Cell, make_twin
from harness.sweep.state import CellState, CellTable


def conditions(cell: Cell) -> tuple[object, ...]:
    """Return what two cells must share to be compared."""
    whole = cell.transformer.as_it_is() if cell.transformer else ""
    return (cell.problem.batch, cell.problem.d_in, whole, *cell.conditions)


def _may_have_twin(cell: Cell, baseline: str) -> bool:
    """Say whether ratios are over a cell: the baseline's layers, and whole models as they are."""
    if whole := cell.transformer:
        return cell.role == "model" and whole.ff == DENSE and not whole.in_parts
    return cell.role == "layer" and cell.model == baseline


def make_missing(cells: CellTable, baseline: str, joined: int) -> list[CellState]:
    """Return a twin of the fastest FF of each problem of the baseline, and of each whole model as it is,
    where it has none yet.

    joined: blocks that the run has already.
    """
    groups: dict[tuple[object, ...], list[CellState]] = {}
    for state in cells.live():
        if _may_have_twin(state.cell, baseline):
            groups.setdefault(conditions(state.cell), []).append(state)
    known = {state.cell.id for state in cells.states}
    fastest = [find_fastest((s, s.typical_pass_s()) for s in group) for group in groups.values()]
    return [
        CellState(cell=twin, loops=of.loops, slices=of.slices, tile=of.tile, joined=joined)
        for of in fastest
        if of is not None and (twin := make_twin(of.cell)).id not in known
    ]
