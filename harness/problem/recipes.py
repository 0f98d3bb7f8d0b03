"""Own the recipes of the input: which leaf each token is to reach, and rows of x that go there."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

TRACE = "trace:"
TRAINED = "trained"
# Rows of a random matrix that is nearly square are nearly dependent: x would grow without bound. With
# this many dimensions to spare the correction stays of x's own size for every path of a large batch.
SPARE = 4


def conflict(data: str, rows: str, routing: str) -> str:
    """Return why these recipes contradict each other, or an empty string."""
    if data == "zeros" and (rows != "distinct" or routing != "uniform"):
        return "data zeros has one row and one path already: it takes no --rows and no --routing"
    if rows == "same" and routing not in ("uniform", "single"):
        return f"rows same sends every token along one path: it can't follow routing {routing}"
    return ""


def shortage(routing: str, d_in: int, trees: int, depth: int) -> str:
    """Return why x can't be steered along chosen paths at this shape, or an empty string."""
    turns = trees * depth
    if routing == "uniform" or not turns or d_in >= turns + SPARE:
        return ""
    return (
        f"routing {routing} sets {turns} pre-activations of each token (trees x depth), which needs "
        f"d_in of at least {turns + SPARE}, got {d_in}; take a wider layer, fewer trees or less depth, "
        "or routing uniform"
    )
