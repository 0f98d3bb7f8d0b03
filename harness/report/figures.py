"""Own the figures of a run: speedups against the published ones, and time per token."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.analysis.analysis import Analysis
from harness.analysis.rows import Point, Speed
from harness.analysis.stats import Ratio
from harness.problem import axes
from harness.problem.axes import Conditions
from harness.problem.models import parse_model, speedup_limit, title
from harness.records.schema import RunHead
from harness.report import escape
from harness.report.figure_style import new_figure, set_title
from harness.report.formats import format_ratio, format_source, format_time
from harness.report.palette import GREY, Style, find_styles, layer_colour
from harness.report.table import format_place

_PAPER = "#999999"
# A label may be another's too (two traces whose files have one name); with the conditions it is one cell's.
_Series = tuple[str, Conditions]
_LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}


def _bars_of(point: Point) -> list[tuple[str, Ratio, float | None, bool, float, str]]:
    """Return a bar per FFF figure: label, ratio, published speedup, whether confirmed, limit, colour."""
    bars = []
    for provider, entries in point.entries.items():
        for entry in entries:
            if entry.ratio is None or entry.model == point.baseline:
                continue
            cell = entry.published
            what = f"level {entry.level}"
            label = f"{title(entry.model)}, {what}\nover FF, {what} ({provider})"
            bars.append((label, entry.ratio, cell.speedup if cell else None,
                         bool(cell and cell.confirmed),
                         speedup_limit(entry.model, point.baseline),
                         layer_colour(f"{parse_model(entry.model).layer}_")))  # fmt: skip
    for v in point.versus:
        if v.ratio is None:
            continue
        what = f"level {v.level}" if v.level else v.implementation
        cell = v.published
        source = format_source(v.implementation, v.provider)
        label = f"{title(v.model)}, {what} ({source})\nover the fastest FF"
        bars.append((label, v.ratio, cell.speedup if cell else None,
                     bool(cell and cell.confirmed), speedup_limit(v.model, point.baseline),
                     layer_colour(v.implementation)))  # fmt: skip
    return bars


def speedup_figure(analysis: Analysis) -> Figure:
    """Draw the measured speedups with their intervals beside the published ones, the limit as a tick."""
    analysis = escape.each_text(analysis, escape.figure)
    point = analysis.points[0]
    bars = _bars_of(point)
    figure = new_figure(9.5, 1.6 + 0.62 * max(1, len(bars)))
    axes = figure.subplots()
    highest = max([*(b[1].value for b in bars), *(b[4] for b in bars), 2.0])
    for i, (_, ratio, paper, confirmed, limit, colour) in enumerate(bars):
        axes.barh(i - 0.17, ratio.value, height=0.34, color=colour, zorder=2)
        if ratio.known:
            spread = [[ratio.value - ratio.low], [ratio.high - ratio.value]]
            axes.errorbar(ratio.value, i - 0.17, xerr=spread, color="black", capsize=3, zorder=3)
        # Behind the interval, but in sight: one of few samples may reach far beyond the axis.
        behind = min(ratio.high if ratio.known else ratio.value, highest)
        axes.text(behind * 1.06, i - 0.17, format_ratio(ratio), va="center", fontsize=8, zorder=5,
                  bbox=_LABEL)  # fmt: skip
        if paper is not None:
            hatch = "" if confirmed else "////"
            axes.barh(
                i + 0.17, paper, height=0.34, color="white", edgecolor=_PAPER, hatch=hatch, zorder=2
            )
            axes.text(paper * 1.06, i + 0.17, f"{paper:g}x", va="center", fontsize=8, color="#555555",
                      zorder=5, bbox=_LABEL)  # fmt: skip
        axes.plot([limit, limit], [i - 0.42, i + 0.42], color="black", ls=":", lw=2, zorder=4)
    axes.set_yticks(range(len(bars)), [bar[0] for bar in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xlim(left=0.8, right=highest * 3)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}x")
    axes.set_xlabel("speedup (log)")
    what = "Measured against published" if point.is_beside_paper else "Measured speedups"
    set_title(figure, analysis.head, f"{what}, {format_place(point).lower()}")
    _speedup_legend(axes, {bar[5] for bar in bars}, beside_paper=point.is_beside_paper)
    return figure


def _speedup_legend(axes: Any, colours: set[str], *, beside_paper: bool) -> None:
    names = {layer_colour("fff_"): "FFF", layer_colour("ff_"): "another FF"}
    papers = [
        Patch(facecolor="white", edgecolor=_PAPER, label="published"),
        Patch(facecolor="white", edgecolor=_PAPER, hatch="////", label="published, unconfirmed"),
    ]
    axes.figure.legend(
        handles=[
            *(Patch(color=c, label=f"{name}, measured") for c, name in names.items() if c in colours),
            *(papers if beside_paper else ()),
            Line2D([], [], color="black", ls=":", lw=2, label="limit (operations)"),
        ],
        fontsize=8, loc="outside lower center", ncols=5, frameon=False,
    )  # fmt: skip


def time_figure(analysis: Analysis) -> Figure:
    """Draw time per token: lines over the batch, or bars where the run has one batch only."""
    analysis = escape.each_text(analysis, escape.figure)
    widest = analysis.points[0].width
    points = [p for p in analysis.points if p.width == widest]
    rows: dict[_Series, dict[int, float]] = {}
    for point in points:
        for s in point.speeds:
            if np.isfinite(s.token_ns):
                provider = f", {s.provider}" if s.provider else ""
                how = axes.title(point.conditions)
                differs = f"; {how}" if how else ""
                name = f"{s.implementation} ({title(s.model)}{provider}{differs})"
                rows.setdefault((name, point.conditions), {})[point.batch] = s.token_ns
    text = f"Time per token, width {widest}"
    if len({p.batch for p in points}) > 1:
        return _time_lines(analysis.head, rows, find_styles(analysis), text)
    return _time_bars(analysis.head, rows, f"{text}, batch {points[0].batch}", points[0].batch)


def _time_lines(
    head: RunHead, rows: dict[_Series, dict[int, float]], styles: dict[str, Style], text: str
) -> Figure:
    figure = new_figure(10.5, 6)
    axes = figure.subplots()
    for (name, _), times in rows.items():
        batches, style = sorted(times), styles[name.partition(" ")[0]]
        dashed = "--" if name.startswith("ff_") else "-"
        axes.plot(batches, [times[b] for b in batches], dashed, color=style.colour,
                  marker=style.marker, label=name, ms=5)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("batch (tokens)")
    axes.set_ylabel("time per token")
    axes.yaxis.set_major_formatter(lambda ns, _: format_time(ns))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    set_title(figure, head, text)
    return figure


def _time_bars(
    head: RunHead, rows: dict[_Series, dict[int, float]], text: str, batch: int
) -> Figure:
    figure = new_figure(9.5, 1.4 + 0.36 * max(1, len(rows)))
    axes = figure.subplots()
    ordered = sorted(rows, key=lambda series: -rows[series][batch])
    for i, (name, conditions) in enumerate(ordered):
        time = rows[name, conditions][batch]
        axes.barh(i, time, color=layer_colour(name))
        axes.text(time * 1.05, i, format_time(time), va="center", fontsize=8)
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered], fontsize=8)
    axes.set_xscale("log")
    times = [rows[series][batch] for series in ordered] or [1.0]
    axes.set_xlim(min(times) / 3, max(times) * 3)
    axes.xaxis.set_major_formatter(lambda ns, _: format_time(ns))
    axes.set_xlabel("time per token (log)")
    set_title(figure, head, text)
    return figure


def ceilings_figure(analysis: Analysis) -> Figure:
    """Draw the ceilings that were measured, and how far each layer reaches what they allow."""
    analysis = escape.each_text(analysis, escape.figure)
    point = analysis.points[0]
    speeds = [s for s in point.speeds if np.isfinite(s.of_ceiling)]
    streams = [s for s in analysis.ceiling_speeds if np.isfinite(s.gbs)]
    figure = new_figure(11, 2.2 + 0.3 * max(6, len(speeds), len(streams)))
    left, right = figure.subplots(1, 2)
    _rate_bars(left, streams)
    threads = analysis.ceilings.threads  # 1 for all in old runs
    of = "one thread" if threads == 1 else f"{threads} threads together"
    of = "the device" if analysis.head.machine.device else of
    left.set_xlabel(f"bandwidth of {of}, GB/s (log)")
    for i, s in enumerate(speeds):
        # What is impossible is hatched: a colour would be another layer's.
        right.barh(i, 100 * s.of_ceiling, color=layer_colour(s.implementation),
                   hatch="xx" if s.impossible else "")  # fmt: skip
        right.text(
            100 * s.of_ceiling + 1.5, i, f"{100 * s.of_ceiling:.0f} %", va="center", fontsize=8
        )
    names = [
        f"{s.implementation}, {title(s.model)}\n{format_source(s.implementation, s.provider)}"
        for s in speeds
    ]
    right.set_yticks(range(len(speeds)), names, fontsize=7)
    right.invert_yaxis()
    right.axvline(100, color="black", lw=0.8)
    right.set_xlim(0, max([115.0, *(115 * s.of_ceiling for s in speeds)]))
    right.set_xlabel("least time that the ceilings allow,\n% of the measured time")
    what = "Ceilings of this machine and the layers below them"
    set_title(figure, analysis.head, f"{what}, {format_place(point).lower()}")
    return figure


def _rate_bars(axes: Any, streams: list[Speed]) -> None:
    """Draw the streams' bandwidths, grouped by pattern."""
    for i, s in enumerate(streams):
        axes.barh(i, s.gbs, color=GREY)
        axes.text(s.gbs * 1.05, i, f"{s.gbs:.3g} GB/s", va="center", fontsize=8)
    names = [f"{s.implementation.removeprefix('ceiling_')}, {s.place}" for s in streams]
    axes.set_yticks(range(len(streams)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    rates = [s.gbs for s in streams] or [1.0]
    axes.set_xlim(min(rates) / 2, max(rates) * 5)
