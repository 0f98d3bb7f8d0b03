"""Own the grammar of the axes: lists, ranges, model names and patterns of ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness import recipes
from harness.errors import UnknownNameError, UsageError
from harness.problem import DTYPES, MAX_DEPTH, MAX_TREES, Problem

BASELINE = "bert-base-4095"
LAUNCHES = ("eager", "graph")
PAPER_BATCH, PAPER_WIDTH = 16384, 768
PAPER_MODELS = (BASELINE, "bert-base-3072", "ultrafastbert-1x11")
FAMILY = (
    "3072x0", "1536x1", "512x2", "256x3", "128x4", "64x5", "32x6", "16x7", "8x8", "4x9", "2x10", "1x11",
)  # fmt: skip
LEVELS = (1, 2, 3)
_NUMBER = r"(\d+)(?:\^(\d+))?"


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


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _unique(items: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(items))


def _number(option: str, text: str) -> tuple[int, int | None]:
    """Return a number and its exponent, if it was written as a power."""
    match = re.fullmatch(_NUMBER, text)
    if not match:
        raise UsageError(f"{option}: need numbers such as 1,16,2^4..2^14, got {text!r}")
    base, exponent = int(match.group(1)), match.group(2)
    return (base ** int(exponent), int(exponent)) if exponent else (base, None)


def parse_extents(option: str, text: str) -> list[int]:
    """Return the positive integers of a list such as `1,16,2^4..2^14`.

    A range between powers of one base takes every power between them; a range between plain numbers
    doubles from the first to the last.

    Raises UsageError for anything else, and for values below 1.
    """
    values: list[int] = []
    for part in _split(text):
        first, dots, last = part.partition("..")
        if not dots:
            values.append(_number(option, part)[0])
        else:
            values.extend(_expand(option, part, first, last))
    if not values:
        raise UsageError(f"{option}: need at least one number, got {text!r}")
    bad = [v for v in values if v < 1]
    if bad:
        raise UsageError(f"{option}: need values of at least 1, got {bad[0]}")
    return _unique(values)


def _expand(option: str, part: str, first: str, last: str) -> list[int]:
    low, low_power = _number(option, first)
    high, high_power = _number(option, last)
    if low < 1 or high < low:
        raise UsageError(f"{option}: need a rising range of positive numbers, got {part!r}")
    if low_power is not None and high_power is not None:
        base, other = int(first.split("^")[0]), int(last.split("^")[0])
        if base != other or base < 2:
            raise UsageError(f"{option}: need powers of one base of at least 2, got {part!r}")
        return [base**e for e in range(low_power, high_power + 1)]
    values = [low]
    while values[-1] * 2 <= high:
        values.append(values[-1] * 2)
    return values


def parse_levels(text: str) -> list[int]:
    """Return the BLAS levels of a list such as `1,2,3`. Raises UsageError for an unknown one."""
    levels = []
    for part in _split(text):
        if part not in {str(level) for level in LEVELS}:
            raise UsageError(f"--levels: unknown level {part!r}; known: 1, 2, 3")
        levels.append(int(part))
    if not levels:
        raise UsageError(f"--levels: need at least one of 1, 2, 3, got {text!r}")
    return sorted(set(levels))


def parse_choices(option: str, text: str, known: Sequence[str]) -> list[str]:
    """Return the words of a list, each one of `known`. Raises UsageError for another."""
    words = list(dict.fromkeys(_split(text)))
    for word in words:
        if word not in known:
            raise UsageError(f"{option}: unknown value {word!r}; known: {', '.join(known)}")
    if not words:
        raise UsageError(f"{option}: need at least one of {', '.join(known)}, got {text!r}")
    return words


class Usual(NamedTuple):
    """Hold the lists that a sweep takes on a device where it is not told."""

    dtype: str
    math: str
    weights: str
    launch: str


def usual(device: str) -> Usual:
    """Return what is measured on a device where nothing is asked for.

    On a GPU cold figures stand beside the hot ones, replayed passes beside launched ones, and what tensor
    cores make of the same layer beside plain float32: a claim over one of them says little of the others.
    """
    if device == "cuda":
        return Usual("float32,bfloat16", "ieee,tf32", "hot,flushed", "eager,graph")
    return Usual("float32", "ieee", "hot", "eager")


def parse_dtypes(text: str) -> list[str]:
    """Return the dtypes of a list. Raises UsageError for an unknown one."""
    return parse_choices("--dtype", text, DTYPES)


def parse_order(text: str) -> Literal["interleaved", "blocked"]:
    """Return the order of the samples. Raises UsageError for an unknown one."""
    if text not in ("interleaved", "blocked"):
        raise UsageError(f"--order: unknown value {text!r}; known: interleaved, blocked")
    return "blocked" if text == "blocked" else "interleaved"


def parse_routing(text: str) -> list[str]:
    """Return the routings of a list such as `uniform,zipf,trace:FILE`; a trace's path becomes absolute.

    Raises UsageError for an unknown routing or a trace whose file can't be read.
    """
    known = (*recipes.ROUTINGS, f"{recipes.TRACE}FILE")
    found = []
    for word in _split(text):
        if not recipes.is_known(word):
            raise UsageError(f"--routing: unknown value {word!r}; known: {', '.join(known)}")
        if word.startswith(recipes.TRACE):
            path = Path(word.removeprefix(recipes.TRACE))
            if not path.is_file():
                raise UsageError(f"--routing: there is no trace file {str(path)!r}")
            word = f"{recipes.TRACE}{path.resolve()}"
        found.append(word)
    if not found:
        raise UsageError(f"--routing: need at least one of {', '.join(known)}, got {text!r}")
    return list(dict.fromkeys(found))


def parse_model(name: str) -> Model:
    """Return a model by name: a published one, `ff-HIDDEN`, or `KxD` for any trees and depth.

    Raises UnknownNameError listing the known names.
    """
    text = name.strip().lower()
    if match := re.fullmatch(r"(bert-base|ff)-(\d+)", text):
        hidden = int(match.group(2))
        if hidden < 1:
            raise UsageError(f"--models: hidden must be at least 1, got {name!r}")
        title = f"BERT-base-{hidden}" if match.group(1) == "bert-base" else f"FF-{hidden}"
        return Model(name=text, title=title, layer="ff", hidden=hidden)
    if match := re.fullmatch(r"(?:ultrafastbert-)?(\d+)x(\d+)", text):
        trees, depth = int(match.group(1)), int(match.group(2))
        if not 1 <= trees <= MAX_TREES or depth > MAX_DEPTH:
            raise UsageError(
                f"--models: need 1 to {MAX_TREES} trees of depth 0 to {MAX_DEPTH}, got {name!r}"
            )
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
        raise UsageError(f"--baseline: need an FF, such as {BASELINE} or ff-49152, got {name!r}")
    return model.name


def parse_models(text: str) -> list[Model]:
    """Return the models of a list; `family` stands for all of the paper's `KxD`."""
    names: list[str] = []
    for part in _split(text):
        names.extend(FAMILY if part.lower() == "family" else [part])
    if not names:
        raise UsageError(f"--models: need at least one model, got {text!r}")
    models = {model.name: model for model in map(parse_model, names)}
    return list(models.values())


