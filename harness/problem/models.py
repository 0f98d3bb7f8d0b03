"""Own the models: the shapes that go by a published name, and the limits of their speedups."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import UnknownNameError, UsageError
from harness.problem.problem import MAX_DEPTH, MAX_TREES, Layer, Problem

BASELINE = "bert-base-4095"
PAPER_MODELS = (BASELINE, "bert-base-3072", "ultrafastbert-1x11")
FAMILY = (
    "3072x0", "1536x1", "512x2", "256x3", "128x4", "64x5", "32x6", "16x7", "8x8", "4x9", "2x10", "1x11",
)  # fmt: skip


# The layers of arXiv 2308.14711: of its Table 1 the FFs and leaf FFFs of the same training widths; of its
# Figure 3 the FFs of 1 to 32 blocks of 32 neurons, and leaf FFFs of 2 to 2**15 such leaves.
LEAF_TABLE1 = tuple(
    name
    for width in (16, 32, 64, 128)
    for name in (
        f"ff-{width}",
        *(f"leaf-{leaf}x{(width // leaf).bit_length() - 1}" for leaf in (8, 4, 2, 1)),
    )
)
LEAF_FIGURE = (
    *(f"ff-{32 * 2**depth}" for depth in range(1, 6)),
    *(f"leaf-32x{depth}" for depth in range(1, 16)),
)
GROUPS = {"family": FAMILY, "ffp-table1": LEAF_TABLE1, "ffp-figure": LEAF_FIGURE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Describe a layer's shape by its published name; `K x D` is trees x depth.

    A leaf FFF has ``2**depth`` leaves of `hidden` neurons.
    """

    name: str
    title: str
    layer: Layer
    hidden: int = 0
    depth: int = 0
    trees: int = 0
    activation: str = "gelu"

    def problem(self, *, batch: int, width: int, seed: int) -> Problem:
        """Return the problem of this model at one batch and width."""
        return Problem(
            layer=self.layer,
            batch=batch, d_in=width, d_out=width, hidden=self.hidden, depth=self.depth,
            trees=self.trees, activation=self.activation, seed=seed,
        )  # fmt: skip


def split(text: str) -> list[str]:
    """Return the parts of a list that is written with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_model(name: str) -> Model:
    """Return a model by name: a published one, `ff-HIDDEN`, `KxD`, or `leaf-WIDTHxD` (or `...-relu`).

    Raises UnknownNameError listing the known names, UsageError for a shape that no kernel takes.
    """
    text = name.strip().lower()
    if match := re.fullmatch(r"(bert-base|ff)-(\d+)", text):
        hidden = int(match.group(2))
        if hidden < 1:
            raise UsageError(f"hidden must be at least 1, got {name!r}")
        title = f"BERT-base-{hidden}" if match.group(1) == "bert-base" else f"FF-{hidden}"
        return Model(name=text, title=title, layer="ff", hidden=hidden)
    if match := re.fullmatch(r"(?:ultrafastbert-)?(\d+)x(\d+)", text):
        trees, depth = int(match.group(1)), int(match.group(2))
        if not 1 <= trees <= MAX_TREES or depth > MAX_DEPTH:
            raise UsageError(f"need 1 to {MAX_TREES} trees of depth 0 to {MAX_DEPTH}, got {name!r}")
        return Model(
            name=f"ultrafastbert-{trees}x{depth}", title=f"UltraFastBERT-{trees}x{depth}",
            layer="fff", depth=depth, trees=trees,
        )  # fmt: skip
    if match := re.fullmatch(r"leaf-(\d+)x(\d+)(-relu)?", text):
        width, depth, relu = int(match.group(1)), int(match.group(2)), bool(match.group(3))
        if width < 1 or depth > MAX_DEPTH:
            raise UsageError(
                f"need leaves of at least 1 neuron and a depth of 0 to {MAX_DEPTH}, got {name!r}"
            )
        text = f"leaf-{width}x{depth}"
        return Model(
            name=text + ("-relu" if relu else ""),
            title=f"Leaf-FFF-{width}x{depth}" + (" (ReLU)" if relu else ""), layer="leaf",
            hidden=width, depth=depth, trees=1, activation="relu" if relu else "gelu",
        )  # fmt: skip
    known = [*PAPER_MODELS, *GROUPS, *FAMILY, "ff-HIDDEN", "KxD", "leaf-WIDTHxD"]
    raise UnknownNameError("model", name, known=known)


def parse_baseline(name: str) -> str:
    """Return the name of an FF that ratios can be over. Raises UsageError for an FFF or an unknown one."""
    model = parse_model(name)
    if model.layer != "ff":
        raise UsageError(f"need an FF, such as {BASELINE} or ff-49152, got {name!r}")
    return model.name


def parse_models(text: str) -> list[Model]:
    """Return the models of a list; a name of GROUPS, such as `family`, stands for all of its own.

    Raises UnknownNameError or UsageError, as parse_model does.
    """
    names: list[str] = []
    for part in split(text):
        names.extend(GROUPS.get(part.lower(), (part,)))
    if not names:
        raise UsageError(f"need at least one model, got {text!r}")
    models = {model.name: model for model in map(parse_model, names)}
    return list(models.values())


def title(model: str) -> str:
    """Return a model's printed name."""
    return parse_model(model).title


def speedup_limit(model: str, baseline: str = BASELINE) -> float:
    """Return the limit of a model's speedup: the baseline's neurons over those that it computes.

    At d_in = d_out, as all that a sweep measures; a node that only routes is half a neuron.
    """
    parsed, base = parse_model(model), parse_model(baseline)
    used: float = parsed.hidden
    if parsed.layer == "fff":
        used = parsed.trees * (parsed.depth + 1)
    elif parsed.layer == "leaf":
        used = parsed.hidden + parsed.depth / 2  # a node that only routes has no row of w_out
    return base.hidden / used
