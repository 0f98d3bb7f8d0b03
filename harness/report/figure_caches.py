"""Own the figure of the caches: bandwidth over the working set, with the sizes told and the real ones."""

from __future__ import annotations

from matplotlib.figure import Figure

from harness.analysis.analysis import Analysis
from harness.report import escape
from harness.report.figure_style import new_figure, set_title
from harness.report.formats import format_bytes
from harness.report.palette import COLOURS


def is_drawable(analysis: Analysis) -> bool:
    """Say whether a run has a curve to draw."""
    return analysis.cache_curve is not None


def draw(analysis: Analysis) -> Figure:
    """Draw the rates of a run's walk over the working set, sizes on a log scale."""
    curve = escape.each_text(analysis, escape.figure).cache_curve
    assert curve is not None
    figure = new_figure(8.5, 5)
    axes = figure.subplots()
    sizes, rates = zip(*((r.set_bytes, r.gbs) for r in curve.rates), strict=True)
    axes.plot(sizes, rates, color=COLOURS[0], marker="o", ms=4, label="read, fastest pass")
    for i, (name, size) in enumerate(curve.told.items()):
        told = "told by the system" if i == 0 else None
        axes.axvline(size, color=COLOURS[7], lw=1, ls="--", label=told)
        axes.annotate(f"{name} {format_bytes(size)}", (size, 1.015), xycoords=("data", "axes fraction"),
                      ha="center", fontsize=8)  # fmt: skip
    shown = {name: size for name, size in curve.effective.items() if size >= sizes[0]}
    axes.plot(list(shown.values()), [curve.rate_at(size) for size in shown.values()], ls="", marker="v",
              ms=10, color=COLOURS[5], label="what a core gets")  # fmt: skip
    for name, size in shown.items():
        axes.annotate(f"{name} {format_bytes(size)}", (size, curve.rate_at(size)), xytext=(6, 8),
                      textcoords="offset points", fontsize=8, color=COLOURS[5])  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1.15 * max(rates))
    axes.xaxis.set_major_formatter(lambda size, _: format_bytes(int(size)))
    axes.set_xlabel("working set (log)")
    threads = "thread" if curve.threads == 1 else f"{curve.threads} threads together"
    axes.set_ylabel(f"bandwidth of {'one ' if curve.threads == 1 else ''}{threads}, GB/s")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    set_title(
        figure, analysis.head, "Reading working sets of many sizes: what a core gets of the caches"
    )
    return figure
