"""Own the figure of the caches: bandwidth over the working set, with the sizes told and the real ones."""

from __future__ import annotations

from matplotlib.figure import Figure

from harness.analysis.analysis import Analysis
from harness.report import escape
from harness.report.figure_style import SCREEN, DrawingStyle, new_figure, set_sizes, set_title
from harness.report.formats import format_bytes
from harness.report.palette import GREY


def is_drawable(analysis: Analysis) -> bool:
    """Say whether a run has a curve to draw."""
    return analysis.cache_curve is not None


def draw(analysis: Analysis, style: DrawingStyle = SCREEN) -> Figure:
    """Draw the rates of a run's walk over the working set, sizes on a log scale; none is a layer's colour."""
    curve = escape.each_text(analysis, escape.figure).cache_curve
    assert curve is not None
    figure = new_figure(8.5, 2.6 if style.is_narrow else 5, style)
    axes = figure.subplots()
    sizes, rates = zip(*((r.set_bytes, r.gbs) for r in curve.rates), strict=True)
    axes.plot(
        sizes,
        rates,
        color="black",
        marker="o",
        ms=0.8 * style.marker,
        label="read, fastest pass",
    )
    for i, (name, size) in enumerate(curve.told.items()):
        told = "told by the system" if i == 0 else None
        axes.axvline(size, color=GREY, lw=0.5 * style.line, ls="--", label=told)
        axes.annotate(f"{name} {format_bytes(size)}", (size, 1.015), xycoords=("data", "axes fraction"),
                      ha="center", fontsize=style.note, color=GREY)  # fmt: skip
    shown = {name: size for name, size in curve.effective.items() if size >= sizes[0]}
    axes.plot(list(shown.values()), [curve.rate_at(size) for size in shown.values()], ls="", marker="v",
              ms=2 * style.marker, color="black", markerfacecolor="white",
              label="what a core gets")  # fmt: skip
    for name, size in shown.items():
        axes.annotate(f"{name} {format_bytes(size)}", (size, curve.rate_at(size)), xytext=(6, 8),
                      textcoords="offset points", fontsize=style.note)  # fmt: skip
    set_sizes(axes, [*sizes, *curve.told.values()], style)
    axes.set_ylim(0, 1.15 * max(rates))
    axes.set_xlabel("working set (log)")
    threads = "thread" if curve.threads == 1 else f"{curve.threads} threads together"
    axes.set_ylabel(f"bandwidth of {'one ' if curve.threads == 1 else ''}{threads}, GB/s")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=style.note, frameon=False)
    set_title(
        figure,
        analysis.head,
        "Reading working sets of many sizes: what a core gets of the caches",
        style,
    )
    return figure
