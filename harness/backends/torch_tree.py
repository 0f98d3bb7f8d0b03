"""Own the FFF with all its options in torch's operations: how tokens turn, and what they compute there.

Every node n of a tree has a score ``z[n] = <x, w_node[n]> + b_node[n]``. A token's turn there is
``t[n]``, 0 for left and 1 for right, or a share between; its reach of the root is 1, of the children of n
``reach[2n + 1] = reach[n] (1 - t[n])`` and ``reach[2n + 2] = reach[n] t[n]``. The output is

    y = sum over trees and leaves j of reach[j] (act(w_in[j] x + b_in[j]) w_out[j] + b_out[j])
      + sum over trees and nodes n of reach[n] act(z[n]) node_out[n]         where nodes contribute.

Products and sums are float32 at least, whatever torch.autocast says.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from harness.backends import torch_leaves
from harness.backends.torch_activations import ACTIVATIONS
from harness.backends.torch_reference import wide, without_autocast

Routing = Literal["hard", "soft", "ste", "gumbel"]
ROUTINGS: tuple[Routing, ...] = ("hard", "soft", "ste", "gumbel")


class Tree(NamedTuple):
    """Hold the weights of an FFF by the names of its equation.

    w_node (trees, 2**depth - 1, d_in), b_node (trees, 2**depth - 1) or None; w_in (trees, 2**depth, width,
    d_in), b_in (trees, 2**depth, width) or None; w_out (trees, 2**depth, width, d_out), b_out (trees,
    2**depth, d_out) or None; node_out (trees, 2**depth - 1, d_out), or None where nodes only route.
    """

    w_node: torch.Tensor
    b_node: torch.Tensor | None
    w_in: torch.Tensor
    b_in: torch.Tensor | None
    w_out: torch.Tensor
    b_out: torch.Tensor | None
    node_out: torch.Tensor | None

    @property
    def depth(self) -> int:
        """Return the turns on a path."""
        return int(self.w_in.shape[1]).bit_length() - 1


# ---- the turns ----------------------------------------------------------------------------------


def score(x: torch.Tensor, tree: Tree) -> torch.Tensor:
    """Return the scores (batch, trees, 2**depth - 1) of every node."""
    trees, n_nodes, _ = tree.w_node.shape
    with without_autocast(x.device.type):
        z = wide(x) @ wide(tree.w_node).flatten(0, 1).T
        if tree.b_node is not None:
            z = z + wide(tree.b_node).flatten()
        return z.reshape(x.shape[0], trees, n_nodes)


def turn(
    z: torch.Tensor, routing: Routing, *, temperature: float = 1.0, region_leak: float = 0.0
) -> torch.Tensor:
    """Return the turns of scores.

    hard: ``[z >= 0]``, without a gradient. soft: ``sigmoid(z / temperature)``. ste: the value of hard with
    the gradient of soft. gumbel: the value ``[z + g >= 0]``, g drawn from the logistic distribution (the
    difference of two Gumbel variables), with the gradient of ``sigmoid((z + g) / temperature)``: a token
    turns right with probability sigmoid(z). region_leak: each turn is replaced by one minus it with this
    probability.

    Source: Belcak and Wattenhofer 2023, arXiv 2308.14711 (soft, region leak); Bengio et al. 2013,
    arXiv 1308.3432 (ste); Maddison et al. 2017, arXiv 1611.00712, and Jang et al. 2017, arXiv 1611.01144.
    """
    if routing == "gumbel":
        tiny = torch.finfo(z.dtype).tiny
        uniform = torch.rand_like(z).clamp(min=tiny)
        z = z + torch.log(uniform) - torch.log1p(-uniform)
    hard = (z >= 0).to(z.dtype)
    t = hard
    if routing != "hard":
        t = torch.sigmoid(z / temperature)
        if routing != "soft":
            t = hard + (t - t.detach())
    if region_leak:
        t = torch.where(torch.rand_like(z) < region_leak, 1 - t, t)
    return t


def reach(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what of each token comes to the nodes (..., 2**depth - 1) and the leaves (..., 2**depth)."""
    level = torch.ones_like(t[..., :1]) if t.shape[-1] else t.new_ones(*t.shape[:-1], 1)
    nodes = [t[..., :0]]
    while level.shape[-1] <= t.shape[-1]:
        here = t[..., level.shape[-1] - 1 : 2 * level.shape[-1] - 1]
        nodes.append(level)
        level = torch.stack([level * (1 - here), level * here], -1).flatten(-2)
    return torch.cat(nodes, -1), level


