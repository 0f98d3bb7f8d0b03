"""Own the ratio of two cells and its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from harness.analysis.samples import BlockTimes, Samples
from harness.problem.problem import Array

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Hold an estimate and its 95 % interval; the interval is NaN where it can't be told (one block)."""

    value: float
    low: float
    high: float
    blocks: int

    @property
    def known(self) -> bool:
        """Say whether there is an interval."""
        return bool(np.isfinite(self.low))

    def includes(self, value: float) -> bool:
        """Say whether a value lies inside the interval."""
        return self.known and self.low <= value <= self.high

    @property
    def resolution(self) -> float:
        """Return the largest |log ratio| inside the interval of an A/A pair: less is not told from none."""
        return max(abs(math.log(self.low)), abs(math.log(self.high))) if self.known else 0.0


def block_times(samples: Samples, cell: str) -> BlockTimes:
    """Return the time of a pass in ns for each (process, block): the mean of the block's samples."""
    own = samples.get(cell)
    return own.blocks if own else {}


def mean_of_units(
    values: Array, processes: Array, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the mean of block values over their processes, and half of its interval, 95 % by default.

    The blocks of a process share its memory layout and its moment, so what is independent is the process:
    each has one vote, whatever the number of its blocks, and the spread of their means gives the interval,
    by Student's quantile for the number of processes. Where their means are of unequal precision it holds
    the truth at least as often as it says (Bakirov and Szekely 2006). Weights by blocks would not: a process
    that has most of the blocks pulls the mean to itself, and hides its own deviation.
    The blocks of a single process stand for themselves. Half is NaN for a single value.
    """
    found, unit = np.unique(processes, return_inverse=True)
    if len(found) == 1:
        unit = np.arange(len(values))
    means = np.bincount(unit, weights=values) / np.bincount(unit)
    if len(means) < 2:
        return float(means[0]), math.nan
    error = means.std(ddof=1) / math.sqrt(len(means))
    return float(means.mean()), float(student(len(means) - 1, confidence) * error)


def student(freedom: float, confidence: float = CONFIDENCE) -> float:
    """Return Student's two-sided quantile, that of 95 % by default."""
    return float(stdtrit(freedom, 0.5 + confidence / 2))


def shared_blocks(slow: BlockTimes, fast: BlockTimes) -> dict[tuple[int, int], float]:
    """Return how many times longer the one takes than the other in each (process, block) that both have."""
    return {block: time / fast[block] for block, time in slow.items() if block in fast}


def ratio_of_blocks(slow: BlockTimes, fast: BlockTimes) -> Ratio | None:
    """Return how many times longer the one takes than the other, by the blocks that both have.

    The log ratio is taken per block, in which both were sampled side by side, so that a drift of the whole
    machine cancels; the estimate is the geometric mean over the processes, of each over its blocks. The
    interval is Student's with the processes as units. None where no block has both.
    """
    both = shared_blocks(slow, fast)
    if not both:
        return None
    log_ratios = np.log(list(both.values()))
    mean, half = mean_of_units(log_ratios, np.array([process for process, _ in both]))
    low, value, high = (math.exp(mean + step) for step in (-half, 0.0, half))
    return Ratio(value=value, low=low, high=high, blocks=len(log_ratios))


def ratio(samples: Samples, slow: str, fast: str) -> Ratio | None:
    """Return how many times longer cell `slow` takes than cell `fast`; see `ratio_of_blocks`."""
    return ratio_of_blocks(block_times(samples, slow), block_times(samples, fast))


def wall_ns(samples: Samples, cell: str) -> float:
    """Return a cell's median time of a pass with its launches in ns, NaN where it ran on no device."""
    if cell not in samples:
        return math.nan
    own = samples[cell].frame
    own = own[own["wall_ns"] > 0]
    return float((own["wall_ns"] / own["loops"] * own["slices"]).median())


def pass_ns(samples: Samples, cell: str) -> float:
    """Return a cell's median time of a pass in ns, NaN where it has no sample."""
    return samples[cell].pass_ns if cell in samples else math.nan


def fastest_ns(samples: Samples, cell: str) -> float:
    """Return a cell's least time of a pass in ns, NaN where it has no sample."""
    return float(samples[cell].frame["pass_ns"].min()) if cell in samples else math.nan


def pass_estimate_ns(
    samples: Samples, cell: str, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Return a cell's mean time of a pass in ns and the ends of its interval; NaN where one block gives none.

    The geometric mean over its processes, of each over its blocks; the interval is of their log times, with
    the processes as units. Unlike a ratio's it holds the machine's drift.
    """
    blocks = block_times(samples, cell)
    if not blocks:
        return math.nan, math.nan, math.nan
    times = np.log(list(blocks.values()))
    mean, half = mean_of_units(times, np.array([process for process, _ in blocks]), confidence)
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def pass_interval_ns(samples: Samples, cell: str) -> tuple[float, float]:
    """Return the 95 % interval of a cell's mean time of a pass in ns; see `pass_estimate_ns`."""
    return pass_estimate_ns(samples, cell)[1:]
