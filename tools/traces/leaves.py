"""Own what a trace says of routing: balance by level, distinct nodes by batch, leaves that nobody reaches."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Leaves = npt.NDArray[np.integer[Any]]
BATCHES = (64, 256, 1024, 4096, 16384)


def entropy_bits(counts: npt.NDArray[Any]) -> float:
    """Return the entropy of a distribution given by counts, in bits."""
    share = counts[counts > 0] / counts.sum()
    return float(abs((share * np.log2(share)).sum()))


def level_bits(leaves: Leaves, depth: int) -> list[float]:
    """Return the entropy over the nodes of each level of one tree, the root's first; d bits are most at d."""
    above = range(depth, -1, -1)
    return [entropy_bits(np.bincount(leaves.astype(np.int64) >> up)) for up in above]


def count_nodes(leaves: Leaves, depth: int) -> int:
    """Return how many distinct nodes the paths to some leaves of one tree pass, the leaves included."""
    return sum(len(np.unique(leaves >> up)) for up in range(depth + 1))


def describe(leaves: Leaves, depth: int) -> dict[str, Any]:
    """Return what stands beside a trace (tokens,) of one tree, as it is written down."""
    return {
        "entropy_bits": [round(bits, 3) for bits in level_bits(leaves, depth)],
        "dead_leaf_share": round(1 - len(np.unique(leaves)) / 2**depth, 4),
        "nodes_touched": {str(b): count_nodes(leaves[:b], depth) for b in BATCHES if b <= len(leaves)},
    }  # fmt: skip


def choose_median(bits: dict[int, float]) -> int:
    """Return the layer whose leaf entropy is the lower median of all: neither the best case nor the worst."""
    return sorted(bits, key=lambda layer: (bits[layer], layer))[(len(bits) - 1) // 2]
