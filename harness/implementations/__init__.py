"""Register every implementation: importing this package imports each family once.

The package shares its name with the function `harness.implementations`, and importing it puts it in that
function's place: so it can be called like it.
"""

from __future__ import annotations

import sys
from types import ModuleType

from harness import registry
from harness.implementations import (
    native_cpu,
    native_cuda,
    torch_ceilings,
    torch_compiled,
    torch_layers,
    triton_layers,
)

__all__ = [
    "native_cpu", "native_cuda", "torch_ceilings", "torch_compiled", "torch_layers", "triton_layers",
]  # fmt: skip


class _CallableModule(ModuleType):
    """Answer a call as the function `harness.implementations` does."""

    def __call__(self) -> list[registry.Implementation]:
        """Return the implementations of FF and FFF."""
        return registry.layers()


sys.modules[__name__].__class__ = _CallableModule
