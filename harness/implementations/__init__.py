"""Register every implementation: importing this package imports each family once."""

import sys
from types import ModuleType

from harness import registry
from harness.implementations import native_cpu

__all__ = ["native_cpu"]


class _CallablePackage(ModuleType):
    """Let `harness.implementations()` list the implementations whether or not this package is loaded.

    Importing it binds its name in `harness`, over the function that the name stands for there.
    """

    def __call__(self) -> list[registry.Implementation]:
        """Return the implementations of FF and FFF."""
        return registry.layers()


sys.modules[__name__].__class__ = _CallablePackage
