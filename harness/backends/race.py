"""Own the race of several ways to run one pass: they are timed in turn, and a run keeps the one it chose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from harness.backends.timer import TimePasses


def least_times(
    times: Mapping[str, TimePasses], loops: Mapping[str, int], rounds: int
) -> dict[str, float]:
    """Return the least time of a pass of each way in ns, the best of rounds that are interleaved.

    times: run n passes and return their time in ns, by the way's name. loops: n for each.
    """
    least = dict.fromkeys(times, math.inf)
    for _ in range(rounds):
        for name, time in times.items():
            least[name] = min(least[name], time(loops[name]) / loops[name])
    return least


def require_known(tile: str, names: Iterable[str]) -> None:
    """Raise RuntimeError where the way that another process of the run chose is not among those here.

    A race run anew in each process may end otherwise, and one cell would be of several kernels.
    """
    if tile not in (known := list(names)):
        raise RuntimeError(f"this run's tile is {tile!r}, and here there are {'; '.join(known)}")
