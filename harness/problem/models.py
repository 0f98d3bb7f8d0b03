"""Own the models: the shapes that go by a published name, and the limits of their speedups."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import UnknownNameError, UsageError
from harness.problem.problem import MAX_ACTIVE, MAX_DEPTH, MAX_TREES, Layer, Problem

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

    A leaf FFF has ``2**depth`` leaves of `hidden` neurons. A control chooses `active` of its `experts`.
    """

    name: str
    title: str
    layer: Layer
    hidden: int = 0
    depth: int = 0
    trees: int = 0
    experts: int = 0
    active: int = 0
    activation: str = "gelu"

    def problem(self, *, batch: int, width: int, seed: int) -> Problem:
        """Return the problem of this model at one batch and width."""
        return Problem(
            layer=self.layer,
            batch=batch, d_in=width, d_out=width, hidden=self.hidden, depth=self.depth,
            trees=self.trees, experts=self.experts, active=self.active,
            activation=self.activation, seed=seed,
        )  # fmt: skip


def split(text: str) -> list[str]:
    """Return the parts of a list that is written with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_model(name: str) -> Model:
    """Return a model by name: a published one, `ff-HIDDEN`, `KxD`, `leaf-WIDTHxD` (or `...-relu`), a control.

    The controls: `topk-K` of 4095 neurons and `peer-K` of 4096 (or `...-KofN`), `hash-K`, a path of K
    neurons, and `moe-NxWIDTH-kK`.

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
    if found := _parse_control(name, text):
        return found
    known = [
        *PAPER_MODELS, *GROUPS, *FAMILY, "ff-HIDDEN", "KxD", "leaf-WIDTHxD", "topk-K", "hash-K", "peer-K",
        "moe-NxWIDTH-kK",
    ]  # fmt: skip
    raise UnknownNameError("model", name, known=known)


_CHOSEN_OF = {"topk": 4095, "peer": 4096}
_TITLES = {"topk": "Top", "peer": "PEER"}


def _parse_control(name: str, text: str) -> Model | None:
    """Return a control by name, None where it is none. Raises UsageError for one that can't be."""
    if match := re.fullmatch(r"hash-(\d+)", text):
        used = int(match.group(1))
        if not 1 <= used <= MAX_DEPTH + 1:
            raise UsageError(f"need a path of 1 to {MAX_DEPTH + 1} neurons, got {name!r}")
        return Model(
            name=text, title=f"Hash-{used}", layer="hash", depth=used - 1, trees=1
        )  # fmt: skip
    if match := re.fullmatch(r"(topk|peer)-(\d+)(?:of(\d+))?", text):
        layer: Layer = "topk" if match.group(1) == "topk" else "peer"
        usual = _CHOSEN_OF[layer]
        active, experts = int(match.group(2)), int(match.group(3) or usual)
        short = f"{layer}-{active}" + ("" if experts == usual else f"of{experts}")
        found = Model(
            name=short, title=f"{_TITLES[layer]}-{active} of {experts}", layer=layer, hidden=1,
            experts=experts, active=active,
        )  # fmt: skip
    elif match := re.fullmatch(r"moe-(\d+)x(\d+)(?:-k(\d+))?", text):
        experts, width, active = int(match.group(1)), int(match.group(2)), int(match.group(3) or 1)
        found = Model(
            name=f"moe-{experts}x{width}-k{active}", title=f"MoE-{experts}x{width}, top {active}",
            layer="moe", hidden=width, experts=experts, active=active,
        )  # fmt: skip
    else:
        return None
    try:
        found.problem(batch=1, width=1, seed=0)
    except ValueError as error:
        raise UsageError(f"{error}, in {name!r}") from None
    return found


def find_controls(model: Model) -> list[str]:
    """Return the names of the controls of an FFF: layers of as many neurons of which as many are used.

    Dense: `ff-K`, the price of all routing. Where the FFF is one tree, a path that a hash picks, the K
    largest logits, product keys and a mixture of experts of 16 too; for 12 of 4095 these are `ff-12`,
    `hash-12`, `topk-12`, `peer-12`, `moe-256x16-k1`. Product keys have a square number of
    experts, so that they may have up to twice the neurons.
    """
    if model.layer != "fff":
        return []
    plain = model.problem(batch=1, width=1, seed=0)
    used = plain.used_neurons
    names = [f"ff-{used}"]
    if plain.trees == 1 and used <= MAX_ACTIVE:
        side = 2 ** ((used + 1) // 2)
        names += [f"hash-{used}", f"topk-{used}of{plain.neurons}", f"peer-{used}of{side * side}"]
        if 2**used >= 2 * _MOE_WIDTH:
            names.append(f"moe-{2**used // _MOE_WIDTH}x{_MOE_WIDTH}-k1")
    return [parse_model(name).name for name in names if _can_be(name)]


_MOE_WIDTH = 16


def _can_be(name: str) -> bool:
    """Say whether a control can be chosen from so few neurons."""
    try:
        parse_model(name)
    except UsageError:
        return False
    return True


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

    At d_in = d_out, as all that a sweep measures; a row of weights that only routes, and has no row of w_out,
    is half a neuron.
    """
    parsed, base = (
        parse_model(name).problem(batch=1, width=1, seed=0) for name in (model, baseline)
    )
    return base.flops() / parsed.flops()
