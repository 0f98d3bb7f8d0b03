"""Own what a run's ceilings say of its cells: the least time of a pass, and what is impossible."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from harness import stats
from harness.ceilings import MEMORY
from harness.measured import Ceilings
from harness.problem import ITEM_BYTES
from harness.reader import Run

# A share or speedup may pass its bound by this much: ceilings are themselves measured.
SLACK = 1.05
# A baseline below this share of the bandwidth is not bound by it, and can't be excused by it.
_BOUND_BY_STREAMING = 0.5
_INDEPENDENT = (1, 2)  # BLAS levels that read all weights anew for each token


# ---- the least time of a pass -------------------------------------------------------------------


def row_bytes(cell: Any) -> int:
    """Return the bytes of a row of w_in and one of w_out; as many as one of x and one of y."""
    return ITEM_BYTES[cell["dtype"]] * int(cell["d_in"] + cell["d_out"])


def touched_bytes(cell: Any) -> int:
    """Return the bytes of the weight rows that one pass reads at least once.

    FF: all. FFF: the rows that the record counted on the tokens' paths, one path where it did not count.
    """
    row = row_bytes(cell)
    if cell["layer"] != "fff":
        return int(cell["hidden"]) * row
    return int(cell["nodes_touched"] or cell["trees"] * (cell["depth"] + 1)) * row


def compulsory_bytes(cell: Any) -> int:
    """Return the bytes that any correct pass moves: x and y once, each touched weight row once."""
    return int(cell["batch"]) * row_bytes(cell) + touched_bytes(cell)


def traffic_ns(ceilings: Ceilings, size: int) -> float:
    """Return the least time to move a set of `size` bytes once, passes being repeated.

    A cache keeps at most its capacity from one pass to the next, so that what exceeds it has to come from
    the next slower place each time, and only that. The first part of the set is counted at the first
    cache's bandwidth, the part up to the second's capacity at the second's, the rest beyond the last cache
    at the memory's. A set that fits a level is thus never charged with a slower one.
    """
    time, held = 0.0, 0
    for place in [*ceilings.capacity, MEMORY]:
        most = min(size, ceilings.capacity.get(place, size))
        time += max(0, most - held) / ceilings.bandwidth_at(place)
        held = max(held, most)
    return time


def floor_ns(ceilings: Ceilings, cell: Any) -> float:
    """Return the least time of a pass of a layer on this machine; NaN where no ceiling was measured.

    max(flops / peak, compulsory bytes / bandwidth): the larger, not the sum, since a processor computes
    while it loads, and a sum would call a kernel impossible that does both at once. Each of the cell's
    threads is granted the full rate of one, which no machine exceeds. The peak is that of the cell's
    precision; of the CPU only float32's is measured, so that of bfloat16 the bytes alone bound.
    """
    compute = cell["flops"] / ceilings.peak_of(cell)
    traffic = traffic_ns(ceilings, compulsory_bytes(cell))
    return float(np.fmax(compute, traffic)) / max(1, int(cell["threads"]))


def summed_floor_ns(ceilings: Ceilings, cell: Any) -> float:
    """Return the least time of a pass that does one thing at a time; NaN where no ceiling was measured.

    flops / peak + compulsory bytes / bandwidth. A steadier aim than the larger of the two, and no bound: a
    kernel that computes while it loads may pass it. Weights that are cold as a pass begins come from the
    memory whatever their size, and x and y with them. Of bfloat16 the bytes alone, as in `floor_ns`.
    """
    compute = cell["flops"] / ceilings.peak_of(cell)
    if math.isnan(compute) and cell["dtype"] != "float32":
        compute = 0.0
    size = compulsory_bytes(cell)
    cold = cell["weights"] != "hot"
    traffic = size / ceilings.bandwidth_at(MEMORY) if cold else traffic_ns(ceilings, size)
    return float(compute + traffic) / max(1, int(cell["threads"]))


# ---- speedups above the operation count ---------------------------------------------------------


def _streamed_bytes(cell: Any) -> int:
    """Return the weight bytes that a baseline's pass reads: all for each token at levels 1 and 2."""
    times = int(cell["batch"]) if cell["level"] in _INDEPENDENT else 1
    return touched_bytes(cell) * times


def _rows_by_place(ceilings: Ceilings, cell: Any) -> list[tuple[str, int]]:
    """Return (place, rows): where each of the rows that a token needs can lie, the hottest in the fastest.

    The rows near a root are read most often: with all rows down to a depth held in a cache, the rows of a
    token's path down to there come from it.
    """
    row = row_bytes(cell)
    if cell["layer"] != "fff":
        return [(ceilings.place_of(touched_bytes(cell)), int(cell["hidden"]))]
    trees = int(cell["trees"])
    sizes = [trees * (2 ** (depth + 1) - 1) * row for depth in range(int(cell["depth"]) + 1)]
    return [(ceilings.place_of(min(size, touched_bytes(cell))), trees) for size in sizes]


