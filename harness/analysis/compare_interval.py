"""Own the estimate of how much longer a cell takes in one run than in another."""

from __future__ import annotations

import numpy as np

from harness.analysis import stats
from harness.analysis.index import RunIndex
from harness.analysis.samples import Samples
from harness.analysis.stats import Ratio
from harness.problem.problem import Array

_LEAST_RESOLUTION = 0.01  # no machine with an operating system is trusted below this


def levels(samples: Samples, cell: str, reference: str) -> list[Array]:
    """Return the log of cell over reference by block, an array for each process."""
    both = stats.shared_blocks(
        stats.block_times(samples, cell), stats.block_times(samples, reference)
    )
    by_process: dict[int, list[float]] = {}
    for (process, _), times in both.items():
        by_process.setdefault(process, []).append(times)
    return [np.log(found) for found in by_process.values()]


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
    half = float(stats.student_quantile(freedom) * error)
    low, high = np.exp([difference - half, difference + half])
    return Ratio(value=float(np.exp(difference)), low=float(low), high=float(high), blocks=blocks)


def resolve(*runs: RunIndex) -> float:
    """Return the share below which no difference is believed: what the A/A pairs miss 1 by, at least 1 %."""
    missed = [_LEAST_RESOLUTION]
    for run in runs:
        for twin in run.of_role("aa"):
            logs = levels(run.samples, twin.cell, twin.cell.removesuffix("/again"))
            if logs:
                missed.append(abs(float(np.exp(np.concatenate(logs).mean())) - 1))
    return max(missed)
