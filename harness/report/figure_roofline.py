"""Own the figure of the roofline: every cell of a run below the roofs that its own ceilings make."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from harness.analysis import roofline
from harness.analysis.analysis import Analysis
from harness.analysis.roofline import Roofline
from harness.report import escape
from harness.report.figure_style import SCREEN, DrawingStyle, new_figure, set_title
from harness.report.formats import format_rate
from harness.report.palette import find_styles

_ROOF = "#444444"
_NEAR = 1.15  # quotient of two rates from which on their labels stand apart


def is_drawable(analysis: Analysis) -> bool:
    """Say whether a run measured a cell, a bandwidth and a peak."""
    return roofline.find_roofline(analysis.ceilings, analysis.cells, analysis.points) is not None


def _label(rates: Mapping[str, float], unit: str) -> Mapping[float, str]:
    """Return the label at each rate; one for all of those so near to each other that theirs would overlap."""
    groups: list[list[tuple[str, float]]] = []
    for name, rate in sorted(rates.items(), key=lambda item: -item[1]):
        if groups and groups[-1][0][1] < _NEAR * rate:
            groups[-1].append((name, rate))
        else:
            groups.append([(name, rate)])
    return {
        group[0][1]: ", ".join(f"{name} {format_rate(rate)}" for name, rate in group) + f" {unit}"
        for group in groups
    }


def _draw_roofs(axes: Any, found: Roofline, style: DrawingStyle) -> None:
    """Draw each bandwidth as a slanted line up to the highest peak, each peak as a flat one, named above."""
    left, right = axes.get_xlim()
    bottom, _ = axes.get_ylim()
    labels = _label(found.bandwidth, "GB/s")
    for gbs in dict.fromkeys(found.bandwidth.values()):
        start, end = max(left, bottom / gbs), min(found.peak / gbs, right)
        if end <= start:
            continue
        axes.plot([start, end], [start * gbs, end * gbs], color=_ROOF, lw=0.8, zorder=1)
        at = start * (right / left) ** (0.03 if style.is_narrow else 0.012)
        # The angle is that of the line in data: an axis in logarithms draws all of them at one slope.
        axes.text(at, 1.08 * at * gbs, labels.get(gbs, ""), fontsize=style.note, color=_ROOF, va="bottom",
                  rotation=math.degrees(math.atan(gbs)), rotation_mode="anchor",
                  transform_rotates_text=True)  # fmt: skip
    nearest = max(found.bandwidth.values())
    for rate in dict.fromkeys(found.peaks.values()):
        axes.plot([rate / nearest, right], [rate, rate], color=_ROOF, lw=0.8, zorder=1)
    for rate, label in _label(found.peaks, "GFLOP/s").items():
        axes.annotate(label, (right, rate), xytext=(-3, 2), textcoords="offset points", ha="right",
                      fontsize=style.note, color=_ROOF)  # fmt: skip


def draw(analysis: Analysis, style: DrawingStyle = SCREEN) -> Figure:
    """Draw each cell's rate over its operations for each compulsory byte, below bandwidths and peaks."""
    analysis = escape.each_text(analysis, escape.figure)
    found = roofline.find_roofline(analysis.ceilings, analysis.cells, analysis.points)
    assert found is not None
    styles = find_styles(analysis)
    figure = new_figure(10, 6, style) if not style.is_narrow else new_figure(0, 3.4, style)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    across = [*(c.intensity for c in found.cells), *found.ridges]
    rates = [*(c.speed.gflops for c in found.cells), found.peak]
    # From left of the ridges on, so that the roofs are seen to bend.
    axes.set_xlim(min(across) / (12 if style.is_narrow else 6), max(across) * 2)
    axes.set_ylim(min(rates) / 2, max(rates) * 2)
    _draw_roofs(axes, found, style)
    for name in dict.fromkeys(c.speed.implementation for c in found.cells):
        own = [c for c in found.cells if c.speed.implementation == name]
        axes.plot([c.intensity for c in own], [c.speed.gflops for c in own], ls="",
                  color=styles[name].colour, marker=styles[name].marker, ms=style.marker + 1,
                  markeredgecolor="white", markeredgewidth=0.08 * style.marker, label=style.write(name),
                  zorder=3)  # fmt: skip
    axes.set_xlabel("operations for each byte that any pass must move (log)")
    axes.set_ylabel("GFLOP/s (log)")
    axes.grid(alpha=0.25, lw=0.5)
    if style.is_narrow:
        figure.legend(loc="outside lower center", ncols=3, fontsize=style.note, frameon=False)
    else:
        figure.legend(loc="outside right center", fontsize=style.note, frameon=False)
    set_title(figure, analysis.head, "Roofline: every cell of the run", style)
    return figure
