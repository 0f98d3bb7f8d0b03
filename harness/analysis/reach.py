"""Own how far the baseline at level 3 reaches towards the peak of this machine, and what may hold it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.analysis import roofline
from harness.analysis.ceilings import Ceilings
from harness.records import blas_kernels, variables
from harness.records.schema import CellRecord, ProviderRecord, RunHead

ENOUGH = 0.9  # of the peak: what a large product of a library that fits its machine reaches
_FEW_HUGE_PAGES = 0.5

Cause = Literal["forced", "narrow", "provider", "pages", "threads"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Hold the rate of the fastest FF at level 3, and the peak of as many threads, in GFLOP/s."""

    implementation: str
    provider: str
    gflops: float
    peak: float

    @property
    def is_low(self) -> bool:
        """Say whether more is to be had of this machine."""
        return self.gflops < ENOUGH * self.peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """Hold one thing that could be tried where the baseline reaches little, and what of the run points to it.

    forced: a variable chose the kernels of the library that was loaded; seen holds it. narrow: the library
    chose kernels below the processor's; seen is their name. provider: the run measured this one alone, seen.
    pages: few of the operands lie in huge ones; seen is the share in percent. threads: several share the
    machine, or the library ran on others than asked for; seen is their number.
    """

    cause: Cause
    seen: str


def find_reach(known: Ceilings, cells: Iterable[tuple[CellRecord, float]]) -> Reach | None:
    """Return what the fastest level 3 among (cell of the baseline, ns of a pass) reaches.

    None where none was measured, the peak of its precision was not, or its operands take longer to move than
    to multiply: then no kernel could reach the peak.
    """
    found = [(cell, time) for cell, time in cells if cell.level == 3 and time > 0]
    if not found:
        return None
    cell, time = min(found, key=lambda pair: pair[1])
    peak = known.peak_of(cell) * known.grants(cell)
    traffic_ns = roofline.traffic_ns(known, roofline.compulsory_bytes(cell)) / known.grants(cell)
    if not peak > 0 or traffic_ns > cell.flops / peak:
        return None
    return Reach(
        implementation=cell.implementation, provider=cell.provider, gflops=cell.flops / time, peak=peak
    )  # fmt: skip


def find_remedies(head: RunHead, providers: Sequence[ProviderRecord]) -> list[Remedy]:
    """Return what could be tried for a faster level 3, the likeliest first."""
    forced, narrow, threads = dict[str, None](), dict[str, None](), dict[str, None]()
    asked = head.sweep.threads
    for provider in providers:
        for name, family in variables.find_foreign(provider.variables).items():
            read = not provider.version or family.library.lower() in provider.version.lower()
            if family.effect == "kernel" and read and provider.variables[name]:
                forced[f"{name}={provider.variables[name]}"] = None
        if blas_kernels.is_narrower(provider.architecture, head.machine.isa):
            narrow[provider.architecture] = None
        if provider.threads not in (0, asked):
            threads[str(provider.threads)] = None
    if asked > 1 and not threads:
        threads[str(asked)] = None
    found = [Remedy(cause="forced", seen=seen) for seen in forced]
    found += [Remedy(cause="narrow", seen=seen) for seen in narrow if not forced]
    if len(names := {p.name for p in providers}) == 1:
        found.append(Remedy(cause="provider", seen=min(names)))
    shares = [p.huge_page_share for p in providers if p.huge_page_share is not None]
    if shares and min(shares) < _FEW_HUGE_PAGES:
        found.append(Remedy(cause="pages", seen=f"{100 * min(shares):.0f}"))
    return found + [Remedy(cause="threads", seen=seen) for seen in threads]
