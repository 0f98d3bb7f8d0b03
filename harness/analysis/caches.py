"""Own what a run says of its caches: the curve of reading, what was told, and what a core gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.problem.ceilings import find_capacities
from harness.records.facts import ReadRate
from harness.records.schema import MachineRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCurve:
    """Hold the rates of reading over working sets, and the caches of the threads that read, in bytes by name.

    told: as the system tells, assumed ones where it tells none. effective: as the curve shows.
    """

    threads: int
    rates: Sequence[ReadRate]
    told: Mapping[str, int]
    effective: Mapping[str, int]

    def rate_at(self, size: int) -> float:
        """Return the rate in GB/s of the largest set of at most `size` bytes, of the first one if none is."""
        fitting = [rate for rate in self.rates if rate.set_bytes <= size]
        return (fitting or self.rates)[-1 if fitting else 0].gbs


def find_curve(machine: MachineRecord) -> CacheCurve | None:
    """Return the curve that a run began with, by rising sets; None where it has none."""
    walk = machine.cache_walk
    if walk is None or len(walk.curve) < 2:
        return None
    told, effective = (
        find_capacities(caches, walk.threads, machine.last_level_caches)
        for caches in (machine.caches, walk.caches)
    )
    return CacheCurve(
        threads=walk.threads, rates=sorted(walk.curve, key=lambda rate: rate.set_bytes), told=told,
        effective=effective,
    )  # fmt: skip
