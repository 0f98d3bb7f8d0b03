"""Own the change points of a series: between which of its values the level moved, and by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis import compare_interval, stats
from harness.analysis.stats import CONFIDENCE, Ratio
from harness.problem.problem import Array

LEAST = 2  # values of a level: a single one that stands out is no level
_NORMAL_QUARTILE = 0.6745
_PENALTY = 3.0  # of a further level, in variances of a value for each log of the number of values


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePoint:
    """Say where a level begins. start: place of its first value. change: that level over the one before."""

    start: int
    change: Ratio


def find_change_points(values: Sequence[float], resolution: float) -> list[ChangePoint]:
    """Return the change points of positive values in their order.

    The values are cut into levels of at least `LEAST` values so that the squares of their logs around the
    means of their levels, and a penalty for each level, are least (exactly, over all ways to cut). The
    penalty follows the noise of the values, which is told from the differences of neighbours: their median
    does not see a few steps. A cut stays a change point where the interval between the two levels beside it,
    with their values as units, lies wholly beyond the resolution. Its confidence is 95 % for all cuts that
    there could have been together. The weakest cut that does not stay goes first, and its levels become one.

    resolution: the share below which no difference is believed.

    Source: Jackson et al. 2005 (the partition), Welch 1947 and Cochran and Cox 1950 (the interval).
    """
    logs = np.log(np.asarray(values, dtype=np.float64))
    if len(logs) < 2 * LEAST:
        return []
    cuts = _cut(logs, _PENALTY * _noise(logs, resolution) ** 2 * math.log(len(logs)))
    confidence = 1 - (1 - CONFIDENCE) / (len(logs) - 2 * LEAST + 1)
    while cuts:
        edges = [0, *cuts, len(logs)]
        changes = [
            compare_interval.of_units(logs[low:cut], logs[cut:high], confidence)
            for low, cut, high in zip(edges, edges[1:], edges[2:], strict=False)
        ]
        excess = [_distance(change) - math.log1p(resolution) for change in changes]
        weakest = int(np.argmin(excess))
        if excess[weakest] > 0:
            return [ChangePoint(start=c, change=r) for c, r in zip(cuts, changes, strict=True)]
        del cuts[weakest]
    return []


def _noise(logs: Array, resolution: float) -> float:
    """Return the standard deviation of a value, no less than what is resolved allows."""
    steps = float(np.median(np.abs(np.diff(logs)))) / _NORMAL_QUARTILE / math.sqrt(2)
    return max(steps, math.log1p(resolution) / stats.student(math.inf))


def _distance(change: Ratio) -> float:
    """Return how far the near end of an interval is from no change, as a log; negative where it holds it."""
    return max(math.log(change.low), -math.log(change.high))


def _cut(logs: Array, penalty: float) -> list[int]:
    """Return where the levels of the best partition begin, the first left out."""
    count = len(logs)
    sums, squares = (np.concatenate([[0.0], np.cumsum(x)]) for x in (logs, logs**2))
    best, begins = np.full(count + 1, math.inf), np.zeros(count + 1, dtype=int)
    best[0] = -penalty
    for end in range(LEAST, count + 1):
        starts = np.arange(end - LEAST + 1)
        within = squares[end] - squares[starts] - (sums[end] - sums[starts]) ** 2 / (end - starts)
        costs = best[starts] + within + penalty
        begins[end] = int(np.argmin(costs))
        best[end] = costs[begins[end]]
    cuts, place = [], count
    while (place := int(begins[place])) > 0:
        cuts.append(place)
    return cuts[::-1]
