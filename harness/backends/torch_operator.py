"""Own the layers as operators of torch: any implementation behind them, gradients along the chosen path.

torch is imported here as this module is: only `harness.nn` imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
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


# ---- observers ----------------------------------------------------------------------------------

# Called with the operator's name, what it was called with and what it returned.
Observer = Callable[[str, tuple[Any, ...], Any], None]
_observer: Observer | None = None


def observe(observer: Observer | None) -> Observer | None:
    """Have an observer see every pass from here on, nobody where it is None; return the one before.

    A compiled model has no hooks: what its layers got and answered is seen in their operators alone.
    """
    global _observer
    before, _observer = _observer, observer
    return before


# ---- the operators ------------------------------------------------------------------------------

# Defined without `torch.library.custom_op` and `register_autograd`: what these wrap around a call in Python
# takes several times as long as a pass over one token.
_library = torch.library.Library("harness", "DEF")
_library.define(
    "layer(Tensor x, Tensor w_in, Tensor w_out, str implementation) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "layer_backward(Tensor x, Tensor w_in, Tensor w_out, Tensor dy, bool[] wanted, str implementation)"
    " -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
# ``layer(x (..., d_in), w_in, w_out, implementation) -> y (..., d_out)`` of an FF (w_in of 2 dimensions) or
# an FFF (of 3). implementation: an id of the registry, `reference`, or empty for the fastest that is here.
# Raises ValueError for operands of several dtypes or devices, and for shapes that are no layer's.
layer = torch.ops.harness.layer.default
# ``layer_backward(x, w_in, w_out, dy, wanted, implementation)`` returns those of the gradients of x, w_in and
# w_out that are wanted (three bools), from dy, that of y.
layer_backward = torch.ops.harness.layer_backward.default


def _compute(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, implementation: str
) -> torch.Tensor:
    run = torch_passes.find(implementation, x, w_in, w_out)
    if run is None:
        torch_operands.check_kinds(x, w_in, w_out)
        tokens = torch_operands.count_tokens(x)
        name = _resolve(implementation, w_in.ndim, x.device.type, x.dtype, tokens < FEW)
        if name == REFERENCE or not tokens:
            torch_operands.check_shapes(x, w_in, w_out)
            y = torch_reference.forward(x, w_in, w_out)
            if _observer is not None:
                _observer("layer", (x, w_in, w_out), y)
            return y
        run = torch_passes.bind(implementation, name, x, w_in, w_out)
    y = run(x, w_in, w_out)
    if _observer is not None:
        _observer("layer", (x, w_in, w_out), y)
    return y


def _shape(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, implementation: str
) -> torch.Tensor:
    """Return y without its values, for tensors without any."""
    torch_operands.check_kinds(x, w_in, w_out)
    torch_operands.check_shapes(x, w_in, w_out)
    return x.new_empty(*x.shape[:-1], w_out.shape[-1])


def _refer_backward(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, dy: torch.Tensor, wanted: Sequence[bool],
    implementation: str,
) -> list[torch.Tensor]:  # fmt: skip
    found = torch_reference.backward(x, w_in, w_out, dy)
    return [gradient for gradient, want in zip(found, wanted, strict=True) if want]


def _compute_backward(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, dy: torch.Tensor, wanted: Sequence[bool],
    implementation: str,
) -> list[torch.Tensor]:  # fmt: skip
    if (
        implementation != REFERENCE
        and torch_operands.count_tokens(x)
        and torch_passes.takes_backward(x, w_in)
    ):
        found = torch_passes.run_backward(x, w_in, w_out, dy, wanted)
    else:
        found = _refer_backward(x, w_in, w_out, dy, wanted, implementation)
    if _observer is not None:
        _observer("layer_backward", (x, w_in, w_out, dy, wanted), found)
    return found


def _shape_backward(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, dy: torch.Tensor, wanted: Sequence[bool],
    implementation: str,
) -> list[torch.Tensor]:  # fmt: skip
    return [t.new_empty(t.shape) for t, want in zip((x, w_in, w_out), wanted, strict=True) if want]


# ---- autograd -----------------------------------------------------------------------------------


def _below_autograd(operator: Any, *arguments: Any) -> Any:
    """Call an operator as what comes behind autograd sees it."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


