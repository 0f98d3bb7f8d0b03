"""Own the estimate of how much longer a cell takes in one run than in another."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np

from harness.analysis import stats
from harness.analysis.index import RunIndex
from harness.analysis.samples import BlockTimes, Samples
from harness.analysis.stats import CONFIDENCE, Ratio
from harness.problem.problem import Array

_LEAST_RESOLUTION = 0.01  # no machine with an operating system is trusted below this


def levels(samples: Samples, cell: str, reference: str) -> list[Array]:
    """Return the log of cell over reference by block, an array for each process."""
    return levels_of_blocks(stats.block_times(samples, cell), stats.block_times(samples, reference))


def levels_of_blocks(times: BlockTimes, reference: BlockTimes) -> list[Array]:
    """Return the log of some times over those of a reference by block, an array for each process."""
    both = stats.shared_blocks({b: t for b, t in times.items() if t > 0}, reference)
    by_process: dict[int, list[float]] = {}
    for (process, _), level in both.items():
        by_process.setdefault(process, []).append(level)
    return [np.log(found) for found in by_process.values()]


def _units(groups: list[Array], by_process: bool) -> Array:
    """Return the independent values of a run: the median block of each process, or all its blocks.

    A process shares its memory layout and its moment, so that its blocks are not independent. The median
    keeps the one block in which the machine's speed changed from deciding over a process.
    """
    if by_process:
        # NumPy's median takes fifty times as long for the few values of a process.
        return np.array([statistics.median(group) for group in groups])
    return np.concatenate(groups) if groups else np.zeros(0)


def estimate(a: list[Array], b: list[Array]) -> Ratio | None:
    """Return B over A with its 95 % interval, from log values by process and block.

    The processes are the units where both runs have two or more, else the blocks. A run's spread is its
    own: one may have been measured on a busier machine than the other. So the interval is Welch's, with the
    freedom that the two variances leave together. With two units in a run a small spread is as often luck as
    not, and Welch's freedom counts on it: the interval is then Cochran's, whose quantile is that of each
    run weighted by its variance, and which holds the truth at least as often as it says.
    None where a run has no value; no interval where one has a single value.

    Source: Welch 1947; Cochran and Cox 1950.
    """
    by_process = min(len(a), len(b)) > 1
    first, second = _units(a, by_process), _units(b, by_process)
    if not len(first) or not len(second):
        return None
    return replace(of_units(first, second), blocks=sum(map(len, [*a, *b])))


def of_units(first: Array, second: Array, confidence: float = CONFIDENCE) -> Ratio:
    """Return the ratio of the means of independent log values, second over first; see `estimate`."""
    difference = float(second.mean() - first.mean())
    half = _half_width(first, second, confidence)
    low, value, high = (math.exp(difference + step) for step in (-half, 0.0, half))
    return Ratio(value=value, low=low, high=high, blocks=len(first) + len(second))


def _half_width(first: Array, second: Array, confidence: float) -> float:
    """Return half of the interval of the difference of two means; NaN where one is a single value."""
    sizes = np.array([len(first), len(second)])
    if sizes.min() < 2:
        return math.nan
    variances = np.array([first.var(ddof=1), second.var(ddof=1)]) / sizes  # of the means
    total = float(variances.sum())
    if total == 0:
        return 0.0
    if sizes.min() == 2:
        quantile = float(variances @ [stats.student(n - 1, confidence) for n in sizes]) / total
    else:
        quantile = stats.student(total**2 / float((variances**2 / (sizes - 1)).sum()), confidence)
    return quantile * math.sqrt(total)


def resolve(*runs: RunIndex) -> float:
    """Return the share below which no difference is believed: what the A/A pairs miss 1 by, at least 1 %."""
    missed = [_LEAST_RESOLUTION]
    for run in runs:
        for twin in run.of_role("aa"):
            logs = levels(run.samples, twin.cell, twin.cell.removesuffix("/again"))
            if logs:
                missed.append(abs(float(np.exp(np.concatenate(logs).mean())) - 1))
    return max(missed)
