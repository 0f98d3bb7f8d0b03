"""Own the layers in torch's plain operations, forward and backward: any dtype, any device.

Products and sums are float32 at least, whatever torch.autocast says.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from harness.backends.torch_operands import flatten

# Bound once: between the other parts of a model the tables in which torch's names are found have to come from
# memory anew, as all that a call touches.
_is_autocast = torch._C._is_any_autocast_enabled


def autocast_dtype(device: str) -> Any:
    """Return the dtype that torch.autocast lowers to on a type of device, None where it is not on."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def lower(x: torch.Tensor, *weights: torch.Tensor | None) -> tuple[Any, ...]:
    """Return tensors as torch.autocast wants them, as they are where it is not on.

    float64 and integers stay, as in torch's own layers.
    """
    # Asking about one device takes longer than a pass over one token.
    if not _is_autocast() or (dtype := autocast_dtype(x.device.type)) is None:
        return (x, *weights)

    def lowered(tensor: torch.Tensor | None) -> torch.Tensor | None:
        if tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
            return tensor
        return tensor.to(dtype)

    return tuple(map(lowered, (x, *weights)))


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Return a context in which torch lowers no operation: autocast would, also within an operator."""
    switched: AbstractContextManager[Any] = nullcontext()
    if autocast_dtype(device) is not None:
        switched = torch.autocast(device, enabled=False)
    return switched


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in the precision of accumulation: float32 at least."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _descend(x: torch.Tensor, w_in: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return each level's nodes and pre-activations (batch, trees): right where the latter is `>= 0`."""
    trees, n_nodes, _ = w_in.shape
    which = torch.arange(trees, device=x.device)
    node = torch.zeros(x.shape[0], trees, dtype=torch.int64, device=x.device)
    nodes, scores = [], []
    for _ in range((n_nodes + 1).bit_length() - 1):
        z = (wide(x)[:, None] * wide(w_in[which, node])).sum(2)
        nodes.append(node)
        scores.append(z)
        node = 2 * node + 1 + (z >= 0)
    return nodes, scores


def forward(x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
    """Return the layer's output ``y (..., d_out)`` of ``x (..., d_in)`` by plain operations of torch.

    Any dtype, any device.
    """
    found = _forward(flatten(x), w_in, w_out)
    return found.reshape(*x.shape[:-1], w_out.shape[-1])


def _forward(x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
    gelu = torch.nn.functional.gelu
    with without_autocast(x.device.type):
        if w_in.ndim == 2:
            return (gelu(wide(x) @ wide(w_in).T) @ wide(w_out)).to(x.dtype)
        which = torch.arange(w_in.shape[0], device=x.device)
        y = wide(x).new_zeros(x.shape[0], w_out.shape[2])
        for node, z in zip(*_descend(x, w_in), strict=True):
            y = y + (gelu(z)[:, :, None] * wide(w_out[which, node])).sum(1)
        return y.to(x.dtype)


# ---- gradients ----------------------------------------------------------------------------------


def backward(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of x, w_in and w_out, each in its dtype, from that of the output."""
    operands = tuple(map(wide, (flatten(x), w_in, w_out, flatten(grad))))
    with without_autocast(x.device.type):
        if w_in.ndim == 3 and w_in.shape[1] > 1:
            found = _backward_fff(*operands)
        else:  # trees of one node are the neurons of a plain layer
            own, into, out, dy = operands
            found = _backward_ff(own, into.flatten(0, -2), out.flatten(0, -2), dy)
    pairs = zip(found, (x, w_in, w_out), strict=True)
    return tuple(g.reshape(t.shape).to(t.dtype) for g, t in pairs)


def _backward_ff(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    z = x @ w_in.T
    dz = torch.ops.aten.gelu_backward(grad @ w_out.T, z)
    return dz @ w_in, dz.T @ x, torch.nn.functional.gelu(z).T @ grad


def _backward_fff(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return the gradients through the neurons on each token's path; the turns themselves have none."""
    trees, n_nodes, d_in = w_in.shape
    which = torch.arange(trees, device=x.device)
    dx = torch.zeros_like(x)
    dw_in, dw_out = torch.zeros_like(w_in), torch.zeros_like(w_out)
    for node, z in zip(*_descend(x, w_in), strict=True):
        da = (grad[:, None] * w_out[which, node]).sum(2)
        dz = torch.ops.aten.gelu_backward(da, z)
        dx = dx + (dz[:, :, None] * w_in[which, node]).sum(1)
        rows = (which * n_nodes + node).reshape(-1)
        add_in = (dz[:, :, None] * x[:, None]).reshape(-1, d_in)
        add_out = (torch.nn.functional.gelu(z)[:, :, None] * grad[:, None]).reshape(
            -1, grad.shape[1]
        )
        dw_in.view(-1, d_in).index_add_(0, rows, add_in)
        dw_out.view(-1, grad.shape[1]).index_add_(0, rows, add_out)
    return dx, dw_in, dw_out
