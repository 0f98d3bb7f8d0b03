"""Own the tables of a run as CSV."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.analysis.analysis import Analysis
from harness.analysis.rows import Point
from harness.analysis.stats import Ratio
from harness.paper.published import PublishedCell
from harness.problem.models import speedup_limit
from harness.report.formats import plain_ratio


def _csv_row(point: Point, ratio: Ratio | None, cell: PublishedCell | None, **names: Any) -> Any:
    return {
        "batch": point.batch, "width": point.width, **names,
        **dict(zip(("speedup", "low", "high"), plain_ratio(ratio), strict=True)),
        "blocks": ratio.blocks if ratio else 0,
        "published": cell.speedup if cell else None,
        "provenance": cell.provenance if cell else None,
        **point.conditions._asdict(),
    }  # fmt: skip


def csv_frame(analysis: Analysis) -> pd.DataFrame:
    """Return every speedup as a row of plain numbers, for other programs."""
    rows: list[Any] = []
    for point in analysis.points:
        for provider, entries in point.entries.items():
            rows += [
                _csv_row(
                    point, e.ratio, e.published, provider=provider, model=e.model,
                    column=f"level {e.level}", baseline=point.baseline, status=e.status,
                    limit=speedup_limit(e.model, point.baseline),
                )
                for e in entries
            ]  # fmt: skip
        rows += [
            _csv_row(
                point, v.ratio, v.published, provider=v.provider, model=v.model,
                column=v.implementation, baseline=point.fastest,
                status="ok" if v.ratio else "no baseline", limit=speedup_limit(v.model, point.baseline),
            )
            for v in point.versus
        ]  # fmt: skip
    return pd.DataFrame(rows)


def speeds_csv_frame(analysis: Analysis) -> pd.DataFrame:
    """Return every cell's absolute figures as plain numbers, ceilings included."""
    speeds = [*(s for point in analysis.points for s in point.speeds), *analysis.ceiling_speeds]
    names = ("cell", "implementation", "model", "provider", "status", "pass_ns", "token_ns", "gflops",
             "share", "of_ceiling", "of_floor", "place", "gbs", "samples", "note", "wall_ns")  # fmt: skip
    return pd.DataFrame([{n: getattr(s, n) for n in names} for s in speeds])
