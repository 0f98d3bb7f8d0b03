"""Own what a run says over the batch: each FFF's speedups and shares, and where a speedup crosses 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from harness.analysis.rows import Point
from harness.analysis.stats import Ratio
from harness.problem.axes import Conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Hold one implementation of an FFF under one set of conditions by batch.

    speedups: over the fastest FF at that batch. shares: of its floor. cells: its cells' ids.
    """

    implementation: str
    model: str
    provider: str
    conditions: Conditions
    speedups: dict[int, Ratio] = field(default_factory=dict)
    shares: dict[int, float] = field(default_factory=dict)
    cells: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """Hold where a speedup passes 1 between two measured batches.

    at: the batch at which it does on a straight line between both, on log axes. falls: whether the FFF is the
    faster one below it. sure: whether the interval of neither speedup holds 1.
    """

    before: int
    after: int
    at: float
    falls: bool
    sure: bool


def widest(points: Sequence[Point]) -> list[Point]:
    """Return the points of the widest layers, those that a curve over the batch can be made of."""
    return [point for point in points if point.width == points[0].width]


def has_several_batches(points: Sequence[Point]) -> bool:
    """Say whether an FFF of one width was measured at several batches."""
    return len({point.batch for point in widest(points) if point.versus}) > 1


def collect(points: Sequence[Point]) -> list[Series]:
    """Return the series of some points, in their order."""
    found: dict[tuple[str, str, str, Conditions], Series] = {}
    for point in points:
        shares = {s.cell: s.of_floor for s in point.speeds}
        for v in point.versus:
            key = (v.implementation, v.model, v.provider, point.conditions)
            series = found.setdefault(
                key,
                Series(
                    implementation=v.implementation, model=v.model, provider=v.provider,
                    conditions=point.conditions,
                ),
            )  # fmt: skip
            series.cells[point.batch] = v.cell
            if v.ratio is not None:
                series.speedups[point.batch] = v.ratio
            if math.isfinite(share := shares.get(v.cell, math.nan)):
                series.shares[point.batch] = share
    return list(found.values())


def crossings(speedups: dict[int, Ratio]) -> list[Crossing]:
    """Return where a speedup passes 1 between neighbouring batches, the smallest first."""
    batches, found = sorted(speedups), []
    for before, after in pairwise(batches):
        first, second = speedups[before], speedups[after]
        if (first.value > 1) == (second.value > 1):
            continue
        share = math.log(first.value) / (math.log(first.value) - math.log(second.value))
        at = math.exp((1 - share) * math.log(before) + share * math.log(after))
        found.append(
            Crossing(
                before=before, after=after, at=at, falls=first.value > 1,
                sure=all(r.known and not r.includes(1.0) for r in (first, second)),
            )
        )  # fmt: skip
    return found
