"""Own what tokens use of a layer: visits of nodes while a model runs, and the trace of their leaves."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.errors import UsageError
from harness.records.files import write_whole

if TYPE_CHECKING:
    from harness.nn.layers import FFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Hold how often tokens came to each node, and what follows from it.

    visits (trees, 2**(depth + 1) - 1): tokens on each node, the leaves last, on the CPU; hard turns count.
    """

    visits: torch.Tensor

    @property
    def depth(self) -> int:
        """Return the turns on a path."""
        return int(self.visits.shape[1] + 1).bit_length() - 2

    @property
    def tokens(self) -> int:
        """Return the tokens that were seen."""
        return int(self.visits[0, 0])

    @property
    def entropy(self) -> torch.Tensor:
        """Return the entropy in bits of the tokens' distribution over each level's nodes, (trees, depth + 1).

        At level d, d bits are most: all 2**d nodes used alike; 2**entropy is the number of nodes in effect.
        """
        levels = [self.visits[:, 2**d - 1 : 2 ** (d + 1) - 1] for d in range(self.depth + 1)]
        shares = [level.double() / max(self.tokens, 1) for level in levels]
        return torch.stack([-torch.xlogy(p, p).sum(1) for p in shares], 1) / np.log(2)

    @property
    def dead(self) -> torch.Tensor:
        """Return which leaves (trees, 2**depth) no token came to: each is a path that is dead."""
        return self.visits[:, 2**self.depth - 1 :] == 0


@contextmanager
def _watch(layer: FFF, see: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Hand the leaves (tokens, trees) of every pass of a layer to `see` within the block."""

    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["x"]
        see(layer.leaves(x).reshape(-1, layer.trees).cpu())

    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def watch_usage(layer: FFF) -> Iterator[Usage]:
    """Yield the usage of a layer, which counts up with each pass within the block."""
    seen = Usage(visits=torch.zeros(layer.trees, 2 ** (layer.depth + 1) - 1, dtype=torch.int64))

    def see(leaves: torch.Tensor) -> None:
        for k, counts in enumerate(seen.visits):
            level = torch.bincount(leaves[:, k], minlength=2**layer.depth)
            for d in range(layer.depth, -1, -1):
                counts[2**d - 1 : 2 ** (d + 1) - 1] += level
                level = level.reshape(-1, 2).sum(1) if d else level

    with _watch(layer, see):
        yield seen


@contextmanager
def record_trace(layer: FFF, path: str | Path) -> Iterator[None]:
    """Write the leaves of the tokens that pass within the block, as `--routing trace:FILE` reads them.

    The file is .npy: unsigned integers (tokens, trees), leaves from the left, counted from 0, in the order
    of the passes. It is written as the block ends, and not where that raises.

    Raises UsageError where no token passed.
    """
    parts: list[torch.Tensor] = []
    with _watch(layer, parts.append):
        yield
    table = torch.cat(parts).numpy() if parts else np.zeros((0, layer.trees), np.int64)
    if not len(table):
        raise UsageError(f"trace {str(path)!r}: no token passed the layer within the block")
    file = io.BytesIO()
    np.save(file, table.astype(np.min_scalar_type(2**layer.depth - 1)), allow_pickle=False)
    write_whole(Path(path), file.getvalue())
