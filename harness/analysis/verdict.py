"""Own the verdict of a run: at one point, the fastest FFF, its opponent, and how far apart they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.rows import Point, Speed, Versus
from harness.analysis.stats import Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Hold the fastest FFF of a point, the fastest FF that it is over, and the ratio of their times.

    rivals: how many FFFs the fastest was chosen from.
    """

    point: Point
    best: Versus
    ratio: Ratio
    opponent: Speed
    rivals: int


def find_verdict(points: Sequence[Point], point: Point) -> Verdict | None:
    """Return what a point says of best against best; None where no possible figure is there.

    points: all of the run, among which the opponent is looked up: it is of float32 where the point's own
    dtype has no FF.
    """
    able = [(v.ratio.value, v) for v in point.versus if v.ratio is not None and not v.impossible]
    speeds = (s for p in points for s in p.speeds if s.cell == point.fastest)
    opponent = next(speeds, None)
    if not able or opponent is None:
        return None
    best = max(able, key=lambda pair: pair[0])[1]
    assert best.ratio is not None
    return Verdict(point=point, best=best, ratio=best.ratio, opponent=opponent, rivals=len(able))
