"""Own the rows that the tables and figures of a run are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.controls import Control
from harness.analysis.reach import Reach
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
    and waits included. low_ns, high_ns: the 95 % interval of the mean time of a pass.
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
    low_ns: float = np.nan
    high_ns: float = np.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuEntry:
    """Hold one cell of the paper's GPU columns, measured and published. status as in `Entry`."""

    model: str
    column: str
    ratio: Ratio | None
    status: str
    published: PublishedCell | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Hold the fastest FF of one precision, of any implementation and launch; cell is empty for none."""

    precision: str
    cell: str = ""
    implementation: str = ""
    launch: str = ""
    pass_ns: float = np.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Hold one FFF, in one precision and launch, against the fastest FF of each precision."""

    implementation: str
    model: str
    precision: str
    launch: str
    ratios: dict[str, Ratio | None]  # by the rival's precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Hold all that is said of one batch and width under one set of conditions.

    baseline: the model that the ratios are over.
    fastest: the cell that the speedups of `versus` are over. stand_in: whether it is of float32 because no
    FF of the section's own dtype was measured; aa is then that FF's too, and `lacking` says of each FF of
    that dtype why (implementation, reason).
    gpu: the paper's GPU columns, none for a run on the CPU. reach: how near the baseline's level 3 comes to
    the peak, None where that can't be said. controls: what the FFFs are compared with at equal work.
    """

    batch: int
    width: int
    baseline: str
    conditions: Conditions
    entries: dict[str, list[Entry]]  # by provider
    gpu: list[GpuEntry]
    fastest: str
    stand_in: bool
    lacking: list[tuple[str, str]]
    versus: list[Versus]
    aa: Ratio | None
    speeds: list[Speed]
    reach: Reach | None = None
    controls: Sequence[Control] = ()

    @property
    def is_beside_paper(self) -> bool:
        """Say whether a published figure stands beside any that was measured here."""
        published = [*(g.published for g in self.gpu), *(v.published for v in self.versus)]
        published += [e.published for entries in self.entries.values() for e in entries]
        return any(published)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contests:
    """Hold best against best on a device at one point's batch, width, data and place of the weights.

    rivals: one a precision. rows: every FFF against each of them, in the tables' order.
    """

    point: Point
    rivals: list[Rival]
    rows: list[Contest]
