"""Own the pruning: dead paths of a layer are cut where the output of the others stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.errors import UsageError
from harness.nn.usage import Usage

if TYPE_CHECKING:
    from harness.nn.layers import FFF


def _rows_of_half(side: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of one half of each tree: nodes (trees, 2**(depth - 1) - 1), leaves (trees, one more).

    side (trees,): 0 for the left half, 1 for the right one.
    """
    levels = [
        2 ** (d + 1) - 1 + side[:, None] * 2**d + torch.arange(2**d, device=side.device)
        for d in range(depth - 1)
    ]
    nodes = torch.cat([side.new_zeros(len(side), 0), *levels], 1)
    half = 2 ** (depth - 1)
    return nodes, side[:, None] * half + torch.arange(half, device=side.device)


def _keep(layer: FFF, name: str, rows: torch.Tensor) -> None:
    """Replace a parameter (trees, n, ...) by its rows (trees, n of them)."""
    old = getattr(layer, name)
    which = torch.arange(layer.trees, device=rows.device)[:, None]
    setattr(layer, name, torch.nn.Parameter(old[which, rows].clone(), old.requires_grad))


def _add_always(layer: FFF) -> None:
    """Make the root's neuron of each tree one that every token computes, which it was."""
    tree = layer.tree()
    assert tree.node_out is not None
    w, v = tree.w_node[:, 0], tree.node_out[:, 0]
    if tree.b_node is not None:
        w = torch.cat([w, tree.b_node[:, :1]], 1)
    if layer.always_on:
        w, v = torch.cat([layer.always_in, w]), torch.cat([layer.always_out, v])
    layer.always_in = torch.nn.Parameter(w.clone())
    layer.always_out = torch.nn.Parameter(v.clone())
    layer.always_on = len(w)


def _cut_root(layer: FFF, side: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Put one half of each tree in its place; return the rows of the nodes and leaves that are kept."""
    nodes, leaves = _rows_of_half(side, layer.depth)
    inner = 2**layer.depth - 1
    if layer.nodes == "all":
        _add_always(layer)
    if layer.leaf_width:
        kept = {name: nodes for name in ("w_node", "b_node", "node_out")}
        kept |= {name: leaves for name in ("w_in", "b_in", "w_out", "b_out")}
    else:
        both = torch.cat([nodes, leaves + inner], 1)
        kept = {"w_in": both, "w_out": both if layer.nodes == "all" else leaves}
    for name, rows in kept.items():
        if getattr(layer, name) is not None:
            _keep(layer, name, rows)
    layer.depth -= 1
    return nodes, leaves + inner


def prune_dead(layer: FFF, seen: Usage) -> int:
    """Cut the paths that no token took, in the layer's place; return how many nodes and leaves were dead.

    Tokens that take the paths that were taken get the output that they got, to rounding:

    1. While one half of every tree is dead, the other half takes the tree's place, and depth falls by one. A
       root whose neuron contributes becomes one of the always-on neurons, which it was.
    2. The weights of nodes and leaves that no token came to are set to 0: they contribute nothing any more.

    Parameters that lose rows are new ones: an optimiser has to be made anew. Raises UsageError where no token
    was seen, and for the usage of a layer of another shape.
    """
    if tuple(seen.visits.shape) != (layer.trees, 2 ** (layer.depth + 1) - 1):
        raise UsageError(
            f"usage of {seen.visits.shape[0]} trees of depth {seen.depth}, the layer has {layer.trees} of "
            f"depth {layer.depth}"
        )
    if not seen.tokens:
        raise UsageError("no token was seen: every path would be dead")
    visits = seen.visits.to(layer.w_in.device)
    dead = int((visits == 0).sum())
    with torch.no_grad():
        while layer.depth and bool((visits[:, 1:3] == 0).any(1).all()):
            side = (visits[:, 1] == 0).long()
            rows = torch.cat(_cut_root(layer, side), 1)
            visits = visits.gather(1, rows)
        inner = 2**layer.depth - 1
        tree = layer.tree()
        for weights in (tree.w_node, tree.b_node, tree.node_out):
            if weights is not None:
                weights[visits[:, :inner] == 0] = 0
        for weights in (tree.w_in, tree.b_in, tree.w_out, tree.b_out):
            if weights is not None:
                weights[visits[:, inner:] == 0] = 0
    return dead
