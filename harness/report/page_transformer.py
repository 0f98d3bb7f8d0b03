"""Own what the page shows of whole models: the answers, tables and a figure of each, and their cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from harness.analysis.analysis import Analysis
from harness.analysis.merge import label
from harness.analysis.stats import Ratio
from harness.analysis.transformer import Form, WholeModel
from harness.problem.models import title
from harness.problem.transformer import DENSE, FF_PARTS, LEFT_OUT
from harness.report import palette
from harness.report import transformer as report_transformer
from harness.report.formats import NONE, format_ratio, format_share, format_time, plain
from harness.report.page_figures import Bar, Figure, Key, line_key, swatch
from harness.report.page_parts import Number, Place, Table, make_table, render_prose
from harness.report.page_svg import Scale, Tick, bar, rule, strip
from harness.report.transformer import PART_NAMES, find_parts, format_whole, name_form

RAW = ("model", "the FF is", "a pass", "speedup", "low", "high", "of the limit", "computed by", "status",
       "cell", "measure again")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSection:
    """Hold what is shown of one model at one batch. answers: for each layer whether the model is faster."""

    id: str
    title: str
    answers: Sequence[Markup]
    place: Place
    figure: Figure | None


# ---- the figure ---------------------------------------------------------------------------------


def _hue(form: Form) -> str:
    cold = form.computed_by.startswith("fff_")
    return f"c{(palette.COLD if cold else palette.WARM)[0]}"


def _ticks(highest: float) -> list[tuple[str, str, bool]]:
    """Return some four ticks of an axis of times from 0."""
    step = 10 ** math.floor(math.log10(highest / 2))
    step *= next(n for n in (1, 2, 5, 10) if highest / (n * step) <= 5)
    scale = Scale(low=0.0, high=highest, log=False)
    ticks = [Tick(value=i * step, label=format_time(i * step) if i else "0", minor=i % 2 == 1)
             for i in range(int(highest / step) + 1)]  # fmt: skip
    return [(f"{100 * scale.share(t.value):.2f}", t.label, t.minor) for t in ticks]


def _describe(analysis: Analysis, model: WholeModel, form: Form) -> list[str]:
    """Return the lines that a bar opens: each part's time, what was measured, and the cell."""
    whole = sum(form.parts_ns.values())
    lines = [
        f"{PART_NAMES[part]}: {format_time(spent)}, {format_share(spent / whole)}"
        for part in find_parts(model)
        if whole and (spent := form.parts_ns.get(part, 0.0))
    ]
    if form.of_limit is not None:
        lines.append(f"{report_transformer.format_percent(form.of_limit)} of the measured limit")
    again = analysis.cells[form.cell].repro
    return [*lines, form.cell, *([again] if again else [])]


def _figure(analysis: Analysis, model: WholeModel, number: int) -> Figure | None:
    """Draw a bar a form: what is not the FF, and the FF behind it."""
    forms = [form for form in model.forms if math.isfinite(form.pass_ns)]
    if not forms:
        return None
    highest = 1.05 * max(max(f.pass_ns, sum(f.parts_ns.values())) for f in forms)
    scale = Scale(low=0.0, high=highest, log=False)

    def row(form: Form) -> Bar:
        whole = sum(form.parts_ns.values())
        ff = sum(form.parts_ns.get(part, 0.0) for part in FF_PARTS)
        parts = (
            [bar(scale, 0.0, whole - ff, "moving"), bar(scale, whole - ff, whole, f"fill {_hue(form)}")]
            if whole
            else [bar(scale, 0.0, form.pass_ns, "rest")]
        )  # fmt: skip
        parts.append(rule(scale, form.pass_ns, "one"))
        speedup = "" if form.ff == DENSE else f", {format_ratio(form.speedup)}"
        return Bar(
            name=name_form(form), drawn=strip(scale, parts),
            value=f"{format_time(form.pass_ns)}{speedup}",
            detail=_describe(analysis, model, form),
        )  # fmt: skip

    in_parts = any(form.parts_ns for form in forms)
    keys = [
        Key(drawn=swatch("moving"), says="what is not the FF"),
        Key(drawn=swatch(f"c{palette.WARM[0]}"), says="FF"),
        Key(drawn=swatch(f"c{palette.COLD[0]}"), says="FFF"),
    ]  # fmt: skip
    if not in_parts:
        keys = [Key(drawn=swatch("rest"), says="a pass; the time of its parts was not taken")]
    what = "step of training" if model.transformer.training else "pass"
    return Figure(
        id=f"model-{number}", title=f"Where the time of a {what} goes",
        says=f"Each bar is one {what} of the model with another layer as its FF, by timers around its parts; "
        "the upright line is one without timers. Behind it stands the speedup over the model as it is.",
        keys=[*keys, Key(drawn=line_key("one"), says=f"a {what} without timers")],
        bars=[row(form) for form in forms], ticks=_ticks(highest),
    )  # fmt: skip


