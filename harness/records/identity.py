"""Own what tells a cell from all others, of its own run and of another one."""

from __future__ import annotations

from typing import NamedTuple

from harness.problem.axes import Conditions
from harness.problem.transformer import Transformer
from harness.records.schema import CellRecord


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
    transformer: Transformer | None


def identify(cell: CellRecord) -> Identity:
    """Return the identity of a recorded cell."""
    return Identity(*(getattr(cell, name) for name in Identity._fields))
