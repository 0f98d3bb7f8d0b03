"""The door for torch users: the layers as modules, and the loading of published weights."""

from __future__ import annotations

from harness.nn.layers import FF, FFF
from harness.nn.published import load_published

__all__ = ["FF", "FFF", "load_published"]
