"""Own the figure of the bandwidths: each pattern's rate over the working set, with the caches' sizes."""

from __future__ import annotations

from matplotlib.figure import Figure

from harness.analysis.analysis import Analysis
from harness.analysis.bandwidth import find_bandwidths
from harness.report import escape
from harness.report.figure_style import SCREEN, DrawingStyle, new_figure, set_sizes, set_title
from harness.report.formats import format_bytes
from harness.report.palette import GREY, MARKERS

_DASHES = ("-", "--", "-.", ":", (0, (1, 3)))


def is_drawable(analysis: Analysis) -> bool:
    """Say whether a run measured a bandwidth."""
    return find_bandwidths(analysis) is not None


def draw(analysis: Analysis, style: DrawingStyle = SCREEN) -> Figure:
    """Draw the rate of each pattern over the sets that it walked; black and grey, since none is a layer."""
    analysis = escape.each_text(analysis, escape.figure)
    found = find_bandwidths(analysis)
    assert found is not None
    figure = new_figure(8.5, 2.6 if style.is_narrow else 5, style)
    axes = figure.subplots()
    if found.curve is not None:
        walked = found.curve.rates
        axes.plot([r.set_bytes for r in walked], [r.gbs for r in walked], color=GREY, lw=3, alpha=0.35,
                  label="sets of many sizes, read before the run")  # fmt: skip
    for pattern, shape in found.shapes.items():
        own = sorted((s.set_bytes, s.speed.gbs) for s in found.streams if s.pattern == pattern)
        axes.plot([size for size, _ in own], [gbs for _, gbs in own], ls=_DASHES[shape % len(_DASHES)],
                  color="black", marker=MARKERS[shape % len(MARKERS)], ms=style.marker, lw=0.8,
                  label=style.write(pattern))  # fmt: skip
    for name, size in found.capacity.items():
        axes.axvline(size, color=GREY, lw=0.8, ls=":", zorder=1)
        axes.annotate(f"{name}\n{format_bytes(size)}", (size, 1.02), xycoords=("data", "axes fraction"),
                      ha="center", fontsize=style.note, color=GREY)  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(min(found.rates) / 1.6, max(found.rates) * 1.6)
    set_sizes(axes, [*found.sizes, *found.capacity.values()], style)
    low, high = axes.get_ylim()
    rates = [step * 10**power for power in range(-3, 7) for step in (1, 2, 5)]
    axes.set_yticks([rate for rate in rates if low <= rate <= high])
    axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axes.minorticks_off()
    axes.set_xlabel("working set (log)")
    axes.set_ylabel(f"bandwidth of {found.of}, GB/s (log)")
    axes.grid(alpha=0.25, lw=0.5)
    figure.legend(loc="outside lower center", ncols=3 if style.is_narrow else 6, fontsize=style.note,
                  frameon=False)  # fmt: skip
    set_title(figure, analysis.head, "Bandwidth over the working set", style)
    return figure
