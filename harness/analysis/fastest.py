"""Own what "the fastest FF" is: the denominator of every figure over it.

Among right and sampled FF of the baseline's shape, on one problem and under one set of conditions, of any
implementation and any provider, it is the one of the least median time of a pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

CellT = TypeVar("CellT")


def find_fastest(times: Iterable[tuple[CellT, float]]) -> CellT | None:
    """Return the cell of the least time among (cell, median time of a pass), the first of equals.

    A cell that was never sampled has the time NaN and doesn't count; None where no other is there.
    """
    sampled = [(cell, time) for cell, time in times if math.isfinite(time)]
    return min(sampled, key=lambda pair: pair[1])[0] if sampled else None
