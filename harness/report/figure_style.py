"""Own what all figures share: their style, for a screen or a paper's column, the canvas and the title."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness.records.schema import RunHead
from harness.report.formats import format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawingStyle:
    """Describe how figures are drawn.

    column: inches of every figure, 0 where each has a width of its own. note: points of what is written
    inside and beside the axes. marker, line: points of a marker, and of a line that stands out. settings: of
    matplotlib, by its names. glyphs: what is written for characters that the font has another glyph for.
    """

    name: str
    note: float
    marker: float
    line: float
    settings: Mapping[str, Any]
    column: float = 0.0
    glyphs: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_narrow(self) -> bool:
        """Say whether a figure has to fit a column: panels and legends stand below one another."""
        return self.column > 0

    def write(self, text: str) -> str:
        """Return a text so that each character is drawn as itself."""
        return "".join(self.glyphs.get(character, character) for character in text)


def _dots(an_inch: int) -> dict[str, int]:
    """Return the settings of a resolution: a figure is laid out at that which it is saved at.

    The width of a text is rounded to dots, and a label at the edge was cut by what that made of it.
    """
    return {"figure.dpi": an_inch, "savefig.dpi": an_inch}


SCREEN = DrawingStyle(
    name="screen",
    note=8,
    marker=5,
    line=2,
    settings={"font.family": "DejaVu Sans", "font.size": 10, **_dots(150)},
)
# Computer Modern as matplotlib ships it, so that no LaTeX is needed. It has TeX's old encoding, in which the
# characters below are others, and lacks some, which STIX then draws.
PAPER = DrawingStyle(
    name="paper", note=6, marker=2.8, line=1, column=3.3,
    settings={
        "font.family": ["cmr10", "STIXGeneral"], "font.size": 7, **_dots(300), "mathtext.fontset": "cm",
        "axes.formatter.use_mathtext": True, "axes.linewidth": 0.5, "lines.linewidth": 0.9,
        "lines.markeredgewidth": 0.5, "patch.linewidth": 0.5, "grid.linewidth": 0.4,
        "xtick.major.width": 0.5, "ytick.major.width": 0.5, "xtick.minor.width": 0.4,
        "ytick.minor.width": 0.4, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
        "xtick.minor.size": 1.5, "ytick.minor.size": 1.5, "hatch.linewidth": 0.4,
        "legend.handlelength": 1.6, "legend.columnspacing": 1.0, "legend.handletextpad": 0.5,
        "figure.constrained_layout.h_pad": 0.03, "figure.constrained_layout.w_pad": 0.03,
        # Embedded as outlines that a journal's check accepts, not as Type 3.
        "pdf.fonttype": 42,
    },
    glyphs={"_": r"$\_$", "<": "$<$", ">": "$>$", "|": "$|$", '"': "''"},
)  # fmt: skip
STYLES = {style.name: style for style in (SCREEN, PAPER)}


def new_figure(width: float, height: float, style: DrawingStyle = SCREEN) -> Figure:
    """Return an empty figure of that many inches, the column wide in a narrow style, without a display."""
    figure = Figure(figsize=(style.column or width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_beside(
    axes: Any, y: float, text: str, style: DrawingStyle, colour: str = "black"
) -> None:
    """Write the figure of a row to the right of the axes, where no line or bar can be."""
    axes.text(1.015, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=style.note,
              color=colour)  # fmt: skip


def set_rows(axes: Any, names: list[str], style: DrawingStyle) -> None:
    """Name the rows of a figure of bars, the first on top, without room above and below them."""
    axes.set_yticks(range(len(names)), [style.write(name) for name in names], fontsize=style.note)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)


def set_sizes(axes: Any, sizes: Iterable[float], style: DrawingStyle) -> None:
    """Make the x axis one of sizes in bytes, in powers of two that leave room for their names."""
    axes.set_xscale("log", base=2)
    known = [math.log2(size) for size in sizes]
    step = 4 if style.is_narrow else 2
    powers = range(math.floor(min(known)), math.ceil(max(known)) + 1)
    shown = [2**power for power in powers if power % step == 0]
    axes.set_xticks(shown, [format_bytes(size) for size in shown])
    axes.tick_params(axis="x", which="minor", length=0)


def set_title(figure: Figure, head: RunHead, text: str, style: DrawingStyle = SCREEN) -> None:
    """Write what is shown, and where it was measured, above the whole figure.

    A paper has a caption for the first; where it was measured and that a run was quick stay.
    """
    quick = "QUICK run, not for quoting. " if head.sweep.quick else ""
    threads, device = head.sweep.threads, head.machine.device
    where = f"{head.machine.processor}; {threads} thread{'s'[: threads != 1]}"
    if device is not None:
        where = f"{device.name}, torch {device.torch}, CUDA {device.cuda}"
    where = style.write(f"{quick}{where}; {head.started_utc[:10]}")
    if style.is_narrow:
        figure.suptitle(where, fontsize=style.note)
    else:
        figure.suptitle(f"{text}\n{where}", fontsize=10)
