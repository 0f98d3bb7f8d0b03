"""Own the ceilings that a run measured: peak rates by precision, bandwidths by place, capacities."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from harness.analysis import stats
from harness.analysis.index import RunIndex
from harness.problem.ceilings import MEMORY, find_capacities
from harness.records.schema import CellRecord, MachineRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """Hold the measured ceilings of a number of threads together.

    threads: that number, the sweep's. 1 as well where a run with more was recorded before the loops of our
    own shared their work: each thread of a cell is then granted all that one thread reached.
    flops: peak rate in GFLOP/s (flops a ns). bandwidth: GB/s (bytes a ns) by place, never lower in a faster
    place. capacity: bytes by cache. Empty or NaN where the run measured none.

    Both are the fastest sample of any ceiling of the kind: a ceiling is what was seen to be possible, and a
    disturbance only ever slows. bandwidth is the highest of all streams and the gather: a pass mixes reads
    with writes, and what can be read and written at once is more than what can be read.
    typical: the same of the median samples: what this run could count on, its neighbours included.
    peaks: the peak rate by precision: of the CPU also that of bfloat16, where the processor has such products
    and the run measured them, of a device those of tensor cores.
    """

    flops: float
    bandwidth: dict[str, float]
    capacity: dict[str, int]
    threads: int = 1
    typical: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)

    def peak_of(self, cell: CellRecord) -> float:
        """Return the peak rate of a cell's own precision in flops a ns, NaN where none was measured."""
        name = precision(cell)
        return self.peaks.get(name, self.flops if name == "float32" else math.nan)

    def grants(self, cell: CellRecord) -> float:
        """Return how many times what was measured a cell is granted: 1 where it has as many threads."""
        return max(1, cell.threads) / self.threads

    def place_of(self, size: int) -> str:
        """Return the fastest place that holds a set of `size` bytes."""
        return next((p for p, most in self.capacity.items() if size <= most), MEMORY)

    def _order(self) -> list[str]:
        return [*self.capacity, MEMORY]

    def is_faster(self, place: str, other: str) -> bool:
        """Say whether a place is nearer to the processor than another."""
        return self._order().index(place) < self._order().index(other)

    def slower(self, place: str) -> str:
        """Return the next slower place, the memory for itself."""
        return self._order()[min(self._order().index(place) + 1, len(self.capacity))]

    def _at(self, place: str, known: dict[str, float]) -> float:
        slower = self._order()[self._order().index(place) :]
        return next((known[p] for p in slower if p in known), math.nan)

    def bandwidth_at(self, place: str) -> float:
        """Return the bandwidth of a place, that of the next slower one where it was not measured."""
        return self._at(place, self.bandwidth)

    def typical_at(self, place: str) -> float:
        """Return the typical bandwidth of a place, that of the next slower one where it was not measured."""
        return self._at(place, self.typical or self.bandwidth)


def precision(cell: CellRecord) -> str:
    """Return what a cell's products are computed in: `float32`, `tf32` or `bfloat16`."""
    return "tf32" if cell.conditions.math == "tf32" else cell.conditions.dtype


def capacities(machine: MachineRecord, threads: int = 1) -> dict[str, int]:
    """Return the bytes of each cache that passes of a run went through, the fastest first.

    Those that a core was seen to get count, where the run looked; else those that the system tells.
    """
    device, walk = machine.device, machine.cache_walk
    if device is None:
        caches = machine.caches if walk is None else walk.caches
        return find_capacities(caches, threads, machine.last_level_caches)
    return {"L2": device.l2_bytes} if device.l2_bytes else {}


def find_peakless(run: RunIndex, known: Ceilings) -> dict[str, list[str]]:
    """Return the precisions of a run's layers that have no peak, and why their ceilings were not measured.

    Empty where the run measured no peak at all: then nothing is to be said of one.
    """
    if not known.peaks:
        return {}
    layers = {precision(c) for c in run.right("layer")}
    return {
        name: sorted(
            {c.reason for c in run.of_role("ceiling") if precision(c) == name and c.status != "ok"}
        )
        for name in sorted(layers - set(known.peaks))
    }


def place_name(cell: CellRecord) -> str:
    """Return the place of a ceiling's set, empty where it has none."""
    return cell.notes.get("place", "")


def is_stream(cell: CellRecord) -> bool:
    """Say whether a ceiling's rate is of bytes."""
    return cell.role == "ceiling" and cell.flops == 0


def _threads(cell: CellRecord) -> int:
    """Return the threads that a ceiling ran on: a provider's product on all of the run's.

    Loops of our own say in a note that they shared their work; those without it ran on one.
    """
    return cell.threads if cell.provider else int(cell.notes.get("threads", 1))


def measure(run: RunIndex) -> Ceilings:
    """Return the ceilings that a run measured."""
    found = run.right("ceiling")
    threads = max((_threads(c) for c in found if not c.provider), default=1)
    peaks, bandwidth, typical = dict[str, float](), dict[str, float](), dict[str, float]()
    for cell in found:
        time = stats.fastest_ns(run.samples, cell.cell)
        if not math.isfinite(time):
            continue
        if is_stream(cell):
            place, rate = place_name(cell), cell.bytes_moved / time
            bandwidth[place] = max(bandwidth.get(place, 0.0), rate)
            median = cell.bytes_moved / stats.pass_ns(run.samples, cell.cell)
            typical[place] = max(typical.get(place, 0.0), median)
        else:
            name, rate = precision(cell), cell.flops / time * threads / _threads(cell)
            peaks[name] = max(peaks.get(name, 0.0), rate)
    capacity = capacities(run.head.machine, threads)
    below = 0.0
    for place in reversed([*capacity, MEMORY]):
        if place in bandwidth:
            below = bandwidth[place] = max(below, bandwidth[place])
    return Ceilings(
        threads=threads, flops=peaks.get("float32", math.nan), bandwidth=bandwidth, capacity=capacity,
        typical=typical, peaks=peaks,
    )  # fmt: skip
