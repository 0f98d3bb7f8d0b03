"""Own the words about the caches: what the system tells of them, where a core gets another part."""

from __future__ import annotations

from harness.analysis.analysis import Analysis
from harness.report.formats import format_bytes, format_caches


def cache_lines(analysis: Analysis) -> list[str]:
    """Return the lines of a report's head about caches that differ from those that the system tells."""
    machine, curve = analysis.head.machine, analysis.cache_curve
    walk = machine.cache_walk
    if walk is None or curve is None or walk.found != "measured":
        return []
    last = list(walk.caches)[-1]
    told = {last: machine.caches[last]} if last in machine.caches else {}
    end = list(curve.effective.values())[-1]
    threads = "a thread" if walk.threads == 1 else f"{walk.threads} threads"
    return [
        f"- **Caches: the system tells {format_caches(told) or f'no {last}'}, a core gets "
        f"{format_caches({last: walk.caches[last]})}** ({threads} read {curve.rate_at(end):.3g} GB/s from "
        f"{format_bytes(end)} and {curve.rates[-1].gbs:.3g} GB/s from "
        f"{format_bytes(curve.rates[-1].set_bytes)}): ceilings, flushes, rotation and tiles are cut by that"
    ]
