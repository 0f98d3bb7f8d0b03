"""Own what the routing of tokens does to the speedups: one FFF over the fastest FF under each routing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis import stats
from harness.analysis.index import RunIndex
from harness.analysis.rows import Point
from harness.analysis.stats import Ratio
from harness.problem.axes import DEFAULTS, Conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedSpeedup:
    """Hold the speedup of one FFF over the fastest FF under one of a run's several routings.

    times: how many times the speedup under each other routing it is, by that routing's value; each FFF and
    each FF of it as measured under its own routing. nodes_touched: of its paths, 0 where unknown.
    """

    implementation: str
    model: str
    provider: str
    batch: int
    width: int
    conditions: Conditions
    speedup: Ratio | None
    times: Mapping[str, Ratio | None]
    nodes_touched: int


def _times(run: RunIndex, own: tuple[str, str], other: tuple[str, str]) -> Ratio | None:
    """Return how many times another speedup one is, by the blocks that have all four cells.

    own, other: the cell of the FF and that of the FFF.
    """
    speedups = [
        stats.shared_blocks(*(stats.block_times(run.samples, cell) for cell in pair))
        for pair in (own, other)
    ]
    return stats.ratio_of_blocks(*speedups)


def find_routed(run: RunIndex, points: Sequence[Point]) -> list[RoutedSpeedup]:
    """Return every FFF that was measured under several routings, under each, with all else alike.

    The routings stand in the order of the points, so the default's is first.
    """
    groups: dict[tuple[object, ...], dict[str, tuple[Point, str]]] = {}
    for point in points:
        alike = point.conditions._replace(routing=DEFAULTS.routing)
        for v in point.versus:
            key = (point.batch, point.width, alike, v.implementation, v.model, v.provider)
            groups.setdefault(key, {})[point.conditions.routing] = point, v.cell
    return [
        _routed(run, point, cell, {r: at for r, at in group.items() if r != routing})
        for group in groups.values()
        if len(group) > 1
        for routing, (point, cell) in group.items()
    ]


def _routed(
    run: RunIndex, point: Point, cell: str, others: Mapping[str, tuple[Point, str]]
) -> RoutedSpeedup:
    record, own = run.cells[cell], (point.fastest, cell)
    return RoutedSpeedup(
        implementation=record.implementation, model=record.model, provider=record.provider,
        batch=point.batch, width=point.width, conditions=point.conditions,
        speedup=stats.ratio(run.samples, *own),
        times={r: _times(run, own, (there.fastest, other)) for r, (there, other) in others.items()},
        nodes_touched=record.nodes_touched,
    )  # fmt: skip
