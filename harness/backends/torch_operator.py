"""Own the layers as one operator of torch: any implementation behind it, gradients through the chosen path.

torch is imported here as this module is: only `harness.nn` imports it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

from harness.backends import blas, registry, torch_reference
from harness.backends.registry import Context
from harness.errors import UnavailableError
from harness.machine import resources
from harness.problem.operands import Operands, make_aligned
from harness.problem.problem import Array, Problem

REFERENCE = "reference"
FEW = 128  # tokens: below, packing the weights for a product is much of what a BLAS does

# The fastest first, as measured on CPUs; what stands for CUDA has not been measured by this project.
_PREFERRED: dict[tuple[str, str], tuple[str, ...]] = {
    ("ff", "cpu"): ("ff_l3_tiled", "ff_torch_native"),
    ("fff", "cpu"): ("fff_cpu_auto", "fff_l1_blas", "fff_torch_bmm"),
    ("ff", "cuda"): ("ff_torch_native",),
    ("fff", "cuda"): ("fff_cuda_fused", "fff_triton_fused", "fff_torch_bmm"),
}
# Before those, for few tokens. In bfloat16 torch's product is faster from 8 tokens on.
_PREFERRED_FOR_FEW: dict[tuple[str, str, str], tuple[str, ...]] = {
    ("ff", "cpu", "float32"): ("ff_cpu_fused",),
}


@cache
def choose(layer: str, device: str, dtype: str, *, few: bool = False) -> str:
    """Return the implementation that a layer takes by itself: the first preferred one that is here.

    few: fewer tokens than FEW; for them an FF that packs no weights is the faster one.

    What no implementation takes (float64, another device) is computed by the reference, in torch.
    """
    known = {i.id: i for i in registry.layers()}
    first = _PREFERRED_FOR_FEW.get((layer, device, dtype), ()) if few else ()
    for name in (*first, *_PREFERRED.get((layer, device), ())):
        found = known.get(name)
        if found and dtype in found.dtypes and not found.unavailable():
            return name
    return REFERENCE


def _array(tensor: torch.Tensor, stored: Any) -> Array:
    """Return a tensor's own memory as an array; bfloat16 goes through its bits."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return np.asarray(tensor.detach().numpy().view(stored))


@cache
def _provider() -> blas.Provider:
    return blas.load()


@cache
def _caches() -> dict[str, int]:
    return resources.caches()


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


# ---- what is taken ------------------------------------------------------------------------------


def _check_kinds(x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor) -> None:
    """Refuse operands of several dtypes or devices: a kernel would read one's memory as the other."""
    if w_in.dtype != w_out.dtype:
        raise ValueError(f"w_in is {_dtype(w_in)}, w_out is {_dtype(w_out)}: need one dtype")
    if x.dtype != w_in.dtype:
        raise ValueError(
            f"weights are {_dtype(w_in)}, x is {_dtype(x)}: convert one of them, or run under torch.autocast"
        )
    if not x.is_floating_point():
        raise ValueError(f"x and the weights: need a floating dtype, got {_dtype(x)}")
    if w_in.device != w_out.device:
        raise ValueError(f"w_in is on {w_in.device}, w_out is on {w_out.device}: need one device")
    if x.device != w_in.device:
        raise ValueError(f"weights are on {w_in.device}, x is on {x.device}: move one of them")


def _check_shapes(x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor) -> None:
    """Refuse shapes that are no layer's."""
    if x.ndim != 2:
        raise ValueError(f"x: need 2 dimensions, got {x.ndim}")
    if w_in.ndim not in (2, 3):
        raise ValueError(f"w_in: need 2 dimensions (FF) or 3 (FFF), got {w_in.ndim}")
    if w_in.shape[:-1] != w_out.shape[:-1]:
        raise ValueError(
            f"w_out: need the neurons of w_in, {tuple(w_in.shape[:-1])}, got {tuple(w_out.shape[:-1])}"
        )
    if w_in.shape[-1] != x.shape[1]:
        raise ValueError(f"w_in: need the d_in of x, {x.shape[1]}, got {w_in.shape[-1]}")
    if w_in.ndim == 3 and (w_in.shape[1] & (w_in.shape[1] + 1) or not w_in.shape[1]):
        raise ValueError(
            f"w_in: a tree has 2**(depth + 1) - 1 nodes (1, 3, 7, ...), got {w_in.shape[1]}"
        )


def _check(x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor) -> None:
    _check_kinds(x, w_in, w_out)
    _check_shapes(x, w_in, w_out)


# ---- the way to an implementation ---------------------------------------------------------------


def _make_problem(x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor) -> Problem:
    extents = {"batch": x.shape[0], "d_in": x.shape[1], "d_out": w_out.shape[-1]}
    dtype = _dtype(x)
    if w_in.ndim == 2:
        return Problem(layer="ff", hidden=w_in.shape[0], dtype=dtype, **extents)
    depth = (w_in.shape[1] + 1).bit_length() - 2
    return Problem(layer="fff", trees=w_in.shape[0], depth=depth, dtype=dtype, **extents)


def _run(
    implementation: str, x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, y: torch.Tensor
) -> None:
    """Fill y by an implementation of the registry.

    Raises UnavailableError where it can't run here, ValueError where it does not take the dtype or device.
    """
    found, dtype, device = registry.get(implementation), _dtype(x), x.device.type
    if reason := found.unavailable():
        raise UnavailableError(f"{implementation}: {reason}")
    if dtype not in found.dtypes or device not in found.devices:
        raise ValueError(
            f"{implementation} takes {' or '.join(found.dtypes)} on {' or '.join(found.devices)}, "
            f"got {dtype} on {device}"
        )
    problem = _make_problem(x, w_in, w_out)
    tensors = [t.contiguous() for t in (x, w_in, w_out)]
    on_cpu = device == "cpu"
    placed = [_array(t, problem.stored) for t in (*tensors, y)] if on_cpu else [*tensors, y]
    context = Context(
        provider=_provider() if found.needs_provider else None,
        workspace=lambda size: (
            make_aligned((size,), np.uint8) if on_cpu else y.new_empty(size, dtype=torch.uint8)
        ),
        threads=torch.get_num_threads(), caches=_caches(), device=device,
    )  # fmt: skip
    operands = Operands(x=placed[0], w_in=placed[1], w_out=placed[2], y=placed[3])
    found.prepare(problem, operands, context).forward()


# ---- the operator -------------------------------------------------------------------------------


@torch.library.custom_op("harness::layer", mutates_args=())
def layer(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, implementation: str
) -> torch.Tensor:
    """Return ``y (batch, d_out)`` of an FF (w_in of 2 dimensions) or an FFF (of 3).

    implementation: an id of the registry, `reference`, or empty for the fastest that is here.

    Raises ValueError for operands of several dtypes or devices, and for shapes that are no layer's.
    """
    _check(x, w_in, w_out)
    name = implementation or choose(
        "ff" if w_in.ndim == 2 else "fff", x.device.type, _dtype(x), few=x.shape[0] < FEW
    )
    if name == REFERENCE:
        return torch_reference.forward(x, w_in, w_out)
    y = x.new_empty(x.shape[0], w_out.shape[-1])
    if x.shape[0]:
        _run(name, x, w_in, w_out, y)
    return y


@layer.register_fake
def _fake(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, implementation: str
) -> torch.Tensor:
    _check(x, w_in, w_out)
    return x.new_empty(x.shape[0], w_out.shape[-1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, w_in, w_out = ctx.saved_tensors
    return (*torch_reference.backward(x, w_in, w_out, grad), None)


layer.register_autograd(_backward, setup_context=_keep)