def descend(x: torch.Tensor, tree: Tree) -> torch.Tensor:
    """Return the leaf (batch, trees) that each token reaches by hard turns; only its path is computed."""
    trees, n_nodes, _ = tree.w_node.shape
    which = torch.arange(trees, device=x.device)
    node = torch.zeros(x.shape[0], trees, dtype=torch.int64, device=x.device)
    with torch.no_grad(), without_autocast(x.device.type):
        for _ in range(tree.depth):
            z = (wide(x)[:, None] * wide(tree.w_node[which, node])).sum(2)
            if tree.b_node is not None:
                z = z + wide(tree.b_node[which, node])
            node = 2 * node + 1 + (z >= 0)
    return node - n_nodes


# ---- the output ---------------------------------------------------------------------------------


def mix(
    x: torch.Tensor, tree: Tree, routing: Routing, activation: str, *, temperature: float = 1.0,
    region_leak: float = 0.0, dropout: float = 0.0,
) -> torch.Tensor:  # fmt: skip
    """Return the output with every node and leaf computed, each in the share that a token reaches it.

    dropout: the probability with which an activation is 0, the others scaled to keep their mean.
    """
    act = ACTIVATIONS[activation]
    z = score(x, tree)
    t = turn(z, routing, temperature=temperature, region_leak=region_leak)
    on_nodes, on_leaves = reach(t)
    drop = torch.nn.functional.dropout
    with without_autocast(x.device.type):
        inner = wide(x) @ wide(tree.w_in).flatten(0, 2).T
        if tree.b_in is not None:
            inner = inner + wide(tree.b_in).flatten()
        a = drop(act(inner), dropout).reshape(x.shape[0], *tree.w_in.shape[:3])
        y = (a * on_leaves[..., None]).flatten(1) @ wide(tree.w_out).flatten(0, 2)
        if tree.b_out is not None:
            y = y + on_leaves.flatten(1) @ wide(tree.b_out).flatten(0, 1)
        if tree.node_out is not None:
            shares = drop(act(z), dropout) * on_nodes
            y = y + shares.flatten(1) @ wide(tree.node_out).flatten(0, 1)
        return y.to(x.dtype)


def walk(x: torch.Tensor, tree: Tree, activation: str) -> torch.Tensor:
    """Return the output of hard turns, computed on each token's path alone; turns have no gradient."""
    leaf = descend(x, tree)
    with without_autocast(x.device.type):
        if tree.w_in.shape[2] == 1:
            # A network of one neuron is a row: no product is worth sorting the tokens for.
            b_in = None if tree.b_in is None else tree.b_in.squeeze(2)
            w_in, w_out = tree.w_in.squeeze(2), tree.w_out.squeeze(2)
            y = _add_neurons(x, leaf, w_in, b_in, w_out, activation)
            if tree.b_out is not None:
                y = y + _gather(tree.b_out, leaf).sum(1)
        else:
            y = wide(torch_leaves.leaves(x, leaf, *tree[2:6], activation))
        if tree.node_out is not None:
            node = leaf + tree.w_node.shape[1]
            for _ in range(tree.depth):
                node = (node - 1) // 2
                y = y + _add_neurons(x, node, tree.w_node, tree.b_node, tree.node_out, activation)
        return y.to(x.dtype)


def _gather(weights: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the rows (batch, trees, ...) of weights (trees, n, ...) that index (batch, trees) names."""
    # embedding and not indexing: its gradient is summed in parallel.
    first = torch.arange(weights.shape[0], device=index.device) * weights.shape[1]
    rows = weights.flatten(0, 1)
    found = torch.nn.functional.embedding(index + first, rows if rows.ndim == 2 else rows[:, None])
    return wide(found if rows.ndim == 2 else found.squeeze(2))


def _add_neurons(
    x: torch.Tensor, index: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, v: torch.Tensor,
    activation: str,
) -> torch.Tensor:  # fmt: skip
    """Return what one neuron of each tree, by index (batch, trees), adds to the output."""
    z = (wide(x)[:, None] * _gather(w, index)).sum(2)
    if b is not None:
        z = z + _gather(b, index)
    return (ACTIVATIONS[activation](z)[:, :, None] * _gather(v, index)).sum(1)
