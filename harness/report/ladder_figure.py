"""Own the figure of the ladder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.analysis.analysis import Analysis
from harness.analysis.ladder import Rung
from harness.paper import ladder as paper_ladder
from harness.paper.ladder import LEVELS
from harness.report import escape
from harness.report.figure_style import (
    SCREEN,
    DrawingStyle,
    new_figure,
    set_rows,
    set_title,
    write_beside,
)
from harness.report.ladder_words import (
    NOT_MEASURED,
    TITLES,
    find_claim,
    format_factor,
    format_plain,
)
from harness.report.palette import GREY

# Steps are no layers: none has a layer's colour.
_UP, _DOWN, _FIRST, _LAST = "#444444", "#b3b3b3", GREY, "black"


def _draw_bars(panel: Any, rungs: Sequence[Rung], style: DrawingStyle) -> None:
    """Draw each step as a bar from the speedup before it to that after it, its figure beside the panel."""
    before = 0.1
    for i, rung in enumerate(rungs):
        if rung.speedup is None:
            write_beside(panel, i, NOT_MEASURED, style)
            continue
        s = rung.speedup
        if rung.same:
            panel.plot(
                [s.value, s.value], [i - 0.36, i + 0.36], color=_FIRST, lw=style.line, zorder=3
            )
        else:
            colour = _FIRST if i == 0 else (_UP if s.value > before else _DOWN)
            panel.barh(i, s.value - before, left=before, height=0.6, color=colour, zorder=2)
            if s.known:
                spread = [[s.value - s.low], [s.high - s.value]]
                panel.errorbar(
                    s.value, i, xerr=spread, color="black", capsize=0.6 * style.marker, zorder=4
                )
        label = f"{format_plain(s.value)}x" + (
            "" if i == 0 else f"  (x {format_factor(rung).split('x')[0]})"
        )
        write_beside(panel, i, label, style)
        before = s.value


def ladder_figure(analysis: Analysis, style: DrawingStyle = SCREEN) -> Figure:
    """Draw the speedup after each step as a waterfall on a log axis, a panel for each level.

    Raises UsageError where the run has no ladder.
    """
    analysis = escape.each_text(analysis, escape.figure)
    climbs = analysis.require_ladder().climbs
    figure = new_figure(12.5, 4.6 if style.is_narrow else 5.6, style)
    # In a column the panels stand below one another, each with its names.
    rows = len(LEVELS) if style.is_narrow else 1
    panels = figure.subplots(rows, len(LEVELS) // rows)
    names = [f"{i}. {TITLES[step.key]}" for i, step in enumerate(paper_ladder.STEPS)]
    for panel, level in zip(panels, LEVELS, strict=True):
        rungs, claim = climbs[level], find_claim(level)
        _draw_bars(panel, rungs, style)
        panel.axvline(claim.speedup, color=_LAST, lw=0.8 * style.line, ls="--", zorder=1)
        panel.axvline(paper_ladder.limit(), color="black", lw=0.6 * style.line, ls=":", zorder=1)
        panel.set_xscale("log")
        highest = max([paper_ladder.limit(), *(r.speedup.value for r in rungs if r.speedup)])
        lowest = min([claim.speedup, *(r.speedup.value for r in rungs if r.speedup)])
        panel.set_xlim(lowest / 3, highest * 1.6)
        panel.xaxis.set_major_formatter(lambda x, _: f"{x:g}x")
        if panel is panels[-1] or not style.is_narrow:
            panel.set_xlabel("speedup over the fastest FF (log)")
        panel.set_title(f"FFF at level {level}; published: {claim.text}x", fontsize=style.note + 1)
        set_rows(panel, names, style)
        if panel is not panels[0] and not style.is_narrow:
            panel.set_yticklabels([])
    batch = analysis.head.sweep.batches[0]
    set_title(
        figure, analysis.head, f"From the published protocol to a strict one, batch {batch}", style
    )
    figure.legend(
        handles=[
            Patch(color=_FIRST, label="as published"), Patch(color=_DOWN, label="a step lowers it"),
            Patch(color=_UP, label="a step raises it"),
            Line2D([], [], color=_LAST, ls="--", label="published figure"),
            Line2D([], [], color="black", ls=":", label=f"limit by operations, {paper_ladder.limit():.0f}x"),
        ],
        loc="outside lower center", ncols=2 if style.is_narrow else 5, fontsize=style.note,
        frameon=False,
    )  # fmt: skip
    return figure
