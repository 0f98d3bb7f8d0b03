"""Own the leaf networks as an operator of torch: each token by the leaf it reached, leaf after leaf.

Tokens of one leaf are two products with that leaf's weights. How many they are is known only as they come,
so that this is no graph of torch's operations: it is an operator, and its gradient another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from harness.backends import torch_reference
from harness.backends.torch_activations import ACTIVATIONS

_library = torch.library.Library("harness", "FRAGMENT")
_OPERANDS = "Tensor x, Tensor leaf, Tensor w_in, Tensor? b_in, Tensor w_out, Tensor? b_out"
for _schema in (
    f"leaves({_OPERANDS}, str activation) -> Tensor",
    f"leaves_backward(Tensor grad, {_OPERANDS}, str activation)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
# ``leaves(x, leaf, w_in, b_in, w_out, b_out, activation) -> y (batch, d_out)``,
# ``y[b] = sum over trees k of act(w_in[k, j] x[b] + b_in[k, j]) w_out[k, j] + b_out[k, j], j = leaf[b, k]``.
# x (batch, d_in); leaf (batch, trees), integers from 0; w_in (trees, leaves, width, d_in), b_in (trees,
# leaves, width) or None, w_out (trees, leaves, width, d_out), b_out (trees, leaves, d_out) or None.
leaves = torch.ops.harness.leaves.default
_leaves_backward = torch.ops.harness.leaves_backward.default


def _groups(leaf: torch.Tensor, n_leaves: int) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield tree, leaf and tokens of each leaf that some token reached."""
    for k in range(leaf.shape[1]):
        tokens = torch.argsort(leaf[:, k], stable=True)
        counts = torch.bincount(leaf[:, k], minlength=n_leaves).tolist()
        for j, group in enumerate(torch.split(tokens, counts)):
            if len(group):
                yield k, j, group


def _forward(
    x: torch.Tensor, leaf: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor | None,
    w_out: torch.Tensor, b_out: torch.Tensor | None, activation: str,
) -> torch.Tensor:  # fmt: skip
    wide, act = torch_reference.wide, ACTIVATIONS[activation]
    with torch_reference.without_autocast(x.device.type):
        y = wide(x.new_zeros(x.shape[0], w_out.shape[3]))
        for k, j, group in _groups(leaf, w_in.shape[1]):
            z = wide(x[group]) @ wide(w_in[k, j]).T
            if b_in is not None:
                z = z + wide(b_in[k, j])
            out = act(z) @ wide(w_out[k, j])
            if b_out is not None:
                out = out + wide(b_out[k, j])
            y.index_add_(0, group, out)
        return y.to(x.dtype)


def _backward(
    grad: torch.Tensor, x: torch.Tensor, leaf: torch.Tensor, w_in: torch.Tensor,
    b_in: torch.Tensor | None, w_out: torch.Tensor, b_out: torch.Tensor | None, activation: str,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """Return the gradients of x, w_in, b_in, w_out, b_out; of biases that are none, empty ones."""
    wide, act = torch_reference.wide, ACTIVATIONS[activation]
    given = (x, w_in, b_in, w_out, b_out)
    with torch_reference.without_autocast(x.device.type):
        found = [wide(torch.zeros_like(t)) if t is not None else x.new_zeros(0) for t in given]
        dx, dw_in, db_in, dw_out, db_out = found
        for k, j, group in _groups(leaf, w_in.shape[1]):
            xs, dy = wide(x[group]), wide(grad[group])
            z = xs @ wide(w_in[k, j]).T
            if b_in is not None:
                z = z + wide(b_in[k, j])
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                a = act(z)
            (dz,) = torch.autograd.grad(a, z, dy @ wide(w_out[k, j]).T)
            dx.index_add_(0, group, dz @ wide(w_in[k, j]))
            dw_in[k, j] = dz.T @ xs
            dw_out[k, j] = a.detach().T @ dy
            if b_in is not None:
                db_in[k, j] = dz.sum(0)
            if b_out is not None:
                db_out[k, j] = dy.sum(0)
        return tuple(g if t is None else g.to(t.dtype) for g, t in zip(found, given, strict=True))


def _shape(
    x: torch.Tensor, leaf: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor | None,
    w_out: torch.Tensor, b_out: torch.Tensor | None, activation: str,
) -> torch.Tensor:  # fmt: skip
    return x.new_empty(x.shape[0], w_out.shape[3])


def _backward_shape(
    grad: torch.Tensor, x: torch.Tensor, leaf: torch.Tensor, w_in: torch.Tensor,
    b_in: torch.Tensor | None, w_out: torch.Tensor, b_out: torch.Tensor | None, activation: str,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    given = (x, w_in, b_in, w_out, b_out)
    return tuple(torch.empty_like(t) if t is not None else x.new_empty(0) for t in given)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.activation = inputs[6]


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, leaf, w_in, b_in, w_out, b_out = ctx.saved_tensors
    dx, dw_in, db_in, dw_out, db_out = _leaves_backward(
        grad, x, leaf, w_in, b_in, w_out, b_out, ctx.activation
    )
    return (
        dx, None, dw_in, None if b_in is None else db_in,
        dw_out, None if b_out is None else db_out, None,
    )  # fmt: skip


_library.impl("leaves", _forward, "CompositeExplicitAutograd")
_library.impl("leaves_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("harness::leaves", _shape, lib=_library)
torch.library.register_fake("harness::leaves_backward", _backward_shape, lib=_library)
torch.library.register_autograd(
    "harness::leaves", _differentiate, setup_context=_remember, lib=_library
)
