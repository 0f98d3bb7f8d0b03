"""Own the contrasts: one cell under several conditions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.analysis import stats
from harness.analysis.index import RunIndex
from harness.analysis.stats import Ratio
from harness.problem.axes import DEFAULTS, Conditions, changes
from harness.records.identity import Identity, identify
from harness.records.schema import CellRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Hold one cell under conditions beside the same cell under the run's first ones.

    ratio: how many times longer it takes than under the first conditions; None for the first itself.
    """

    implementation: str
    model: str
    provider: str
    batch: int
    width: int
    conditions: Conditions
    status: str
    pass_ns: float
    ratio: Ratio | None
    nodes_touched: int
    leaf_bits: float
    working_set_bytes: int


def contrasts(run: RunIndex) -> list[Contrast]:
    """Return every layer cell that was measured under more than one set of conditions."""
    groups: dict[Identity, list[CellRecord]] = {}
    for cell in run.of_role("layer"):
        groups.setdefault(identify(cell)._replace(conditions=DEFAULTS), []).append(cell)
    return [
        _contrast(run, cell, min(group, key=_rank))
        for group in groups.values()
        if len(group) > 1
        for cell in sorted(group, key=_rank)
    ]


def _contrast(run: RunIndex, cell: CellRecord, first: CellRecord) -> Contrast:
    both = cell.cell != first.cell and cell.status == first.status == "ok"
    return Contrast(
        implementation=cell.implementation, model=cell.model, provider=cell.provider,
        batch=cell.batch, width=cell.d_in, conditions=cell.conditions, status=cell.status,
        pass_ns=stats.pass_ns(run.samples, cell.cell),
        ratio=stats.ratio(run.samples, cell.cell, first.cell) if both else None,
        nodes_touched=cell.nodes_touched,
        leaf_bits=cell.entropy_bits[-1] if cell.entropy_bits else float("nan"),
        working_set_bytes=cell.working_set_bytes,
    )  # fmt: skip


def _rank(cell: CellRecord) -> int:
    """Return on how many axes a cell differs from the default: a contrast is against the fewest."""
    return len(changes(cell.conditions))


def of_cells(cells: Iterable[CellRecord]) -> list[Conditions]:
    """Return the distinct conditions of some cells, the nearest to the default first."""
    found = {cell.conditions: _rank(cell) for cell in cells}
    return sorted(found, key=lambda conditions: found[conditions])
