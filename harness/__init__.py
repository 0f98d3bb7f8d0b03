"""Measure conditional (FFF) against dense (FF) feedforward layers, and say what a speedup is worth.

``forward(id, x, w_in, w_out)`` runs any implementation on the caller's arrays, ``implementations()`` lists
them, ``load_run(path)`` reads a run as pandas frames.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import forward, implementations
    from harness.records.reader import Run, load_run

__all__ = ["Run", "forward", "implementations", "load_run"]

_HOMES = {
    "forward": "api",
    "implementations": "api",
    "Run": "records.reader",
    "load_run": "records.reader",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: `import harness` alone loads no BLAS and no pandas."""
    if name in _HOMES:
        return getattr(import_module(f"harness.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
