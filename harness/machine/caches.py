"""Own what caches a core really gets: those that the system tells, corrected by the curve of a walk.

A virtual machine reports its host's last level, of which a core may reach a small part; another hides it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.problem.ceilings import ASSUMED_CACHES
from harness.records.facts import CacheWalk, ReadRate

# The last level is seen where it gives this many times the memory's rate: less may be pages and prefetching.
_SEEN = 1.25
# A told size stands where the curve falls within these factors of it: the fall is gradual, sets are steps.
# Below it more is granted: neighbours hold parts of a last level that they share, now more and now less.
_LEAST_OF_TOLD, _MOST_OF_TOLD = 1 / 3, 2
# How far behind the second level the third is looked for. Where none is told, a set of twice the second level
# still finds some of itself there, and would pass for a third.
_BEHIND_TOLD, _BEHIND_UNTOLD = 2, 4


def smooth(curve: Sequence[ReadRate]) -> list[ReadRate]:
    """Return a curve, by rising sets, whose rate never rises with the set.

    Each rate is the highest of its set and of all larger ones: a disturbance only ever slows, and what a
    larger set reaches the smaller one can.
    """
    found: list[ReadRate] = []
    best = 0.0
    for point in sorted(curve, key=lambda point: -point.set_bytes):
        best = max(best, point.gbs)
        found.append(ReadRate(set_bytes=point.set_bytes, gbs=best))
    return found[::-1]


def _level(name: str) -> int:
    return int(name[1]) if name[1:2].isdigit() else 0


def _split(told: Mapping[str, int]) -> tuple[dict[str, int], str, int]:
    """Return the levels before the last one, its name and its told bytes, 0 where it isn't told."""
    sizes = {name: size for name, size in sorted(told.items()) if size > 0}
    if sizes and _level(last := list(sizes)[-1]) >= 3:
        return {name: size for name, size in sizes.items() if name != last}, last, sizes[last]
    if sizes:
        return sizes, "L3", 0
    return {"L1d": ASSUMED_CACHES["L1"], "L2": ASSUMED_CACHES["L2"]}, "L3", 0


def see_last_level(curve: Sequence[ReadRate], behind_bytes: int) -> int:
    """Return the largest set that the last level serves, 0 where the curve shows none.

    behind_bytes: a set that the levels before don't serve. Its rate is taken for that of the last level, the
    rate of the largest set for the memory's; the last level ends where the rate has fallen half of the way
    between them, in logarithms.
    """
    points = smooth(curve)
    beyond = [point for point in points if point.set_bytes >= behind_bytes]
    if len(beyond) < 2 or beyond[0].gbs < _SEEN * beyond[-1].gbs:
        return 0
    half_way = (beyond[0].gbs * beyond[-1].gbs) ** 0.5
    return max(point.set_bytes for point in beyond if point.gbs >= half_way)


def find_effective(
    told: Mapping[str, int],
    curve: Sequence[ReadRate],
    *,
    threads: int,
    last_level_caches: int,
    seconds: float,
) -> CacheWalk:
    """Return what a walk says of the caches that the system tells.

    told: L1d, L2, L3 in bytes, as one core sees them. curve: rates of sets that are spread over `threads`,
    which have as many first and second levels and reach at most `last_level_caches` of the last. The levels
    before the last are each core's own, and are taken as told: what a virtual machine gets wrong is the one
    that others share.
    """
    own, last, told_bytes = _split(told)
    reached = max(1, min(threads, last_level_caches))
    before = threads * max(own.values(), default=ASSUMED_CACHES["L2"])
    served = see_last_level(curve, (_BEHIND_TOLD if told_bytes else _BEHIND_UNTOLD) * before)
    each = served // reached
    kept = {name: size for name, size in told.items() if size > 0}
    if not served:
        caches, found = kept, "unseen"
    elif _LEAST_OF_TOLD * told_bytes <= each < _MOST_OF_TOLD * told_bytes:
        caches, found = kept, "told"
    else:
        caches, found = {**own, last: each}, "measured"
    return CacheWalk.model_validate(
        {"threads": threads, "seconds": seconds, "curve": curve, "caches": caches, "found": found}
    )
