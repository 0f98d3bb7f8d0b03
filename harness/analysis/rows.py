"""Own the rows that the tables and figures of a run are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.analysis.stats import Ratio
from harness.paper.published import PublishedCell
from harness.problem.axes import Conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Hold one cell of the paper's table, measured and published.

    status: `ok`, `none` (no such implementation or not asked for), or why there is no figure.
    resolved: the ratio lies outside of what the A/A pair shows that this machine can't tell from 1.
    """

    model: str
    level: int
    ratio: Ratio | None
    status: str
    published: PublishedCell | None
    remark: str = ""
    impossible: bool = False
    resolved: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """Hold one implementation of an FFF against the fastest FF."""

    cell: str
    implementation: str
    model: str
    provider: str
    level: int | None
    ratio: Ratio | None
    published: PublishedCell | None
    remark: str = ""
    impossible: bool = False
    resolved: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Hold the absolute figures of one cell. share is of the same provider's sgemm, level 3 only.

    of_ceiling: the least time of a pass here (roofline.floor_ns) as a share of its time, NaN for a ceiling.
    of_floor: the same of the sum of computing and moving (roofline.summed_floor_ns).
    unstable: what disturbed its samples. place, gbs, fastest_ns, width: where a ceiling's set lies, its
    rate in GB/s, its fastest sample, and the elements of a row. wall_ns: of a pass on a device, launches
    and waits included.
    """

    cell: str
    implementation: str
    model: str
    provider: str
    status: str
    reason: str
    pass_ns: float
    token_ns: float
    gflops: float
    share: float
    samples: int
    note: str
    of_ceiling: float = np.nan
    of_floor: float = np.nan
    impossible: bool = False
    place: str = ""
    gbs: float = np.nan
    fastest_ns: float = np.nan
    width: int = 0
    unstable: tuple[str, ...] = ()
    wall_ns: float = np.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Hold all that is said of one batch and width under one set of conditions.

    baseline: the model that the ratios are over.
    fastest: the cell that the speedups of `versus` are over. stand_in: whether it is of float32 because no
    FF of the section's own dtype was measured; aa is then that FF's too.
    """

    batch: int
    width: int
    baseline: str
    conditions: Conditions
    entries: dict[str, list[Entry]]  # by provider
    fastest: str
    stand_in: bool
    versus: list[Versus]
    aa: Ratio | None
    speeds: list[Speed]