def select(ids: Sequence[str], only: Sequence[str], skip: Sequence[str]) -> list[str]:
    """Return the ids that match a pattern of `only` (all where it is empty) and none of `skip`.

    Raises UnknownNameError for a pattern that matches nothing.
    """
    for pattern in (*only, *skip):
        if not any(fnmatchcase(i, pattern) for i in ids):
            raise UnknownNameError("implementation", pattern, known=ids)
    return [
        i
        for i in ids
        if (not only or any(fnmatchcase(i, p) for p in only))
        and not any(fnmatchcase(i, p) for p in skip)
    ]


# ---- what the operands hold ----


class Recipes(NamedTuple):
    """Hold what the operands are made of."""

    data: str
    rows: str
    routing: str


def combine_recipes(
    data: Sequence[str], rows: Sequence[str], routing: Sequence[str]
) -> tuple[list[Recipes], list[str]]:
    """Return the combinations that make sense, and a line for each that does not.

    Raises UsageError where none is left.
    """
    found, left_out = [], []
    for recipe in (Recipes(*words) for words in product(data, rows, routing)):
        reason = recipes.conflict(*recipe)
        if reason:
            left_out.append(f"left out: {reason}")
        else:
            found.append(recipe)
    if not found:
        raise UsageError(left_out[0].removeprefix("left out: "))
    return found, list(dict.fromkeys(left_out))


def apply_recipes(problem: Problem, recipe: Recipes, models: Sequence[Model]) -> Problem:
    """Return a problem with its recipes; with a chosen routing an FF gets the x of the sweep's one FFF.

    Raises UsageError where there is not exactly one FFF, its turns exceed d_in, or a trace does not fit.
    """
    changes: dict[str, Any] = recipe._asdict()
    if recipe.routing != "uniform":
        trees = {(m.trees, m.depth): m.name for m in models if m.layer == "fff"}
        if len(trees) != 1:
            raise UsageError(
                f"--routing {recipe.routing}: the input is made for one FFF, so that it and the FF get the "
                f"same x; --models has {len(trees)} ({', '.join(trees.values()) or 'none'})"
            )
        if problem.layer == "ff":
            changes["routed_trees"], changes["routed_depth"] = next(iter(trees))
    try:
        changed = replace(problem, **changes)
        router = changed.router()
        if router is not None and recipe.routing.startswith(recipes.TRACE):
            path = recipe.routing.removeprefix(recipes.TRACE)
            recipes.read_trace(path, batch=router.batch, trees=router.trees, depth=router.depth)
    except ValueError as error:
        raise UsageError(f"--routing: {error}") from None
    return changed
