"""Own the figure of whole models: where the time of a pass goes with each layer as the FF."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.analysis.analysis import Analysis
from harness.analysis.transformer import Form, WholeModel
from harness.problem.transformer import ALL_PARTS, DENSE, FF_PARTS
from harness.report import escape
from harness.report.figure_style import SCREEN, DrawingStyle, new_figure, set_title
from harness.report.formats import format_ratio, format_time
from harness.report.palette import COLD, COLOURS, WARM
from harness.report.transformer import PART_NAMES, find_parts, format_whole, name_form

# What is no layer is grey, from attention's products to what is neither.
_GREYS = {
    "qkv": "#4d4d4d", "scores": "#767676", "projection": "#999999", "norms": "#bdbdbd",
    "head": "#000000", "rest": "#e0e0e0", "forward": "#767676", "backward": "#999999",
    "update": "#4d4d4d",
}  # fmt: skip
# The FF lies at the top of its bar, so that what no layer can take away is seen as one.
_ORDER = (*(part for part in ALL_PARTS if part not in FF_PARTS), *FF_PARTS)
# Of a step of training the way back and the update are the FF's colour under other hatches.
_HATCHES = {"ff_backward": "//", "ff_update": ".."}

_MOST_IN_COLUMN = 4
_MOST_FORMS = 16  # bars beside each other
_LONG_TITLE = 40
_LONG_NAME = 12  # characters from which on a name has two lines


def _colour(form: Form, part: str) -> str:
    if part not in FF_PARTS:
        return _GREYS[part]
    return COLOURS[(COLD if form.computed_by.startswith("fff_") else WARM)[0]]


def _draw_forms(axes: Any, model: WholeModel, style: DrawingStyle) -> None:
    """Draw a bar a form: its parts, and beside their sum the time of a pass without timers."""
    forms = [form for form in model.forms if form.parts_ns or form.pass_ns == form.pass_ns]
    highest = max((max(sum(f.parts_ns.values()), f.pass_ns) for f in forms), default=1.0)
    # In a column there is no room for many intervals beside each other: the table has them.
    crowded = style.is_narrow and len(forms) > _MOST_IN_COLUMN
    for i, form in enumerate(forms):
        below = 0.0
        for part in _ORDER:
            spent = form.parts_ns.get(part, 0.0)
            axes.bar(i, spent, bottom=below, width=0.66, color=_colour(form, part),
                     hatch=_HATCHES.get(part), edgecolor="white", linewidth=0)  # fmt: skip
            below += spent
        if not form.parts_ns:  # of a compiled pass the whole alone is known
            axes.bar(i, form.pass_ns, width=0.66, facecolor="none", edgecolor="black", lw=0.8)
        axes.plot([i - 0.4, i + 0.4], [form.pass_ns] * 2, color="black", lw=1.6, zorder=3)
        told, _, interval = format_ratio(form.speedup).partition(" ")
        speedup = "" if form.ff == DENSE else f"\n{told}" if crowded else f"\n{told}\n{interval}"
        top = max(below, form.pass_ns) + 0.02 * highest
        axes.text(i, top, f"{format_time(form.pass_ns)}{speedup}".rstrip(), ha="center", va="bottom",
                  fontsize=style.note)  # fmt: skip
    names = [name_form(form) for form in forms]
    broken = [n.replace("-", "-\n", 1) if len(n) > _LONG_NAME else n for n in names]
    turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if crowded else {}
    axes.set_xticks(
        range(len(forms)), [style.write(name) for name in (names if crowded else broken)],
        fontsize=style.note, **turned,
    )  # fmt: skip
    axes.set_ylim(0, 1.25 * highest)
    axes.yaxis.set_major_formatter(lambda ns, _: format_time(ns) if ns else "0")
    name, _, rest = format_whole(model).partition("layers, ")
    told = (
        f"{name}layers\n{rest}"
        if rest and len(name) + len(rest) > _LONG_TITLE
        else format_whole(model)
    )
    axes.set_title(style.write(told), fontsize=style.note + 1)


def draw(analysis: Analysis, style: DrawingStyle = SCREEN) -> Figure:
    """Draw a panel a model and batch, a stacked bar for each layer that stands as the FF."""
    analysis = escape.each_text(analysis, escape.figure)
    models = [m for m in analysis.whole_models if any(f.pass_ns == f.pass_ns for f in m.forms)]
    most = max(len(model.forms) for model in models)
    # In a column the panels stand below one another, on a screen a few beside each other.
    columns = 1 if style.is_narrow else min(len(models), max(1, _MOST_FORMS // most))
    rows = -(-len(models) // columns)
    height = 0.6 + 2.2 * rows if style.is_narrow else 0.6 + 4.6 * rows
    figure = new_figure(max(6.5, 1.2 * most * columns), height, style)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, model in zip(panels, models, strict=False):
        _draw_forms(panel, model, style)
    for empty in panels[len(models) :]:
        empty.set_axis_off()
    panels[0].set_ylabel("a pass of the model")
    set_title(
        figure,
        analysis.head,
        "Where the time of a whole model goes, by what stands as its FF",
        style,
    )
    seen = {part for model in models for part in find_parts(model)} - {*FF_PARTS}
    figure.legend(
        handles=[
            *(Patch(color=_GREYS[part], label=PART_NAMES[part]) for part in _ORDER if part in seen),
            Patch(color=COLOURS[WARM[0]], label="FF"), Patch(color=COLOURS[COLD[0]], label="FFF"),
            *(
                Patch(facecolor=COLOURS[WARM[0]], hatch=hatch, edgecolor="white", label=PART_NAMES[part])
                for part, hatch in _HATCHES.items()
                if any(part in find_parts(model) for model in models)
            ),
            Line2D([], [], color="black", lw=1.6, label="a pass without timers"),
        ],
        loc="outside lower center", ncols=3 if style.is_narrow else 4, fontsize=style.note, frameon=False,
    )  # fmt: skip
    return figure
