"""Own what a run says of bandwidth over the working set: each pattern's rate at the sets that it walked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis import roofline
from harness.analysis.analysis import Analysis
from harness.analysis.caches import CacheCurve
from harness.analysis.rows import Speed

# The patterns in the order of their markers.
PATTERNS = ("read", "write", "copy", "stream", "gather")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Hold one loop over memory: its pattern, the bytes of its set and its figures."""

    pattern: str
    set_bytes: int
    speed: Speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidths:
    """Hold the bandwidths of a run.

    streams: in the order of the tables. curve: what reading sets of many sizes showed before the run.
    capacity: bytes of each cache that passes went through. of: what the rates are of, in words.
    """

    streams: Sequence[Stream]
    curve: CacheCurve | None
    capacity: Mapping[str, int]
    of: str

    @property
    def sizes(self) -> list[float]:
        """Return the sizes of all sets."""
        walked = self.curve.rates if self.curve else ()
        return [*(float(s.set_bytes) for s in self.streams), *(float(r.set_bytes) for r in walked)]

    @property
    def rates(self) -> list[float]:
        """Return all rates in GB/s, in the order of the sizes."""
        walked = self.curve.rates if self.curve else ()
        return [*(s.speed.gbs for s in self.streams), *(r.gbs for r in walked)]

    @property
    def shapes(self) -> dict[str, int]:
        """Return the place of each pattern's marker, in the order in which they came."""
        names = list(dict.fromkeys(s.pattern for s in self.streams))
        known = {name: place for place, name in enumerate(PATTERNS)}
        return {name: known.get(name, names.index(name)) for name in names}


def find_bandwidths(analysis: Analysis) -> Bandwidths | None:
    """Return the bandwidths of a run, None where it measured none."""
    streams = [
        Stream(
            pattern=s.implementation.removeprefix("ceiling_"), speed=s,
            set_bytes=analysis.cells[s.cell].batch * roofline.row_bytes(analysis.cells[s.cell]),
        )
        for s in analysis.ceiling_speeds
        if math.isfinite(s.gbs)
    ]  # fmt: skip
    curve = analysis.cache_curve
    if not streams and curve is None:
        return None
    # Those of the loops, 1 for all in old runs; a run without loops has the walk's.
    threads = curve.threads if curve and not streams else analysis.ceilings.threads
    of = "one thread" if threads == 1 else f"{threads} threads together"
    return Bandwidths(
        streams=streams, curve=curve, capacity=analysis.ceilings.capacity,
        of="the device" if analysis.head.machine.device else of,
    )  # fmt: skip
