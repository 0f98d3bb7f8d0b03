"""Own the models: the shapes that go by a published name, and the limits of their speedups."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import UnknownNameError, UsageError
from harness.problem.problem import MAX_DEPTH, MAX_TREES, Problem

BASELINE = "bert-base-4095"
PAPER_MODELS = (BASELINE, "bert-base-3072", "ultrafastbert-1x11")
FAMILY = (
    "3072x0", "1536x1", "512x2", "256x3", "128x4", "64x5", "32x6", "16x7", "8x8", "4x9", "2x10", "1x11",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Describe a layer's shape by its published name; `K x D` is trees x depth."""

    name: str
    title: str
    layer: str
    hidden: int = 0
    depth: int = 0
    trees: int = 0

    def problem(self, *, batch: int, width: int, seed: int) -> Problem:
        """Return the problem of this model at one batch and width."""
        return Problem(
            layer="fff" if self.layer == "fff" else "ff",
            batch=batch, d_in=width, d_out=width, hidden=self.hidden, depth=self.depth,
            trees=self.trees, seed=seed,
        )  # fmt: skip


def split(text: str) -> list[str]:
    """Return the parts of a list that is written with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_model(name: str) -> Model:
    """Return a model by name: a published one, `ff-HIDDEN`, or `KxD` for any trees and depth.

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
    known = [*PAPER_MODELS, "family", *FAMILY, "ff-HIDDEN", "KxD"]
    raise UnknownNameError("model", name, known=known)


def parse_baseline(name: str) -> str:
    """Return the name of an FF that ratios can be over. Raises UsageError for an FFF or an unknown one."""
    model = parse_model(name)
    if model.layer != "ff":
        raise UsageError(f"need an FF, such as {BASELINE} or ff-49152, got {name!r}")
    return model.name


def parse_models(text: str) -> list[Model]:
    """Return the models of a list; `family` stands for all of the paper's `KxD`.

    Raises UnknownNameError or UsageError, as parse_model does.
    """
    names: list[str] = []
    for part in split(text):
        names.extend(FAMILY if part.lower() == "family" else [part])
    if not names:
        raise UsageError(f"need at least one model, got {text!r}")
    models = {model.name: model for model in map(parse_model, names)}
    return list(models.values())


def title(model: str) -> str:
    """Return a model's printed name."""
    return parse_model(model).title


def speedup_limit(model: str, baseline: str = BASELINE) -> float:
    """Return the limit of a model's speedup: the baseline's neurons over those that it computes."""
    parsed, base = parse_model(model), parse_model(baseline)
    used = parsed.trees * (parsed.depth + 1) if parsed.layer == "fff" else parsed.hidden
    return base.hidden / used
