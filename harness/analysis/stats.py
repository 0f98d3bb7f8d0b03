"""Own the ratio of two cells and its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from harness.problem.problem import Array

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


def half_width(values: Array, processes: Array) -> float:
    """Return half of the 95 % interval of the mean of block values, on their own scale.

    The blocks of a process share its memory layout and its moment, so what is independent is the process:
    the spread of the processes' means decides, each weighted by its blocks, with Student's quantile for the
    number of processes. The blocks of a single process stand for themselves. Two values or more are needed.
    """
    found, unit = np.unique(processes, return_inverse=True)
    if len(found) == 1:
        unit = np.arange(len(values))
    units = int(unit.max()) + 1
    # Of each unit's mean from the mean of all, times its blocks.
    deviations = np.bincount(unit, weights=values - values.mean())
    error = np.sqrt(units / (units - 1) * np.square(deviations).sum()) / len(values)
    return float(stats.t.ppf(0.5 + _CONFIDENCE / 2, units - 1) * error)


def ratio(samples: pd.DataFrame, slow: str, fast: str) -> Ratio | None:
    """Return how many times longer cell `slow` takes than cell `fast`, by blocks.

    The log ratio is taken per block, in which both were sampled side by side, so that a drift of the whole
    machine cancels; the estimate is the geometric mean over the blocks. The interval is Student's with the
    processes as units. None where no block has both.
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
    half = half_width(log_ratios, processes)
    return Ratio(
        value=value, low=value * math.exp(-half), high=value * math.exp(half),
        blocks=len(log_ratios),
    )  # fmt: skip


def wall_ns(samples: pd.DataFrame, cell: str) -> float:
    """Return a cell's median time of a pass with its launches in ns, NaN where it ran on no device."""
    own = samples[(samples["cell"] == cell) & (samples["wall_ns"] > 0)]
    return float((own["wall_ns"] / own["loops"] * own["slices"]).median())


def pass_ns(samples: pd.DataFrame, cell: str) -> float:
    """Return a cell's median time of a pass in ns, NaN where it has no sample."""
    return float(samples.loc[samples["cell"] == cell, "pass_ns"].median())
