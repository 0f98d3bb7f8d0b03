"""Own the layers as one operator of torch: any implementation behind it, gradients through the chosen path.

torch is imported here as this module is: only `harness.nn` imports it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from harness.backends import registry, torch_operands, torch_passes, torch_reference

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


@cache
def _resolve(implementation: str, ndim: int, device: str, dtype: torch.dtype, few: bool) -> str:
    layer = "ff" if ndim == 2 else "fff"
    return implementation or choose(layer, device, torch_operands.name_dtype(dtype), few=few)


# ---- the operator -------------------------------------------------------------------------------

# Defined without `torch.library.custom_op` and `register_autograd`: what these wrap around a call in Python
# takes several times as long as a pass over one token.
_library = torch.library.Library("harness", "DEF")
_library.define(
    "layer(Tensor x, Tensor w_in, Tensor w_out, str implementation) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
# ``layer(x, w_in, w_out, implementation) -> y (batch, d_out)`` of an FF (w_in of 2 dimensions) or an FFF
# (of 3). implementation: an id of the registry, `reference`, or empty for the fastest that is here.
# Raises ValueError for operands of several dtypes or devices, and for shapes that are no layer's.
layer = torch.ops.harness.layer.default


def _compute(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, implementation: str
) -> torch.Tensor:
    torch_operands.check_kinds(x, w_in, w_out)
    batch = x.shape[0] if x.ndim else 0
    name = _resolve(implementation, w_in.ndim, x.device.type, x.dtype, batch < FEW)
    if name == REFERENCE or not batch:
        torch_operands.check_shapes(x, w_in, w_out)
        return torch_reference.forward(x, w_in, w_out)
    y = x.new_empty(batch, w_out.shape[-1])
    torch_passes.run(name, x, w_in, w_out, y)
    return y


def _shape(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, implementation: str
) -> torch.Tensor:
    """Return y without its values, for tensors without any."""
    torch_operands.check_kinds(x, w_in, w_out)
    torch_operands.check_shapes(x, w_in, w_out)
    return x.new_empty(x.shape[0], w_out.shape[-1])


def _below_autograd(*arguments: Any) -> torch.Tensor:
    """Call the operator as what comes behind autograd sees it."""
    with torch._C._AutoDispatchBelowAutograd():
        return layer(*arguments)


class _Gradients(torch.autograd.Function):
    """Remember the operands of a pass for its gradients."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> torch.Tensor:
        """Return the pass's output."""
        ctx.save_for_backward(*arguments[:3])
        return _below_autograd(*arguments)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        """Return the gradients of x, w_in and w_out; the implementation's name has none."""
        x, w_in, w_out = ctx.saved_tensors
        return (*torch_reference.backward(x, w_in, w_out, grad), None)


def _differentiate(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, implementation: str
) -> torch.Tensor:
    run = _below_autograd
    if torch.is_grad_enabled() and (x.requires_grad or w_in.requires_grad or w_out.requires_grad):
        run = _Gradients.apply
    return run(x, w_in, w_out, implementation)


_library.impl("layer", _compute, "CompositeExplicitAutograd")
_library.impl("layer", _differentiate, "Autograd")
torch.library.register_fake("harness::layer", _shape, lib=_library)