# ---- sections -----------------------------------------------------------------------------------


def find_sections(analysis: Analysis, marked: Analysis) -> list[ModelSection]:
    """Return a section a model and batch. marked: the analysis with its texts escaped for Markdown."""
    found = []
    pairs = zip(analysis.whole_models, marked.whole_models, strict=True)
    for number, (model, dark) in enumerate(pairs, 1):
        measured = any(math.isfinite(form.pass_ns) for form in model.forms)
        parts = report_transformer.part_frame(model)
        tables = [
            make_table("Each layer as the FF, over the model as it is", report_transformer.form_frame(model)),
            *([] if parts.empty else [make_table("The time of each part, medians", parts)]),
        ]  # fmt: skip
        notes = [*report_transformer.trust_lines(dark)] if measured else []
        notes += [line.strip() for line in report_transformer.reason_lines(dark)]
        found.append(
            ModelSection(
                id=f"model-section-{number}", title=format_whole(model),
                answers=render_prose(report_transformer.answer_lines(dark)) if measured else [],
                place=Place(
                    title=format_whole(model), tables=tables if measured else [], notes=render_prose(notes)
                ),
                figure=_figure(analysis, model, number),
            )
        )  # fmt: skip
    return found


def find_verdict(analysis: Analysis) -> dict[str, str] | None:
    """Return the first FFF's speedup of the first model that has one, None where there is none."""
    for model in analysis.whole_models:
        for form in model.forms:
            if form.ff in (DENSE, LEFT_OUT) or form.speedup is None:
                continue
            value, _, interval = format_ratio(form.speedup).partition(" ")
            return {
                "value": value,
                "interval": f"95 % interval {interval.strip('[]').replace(', ', ' to ')}" if interval
                else "one block of samples, so no interval",
                "model": format_whole(model), "layer": title(form.ff),
                "alone": format_ratio(form.layer), "limit": format_ratio(model.measured_limit),
            }  # fmt: skip
    return None


def _number(value: float | None, shown: str) -> Number:
    known = plain(value)
    return Number(shown=shown, value="" if known is None else repr(float(known)))


def _ends(ratio: Ratio | None) -> list[Number]:
    if ratio is None:
        return [Number(shown=NONE)] * 3
    ends = (ratio.low, ratio.high) if ratio.known else (math.nan, math.nan)
    return [_number(v, f"{v:.3g}" if math.isfinite(v) else NONE) for v in (ratio.value, *ends)]


def find_raw(analysis: Analysis) -> list[list[Number]]:
    """Return a row a cell that is timed without its parts, as `RAW` names its columns."""
    return [
        [
            Number(shown=format_whole(model)), Number(shown=name_form(form)),
            _number(form.pass_ns, format_time(form.pass_ns)), *_ends(form.speedup),
            _number(form.of_limit.value if form.of_limit else None,
                    report_transformer.format_percent(form.of_limit)),
            Number(shown=form.computed_by or NONE), Number(shown=form.status), Number(shown=form.cell),
            Number(shown=analysis.cells[form.cell].repro),
        ]
        for model in analysis.whole_models
        for form in model.forms
    ]  # fmt: skip


def find_summary(analyses: Sequence[Analysis]) -> Table | None:
    """Return a row for each model and layer of each of several runs, None where no run has whole models."""
    rows = [
        {
            "run": str(number), "machine": label(analysis.head), "model": format_whole(model),
            "the FF is": name_form(form), "speedup": format_ratio(form.speedup),
            "its FF alone": format_ratio(form.layer), "measured limit": format_ratio(model.measured_limit),
        }
        for number, analysis in enumerate(analyses, 1)
        for model in analysis.whole_models
        for form in model.forms
        if form.ff not in (DENSE, LEFT_OUT)
    ]  # fmt: skip
    return (
        make_table("Whole models over the same as they are", pd.DataFrame(rows)) if rows else None
    )
