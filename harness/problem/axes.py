"""Own the axes of a cell: their names, defaults and values, and what a cell's id and titles say of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.problem import routing
from harness.problem.problem import Problem

DEVICES = ("cpu", "cuda")
WEIGHTS = ("hot", "rotated", "flushed")
COLUMNS = ("dtype", "math", "data", "rows", "routing", "weights", "launch")
DEFAULTS = ("float32", "ieee", "random", "distinct", "uniform", "hot", "eager")


# ---- names --------------------------------------------------------------------------------------


def suffix(problem: Problem, weights: str, launch: str = "eager") -> list[str]:
    """Return the parts of a cell's id that say where its conditions differ from the default."""
    p = problem
    names = (p.dtype, p.math, p.data, p.rows, p.routing, weights, launch)
    return [
        f"{column}-{name}" if column == "rows" else routing.label(name)
        for column, name, default in zip(COLUMNS, names, DEFAULTS, strict=True)
        if name != default
    ]


def in_float32(conditions: Sequence[str]) -> tuple[str, ...]:
    """Return the same conditions with float32 operands."""
    return ("float32", *conditions[1:])


def title(conditions: Sequence[str]) -> str:
    """Return what differs from the default as words: `routing zipf, weights flushed`; empty for none."""
    named = zip(COLUMNS, conditions, DEFAULTS, strict=True)
    # A trace goes by its file's name: whole paths would fill the headings.
    return ", ".join(
        f"{column} {name.rpartition('/')[2]}" for column, name, default in named if name != default
    )


LAUNCHES = ("eager", "graph")


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
