"""Own the least time of a pass that a run's ceilings leave, and its cells below their roofs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.analysis.ceilings import Ceilings
from harness.problem.ceilings import MEMORY
from harness.problem.models import parse_model
from harness.problem.problem import EXPERTS, ITEM_BYTES, TREES
from harness.records.schema import CellRecord

if TYPE_CHECKING:  # whose rows hold shares of these
    from harness.analysis.rows import Point, Speed

# A share or speedup may pass its bound by this much: ceilings are themselves measured.
SLACK = 1.05


def row_bytes(cell: CellRecord) -> int:
    """Return the bytes of a row of w_in and one of w_out; as many as one of x and one of y."""
    return ITEM_BYTES[cell.conditions.dtype] * (cell.d_in + cell.d_out)


def _least_bytes(cell: CellRecord) -> int:
    """Return the bytes of weights that one token of a control needs."""
    one = parse_model(cell.model).problem(batch=1, width=cell.d_in, seed=0)
    width = cell.d_in + cell.d_out
    return (one.bytes_moved() // one.item_bytes - width) * ITEM_BYTES[cell.conditions.dtype]


def touched_bytes(cell: CellRecord) -> int:
    """Return the bytes of the weight rows that one pass reads at least once.

    FF: all. FFF: the rows that the record counted on the tokens' paths, one path where it did not count.
    Leaf FFF: the routers' rows and the leaves that it counted, those of one token where it did not count.
    Control: all rows that score, and the experts that it counted.
    """
    row = row_bytes(cell)
    if cell.layer == "leaf":
        turns = cell.depth * ITEM_BYTES[cell.conditions.dtype] * cell.d_in
        return cell.working_set_bytes or cell.hidden * row + turns
    if cell.layer in EXPERTS:
        return cell.working_set_bytes or _least_bytes(cell)
    if cell.layer not in TREES:
        return cell.hidden * row
    return (cell.nodes_touched or cell.trees * (cell.depth + 1)) * row


def compulsory_bytes(cell: CellRecord) -> int:
    """Return the bytes that any correct pass moves: x and y once, each touched weight row once."""
    return cell.batch * row_bytes(cell) + touched_bytes(cell)


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


def floor_ns(ceilings: Ceilings, cell: CellRecord) -> float:
    """Return the least time of a pass of a layer on this machine; NaN where no ceiling was measured.

    max(flops / peak, compulsory bytes / bandwidth): the larger, not the sum, since a processor computes
    while it loads, and a sum would call a kernel impossible that does both at once. A cell of several
    threads is granted what as many reached together. The peak is that of the cell's precision; where a run
    has none of it the bytes alone bound.
    """
    compute = cell.flops / ceilings.peak_of(cell)
    traffic = traffic_ns(ceilings, compulsory_bytes(cell))
    return float(np.fmax(compute, traffic)) / ceilings.grants(cell)


def floor_parts_ns(ceilings: Ceilings, cell: CellRecord) -> tuple[float, float]:
    """Return the least time in ns of a pass's operations and that of its compulsory bytes.

    Weights that are cold as a pass begins come from the memory whatever their size, and x and y with them.
    The first is NaN where the peak of the cell's precision was not measured: that of another one says nothing
    of it. Both are NaN where no ceiling was.
    """
    compute = cell.flops / ceilings.peak_of(cell)
    size = compulsory_bytes(cell)
    cold = cell.conditions.weights != "hot"
    traffic = size / ceilings.bandwidth_at(MEMORY) if cold else traffic_ns(ceilings, size)
    return float(compute) / ceilings.grants(cell), float(traffic) / ceilings.grants(cell)


def summed_floor_ns(ceilings: Ceilings, cell: CellRecord) -> float:
    """Return the least time of a pass that does one thing at a time; NaN where no ceiling was measured.

    flops / peak + compulsory bytes / bandwidth. A steadier aim than the larger of the two, and no bound: a
    kernel that computes while it loads may pass it.
    """
    return sum(floor_parts_ns(ceilings, cell))


def intensity(cell: CellRecord) -> float:
    """Return the operations of a layer's pass for each compulsory byte: its place on a roofline."""
    return cell.flops / compulsory_bytes(cell)


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineCell:
    """Hold one cell of a roofline: its operations for each compulsory byte, and its speed, with its rate."""

    point: Point
    speed: Speed
    intensity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Hold a roofline: GB/s of each place and GFLOP/s of each precision, and the cells below them."""

    bandwidth: Mapping[str, float]
    peaks: Mapping[str, float]
    cells: Sequence[RooflineCell]

    @property
    def peak(self) -> float:
        """Return the highest peak in GFLOP/s."""
        return max(self.peaks.values())

    @property
    def ridges(self) -> list[float]:
        """Return the intensities at which the bandwidth of each place reaches the highest peak."""
        return [self.peak / gbs for gbs in self.bandwidth.values()]


def find_roofline(
    known: Ceilings, records: Mapping[str, CellRecord], points: Sequence[Point]
) -> Roofline | None:
    """Return the roofline of a run's layers, None where it measured no cell, no bandwidth or no peak."""
    cells = [
        RooflineCell(point=point, speed=speed, intensity=intensity(records[speed.cell]))
        for point in points
        for speed in point.speeds
        if speed.gflops > 0
    ]
    if not cells or not known.bandwidth or not known.peaks:
        return None
    return Roofline(
        bandwidth={place: known.bandwidth_at(place) for place in known.bandwidth},
        peaks=known.peaks, cells=cells,
    )  # fmt: skip
