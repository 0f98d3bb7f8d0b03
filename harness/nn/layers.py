"""Own the layers as modules of torch, on the fastest implementation that is here."""

from __future__ import annotations

from typing import Any

import torch

from harness.backends import registry, torch_operator, torch_reference
from harness.errors import UnknownNameError


def _check(layer: str, implementation: str) -> str:
    """Return the id as it is. Raises UnknownNameError listing those of the layer where it is none."""
    known = [torch_operator.REFERENCE, *(i.id for i in registry.layers() if i.layer == layer)]
    if implementation and implementation not in known:
        raise UnknownNameError(f"implementation of {layer.upper()}", implementation, known=known)
    return implementation


def _uniform(shape: tuple[int, ...], bound: float, **options: Any) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.empty(shape, **options).uniform_(-bound, bound))


def _lower(tensor: torch.Tensor, dtype: Any) -> torch.Tensor:
    """Return a tensor in autocast's dtype; float64 and integers stay, as in torch's own layers."""
    if tensor.is_floating_point() and tensor.dtype != torch.float64:
        return tensor.to(dtype)
    return tensor


class _Layer(torch.nn.Module):
    """Hold a layer's weights and its implementation, and take any leading dimensions."""

    def __init__(
        self, w_in: torch.nn.Parameter, w_out: torch.nn.Parameter, *, bias: bool, implementation: str
    ) -> None:  # fmt: skip
        super().__init__()
        self.w_in, self.w_out = w_in, w_out
        self.bias, self.implementation = bias, implementation
        self.d_in, self.d_out = w_in.shape[-1] - bias, w_out.shape[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``y (..., d_out)`` of ``x (..., d_in)``, in x's dtype; under torch.autocast in its.

        Raises ValueError for another width, and where x and the weights differ in dtype or device.
        """
        if x.ndim == 0 or x.shape[-1] != self.d_in:
            came = x.shape[-1] if x.ndim else "no dimension"
            raise ValueError(f"x: need d_in {self.d_in} along the last dimension, got {came}")
        w_in, w_out = self.w_in, self.w_out
        if (dtype := torch_reference.autocast_dtype(x.device.type)) is not None:
            x, w_in, w_out = (_lower(tensor, dtype) for tensor in (x, w_in, w_out))
        # Each view that is made takes as long as a pass over one token.
        flat = x if x.ndim == 2 else x.reshape(-1, self.d_in)
        if self.bias:
            flat = torch.cat([flat, flat.new_ones(flat.shape[0], 1)], 1)
        y = torch_operator.layer(flat, w_in, w_out, self.implementation)
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], self.d_out)


class FF(_Layer):
    """A feedforward layer without biases, ``y = gelu(x w_in^T) w_out``.

    w_in (hidden, d_in), w_out (hidden, d_out), uniform within 1/sqrt(d_in) and 1/sqrt(hidden).
    implementation: an id of `python -m harness list`, `reference`, or empty for the fastest here.

    Raises UnknownNameError (a LookupError) for an implementation that is not the layer's.
    """

    def __init__(
        self, d_in: int, d_out: int, hidden: int, *, implementation: str = "", device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        """Draw the weights."""
        options = {"device": device, "dtype": dtype}
        super().__init__(
            _uniform((hidden, d_in), d_in**-0.5, **options),
            _uniform((hidden, d_out), hidden**-0.5, **options),
            bias=False, implementation=_check("ff", implementation),
        )  # fmt: skip
        self.hidden = hidden

    def extra_repr(self) -> str:
        """Return what stands between the brackets of its name."""
        return f"{self.d_in}, {self.d_out}, hidden={self.hidden}"


class FFF(_Layer):
    """A fast feedforward layer: of each tree the neurons on one path from the root to a leaf are computed.

    w_in (trees, n_nodes, d_in), w_out (trees, n_nodes, d_out) with n_nodes = 2**(depth + 1) - 1, uniform
    within 1/sqrt(d_in) and 1/sqrt((depth + 1) trees), as in Belcak and Wattenhofer 2023. Routing is hard,
    in training too: gradients flow through the neurons on the path and straight past its turns.
    bias: whether neurons have one, which then counts in the turn; it is the last column of a w_in of
    d_in + 1, and x is extended by a 1. It begins at 0. implementation: as for FF.

    Raises UnknownNameError (a LookupError) for an implementation that is not the layer's.
    """

    def __init__(
        self, d_in: int, d_out: int, depth: int, trees: int = 1, *, bias: bool = False,
        implementation: str = "", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        """Draw the weights."""
        if depth < 0 or trees < 1:
            raise ValueError(f"need depth >= 0 and trees >= 1, got depth {depth}, trees {trees}")
        options = {"device": device, "dtype": dtype}
        n_nodes = 2 ** (depth + 1) - 1
        super().__init__(
            _uniform((trees, n_nodes, d_in + bias), d_in**-0.5, **options),
            _uniform((trees, n_nodes, d_out), ((depth + 1) * trees) ** -0.5, **options),
            bias=bias, implementation=_check("fff", implementation),
        )  # fmt: skip
        self.depth, self.trees = depth, trees
        if bias:
            with torch.no_grad():
                self.w_in[..., -1] = 0

    def extra_repr(self) -> str:
        """Return what stands between the brackets of its name."""
        return (
            f"{self.d_in}, {self.d_out}, depth={self.depth}, trees={self.trees}, bias={self.bias}"
        )
