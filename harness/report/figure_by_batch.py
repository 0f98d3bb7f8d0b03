"""Own the figure over the batch: each FFF's speedup over the fastest FF, and its share of the floor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from harness.analysis import by_batch
from harness.analysis.analysis import Analysis
from harness.analysis.by_batch import Series
from harness.problem import axes
from harness.problem.models import speedup_limit, title
from harness.report import escape
from harness.report.figure_style import SCREEN, DrawingStyle, new_figure, set_title
from harness.report.palette import Style, find_styles

_SHARE_TICKS = (1, 2, 5, 10, 20, 50, 100, 200)  # percent
_GRID = {"alpha": 0.3, "which": "both", "lw": 0.5}


def is_drawable(analysis: Analysis) -> bool:
    """Say whether a run has several batches of one width in which an FFF was sampled."""
    return by_batch.has_several_batches(analysis.points)


def _label(series: Series) -> str:
    where, how = f", {series.provider}" if series.provider else "", axes.title(series.conditions)
    return f"{series.implementation} ({title(series.model)}{where}{'; ' if how else ''}{how})"


def _draw_speedups(
    panel: Any, rows: list[Series], styles: Mapping[str, Style], baseline: str, how: DrawingStyle
) -> None:
    for series in rows:
        style, batches = styles[series.implementation], sorted(series.speedups)
        ratios = [series.speedups[b] for b in batches]
        values = [r.value for r in ratios]
        spread = [
            [r.value - r.low if r.known else 0.0 for r in ratios],
            [r.high - r.value if r.known else 0.0 for r in ratios],
        ]
        panel.errorbar(batches, values, yerr=spread, color=style.colour, marker=style.marker, ms=how.marker,
                      capsize=how.marker / 2, label=how.write(_label(series)))  # fmt: skip
    models = list(dict.fromkeys(series.model for series in rows))
    for model in models:
        limit = speedup_limit(model, baseline)
        panel.axhline(limit, color="#555555", ls=":", lw=1.2)
        of = f" of\n{title(model)}" if len(models) > 1 else ""
        text = f"limit{of}\n{limit:.2f}x"  # beside the panel, where no curve runs
        panel.annotate(text, (1.01, limit), xycoords=("axes fraction", "data"), va="center",
                       fontsize=how.note, color="#555555")  # fmt: skip
    panel.axhline(1, color="black", lw=0.8)
    drawn = [r.value for series in rows for r in series.speedups.values()]
    drawn += [1.0, *(speedup_limit(series.model, baseline) for series in rows)]
    panel.set_ylim(
        min(drawn) / 2, 3 * max(drawn)
    )  # an interval of few samples may reach far beyond
    panel.yaxis.set_major_formatter(lambda x, _: f"{x:g}x")
    panel.set_ylabel("speedup over the fastest FF")


def _draw_shares(
    panel: Any, rows: list[Series], styles: Mapping[str, Style], how: DrawingStyle
) -> None:
    for series in rows:
        style, batches = styles[series.implementation], sorted(series.shares)
        panel.plot(batches, [100 * series.shares[b] for b in batches], color=style.colour,
                  marker=style.marker, ms=how.marker)  # fmt: skip
    panel.axhline(100, color="black", lw=0.8)
    panel.axhline(50, color="black", lw=0.8, ls="--")
    shares = [100 * share for series in rows for share in series.shares.values()]
    panel.set_ylim(min(shares) / 1.3, max([130.0, *(1.3 * share for share in shares)]))
    low, high = panel.get_ylim()
    panel.set_yticks([t for t in _SHARE_TICKS if low <= t <= high])
    panel.yaxis.set_major_formatter(lambda x, _: f"{x:g} %")
    panel.set_ylabel("share of the floor")


def draw(analysis: Analysis, style: DrawingStyle = SCREEN) -> Figure:
    """Draw, over the batch, each FFF's speedup with its interval above its share of the floor; log axes.

    Without a ceiling in the run there is no floor, and the lower part is left out.
    """
    analysis = escape.each_text(analysis, escape.figure)
    points = by_batch.widest(analysis.points)
    rows = by_batch.collect(points)
    styles = find_styles(analysis)
    figure = new_figure(11, 3.4 + 0.11 * len(rows) if style.is_narrow else 7, style)
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
    _draw_speedups(panels[0], rows, styles, analysis.head.sweep.baseline, style)
    if panels[1:]:
        _draw_shares(panels[1], rows, styles, style)
    panels[-1].set_xlabel("batch (tokens)")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=style.note, loc="outside lower center",
                  ncols=1 if style.is_narrow else 2, frameon=False)  # fmt: skip
    set_title(
        figure, analysis.head, f"Conditional over dense by batch, width {points[0].width}", style
    )
    return figure
