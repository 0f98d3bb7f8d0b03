"""Own the rows that only a run on a device has: the paper's GPU columns, best against best by precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.analysis import stats
from harness.analysis.ceilings import precision
from harness.analysis.fastest import find_fastest
from harness.analysis.index import RunIndex
from harness.analysis.published import find_beside
from harness.analysis.rows import Contest, Contests, GpuEntry, Point, Rival
from harness.problem.axes import WAYS, Conditions, without_ways
from harness.records.schema import CellRecord, RunHead

# The implementation behind each GPU column of the paper's table.
COLUMNS = {"native fused": "torch_native", "pytorch bmm": "torch_bmm", "naive cuda": "cuda_naive"}
PRECISIONS = {
    "float32": "float32, TF32 off", "tf32": "TF32 on tensor cores", "bfloat16": "bfloat16",
}  # fmt: skip


def is_device(head: RunHead) -> bool:
    """Say whether a run was measured on a device."""
    return head.sweep.device != "cpu"


def gpu_entries(
    run: RunIndex, cells: Sequence[CellRecord], models: Iterable[str], conditions: Conditions
) -> list[GpuEntry]:
    """Return the paper's GPU columns of a point's cells, each against the FF of the same column."""
    by_name = {(c.model, c.implementation): c for c in cells}
    baseline = run.head.sweep.baseline
    found = []
    for model in models:
        for column, suffix in COLUMNS.items():
            cell = by_name.get((model, f"ff_{suffix}")) or by_name.get((model, f"fff_{suffix}"))
            base = by_name.get((baseline, f"ff_{suffix}"))
            ratio, status = None, "none" if cell is None else str(cell.status)
            if cell is not None and cell.status == "ok":
                status = "no baseline"
                if base is not None and base.status == "ok":
                    ratio = stats.ratio(run.samples, base.cell, cell.cell)
                    status = "ok" if ratio else "not sampled"
            found.append(
                GpuEntry(
                    model=model, column=column, ratio=ratio, status=status,
                    published=find_beside(run.head, conditions, model, column),
                )
            )  # fmt: skip
    return found


def _rivals(run: RunIndex, cells: Sequence[CellRecord]) -> list[Rival]:
    """Return the fastest FF of the baseline's shape in each precision that was measured."""
    ff = [
        (c, stats.pass_ns(run.samples, c.cell)) for c in cells if c.model == run.head.sweep.baseline
    ]
    found = []
    for name in PRECISIONS:
        cell = find_fastest((c, time) for c, time in ff if precision(c) == name)
        found.append(
            Rival(
                precision=name, cell=cell.cell, implementation=cell.implementation,
                launch=cell.conditions.launch, pass_ns=stats.pass_ns(run.samples, cell.cell),
            )
            if cell
            else Rival(precision=name)
        )  # fmt: skip
    return found


def _contest(run: RunIndex, cell: CellRecord, rivals: list[Rival]) -> Contest:
    return Contest(
        implementation=cell.implementation, model=cell.model, precision=precision(cell),
        launch=cell.conditions.launch,
        ratios={
            r.precision: stats.ratio(run.samples, r.cell, cell.cell) if r.cell else None
            for r in rivals
        },
    )  # fmt: skip


def _contests(run: RunIndex, point: Point) -> Contests:
    """Return every FFF of a point's data and weights, in any precision and launch, against each rival.

    These are ways to compute the same; where the weights stand as a pass begins is another question, and
    hot is never set against cold.
    """
    alike = without_ways(point.conditions)
    cells = [
        c
        for c in run.right("layer")
        if (c.batch, c.d_in) == (point.batch, point.width) and without_ways(c.conditions) == alike
    ]
    against = _rivals(run, cells)
    rows = sorted(
        (c for c in cells if c.layer in ("fff", "leaf")),
        key=lambda c: (c.model, c.implementation, *(getattr(c.conditions, name) for name in WAYS)),
    )
    return Contests(point=point, rivals=against, rows=[_contest(run, c, against) for c in rows])


def contests(run: RunIndex, points: Iterable[Point]) -> list[Contests]:
    """Return best against best for each batch, width, data and place of the weights; none on the CPU."""
    if not is_device(run.head):
        return []
    first: dict[tuple[object, ...], Point] = {}
    for point in points:
        key = (point.batch, point.width, without_ways(point.conditions))
        first.setdefault(key, point)
    return [_contests(run, point) for point in first.values()]
