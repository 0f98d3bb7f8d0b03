"""Own what is impossible: speedups above the operation count, and what may explain one."""

from __future__ import annotations

import math

from harness.analysis.ceilings import Ceilings
from harness.analysis.roofline import SLACK, row_bytes, touched_bytes
from harness.analysis.stats import Ratio
from harness.problem.problem import TREES
from harness.records.schema import CellRecord

# A baseline below this share of the bandwidth is not bound by it, and can't be excused by it.
_BOUND_BY_STREAMING = 0.5
_INDEPENDENT = (1, 2)  # BLAS levels that read all weights anew for each token
_HELD_UP = 0.5  # of the least streaming rate: slower baselines are slow for another reason


def _streamed_bytes(cell: CellRecord) -> int:
    """Return the weight bytes that a baseline's pass reads: all for each token at levels 1 and 2."""
    times = cell.batch if cell.level in _INDEPENDENT else 1
    return touched_bytes(cell) * times


def _rows_by_place(ceilings: Ceilings, cell: CellRecord) -> list[tuple[str, int]]:
    """Return (place, rows): where each of the rows that a token needs can lie, the hottest in the fastest.

    The rows near a root are read most often: with all rows down to a depth held in a cache, the rows of a
    token's path down to there come from it.
    """
    row = row_bytes(cell)
    if cell.layer not in TREES:  # a leaf FFF's neurons lie in its leaves, wherever those fit
        return [(ceilings.place_of(touched_bytes(cell)), cell.hidden)]
    trees = cell.trees
    sizes = [trees * (2 ** (depth + 1) - 1) * row for depth in range(cell.depth + 1)]
    return [(ceilings.place_of(min(size, touched_bytes(cell))), trees) for size in sizes]


def _is_crowded(ceilings: Ceilings, size: int) -> bool:
    """Say whether a set fills more than half of its cache, so that parts of it may be pushed out."""
    return 2 * size > ceilings.capacity.get(ceilings.place_of(size), math.inf)


def _streaming_range(ceilings: Ceilings, base: CellRecord) -> tuple[float, float]:
    """Return the rates in GB/s between which a layer is bound by streaming its weights.

    From half of the median sample's bandwidth at the place that holds them to all of the fastest sample's.
    Weights that fill more than half of a cache may in part be pushed out of it: then half of the next slower
    place's bandwidth is enough.
    """
    size, times = touched_bytes(base), ceilings.grants(base)
    place = ceilings.place_of(size)
    typical = ceilings.slower(place) if _is_crowded(ceilings, size) else place
    least = _BOUND_BY_STREAMING * ceilings.typical_at(typical) * times
    return least, SLACK * ceilings.bandwidth_at(place) * times


def streams_from(ceilings: Ceilings, cell: CellRecord, time: float) -> str:
    """Return the place that an FF which is bound by streaming its weights has them from; empty if it is not.

    time: of a pass, in ns.
    """
    if cell.layer != "ff":
        return ""
    least, most = _streaming_range(ceilings, cell)
    bound = least <= _streamed_bytes(cell) / time <= most
    return ceilings.place_of(touched_bytes(cell)) if bound else ""


def _streaming_bound(ceilings: Ceilings, base: CellRecord, time: float) -> str:
    """Return how the baseline is bound by streaming its weights, an empty string if it is not."""
    place = streams_from(ceilings, base, time)
    if not place:
        return ""
    size, times = touched_bytes(base), ceilings.grants(base)
    measured = f"{ceilings.bandwidth_at(place) * times:.3g} GB/s measured there"
    if _is_crowded(ceilings, size):
        next_place = ceilings.slower(place)
        least = ceilings.typical_at(next_place) * times
        filled = size / ceilings.capacity[place]
        measured += f", {least:.3g} in {next_place}; they fill {100 * filled:.0f} % of {place}"
    rate = _streamed_bytes(base) / time
    level = f" at level {base.level}" if base.level is not None else ""
    often = "per token" if base.level in _INDEPENDENT else "a pass"
    return (
        f"the FF{level} is bound by streaming {size / 1e6:.0f} MB of weights {often} from {place} "
        f"at {rate:.3g} GB/s ({measured})"
    )


def _least_ns(ceilings: Ceilings, cell: CellRecord, rows: list[tuple[str, int]]) -> float:
    """Return the least time of a pass that reads the rows of each token from where they lie."""
    row = row_bytes(cell)
    per_token = sum(row * count / ceilings.bandwidth_at(place) for place, count in rows)
    return per_token * cell.batch / ceilings.grants(cell)


def explain_above_limit(
    ceilings: Ceilings,
    base: CellRecord,
    cell: CellRecord,
    time: float,
    speedup: float,
    limit: float,
) -> str:
    """Return why a speedup may pass the limit of the operation count, or an empty string if it may not.

    time: of the baseline's pass, in ns.

    It may where all of these hold: the baseline is bound by streaming its weights; the other layer finds
    rows of its own in a faster place, or is the smaller one where the baseline fills more than half of its
    cache; and the speedup is within what the measured bandwidths allow.
    """
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


def explain_by_disturbance(
    ceilings: Ceilings,
    base: CellRecord,
    cell: CellRecord,
    time: float,
    speedup: float,
    limit: float,
) -> str:
    """Return why a speedup above the limit is that of a disturbed baseline, or an empty string if it is not.

    Weights that fill most of a cache which is shared with others are pushed out of it at times, and the
    memory behind it is shared too. A baseline that streams them at less than the least of the two, but not
    below half of that, was held up. Where the speedup would pass had the baseline run at the least rate,
    the figure is no fault of the other layer. time: of the baseline's pass, in ns.
    """
    if base.layer != "ff" or base.level not in _INDEPENDENT:
        return ""
    size, (least, _) = touched_bytes(base), _streaming_range(ceilings, base)
    rate = _streamed_bytes(base) / time
    if not _is_crowded(ceilings, size) or not _HELD_UP * least <= rate < least:
        return ""
    calm, calm_time = speedup * rate / least, time * rate / least
    if calm > SLACK * limit and not explain_above_limit(
        ceilings, base, cell, calm_time, calm, limit
    ):
        return ""
    return (
        f"above the limit of {limit:.3g}x, since the baseline was DISTURBED: it streams {size / 1e6:.0f} MB "
        f"of weights per token at {rate:.3g} GB/s, where {least / _BOUND_BY_STREAMING:.3g} was measured "
        "behind the cache that they crowd; whoever shares that cache held it up, so measure again"
    )


def judge_speedup(
    ceilings: Ceilings,
    base: CellRecord,
    cell: CellRecord,
    time: float,
    ratio: Ratio | None,
    limit: float,
    resolution: float,
) -> tuple[str, bool]:
    """Return a remark on a speedup and whether it is impossible; ("", False) where it keeps its limit.

    time: of the baseline's pass, in ns. resolution: the |log ratio| up to which the A/A pair tells no
    difference. The lower end of the interval counts. A speedup above its limit is remarked on and not judged
    where it has no interval (one block: noise alone may have put it there), where the run measured no
    bandwidth, or where one kernel under two names differs from itself by as much.
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
    for explain in (explain_above_limit, explain_by_disturbance):
        if remark := explain(ceilings, base, cell, time, least, limit):
            return remark, False
    if least <= SLACK * limit * math.exp(resolution):
        return f"above the limit of {limit:.3g}x by less than the A/A pair resolves here", False
    return f"IMPOSSIBLE: above the limit of {limit:.2f}x, and not explained by locality", True
