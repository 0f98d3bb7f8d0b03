"""Own the estimate of how much longer a cell takes in one run than in another."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats as distributions

from harness.analysis import stats
from harness.analysis.stats import Ratio
from harness.problem.problem import Array
from harness.records.reader import Run

_LEAST_RESOLUTION = 0.01  # no machine with an operating system is trusted below this
_CONFIDENCE = 0.95


def levels(run: Run, cell: str, reference: str) -> list[Array]:
    """Return the log of cell over reference by block, a list for each process."""
    both = pd.concat(
        [stats.block_times(run.samples, cell), stats.block_times(run.samples, reference)],
        axis=1, join="inner",
    ).dropna()  # fmt: skip
    logs = pd.Series(
        np.log(both.iloc[:, 0].to_numpy() / both.iloc[:, 1].to_numpy()), index=both.index
    )
    return [group.to_numpy() for _, group in logs.groupby(level="process")]


def _units(groups: list[Array], by_process: bool) -> Array:
    """Return the independent values of a run: the median block of each process, or all its blocks.

    A process shares its memory layout and its moment, so that its blocks are not independent. The median
    keeps the one block in which the machine's speed changed from deciding over a process.
    """
    if by_process:
        return np.array([np.median(group) for group in groups])
    return np.concatenate(groups) if groups else np.zeros(0)


def estimate(a: list[Array], b: list[Array]) -> Ratio | None:
    """Return B over A with its 95 % interval, from log values by process and block.

    The processes are the units where both runs have two or more, else the blocks. The interval is
    Student's for two samples. None where a run has no value; no interval where one has a single value.
    """
    by_process = min(len(a), len(b)) > 1
    first, second = _units(a, by_process), _units(b, by_process)
    if not len(first) or not len(second):
        return None
    difference = float(second.mean() - first.mean())
    blocks = sum(map(len, [*a, *b]))
    freedom = len(first) + len(second) - 2
    if min(len(first), len(second)) < 2:
        return Ratio(value=float(np.exp(difference)), low=np.nan, high=np.nan, blocks=blocks)
    error = np.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
    half = float(distributions.t.ppf(0.5 + _CONFIDENCE / 2, freedom) * error)
    low, high = np.exp([difference - half, difference + half])
    return Ratio(value=float(np.exp(difference)), low=float(low), high=float(high), blocks=blocks)


def resolve(*runs: Run) -> float:
    """Return the share below which no difference is believed: what the A/A pairs miss 1 by, at least 1 %."""
    missed = [_LEAST_RESOLUTION]
    for run in runs:
        for twin in run.cells.loc[run.cells["role"] == "aa", "cell"]:
            logs = levels(run, twin, twin.removesuffix("/again"))
            if logs:
                missed.append(abs(float(np.exp(np.concatenate(logs).mean())) - 1))
    return max(missed)
