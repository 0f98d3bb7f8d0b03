"""Own the operands of torch's operator: which tensors are a layer's, the problem they pose, their memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from harness.problem.problem import Array, Problem


def name_dtype(dtype: torch.dtype) -> str:
    """Return a dtype as the harness names it."""
    return str(dtype).removeprefix("torch.")


def check_kinds(x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor) -> None:
    """Raise ValueError for several dtypes or devices: a kernel would read one's memory as the other."""
    if not x.dtype == w_in.dtype == w_out.dtype:
        names = [name_dtype(t.dtype) for t in (x, w_in, w_out)]
        if names[1] != names[2]:
            raise ValueError(f"w_in is {names[1]}, w_out is {names[2]}: need one dtype")
        raise ValueError(
            f"weights are {names[1]}, x is {names[0]}: convert one of them, or run under torch.autocast"
        )
    if not x.dtype.is_floating_point:
        raise ValueError(f"x and the weights: need a floating dtype, got {name_dtype(x.dtype)}")
    if not x.device == w_in.device == w_out.device:
        if w_in.device != w_out.device:
            raise ValueError(
                f"w_in is on {w_in.device}, w_out is on {w_out.device}: need one device"
            )
        raise ValueError(f"weights are on {w_in.device}, x is on {x.device}: move one of them")


def check_shapes(x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor) -> None:
    """Raise ValueError for shapes that are no layer's."""
    if not x.ndim:
        raise ValueError("x: need d_in along the last dimension, got no dimension")
    if w_in.ndim not in (2, 3):
        raise ValueError(f"w_in: need 2 dimensions (FF) or 3 (FFF), got {w_in.ndim}")
    if w_in.shape[:-1] != w_out.shape[:-1]:
        raise ValueError(
            f"w_out: need the neurons of w_in, {tuple(w_in.shape[:-1])}, got {tuple(w_out.shape[:-1])}"
        )
    if w_in.shape[-1] != x.shape[-1]:
        raise ValueError(f"w_in: need the d_in of x, {x.shape[-1]}, got {w_in.shape[-1]}")
    if w_in.ndim == 3 and (w_in.shape[1] & (w_in.shape[1] + 1) or not w_in.shape[1]):
        raise ValueError(
            f"w_in: a tree has 2**(depth + 1) - 1 nodes (1, 3, 7, ...), got {w_in.shape[1]}"
        )


def count_tokens(x: torch.Tensor) -> int:
    """Return the tokens of ``x (..., d_in)``; one where there is no other dimension."""
    return math.prod(x.shape[:-1])


def flatten(x: torch.Tensor) -> torch.Tensor:
    """Return ``x (..., d)`` as (tokens, d)."""
    return x if x.ndim == 2 else x.reshape(count_tokens(x), x.shape[-1])


def make_problem(x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor) -> Problem:
    """Return the problem that tensors pose. Raises ValueError for shapes that are no layer's."""
    check_shapes(x, w_in, w_out)
    extents = {"batch": count_tokens(x), "d_in": x.shape[-1], "d_out": w_out.shape[-1]}
    dtype = name_dtype(x.dtype)
    if w_in.ndim == 2:
        return Problem(layer="ff", hidden=w_in.shape[0], dtype=dtype, **extents)
    depth = (w_in.shape[1] + 1).bit_length() - 2
    return Problem(layer="fff", trees=w_in.shape[0], depth=depth, dtype=dtype, **extents)


def as_array(tensor: torch.Tensor, stored: Any) -> Array:
    """Return a tensor's own memory as an array; bfloat16 goes through its bits."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return np.asarray(tensor.detach().numpy().view(stored))
