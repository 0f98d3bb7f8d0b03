"""Own the swap: the dense feedforward layers of a model, found and replaced where they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from harness.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """Describe a dense feedforward layer of a model.

    name: where it stands in the model. d_in, hidden, d_out: its extents.
    module: the layer itself, (..., d_in) to (..., d_out), without what stands around it in a block (dropout,
    residual, normalisation); after the swap it is no longer part of the model.
    """

    name: str
    d_in: int
    hidden: int
    d_out: int
    module: torch.nn.Module


Make = Callable[[Dense], torch.nn.Module]


def _linear(module: torch.nn.Module | None, name: str) -> torch.nn.Linear | None:
    """Return the linear layer of this name, None where there is none."""
    found = getattr(module, name, None)
    return found if isinstance(found, torch.nn.Linear) else None


def _read_block(name: str, block: torch.nn.Module) -> Dense | None:
    """Return the dense layer of a block of BERT's kind, None where it is not one.

    Such a block computes ``output(intermediate(x), x)``: `intermediate` is a linear layer and its activation,
    `output` a linear layer, dropout, the residual and its normalisation.
    """
    first = _linear(getattr(block, "intermediate", None), "dense")
    second = _linear(getattr(block, "output", None), "dense")
    if first is None or second is None or first.out_features != second.in_features:
        return None
    return Dense(
        name=name, d_in=first.in_features, hidden=first.out_features, d_out=second.out_features,
        module=torch.nn.Sequential(block.intermediate, second),
    )  # fmt: skip


def _read_named(name: str, module: torch.nn.Module) -> Dense:
    """Return a module as a dense layer. Raises UsageError where it is not two linear layers in a row."""
    linear = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
    if len(linear) != 2 or linear[0].out_features != linear[1].in_features:
        shapes = ", ".join(f"{m.in_features} to {m.out_features}" for m in linear) or "none"
        raise UsageError(
            f"{name}: {type(module).__name__} is no dense feedforward layer: need two linear layers, the "
            f"first as wide as the second reads, got {shapes}"
        )
    first, second = linear
    return Dense(
        name=name, d_in=first.in_features, hidden=first.out_features, d_out=second.out_features,
        module=module,
    )  # fmt: skip


def _find(model: torch.nn.Module, names: Iterable[str] | None) -> list[tuple[Dense, bool]]:
    """Return the dense layers to swap, and whether each is spread over a block of BERT's kind."""
    if names is None:
        read = [_read_block(name, module) for name, module in model.named_modules()]
        if not any(read):
            raise UsageError(
                f"{type(model).__name__} has no block of BERT's kind (intermediate.dense, output.dense): "
                "name the modules to swap"
            )
        return [(dense, True) for dense in read if dense]
    found, known = [], dict(model.named_modules())
    for name in names:
        if name not in known or not name:
            raise UsageError(f"{type(model).__name__} has no module named {name!r}")
        block = _read_block(name, known[name])
        found.append((block or _read_named(name, known[name]), block is not None))
    if not found:
        raise UsageError("names: need one module at least")
    return found


def _check_made(dense: Dense, made: object) -> None:
    """Raise UsageError where what was made is no module of the dense layer's extents."""
    if not isinstance(made, torch.nn.Module):
        raise UsageError(f"{dense.name}: make returned {type(made).__name__}, need a module")
    for name in ("d_in", "d_out"):
        needed = getattr(dense, name)
        if (came := getattr(made, name, needed)) != needed:
            raise UsageError(f"{dense.name}: need {name} {needed}, make returned {came}")


def swap_ffn(
    model: torch.nn.Module, make: Make, *, names: Iterable[str] | None = None
) -> list[Dense]:
    """Replace dense feedforward layers of a model in its place; return what was swapped out, in its order.

    make: returns the replacement of a `Dense`, a module from (..., d_in) to (..., d_out), such as
    ``lambda dense: nn.FFF(dense.d_in, dense.d_out, depth=7)``, or one distilled from `dense.module`. It is
    moved to the dense layer's device and dtype and takes over its training mode.
    names: of the modules to replace; each is a block of BERT's kind or holds two linear layers, one after the
    other. None for every block of BERT's kind, as `transformers.BertModel` and models around it have. In such
    a block the replacement stands as `intermediate`, and `output.dense` passes on what it gets, so that
    dropout, residual and normalisation stay.

    All is made before anything is replaced: a model is swapped whole or not at all. Raises UsageError, in one
    line, for a model without such blocks, a name that is none and a module of another kind.
    """
    found = _find(model, names)
    made = [make(dense) for dense, _ in found]
    for (dense, _), module in zip(found, made, strict=True):
        _check_made(dense, module)
    for (dense, in_block), module in zip(found, made, strict=True):
        weight = next(dense.module.parameters())
        module.to(device=weight.device, dtype=weight.dtype).train(dense.module.training)
        if in_block:
            block = model.get_submodule(dense.name)
            block.intermediate = module
            block.output.dense = torch.nn.Identity()
        else:
            holder, _, last = dense.name.rpartition(".")
            setattr(model.get_submodule(holder), last, module)
    return [dense for dense, _ in found]
