"""Own compiled models: what torch.compile makes of a whole model, and the layers' answers within it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from harness.backends import torch_operator

# Models of one architecture share their code, and torch compiles a function anew for each that calls it.
# Beyond its own limit of 8 it would run them as they are and say so in a warning.
_MOST_COMPILED = 256


def compile_model(model: torch.nn.Module) -> Callable[..., Any]:
    """Return a model as torch.compile makes it, for fixed shapes; it is compiled by its first pass.

    Layers of `harness.nn` are one operator in it: what stands before and behind is fused around them.
    """
    config = torch._dynamo.config
    for name in ("recompile_limit", "cache_size_limit"):
        if hasattr(config, name):
            setattr(config, name, _MOST_COMPILED)
    config.fail_on_recompile_limit_hit = True
    compiled: Callable[..., Any] = torch.compile(model, dynamic=False)
    return compiled


@contextmanager
def watching_layers(see: torch_operator.Observer) -> Iterator[None]:
    """Have every layer's operator say what it got and answered: a compiled model has no hooks.

    see: called with the name of the operator, what it was called with and what it returned. Observers within
    one another all see.
    """
    before = torch_operator.observe(None)

    def see_all(*seen: Any) -> None:
        see(*seen)
        if before is not None:
            before(*seen)

    torch_operator.observe(see_all)
    try:
        yield
    finally:
        torch_operator.observe(before)