class _Gradients(torch.autograd.Function):
    """Remember the operands of a pass for its gradients."""

    @staticmethod
    def forward(ctx: Any, run: Any, *arguments: Any) -> torch.Tensor:
        """Return the output of a pass by `run`."""
        ctx.save_for_backward(*arguments[:3])
        ctx.implementation = arguments[3]
        return run(*arguments)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[Any, ...]:
        """Return the gradients of x, w_in and w_out; how the pass was run has none."""
        wanted = list(ctx.needs_input_grad[1:4])
        found = iter(layer_backward(*ctx.saved_tensors, dy, wanted, ctx.implementation))
        return (None, *(next(found) if want else None for want in wanted), None)


def _needs_gradients(*tensors: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _differentiate(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, implementation: str
) -> torch.Tensor:
    run = partial(_below_autograd, layer)
    if _needs_gradients(x, w_in, w_out):
        return _Gradients.apply(run, x, w_in, w_out, implementation)
    return run(x, w_in, w_out, implementation)


def _differentiate_backward(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, dy: torch.Tensor, wanted: Sequence[bool],
    implementation: str,
) -> list[torch.Tensor]:  # fmt: skip
    # Gradients that are to have some themselves are made of torch's own operations, which do.
    if _needs_gradients(x, w_in, w_out, dy):
        return _refer_backward(x, w_in, w_out, dy, wanted, implementation)
    below: list[torch.Tensor] = _below_autograd(
        layer_backward, x, w_in, w_out, dy, wanted, implementation
    )
    return below


_library.impl("layer", _compute, "CompositeExplicitAutograd")
_library.impl("layer", _differentiate, "Autograd")
_library.impl("layer_backward", _compute_backward, "CompositeExplicitAutograd")
_library.impl("layer_backward", _differentiate_backward, "Autograd")
torch.library.register_fake("harness::layer", _shape, lib=_library)
torch.library.register_fake("harness::layer_backward", _shape_backward, lib=_library)


# ---- past the dispatcher ------------------------------------------------------------------------

_PLAIN = (torch.Tensor, torch.nn.Parameter)
# Without what `apply` of a Function looks for first, transforms that are active: `_watched` has asked.
_apply_gradients = super(torch.autograd.Function, _Gradients).apply


# Bound once, as in torch_reference.
_count_dispatch_modes = torch._C._len_torch_dispatch_stack
_count_function_modes = torch._C._len_torch_function_stack
_peek_transforms = torch._C._functorch.peek_interpreter_stack
_get_tracing_state = torch._C._get_tracing_state
_is_profiled = torch.autograd._profiler_enabled
_is_dynamo = torch.compiler.is_dynamo_compiling


def _watched() -> bool:
    """Say whether something is to see the operators that are called: a compiler, a mode, a transform."""
    return bool(
        _is_dynamo()
        or _count_dispatch_modes()
        or _count_function_modes()
        or _peek_transforms() is not None
        or _get_tracing_state() is not None
        or _is_profiled()
    )


def apply(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, implementation: str
) -> torch.Tensor:
    """Return what `layer` returns of operands as torch.autocast wants them.

    Past torch's dispatcher where nothing watches it: the way through it and back into Python takes several
    times as long as a pass over one token.
    """
    x, w_in, w_out = torch_reference.lower(x, w_in, w_out)
    plain = type(x) in _PLAIN and type(w_in) in _PLAIN and type(w_out) in _PLAIN
    if not plain or _watched():
        return layer(x, w_in, w_out, implementation)
    if _needs_gradients(x, w_in, w_out):
        return _apply_gradients(_compute, x, w_in, w_out, implementation)
    return _compute(x, w_in, w_out, implementation)
