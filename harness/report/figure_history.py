"""Own the figures of a history: each cell over the runs, with its intervals and its change points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.history_rows import History, Line, Series, Value
from harness.report import escape
from harness.report.compare import format_change
from harness.report.figure_style import SCREEN, DrawingStyle, new_figure
from harness.report.history import name_line
from harness.report.palette import COLOURS, GREY, MARKERS

TIMES, SPEEDUPS = "history_times", "history_speedups"
_PANELS = 48  # of one figure: cells that moved come first
_NUMBERED = 25  # runs whose numbers have room below a panel
_SLOW, _FAST = COLOURS[5], COLOURS[2]
_LEAST_SPAN = 0.03  # of a panel: noise of less is not drawn as if it were a change


def find_figures(history: History, style: DrawingStyle = SCREEN) -> dict[str, Callable[[], Figure]]:
    """Return the figures of a history that have a series, by name, each with what draws it."""
    names = {TIMES: "time", SPEEDUPS: "speedup"}
    return {
        name: partial(draw, history, kind, style)
        for name, kind in names.items()
        if any(series.kind == kind for series in history.series)
    }


def _select(history: History, kind: str) -> list[Series]:
    """Return the series of a kind that have a panel, in their order: those that moved before the others."""
    found = [series for series in history.series if series.kind == kind]
    order = sorted(range(len(found)), key=lambda i: (not found[i].changes, i))[:_PANELS]
    return [found[i] for i in sorted(order)]


def _draw_values(
    panel: Any, values: Sequence[Value], colour: str, marker: str, style: DrawingStyle
) -> None:
    """Draw the values of one line with their intervals."""
    told = [(v.run + 1, v.ratio) for v in values if v.ratio is not None]
    heights = [ratio.value for _, ratio in told]
    spread = [
        [r.value - r.low if r.known else 0.0 for _, r in told],
        [r.high - r.value if r.known else 0.0 for _, r in told],
    ]
    panel.errorbar(
        [run for run, _ in told], heights, yerr=spread, color=colour, marker=marker, ms=0.7 * style.marker,
        lw=0.4 * style.line, elinewidth=0.4 * style.line, capsize=0.3 * style.marker, zorder=3,
    )  # fmt: skip
    for value in values:
        if value.ratio is None:  # no right result: a cross at the foot of the panel
            panel.plot(value.run + 1, 0.04, "x", color=_SLOW, ms=style.marker, zorder=5,
                       transform=panel.get_xaxis_transform())  # fmt: skip


def _draw_changes(panel: Any, series: Series, style: DrawingStyle) -> None:
    """Mark each change point between its run and the one before, with how far the level moved."""
    for place, change in enumerate(series.changes):
        is_worse = (change.change.value > 1) == (series.kind == "time")
        colour, at = _SLOW if is_worse else _FAST, change.start + 0.5
        panel.axvline(at, color=colour, ls="--", lw=0.6 * style.line, zorder=2)
        text = style.write(format_change(change.change).partition(" [")[0])
        panel.annotate(
            text, (at, 0.97 - 0.13 * (place % 3)), xycoords=("data", "axes fraction"), va="top",
            xytext=(2, 0), textcoords="offset points", fontsize=style.note, color=colour, zorder=6,
            bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
        )  # fmt: skip


def _set_height(panel: Any, series: Series) -> None:
    """Scale a panel to its values: an interval of few samples may reach far beyond."""
    heights = [v.ratio.value for v in series.values if v.ratio is not None]
    if series.kind == "time":
        heights.append(1.0)
    low, high = min(heights), max(heights)
    room = max(high - low, _LEAST_SPAN * high)
    middle = (low + high) / 2
    # More above, where the marks of change points stand.
    panel.set_ylim(middle - 0.8 * room, middle + 1.1 * room)
    if series.kind == "time":
        panel.yaxis.set_major_formatter(
            lambda y, _: f"{round(100 * (y - 1), 6) or 0:+g} %".replace("+0 %", "0 %")
        )
    else:
        panel.yaxis.set_major_formatter(lambda y, _: f"{y:g}x")


def _draw_panel(panel: Any, series: Series, lines: Sequence[Line], style: DrawingStyle) -> None:
    for place, line in enumerate(lines):
        own = [value for value in series.values if value.run in line.runs]
        if own:
            colour = COLOURS[place % len(COLOURS)]
            _draw_values(panel, own, colour, MARKERS[place % len(MARKERS)], style)
    if series.kind == "time":
        panel.axhline(1, color=GREY, lw=0.4 * style.line, zorder=1)
    _draw_changes(panel, series, style)
    _set_height(panel, series)
    where = f"{name_line(series.line)}: " if series.line is not None and len(lines) > 1 else ""
    first, _, rest = series.cell.partition("/")
    panel.set_title(style.write(f"{where}{first}\n{rest}"), fontsize=style.note, loc="left")
    panel.tick_params(labelsize=style.note)
    panel.grid(axis="y", alpha=0.3, lw=0.5)


def _set_runs(panel: Any, count: int) -> None:
    step = math.ceil(count / _NUMBERED)
    panel.set_xlim(0.5, count + 0.5)
    panel.set_xticks(range(1, count + 1, step))


def draw(history: History, kind: str, style: DrawingStyle = SCREEN) -> Figure:
    """Draw a panel a cell, `time` over the base's or `speedup`: each run's value over the runs by time.

    A line of runs has a colour and a marker; a change point is a dashed line before the first run of the
    new level, green where it is for the better.
    """
    history = escape.each_text(history, escape.figure)
    shown, count = _select(history, kind), len(history.runs)
    columns = 1 if style.is_narrow else min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    tall = 1.05 if style.is_narrow else 1.75
    figure = new_figure(max(2, columns) * 4.2, 1.0 + tall * rows, style)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    for panel, series in zip(panels, shown, strict=False):
        _draw_panel(panel, series, history.lines, style)
        _set_runs(panel, count)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    for panel in panels[max(0, len(shown) - columns) : len(shown)]:
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("run, by time", fontsize=style.note)
    _set_words(figure, history, kind, len(shown), style)
    return figure


def _set_words(
    figure: Figure, history: History, kind: str, panels: int, style: DrawingStyle
) -> None:
    """Write what is shown above the figure, and below it which machine each line is of."""
    what = "Time of a pass over the base run's" if kind == "time" else "Speedup over the fastest FF"
    of = sum(series.kind == kind for series in history.series)
    cut = f"; {panels} of {of} cells, those that moved first" if of > panels else ""
    dates = [history.runs[place].head.started_utc[:10] for place in (0, -1)]
    span = f"{len(history.runs)} runs, {dates[0]} to {dates[1]}{cut}"
    title = span if style.is_narrow else f"{what}; {span}"
    figure.suptitle(style.write(title), fontsize=style.note if style.is_narrow else 10)
    handles = [
        Line2D(
            [], [], color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)],
            ms=style.marker, lw=0.4 * style.line, label=style.write(_name_machine(history, place)),
        )
        for place in range(len(history.lines))
    ]  # fmt: skip
    figure.legend(handles=handles, fontsize=style.note, loc="outside lower center", frameon=False,
                  ncols=1 if style.is_narrow else 2)  # fmt: skip


def _name_machine(history: History, place: int) -> str:
    head = history.runs[history.lines[place].runs[0]].head
    device = f"{head.machine.device.name}, " if head.machine.device else ""
    threads = f"{head.sweep.threads} thread{'s'[: head.sweep.threads != 1]}"
    return f"{name_line(place)}: {device}{head.machine.processor}, {threads}"
