"""Own the ratio of two cells and its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from harness.problem import Array

_RESAMPLES = 4000
_CONFIDENCE = 0.95


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


def block_times(samples: pd.DataFrame, cell: str) -> pd.Series:
    """Return the time of a pass in ns for each (process, block): the mean of the block's samples."""
    own = samples[samples["cell"] == cell]
    return own.groupby(["process", "block"], sort=True)["pass_ns"].mean()


def _expanded_levels(blocks: int) -> tuple[float, float]:
    """Return the percentiles of the bootstrap for 95 % coverage with few blocks.

    The plain percentile interval is too narrow for small n: its spread lacks the factor n/(n - 1) and it
    uses normal instead of Student quantiles. Hesterberg 2015 (arXiv 1411.5279) widens the percentiles to
    make up for both.
    """
    t = stats.t.ppf(0.5 + _CONFIDENCE / 2, blocks - 1)
    tail = stats.norm.cdf(-np.sqrt(blocks / (blocks - 1)) * t)
    return 100 * float(tail), 100 * float(1 - tail)


def _resample(log_ratios: Array, processes: Array, rng: np.random.Generator) -> Array:
    """Return bootstrap means of the log ratio, drawing processes, then blocks within each."""
    groups = [log_ratios[processes == p] for p in np.unique(processes)]
    sums = np.zeros(_RESAMPLES)
    counts = np.zeros(_RESAMPLES)
    for _ in groups:
        drawn = rng.integers(len(groups), size=_RESAMPLES)
        for g, group in enumerate(groups):
            chosen = np.flatnonzero(drawn == g)
            picks = group[rng.integers(len(group), size=(len(chosen), len(group)))]
            sums[chosen] += picks.sum(axis=1)
            counts[chosen] += len(group)
    return np.asarray(sums / counts)


def ratio(samples: pd.DataFrame, slow: str, fast: str) -> Ratio | None:
    """Return how many times longer cell `slow` takes than cell `fast`, by blocks.

    The log ratio is taken per block, in which both were sampled side by side, so that a drift of the whole
    machine cancels; the estimate is the geometric mean over the blocks. The interval comes from resampling
    processes, then blocks. None where no block has both.
    """
    both = pd.concat(
        [block_times(samples, slow).rename("slow"), block_times(samples, fast).rename("fast")],
        axis=1, join="inner",
    ).dropna()  # fmt: skip
    if both.empty:
        return None
    log_ratios = np.log(both["slow"].to_numpy() / both["fast"].to_numpy())
    value = float(np.exp(log_ratios.mean()))
    if len(log_ratios) < 2:
        return Ratio(value=value, low=np.nan, high=np.nan, blocks=len(log_ratios))
    processes = both.index.get_level_values("process").to_numpy()
    means = _resample(log_ratios, processes, np.random.default_rng(len(log_ratios)))
    low, high = np.exp(np.percentile(means, _expanded_levels(len(log_ratios))))
    return Ratio(
        value=value, low=min(float(low), value), high=max(float(high), value),
        blocks=len(log_ratios),
    )  # fmt: skip


def pass_ns(samples: pd.DataFrame, cell: str) -> float:
    """Return a cell's median time of a pass in ns, NaN where it has no sample."""
    return float(samples.loc[samples["cell"] == cell, "pass_ns"].median())
