"""Own the figure over the batch: each FFF's speedup over the fastest FF, and its share of the floor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from harness.analysis.analysis import Analysis
from harness.analysis.rows import Point
from harness.analysis.stats import Ratio
from harness.problem import axes
from harness.problem.axes import Conditions
from harness.problem.models import speedup_limit, title
from harness.report import escape
from harness.report.figure_style import COLOURS, MARKERS, new_figure, set_title

_SHARE_TICKS = (1, 2, 5, 10, 20, 50, 100, 200)  # percent
_GRID = {"alpha": 0.3, "which": "both", "lw": 0.5}


@dataclass(slots=True, kw_only=True)
class _Series:
    """Hold one implementation of an FFF by batch: its speedup, and its share of the floor."""

    label: str
    model: str
    speedups: dict[int, Ratio] = field(default_factory=dict)
    shares: dict[int, float] = field(default_factory=dict)


def _points(analysis: Analysis) -> list[Point]:
    """Return the points of the run's widest layers."""
    return [p for p in analysis.points if p.width == analysis.points[0].width]


def is_drawable(analysis: Analysis) -> bool:
    """Say whether a run has several batches of one width in which an FFF was sampled."""
    return len({p.batch for p in _points(analysis) if p.versus}) > 1


def _collect(points: list[Point]) -> list[_Series]:
    """Return the series in the points' order; a label may be that of two, as of traces of one file's name."""
    found: dict[tuple[str, Conditions], _Series] = {}
    for point in points:
        shares = {s.cell: s.of_floor for s in point.speeds}
        how = axes.title(point.conditions)
        for v in point.versus:
            where = f", {v.provider}" if v.provider else ""
            name = f"{v.implementation} ({title(v.model)}{where}{'; ' if how else ''}{how})"
            series = found.setdefault((name, point.conditions), _Series(label=name, model=v.model))
            if v.ratio is not None:
                series.speedups[point.batch] = v.ratio
            if np.isfinite(shares.get(v.cell, np.nan)):
                series.shares[point.batch] = shares[v.cell]
    return list(found.values())


def _draw_speedups(axes: Any, rows: list[_Series], baseline: str) -> None:
    for i, series in enumerate(rows):
        batches = sorted(series.speedups)
        ratios = [series.speedups[b] for b in batches]
        values = [r.value for r in ratios]
        spread = [
            [r.value - r.low if r.known else 0.0 for r in ratios],
            [r.high - r.value if r.known else 0.0 for r in ratios],
        ]
        axes.errorbar(batches, values, yerr=spread, color=COLOURS[i % 8], marker=MARKERS[i % 8], ms=5,
                      capsize=2.5, label=series.label)  # fmt: skip
    for model in dict.fromkeys(series.model for series in rows):
        limit = speedup_limit(model, baseline)
        axes.axhline(limit, color="#555555", ls=":", lw=1.2)
        text = f"limit of {title(model)}: {limit:.2f}x"  # on the right, where speedups are low
        axes.annotate(text, (0.99, limit), xycoords=("axes fraction", "data"), xytext=(0, 3), ha="right",
                      textcoords="offset points", fontsize=8, color="#555555")  # fmt: skip
    axes.axhline(1, color="black", lw=0.8)
    drawn = [r.value for series in rows for r in series.speedups.values()]
    drawn += [1.0, *(speedup_limit(series.model, baseline) for series in rows)]
    axes.set_ylim(min(drawn) / 2, 3 * max(drawn))  # an interval of few samples may reach far beyond
    axes.yaxis.set_major_formatter(lambda x, _: f"{x:g}x")
    axes.set_ylabel("speedup over the fastest FF")


def _draw_shares(axes: Any, rows: list[_Series]) -> None:
    for i, series in enumerate(rows):
        batches = sorted(series.shares)
        axes.plot(batches, [100 * series.shares[b] for b in batches], color=COLOURS[i % 8],
                  marker=MARKERS[i % 8], ms=5)  # fmt: skip
    axes.axhline(100, color="black", lw=0.8)
    axes.axhline(50, color="black", lw=0.8, ls="--")
    shares = [100 * share for series in rows for share in series.shares.values()]
    axes.set_ylim(min(shares) / 1.3, max([130.0, *(1.3 * share for share in shares)]))
    low, high = axes.get_ylim()
    axes.set_yticks([t for t in _SHARE_TICKS if low <= t <= high])
    axes.yaxis.set_major_formatter(lambda x, _: f"{x:g} %")
    axes.set_ylabel("share of the floor")


def draw(analysis: Analysis) -> Figure:
    """Draw, over the batch, each FFF's speedup with its interval above its share of the floor; log axes.

    Without a ceiling in the run there is no floor, and the lower part is left out.
    """
    analysis = escape.each_text(analysis, escape.figure)
    points = _points(analysis)
    rows = _collect(points)
    figure = new_figure(11, 7)
    if any(series.shares for series in rows):
        panels = list(figure.subplots(2, 1, sharex=True, height_ratios=(3, 2)))
    else:
        panels = [figure.subplots()]
    batches = sorted({p.batch for p in points})
    for panel in panels:  # a scale brings its own labels: it comes before ours
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(batches, [str(b) for b in batches])
        panel.minorticks_off()
        panel.grid(**_GRID)
    _draw_speedups(panels[0], rows, analysis.head.sweep.baseline)
    if panels[1:]:
        _draw_shares(panels[1], rows)
    panels[-1].set_xlabel("batch (tokens)")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center",
                  ncols=2, frameon=False)  # fmt: skip
    set_title(figure, analysis.head, f"Conditional over dense by batch, width {points[0].width}")
    return figure
