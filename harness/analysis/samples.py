"""Own a run's samples by cell, so that a question about one cell does not walk over those of all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

# The mean time of a pass in ns by (process, block), in the order of the blocks.
BlockTimes = Mapping[tuple[int, int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSamples:
    """Hold what was sampled of one cell.

    frame: a row a sample, in the run's order. pass_ns: the median time of a pass in ns.
    """

    frame: pd.DataFrame
    pass_ns: float
    blocks: BlockTimes


Samples = Mapping[str, CellSamples]
_BLOCK = ("cell", "process", "block")


def _block_times(samples: pd.DataFrame) -> dict[str, BlockTimes]:
    """Return the mean of the samples of each block, by cell: grouped once, since cells may be hundreds."""
    means = samples.groupby([*_BLOCK], as_index=False)["pass_ns"].mean().dropna()
    found: dict[str, dict[tuple[int, int], float]] = {}
    for cell, process, block, pass_ns in zip(*(means[name] for name in means), strict=True):
        found.setdefault(str(cell), {})[process, block] = pass_ns
    return {**found}


def by_cell(samples: pd.DataFrame) -> Samples:
    """Return the samples of each cell that has any. Columns: cell, process, block, pass_ns."""
    blocks = _block_times(samples)
    return {
        str(cell): CellSamples(
            frame=own, pass_ns=float(own["pass_ns"].median()), blocks=blocks.get(str(cell), {})
        )
        for cell, own in samples.groupby("cell", sort=False)
    }
