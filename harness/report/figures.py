"""Own the figures of a run: speedups against the published ones, and time per token."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.analysis.analysis import Analysis
from harness.analysis.rows import Point
from harness.analysis.stats import Ratio
from harness.problem import axes
from harness.problem.axes import Conditions
from harness.problem.models import parse_model, speedup_limit, title
from harness.records.schema import RunHead
from harness.report import escape
from harness.report.figure_style import (
    SCREEN,
    DrawingStyle,
    new_figure,
    set_rows,
    set_title,
    write_beside,
)
from harness.report.formats import format_ratio, format_source, format_time
from harness.report.palette import Style, find_styles, layer_colour
from harness.report.table import format_place

_PAPER = "#999999"
# A label may be another's too (two traces whose files have one name); with the conditions it is one cell's.
_Series = tuple[str, Conditions]


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


def speedup_figure(analysis: Analysis, style: DrawingStyle = SCREEN) -> Figure:
    """Draw the measured speedups with their intervals beside the published ones, the limit as a tick."""
    analysis = escape.each_text(analysis, escape.figure)
    point = analysis.points[0]
    bars = _bars_of(point)
    row, around = (0.36, 0.9) if style.is_narrow else (0.62, 1.6)
    figure = new_figure(9.5, around + row * max(1, len(bars)), style)
    axes = figure.subplots()
    highest = max([*(b[1].value for b in bars), *(b[4] for b in bars), 2.0])
    for i, (_, ratio, paper, confirmed, limit, colour) in enumerate(bars):
        axes.barh(i - 0.17, ratio.value, height=0.34, color=colour, zorder=2)
        if ratio.known:
            spread = [[ratio.value - ratio.low], [ratio.high - ratio.value]]
            axes.errorbar(ratio.value, i - 0.17, xerr=spread, color="black", capsize=0.6 * style.marker,
                          zorder=3)  # fmt: skip
        write_beside(axes, i - 0.17, format_ratio(ratio), style)
        if paper is not None:
            hatch = "" if confirmed else "////"
            axes.barh(
                i + 0.17, paper, height=0.34, color="white", edgecolor=_PAPER, hatch=hatch, zorder=2
            )
            write_beside(axes, i + 0.17, f"{paper:g}x", style, "#555555")
        axes.plot(
            [limit, limit], [i - 0.42, i + 0.42], color="black", ls=":", lw=style.line, zorder=4
        )
    names = [bar[0] if not style.is_narrow else bar[0].replace(", ", "\n", 1) for bar in bars]
    set_rows(axes, names, style)
    axes.set_xscale("log")
    axes.axvline(1, color="black", lw=0.4 * style.line)
    # An interval of few samples may reach far beyond: the axis is that of the values.
    axes.set_xlim(left=0.8, right=highest * 1.6)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}x")
    axes.set_xlabel("speedup (log)")
    what = "Measured against published" if point.is_beside_paper else "Measured speedups"
    set_title(figure, analysis.head, f"{what}, {format_place(point).lower()}", style)
    colours = {bar[5] for bar in bars}
    _speedup_legend(axes, colours, style, beside_paper=point.is_beside_paper)
    return figure


def _speedup_legend(
    axes: Any, colours: set[str], style: DrawingStyle, *, beside_paper: bool
) -> None:
    names = {layer_colour("fff_"): "FFF", layer_colour("ff_"): "another FF"}
    papers = [
        Patch(facecolor="white", edgecolor=_PAPER, label="published"),
        Patch(facecolor="white", edgecolor=_PAPER, hatch="////", label="published, unconfirmed"),
    ]
    axes.figure.legend(
        handles=[
            *(Patch(color=c, label=f"{name}, measured") for c, name in names.items() if c in colours),
            *(papers if beside_paper else ()),
            Line2D([], [], color="black", ls=":", lw=style.line, label="limit (operations)"),
        ],
        fontsize=style.note, loc="outside lower center", ncols=2 if style.is_narrow else 5, frameon=False,
    )  # fmt: skip


def time_figure(analysis: Analysis, style: DrawingStyle = SCREEN) -> Figure:
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
        return _time_lines(analysis.head, rows, find_styles(analysis), text, style)
    text = f"{text}, batch {points[0].batch}"
    return _time_bars(analysis.head, rows, text, points[0].batch, style)


def _time_lines(
    head: RunHead, rows: dict[_Series, dict[int, float]], styles: dict[str, Style], text: str,
    style: DrawingStyle,
) -> Figure:  # fmt: skip
    figure = new_figure(10.5, 3.0 + 0.11 * len(rows) if style.is_narrow else 6, style)
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for (name, _), times in rows.items():
        batches, own = sorted(times), styles[name.partition(" ")[0]]
        dashed = "--" if name.startswith("ff_") else "-"
        axes.plot(batches, [times[b] for b in batches], dashed, color=own.colour, marker=own.marker,
                  label=style.write(name), ms=style.marker)  # fmt: skip
    batches = sorted({batch for times in rows.values() for batch in times})
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.set_xlabel("batch (tokens, log)")
    axes.set_ylabel("time per token (log)")
    axes.yaxis.set_major_formatter(lambda ns, _: format_time(ns))
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, fontsize=style.note, frameon=False,
        loc="outside lower center" if style.is_narrow else "outside right center",
    )  # fmt: skip
    set_title(figure, head, text, style)
    return figure


def _time_bars(
    head: RunHead, rows: dict[_Series, dict[int, float]], text: str, batch: int, style: DrawingStyle
) -> Figure:
    row, around = (0.24, 0.7) if style.is_narrow else (0.36, 1.4)
    figure = new_figure(9.5, around + row * max(1, len(rows)), style)
    axes = figure.subplots()
    ordered = sorted(rows, key=lambda series: rows[series][batch])
    for i, (name, conditions) in enumerate(ordered):
        time = rows[name, conditions][batch]
        axes.barh(i, time, height=0.7, color=layer_colour(name))
        write_beside(axes, i, format_time(time), style)
    set_rows(axes, [n.replace(" (", "\n(") if style.is_narrow else n for n, _ in ordered], style)
    axes.set_xscale("log")
    times = [rows[series][batch] for series in ordered] or [1.0]
    axes.set_xlim(min(times) / 3, max(times) * 1.3)
    axes.xaxis.set_major_formatter(lambda ns, _: format_time(ns))
    axes.set_xlabel("time per token (log)")
    set_title(figure, head, text, style)
    return figure
