"""Own the judgement of a cell's samples: whether something disturbed them, and what."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from harness.analysis.samples import BlockTimes, CellSamples, Samples
from harness.analysis.stats import block_times
from harness.problem.problem import Array

# A tick of /proc/stat is 10 ms on every Linux that we know of (USER_HZ is part of its interface).
_TICK_NS = 10_000_000
MAX_STEAL_SHARE = 0.01
MAX_SWITCHES_PER_S = 50.0
MAX_FAULTS_PER_SAMPLE = 16
# Processors at work beyond the stated threads, as a share of these: more than Python, and threads of a pool
# that spin until they sleep while another pool is at work, take.
MAX_MORE_PROCESSORS = 0.25
MAX_DRIFT = 0.10
MAX_CLOCK_CHANGE = 0.05
_DRIFT_P = 0.01
# Of a cell with more blocks, means over neighbours: a trend has pairs of all values, their number squared.
_MOST_VALUES = 512
# Up to here the distribution of Kendall's correlation is counted out; beyond, the normal one is as good.
_MOST_COUNTED = 33


def _steal(samples: pd.DataFrame) -> str:
    share = samples["steal_ticks"].sum() * _TICK_NS / samples["elapsed_ns"].sum()
    if share <= MAX_STEAL_SHARE:
        return ""
    return f"steal time {100 * share:.0f} %"


def _switches(samples: pd.DataFrame) -> str:
    rate = samples["switches"].sum() / (samples["elapsed_ns"].sum() / 1e9)
    return f"{rate:.0f} context switches a second" if rate > MAX_SWITCHES_PER_S else ""


def _faults(samples: pd.DataFrame) -> str:
    faults = float(samples["faults"].median())
    return f"{faults:.0f} page faults a sample" if faults > MAX_FAULTS_PER_SAMPLE else ""


def _more_processors(samples: pd.DataFrame, threads: int) -> str:
    """Say where more processors were at work than the threads that a cell states.

    Its ratio to a cell that keeps to its threads is one of unequal shares of the machine.
    """
    told = samples[samples["cpu_ns"] > 0]  # none in runs that were recorded before it was
    if told.empty:
        return ""
    at_work = told["cpu_ns"].sum() / (told["elapsed_ns"] + told["call_ns"]).sum()
    if at_work <= threads * (1 + MAX_MORE_PROCESSORS):
        return ""
    return f"{at_work:.1f} processors at work for {threads} thread{'s'[: threads != 1]}"


def _throttled(samples: pd.DataFrame) -> str:
    marked = samples[samples["throttle"].str.len() > 0]
    if marked.empty:
        return ""
    names = ", ".join(sorted({name for found in marked["throttle"] for name in found}))
    return f"THROTTLED in {len(marked)} of {len(samples)} samples ({names})"


def trend(times: BlockTimes) -> float:
    """Return the relative change of a cell's time over the run, 0 where no trend is significant.

    Theil and Sen's slope over the blocks, which single disturbed blocks do not move; significant where
    Kendall's rank correlation with the block's number has p below 0.01. More than 512 blocks count as that
    many means over neighbours.
    """
    values = np.array(list(times.values()))
    if len(values) < 6 or np.ptp(values) == 0:
        return 0.0
    if len(values) > _MOST_VALUES:
        values = np.array([part.mean() for part in np.array_split(values, _MOST_VALUES)])
    first, second = np.triu_indices(len(values), 1)
    rises = values[second] - values[first]
    if rank_p(values, rises) > _DRIFT_P:
        return 0.0
    slope = np.median(rises / (second - first))
    return float(slope * (len(values) - 1) / np.median(values))


def rank_p(values: Array, rises: Array) -> float:
    """Return the p of Kendall's rank correlation of values with their place, two-sided.

    rises: of the later over the earlier value of each pair. Without ties and for few values it is counted
    over all orders, else it is of the normal approximation with ties taken into account (Kendall 1970).
    SciPy's function of that name is as good, and takes longer to load than a table to make.
    """
    count, balance = len(values), float(np.sign(rises).sum())
    ties = np.unique(values, return_counts=True)[1]
    if count <= _MOST_COUNTED and ties.max() == 1:
        inversions = np.ones(1)  # the share of the orders with 0, 1, 2, ... inversions
        for added in range(2, count + 1):
            inversions = np.convolve(inversions, np.full(added, 1 / added))
        fewest = int(len(rises) - abs(balance)) // 2
        return min(1.0, 2 * float(inversions[: fewest + 1].sum()))
    variance = (
        count * (count - 1) * (2 * count + 5) - (ties * (ties - 1) * (2 * ties + 5)).sum()
    ) / 18
    return math.erfc(abs(balance) / math.sqrt(2 * variance))


def _drift(own: CellSamples) -> str:
    change = trend(own.blocks)
    return f"drift of {100 * change:+.0f} % over the run" if abs(change) > MAX_DRIFT else ""


def reasons(samples: Samples, cell: str, threads: int) -> list[str]:
    """Return why a cell's samples are not to be trusted as they are; empty where nothing shows.

    Steal time above 1 % of the sampled time, more than 50 involuntary context switches a second, more than
    16 page faults in the median sample, a significant drift of more than 10 % over the run, more processors
    at work than the `threads` that the cell states. The cell is marked with them; no sample is dropped.
    """
    if cell not in samples:
        return []
    own = samples[cell]
    found = (_steal(own.frame), _switches(own.frame), _faults(own.frame), _drift(own),
             _throttled(own.frame), _more_processors(own.frame, threads))  # fmt: skip
    return [reason for reason in found if reason]


def clock_change(samples: Samples, reference: str) -> float:
    """Return how far the processor's clock moved between blocks, as a share, from a reference cell.

    The reference runs in registers alone (the FMA ceiling): its time moves with the clock and nothing else.
    The range between the 10th and the 90th percentile of its block times, over their median.
    """
    times = np.array(list(block_times(samples, reference).values()))
    if len(times) < 2:
        return 0.0
    low, high = np.percentile(times, (10, 90))
    return float((high - low) / np.median(times))
