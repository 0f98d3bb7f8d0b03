"""Own the words about whole models: the tables of a run of them, and the plain numbers behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.analysis.analysis import Analysis
from harness.analysis.stats import Ratio
from harness.analysis.transformer import Form, WholeModel
from harness.problem.models import title
from harness.problem.transformer import ALL_PARTS, DENSE, LEFT_OUT, Transformer
from harness.report.formats import (
    NONE,
    format_markdown_table,
    format_ratio,
    format_share,
    format_time,
    plain,
    plain_ratio,
)

_NAMES = {DENSE: "as it is", LEFT_OUT: "left out"}
PART_NAMES = {
    "qkv": "QKV", "scores": "scores", "projection": "projection", "ff": "FF", "norms": "norms",
    "head": "head", "rest": "rest", "ff_backward": "FF, backward", "ff_update": "FF, update",
    "forward": "other, forward", "backward": "other, backward", "update": "other, update",
}  # fmt: skip


def name_form(form: Form) -> str:
    """Return how the FF of a form is called."""
    return _NAMES.get(form.ff) or title(form.ff)


def format_transformer(whole: Transformer) -> str:
    """Return which model at which batch a pass is of, and how it is run where not plainly."""
    layers, sequences = whole.architecture.layers, whole.sequences
    name = f"{whole.architecture.name}, {layers} layer{'s' if layers != 1 else ''}"
    if whole.is_step:
        of = f"{sequences} sequence{'s' if sequences != 1 else ''}"
        of_what = f"a step of {of} behind {whole.tokens} tokens"
    else:
        of_what = f"{sequences} x {whole.tokens} tokens"
    if whole.training:
        of_what = f"a step of training, {of_what}"
    ways = [
        *([whole.dtype] if whole.dtype != "float32" else []),
        *(["compiled"] if whole.compiled else []),
    ]
    return ", ".join([name, of_what, *ways])


def format_whole(model: WholeModel) -> str:
    """Return which model at which batch is told of."""
    return format_transformer(model.transformer)


def format_percent(share: Ratio | None) -> str:
    """Return a share with its interval in percent."""
    if share is None:
        return NONE
    if not share.known:
        return f"~{100 * share.value:.0f} %"
    return f"{100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def find_parts(model: WholeModel) -> list[str]:
    """Return the parts that a model has: an encoder has no head."""
    parts = model.transformer.parts
    return [part for part in parts if any(form.parts_ns.get(part) for form in model.forms)]


# ---- tables -------------------------------------------------------------------------------------


def form_frame(model: WholeModel) -> pd.DataFrame:
    """Return a row a form: what was measured, what follows from its layer, and what is left over."""
    limit = format_ratio(model.limit)
    return pd.DataFrame(
        {
            "the FF is": name_form(form),
            "a pass": format_time(form.pass_ns) if form.status == "ok" else form.status,
            "model, measured": "1x" if form.ff == DENSE else format_ratio(form.speedup),
            "its FF alone": "1x" if form.ff == DENSE else format_ratio(form.layer),
            "model, follows": limit if form.ff == LEFT_OUT else format_ratio(form.follows),
            "residual": format_ratio(form.residual),
            "of the measured limit": format_percent(form.of_limit),
            "computed by": form.computed_by or NONE,
        }
        for form in model.forms
    )


def part_frame(model: WholeModel) -> pd.DataFrame:
    """Return a row a form: the time of each part, and its share of the whole."""
    rows, parts = [], find_parts(model)
    for form in model.forms:
        whole = sum(form.parts_ns.values())
        if not whole:
            continue
        row = {"the FF is": name_form(form)}
        for part in parts:
            spent = form.parts_ns[part]
            row[PART_NAMES[part]] = f"{format_time(spent)} ({format_share(spent / whole)})"
        rows.append(row)
    return pd.DataFrame(rows)


# ---- words --------------------------------------------------------------------------------------


def answer_lines(model: WholeModel) -> list[str]:
    """Return for each layer whether the model is faster with it, by how much, and what bounds that."""
    lines = []
    for form in model.forms:
        if form.speedup is None or form.ff == LEFT_OUT:
            continue
        way = "faster" if form.speedup.value > 1 else "slower"
        sure = form.speedup.known and not form.speedup.includes(1.0)
        told = f"**{way}, {format_ratio(form.speedup)}**" if sure else (
            f"not told from as fast, {format_ratio(form.speedup)}"
        )  # fmt: skip
        alone = f"; the FF alone is {format_ratio(form.layer)} as fast" if form.layer else ""
        lines.append(
            f"- With {title(form.ff)} as its FF the model is {told}{alone}. Without any FF the model is "
            f"{format_ratio(model.measured_limit)} as fast: no layer can do more, and this one reaches "
            f"{format_percent(form.of_limit)} of it."
        )
    if model.share is not None:
        what = "step" if model.transformer.training else "pass"
        lines.append(
            f"- The FF takes {format_percent(model.share)} of a {what} of the model as it is; a limit of "
            f"{format_ratio(model.limit)} follows, however fast a layer is."
        )
    if model.over_plain is not None:
        lines.append(
            f"- Run in this way the model as it is gets {format_ratio(model.over_plain)} as fast as in "
            "float32 and eager; all other ratios here are over it as it is run here."
        )
    return lines


def trust_lines(model: WholeModel) -> list[str]:
    """Return what the A/A pair and the timers say of the figures."""
    lines = []
    if model.aa is not None:
        text = f"The model as it is against itself under a second name (A/A): {format_ratio(model.aa)}."
        if not model.aa.known:
            text += " One block tells nothing of what this machine resolves."
        elif not model.aa.includes(1.0):
            text += (
                " **UNSTABLE: this misses 1. The machine was disturbed unevenly; every row here is uncertain "
                "by at least as much.**"
            )
        lines += ["", text]
    if model.timers is not None:
        lines += [
            "",
            f"A pass whose parts are timed takes {format_ratio(model.timers)} as long as one without.",
        ]
    return lines


def reason_lines(model: WholeModel) -> list[str]:
    """Return why forms have no figure, those of one reason together."""
    of: dict[tuple[str, str], list[str]] = {}
    for form in model.forms:
        if form.reason:
            of.setdefault((form.status, form.reason), []).append(name_form(form))
    return [f"\n{', '.join(names)}: {status}: {why}." for (status, why), names in of.items()]


def _model_lines(model: WholeModel) -> list[str]:
    if all(form.status == "unavailable" for form in model.forms):
        return ["", f"## {format_whole(model)}", *reason_lines(model)]
    parts = part_frame(model)
    lines = ["", f"## {format_whole(model)}", "", *answer_lines(model), ""]
    lines.append(format_markdown_table(form_frame(model)))
    if not parts.empty:
        lines += ["", "Where the time of a pass goes, by timers around its parts (medians):", ""]
        lines.append(format_markdown_table(parts))
    lines += trust_lines(model)
    return lines + reason_lines(model)


def reading_lines(wholes: Sequence[Transformer]) -> list[str]:
    """Return how the tables are read. wholes: the passes that they tell of."""
    weights = sorted({whole.checkpoint for whole in wholes if whole.checkpoint})
    training = any(whole.training for whole in wholes)
    compiled = any(whole.compiled for whole in wholes)
    where = {whole.device for whole in wholes}
    return [
        "", "## Reading this", "",
        "- `2.6x [2.5, 2.7]`: geometric mean over blocks of interleaved samples and its 95 % interval "
        "(Student's, with the fresh processes as units); digits stop where the interval does. `~2.6x`: one "
        "block, no interval.",
        "- All ratios are over the model as it is, run in the same way. Both sides run alike: dtype (float32 "
        "where nothing is said), eager or compiled, torch's own attention (SDPA), inference mode but in "
        "training, the same threads, and the same weights in all that is not the FF.",
        "- left out: the input of the FF is handed on as its output. What that gains is the measured limit; "
        "the limit by Amdahl's law, 1 / (1 - the FF's share), stands in the same row as what follows.",
        "- its FF alone: the FF's time in the model as it is over that of the layer in its place, by timers "
        "in passes of their own. model, follows: what that would make of the model if no other part changed. "
        "residual: the measured speedup over that; below 1 the swap made other parts slower, or the timers' "
        "passes differ from those without.",
        "- Why not 78x: that is claimed of the layer alone. A model spends only a part of its time in its "
        "FFs, and what is left bounds it.",
        f"- Weights are those of {', '.join(weights)}, but for layers that it does not have, which are "
        "drawn; tokens are drawn evenly from the vocabulary, and are no text." if weights else
        "- Weights are drawn, not trained: nothing here says how good such a model is.",
        *(["- A step of training is the way forward, the way back and AdamW's update (fused) at a rate of 0: "
           "it does all its work and leaves the weights, so that all steps are alike. An FFF's gradients are "
           "as large as its weights, of which most are 0: its update costs what a dense layer of all its "
           "neurons does. Its gradients were compared with those in float64 along each token's path, all "
           "others with the model in float64."] if training else []),
        *(["- Compiled: by torch.compile for this shape, before the clock. A layer is one operator in it. "
           "The time of parts is not taken: compiled modules have no hooks."] if compiled else []),
        *(["- Times are a device's, between events; those of parts too."] if where - {"cpu"} else []),
        "- Every FFF and control was compared with a float64 oracle in each layer of the checked pass, on "
        "the input that it got there; the rest of the model with the same in float64.",
    ]  # fmt: skip


def whole_model_lines(analysis: Analysis) -> list[str]:
    """Return all sections of a run of whole models."""
    lines = [line for model in analysis.whole_models for line in _model_lines(model)]
    return [*lines, *reading_lines([model.transformer for model in analysis.whole_models])]


# ---- plain numbers ------------------------------------------------------------------------------


def _plain(name: str, ratio: Ratio | None) -> dict[str, Any]:
    names = (name, f"{name}_low", f"{name}_high")
    return dict(zip(names, plain_ratio(ratio), strict=True))


def csv_frame(models: Sequence[WholeModel]) -> pd.DataFrame:
    """Return a row a model, batch and form as plain numbers, times in ns."""
    return pd.DataFrame(
        {
            "architecture": m.transformer.architecture.name,
            "layers": m.transformer.architecture.layers, "sequences": m.transformer.sequences,
            "tokens": m.transformer.tokens, "training": m.transformer.training,
            "dtype": m.transformer.dtype, "compiled": m.transformer.compiled,
            "device": m.transformer.device, "checkpoint": m.transformer.checkpoint,
            "ff": form.ff, "status": form.status,
            "computed_by": form.computed_by, "pass_ns": plain(form.pass_ns),
            **_plain("speedup", form.speedup), **_plain("layer", form.layer),
            **_plain("follows", form.follows), **_plain("residual", form.residual),
            **_plain("of_limit", form.of_limit), **_plain("share", m.share),
            **_plain("limit", m.limit), **_plain("aa", m.aa),
            **_plain("over_plain", m.over_plain),
            **{f"{part}_ns": plain(form.parts_ns.get(part)) for part in ALL_PARTS},
        }
        for m in models
        for form in m.forms
    )  # fmt: skip
