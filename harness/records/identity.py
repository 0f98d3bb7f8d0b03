"""Own what tells a cell from all others, of its own run and of another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from harness.problem.axes import COLUMNS, Conditions


class Identity(NamedTuple):
    """State what was measured: cells of one identity are the same cell, of whichever run.

    Its implementation fixes the layer and the level, its model and width the shape of the layer.
    """

    implementation: str
    model: str
    batch: int
    d_in: int
    provider: str
    threads: int
    seed: int
    conditions: Conditions


def conditions_of(cell: Mapping[Any, Any]) -> Conditions:
    """Return the conditions of a cell from its fields: those of a run's frame, or of a record in a file."""
    return Conditions(*(cell[column] for column in COLUMNS))


def identify(cell: Mapping[Any, Any]) -> Identity:
    """Return the identity of a cell from its fields."""
    plain = {name: cell[name] for name in Identity._fields if name != "conditions"}
    return Identity(**plain, conditions=conditions_of(cell))
