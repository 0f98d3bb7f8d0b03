"""Own the distillation: an FFF made from the inputs and outputs of a dense layer.

The method, for each tree in turn, on what the trees before it leave of the outputs (the residual):

1. *Split.* From the root down, a node's neuron takes the direction of its tokens' inputs that has the
   greatest covariance with their residuals (the first component of partial least squares), scaled to a
   standard deviation of 1. Where the layer has biases, the neuron's puts the median at 0, so that half of
   the tokens turn each way; without, the plane goes through the origin.
2. *Fit.* What contributes is fitted by least squares to the residual of the tokens that come to it, and
   taken from it, before the children are: a neuron's output row by its activation, a leaf network's output
   rows and bias by the activations of its neurons, whose directions are taken one after the other as a
   node's is.
3. *Refine.* Adam on the mean square error over batches of the sample, with the layer's own routing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from harness.backends import torch_operands
from harness.backends.torch_activations import ACTIVATIONS
from harness.backends.torch_reference import wide
from harness.errors import UsageError
from harness.nn.aux_losses import aux_losses

if TYPE_CHECKING:
    from harness.nn.layers import FFF

_POWER_STEPS = 4  # of the iteration that finds a direction
_FEWEST = 4  # tokens that a node is fitted to; one with fewer keeps what it was drawn as, and adds nothing
_RIDGE = 1e-3  # of the mean square of a leaf's activations
_PASS = 4096  # tokens that the dense layer is asked at a time


def _find_direction(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """Return the unit vector of the inputs' space with the greatest covariance with the residuals."""
    x, residual = x - x.mean(0), residual - residual.mean(0)
    # The output that varies most begins; no chance takes part.
    side = torch.zeros_like(residual[0])
    side[residual.square().sum(0).argmax()] = 1
    w = x[0]
    for _ in range(_POWER_STEPS):
        w = torch.nn.functional.normalize(x.T @ (residual @ side), dim=0)
        side = torch.nn.functional.normalize(residual.T @ (x @ w), dim=0)
    return w


def _make_neuron(
    x: torch.Tensor, residual: torch.Tensor, bias: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a neuron's weights and bias: a direction, its score of standard deviation 1, its median at 0."""
    w = _find_direction(x, residual)
    z = x @ w
    w = w / z.std().clamp(min=1e-6)
    middle = -(x @ w).median() if bias else torch.zeros_like(z[0])
    return w, middle


def _fit_leaf(x: torch.Tensor, residual: torch.Tensor, layer: FFF, k: int, j: int) -> torch.Tensor:
    """Fit leaf j of tree k to a residual; return what it leaves of it."""
    tree, act = layer.tree(), ACTIVATIONS[layer.activation]
    features: list[torch.Tensor] = []
    left = residual
    rows = residual.new_zeros(0, residual.shape[1])
    for i in range(tree.w_in.shape[2]):
        w, b = _make_neuron(x, left, tree.b_in is not None)
        tree.w_in[k, j, i] = w
        if tree.b_in is not None:
            tree.b_in[k, j, i] = b
        features.append(act(x @ w + b))
        columns = features + ([torch.ones_like(features[0])] if tree.b_out is not None else [])
        a = torch.stack(columns, 1)
        gram = a.T @ a
        gram.diagonal().add_(_RIDGE * gram.diagonal().mean().clamp(min=1e-12))
        rows = torch.linalg.solve(gram, a.T @ residual)
        left = residual - a @ rows
    width = tree.w_in.shape[2]
    tree.w_out[k, j] = rows[:width]
    if tree.b_out is not None:
        tree.b_out[k, j] = rows[width]
    return left


def _grow(x: torch.Tensor, residual: torch.Tensor, layer: FFF, k: int) -> None:
    """Split and fit one tree, from the root down; what it leaves of the residual stays in its place."""
    tree, act = layer.tree(), ACTIVATIONS[layer.activation]
    n_nodes = tree.w_node.shape[1]
    of_node = [torch.arange(len(x), device=x.device)]
    for n in range(2 * n_nodes + 1):
        tokens = of_node[n]
        few = len(tokens) < _FEWEST
        xs, rest = x[tokens], residual[tokens]
        if n >= n_nodes:
            if not few:
                residual[tokens] = _fit_leaf(xs, rest, layer, k, n - n_nodes)
            continue
        if few:
            of_node += [tokens, tokens[:0]]
            continue
        w, b = _make_neuron(xs, rest, tree.b_node is not None)
        tree.w_node[k, n] = w
        if tree.b_node is not None:
            tree.b_node[k, n] = b
        z = xs @ w + b
        if tree.node_out is not None:
            a = act(z)
            row = (a @ rest) / a.square().sum().clamp(min=1e-12)
            tree.node_out[k, n] = row
            residual[tokens] = rest - a[:, None] * row
        of_node += [tokens[z < 0], tokens[z >= 0]]


def _refine(
    layer: FFF, x: torch.Tensor, y: torch.Tensor, *, steps: int, batch: int, rate: float,
    hardening: float, balance: float,
) -> None:  # fmt: skip
    """Fit all weights by Adam, the rate falling to 0 by a cosine."""
    optimiser = torch.optim.Adam(layer.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    for _ in range(steps):
        rows = torch.randint(len(x), (min(batch, len(x)),), device=x.device)
        loss = torch.nn.functional.mse_loss(layer(x[rows]), y[rows])
        if hardening or balance:
            terms = aux_losses(layer)
            loss = loss + hardening * terms["hardening"] + balance * terms["balance"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _ask(dense: Callable[[torch.Tensor], Any], x: torch.Tensor) -> torch.Tensor:
    """Return the dense layer's outputs (tokens, d_out), as in eval, whatever mode it is in."""
    modules = list(dense.modules()) if isinstance(dense, torch.nn.Module) else []
    modes = [m.training for m in modules]
    for m in modules:
        m.training = False
    try:
        with torch.no_grad():
            return torch.cat([dense(part) for part in x.split(_PASS)])
    finally:
        for m, mode in zip(modules, modes, strict=True):
            m.training = mode


def distil(
    kind: type[FFF], dense: Callable[[torch.Tensor], Any], sample_x: torch.Tensor, depth: int,
    trees: int, *, steps: int, batch: int, rate: float, hardening: float, balance: float,
    **options: Any,
) -> FFF:  # fmt: skip
    """Return an FFF that does what a dense layer does on a sample of its inputs.

    Raises UsageError for a sample of fewer tokens than `_FEWEST`, and where `options` keep no input that
    the terms of the loss could be computed from.
    """
    x = torch_operands.flatten(sample_x.detach())
    if len(x) < _FEWEST:
        raise UsageError(f"sample_x: need {_FEWEST} tokens at least, got {len(x)}")
    y = _ask(dense, x)
    if y.ndim != 2 or len(y) != len(x):
        raise UsageError(f"the dense layer returns {tuple(y.shape)} for {tuple(x.shape)}")
    options = {"bias": True, "device": x.device, "dtype": x.dtype, **options}
    if hardening or balance:
        options["aux"] = True
    layer = kind(x.shape[1], y.shape[1], depth, trees, **options)
    wide_x, residual = wide(x), wide(y).clone()
    with torch.no_grad():
        layer.w_out.zero_()
        for name in ("b_out", "node_out", "always_out"):
            if getattr(layer, name, None) is not None:
                getattr(layer, name).zero_()
        for k in range(trees):
            _grow(wide_x, residual, layer, k)
    _refine(
        layer.train(), x, y, steps=steps, batch=batch, rate=rate, hardening=hardening,
        balance=balance,
    )  # fmt: skip
    return layer