def _is_crowded(ceilings: Ceilings, size: int) -> bool:
    """Say whether a set fills more than half of its cache, so that parts of it may be pushed out."""
    return 2 * size > ceilings.capacity.get(ceilings.place_of(size), math.inf)


def _streaming_bound(ceilings: Ceilings, base: Any, time: float) -> str:
    """Return how the baseline is bound by streaming its weights, an empty string if it is not.

    It is where it streams at no less than half and no more than all of the bandwidth measured at the place
    that holds its weights: half of the median sample's, all of the fastest sample's. Weights that fill more
    than half of a cache may in part be pushed out of it: then half of the next slower place's bandwidth is
    enough.
    """
    if base["layer"] != "ff":
        return ""
    size, threads = touched_bytes(base), max(1, int(base["threads"]))
    place = ceilings.place_of(size)
    most = ceilings.bandwidth_at(place) * threads
    least, measured = ceilings.typical_at(place) * threads, f"{most:.3g} GB/s measured there"
    if _is_crowded(ceilings, size):
        next_place = ceilings.slower(place)
        least = ceilings.typical_at(next_place) * threads
        filled = size / ceilings.capacity[place]
        measured += f", {least:.3g} in {next_place}; they fill {100 * filled:.0f} % of {place}"
    rate = _streamed_bytes(base) / time
    if not _BOUND_BY_STREAMING * least <= rate <= SLACK * most:
        return ""
    level = f" at level {int(base['level'])}" if pd.notna(base["level"]) else ""
    often = "per token" if base["level"] in _INDEPENDENT else "a pass"
    return (
        f"the FF{level} is bound by streaming {size / 1e6:.0f} MB of weights {often} from {place} "
        f"at {rate:.3g} GB/s ({measured})"
    )


def _least_ns(ceilings: Ceilings, cell: Any, rows: list[tuple[str, int]]) -> float:
    """Return the least time of a pass that reads the rows of each token from where they lie."""
    row = row_bytes(cell)
    per_token = sum(row * count / ceilings.bandwidth_at(place) for place, count in rows)
    return per_token * int(cell["batch"]) / max(1, int(cell["threads"]))


def explain_above_limit(
    run: Run, ceilings: Ceilings, base: Any, cell: Any, speedup: float, limit: float
) -> str:
    """Return why a speedup may pass the limit of the operation count, or an empty string if it may not.

    It may where all of these hold: the baseline is bound by streaming its weights; the other layer finds
    rows of its own in a faster place, or is the smaller one where the baseline fills more than half of its
    cache; and the speedup is within what the measured bandwidths allow.
    """
    time = stats.pass_ns(run.samples, base["cell"])
    bound = _streaming_bound(ceilings, base, time)
    if not bound:
        return ""
    place, rows = ceilings.place_of(touched_bytes(base)), _rows_by_place(ceilings, cell)
    faster = sum(count for where, count in rows if ceilings.is_faster(where, place))
    less_crowded = _is_crowded(ceilings, touched_bytes(base)) and touched_bytes(
        cell
    ) < touched_bytes(base)
    allowed = time / _least_ns(ceilings, cell, rows)
    if not (faster or less_crowded) or not speedup <= SLACK * allowed:
        return ""
    total = sum(count for _, count in rows)
    what = (
        f"{faster} of the {total} rows that a token needs here fit a faster place"
        if faster
        else f"this layer's {touched_bytes(cell) / 1e6:.0f} MB are crowded out of it less"
    )
    return f"above the limit of {limit:.3g}x: {bound}; {what}, which allows up to {allowed:.3g}x"


def judge_speedup(
    run: Run, ceilings: Ceilings, base: Any, cell: Any, ratio: stats.Ratio | None, limit: float
) -> tuple[str, bool]:
    """Return a remark on a speedup and whether it is impossible; ("", False) where it keeps its limit.

    The lower end of the interval counts. A speedup above its limit is remarked on and not judged where it
    has no interval (one block: noise alone may have put it there) or where the run measured no bandwidth.
    """
    if ratio is None:
        return "", False
    least = ratio.low if ratio.known else ratio.value
    if not least > SLACK * limit:
        return "", False
    if not ratio.known:
        return f"above the limit of {limit:.3g}x; one block gives no interval to judge it by", False
    if not ceilings.bandwidth:
        return (
            f"above the limit of {limit:.3g}x; no bandwidth was measured that could explain it",
            False,
        )
    if remark := explain_above_limit(run, ceilings, base, cell, least, limit):
        return remark, False
    return f"IMPOSSIBLE: above the limit of {limit:.2f}x, and not explained by locality", True
