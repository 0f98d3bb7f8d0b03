"""Own the frames of a run: what each of its tables shows, as texts, and all of it as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from harness.analysis.contrasts import Contrast
from harness.analysis.rows import Entry, Point, Speed, Versus
from harness.problem import axes
from harness.problem.models import BASELINE, title
from harness.report.formats import (
    NONE,
    format_limit,
    format_published,
    format_rate,
    format_ratio,
    format_share,
    format_source,
    format_time,
)

REMARKED = "‡"


def format_entry(entry: Entry, baseline: str = BASELINE) -> str:
    """Return the measured figure of a cell, or in capitals why there is none."""
    if entry.status == "none":
        return NONE
    if entry.ratio is None:
        return entry.status.upper()
    if entry.model == baseline:
        return "1"
    return _format_judged(entry)


def _format_judged(found: Entry | Versus) -> str:
    """Return a ratio with what is to be said of it: not resolved, above its limit, impossible."""
    text = format_ratio(found.ratio) + _mark(found.remark, found.impossible)
    return text if found.resolved else f"no difference ({text})"


def _mark(remark: str, impossible: bool) -> str:
    """Return what stands behind a speedup above its limit."""
    return " IMPOSSIBLE" if impossible else REMARKED if remark else ""


def paper_frame(entries: Sequence[Entry], baseline: str) -> pd.DataFrame:
    """Return the table in the paper's form: a row a model, a measured and a published column a level.

    Nothing is published beside figures of other conditions than the paper's: there are no such columns.
    """
    beside = any(entry.published for entry in entries)
    rows: dict[str, dict[str, str]] = {}
    for entry in entries:
        limit = format_limit(entry.model, baseline)
        row = rows.setdefault(entry.model, {"model": title(entry.model), "limit": limit})
        row[f"level {entry.level}"] = format_entry(entry, baseline)
        if beside:
            row[f"paper, level {entry.level}"] = format_published(entry.published)
    return pd.DataFrame(list(rows.values()))


def versus_frame(point: Point) -> pd.DataFrame:
    """Return each FFF against the fastest FF, and the published figure where any of them has one."""
    beside = any(v.published for v in point.versus)
    return pd.DataFrame(
        {
            "model": title(v.model),
            "FFF implementation": v.implementation,
            "provider": v.provider or NONE,
            "over the fastest FF": _format_judged(v),
            **({"paper": format_published(v.published)} if beside else {}),
            "limit": format_limit(v.model, point.baseline),
        }
        for v in point.versus
    )


def speed_frame(speeds: Sequence[Speed]) -> pd.DataFrame:
    """Return absolute figures: time, rate, share of the measured sgemm and of the ceiling, samples."""
    on_device = any(math.isfinite(s.wall_ns) for s in speeds)
    return pd.DataFrame(
        {
            "implementation": s.implementation,
            "model": title(s.model) if s.model else NONE,
            "provider": s.provider or NONE,
            "a pass": format_time(s.pass_ns),
            **({"with launches": format_time(s.wall_ns)} if on_device else {}),
            "a token": format_time(s.token_ns) if s.model else NONE,
            "GFLOP/s": format_rate(s.gflops),
            "of sgemm": format_share(s.share),
            "of its ceiling": format_share(s.of_ceiling),
            "share of floor": format_share(s.of_floor),
            "samples": s.samples,
            "remarks": _remarks(s),
        }
        for s in speeds
        if s.status != "unavailable"  # these stand below the table, one line a reason
    )


def _remarks(speed: Speed) -> str:
    if speed.status != "ok":
        return f"{speed.status.upper()}: {speed.reason}"
    above = "IMPOSSIBLE: faster than its ceiling allows" if speed.impossible else ""
    unstable = f"UNSTABLE: {', '.join(speed.unstable)}" if speed.unstable else ""
    return ", ".join(part for part in (above, unstable, speed.note) if part)


def ceiling_frame(speeds: Sequence[Speed]) -> pd.DataFrame:
    """Return the machine's ceilings: rates of the median sample and of the fastest, which counts."""
    rows = []
    for s in speeds:
        if s.status == "unavailable":
            continue
        rate, unit = (s.gbs, "GB/s") if math.isfinite(s.gbs) else (s.gflops, "GFLOP/s")
        rows.append(
            {
                "ceiling": s.implementation.removeprefix("ceiling_"),
                "set in": s.place or NONE,
                "width": s.width,
                "provider": format_source(s.implementation, s.provider),
                "a pass": format_time(s.pass_ns),
                "rate": f"{format_rate(rate)} {unit}",
                "fastest sample": f"{format_rate(rate * s.pass_ns / s.fastest_ns)} {unit}",
                "samples": s.samples,
                "remarks": _remarks(s),
            }
        )
    return pd.DataFrame(rows)


def contrast_frame(contrasts: Sequence[Contrast]) -> pd.DataFrame:
    """Return each cell that was measured under several conditions, beside its first ones."""
    return pd.DataFrame(
        {
            "implementation": c.implementation,
            "model": title(c.model),
            "provider": c.provider or NONE,
            "batch": c.batch,
            "width": c.width,
            "conditions": axes.title(c.conditions) or "default",
            "a pass": format_time(c.pass_ns) if c.status == "ok" else c.status.upper(),
            "times the first": format_ratio(c.ratio),
            "nodes touched": c.nodes_touched or NONE,
            "leaf bits": f"{c.leaf_bits:.1f}" if math.isfinite(c.leaf_bits) else NONE,
            "working set": f"{c.working_set_bytes / 2**20:.3g} MiB"
            if c.working_set_bytes
            else NONE,
        }
        for c in contrasts
    )
