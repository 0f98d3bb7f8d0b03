"""Own why a cell can't be measured as it was asked for."""

from __future__ import annotations

from collections.abc import Mapping

from harness import on_device, registry
from harness.cell import Cell
from harness.facts import DeviceFacts
from harness.registry import Implementation
from harness.spec import SweepSpec


def find_reason(
    spec: SweepSpec, cell: Cell, refused: Mapping[str, str], facts: DeviceFacts | None
) -> str:
    """Return why a cell can't be measured, or an empty string."""
    reason = by_nature(registry.get(cell.implementation), cell) or refused.get(cell.id, "")
    reason = reason or _too_slow_for_quick(spec, cell)
    return reason or (on_device.why_too_large(cell, facts) if facts else "")


def _too_slow_for_quick(spec: SweepSpec, cell: Cell) -> str:
    """Return why a quick sweep of the CPU leaves a cell out that nobody named, or an empty string.

    What compiles would do so in every process, and take from all others the blocks that they need.
    """
    if not spec.quick or spec.passes or spec.only or spec.device != "cpu" or not cell.compile_s():
        return ""
    return "compiles, which --quick has no time for; ask for it with --only, or leave --quick out"


def by_nature(implementation: Implementation, cell: Cell) -> str:
    """Return why an implementation can't be measured as a cell asks, whatever the size."""
    if cell.problem.dtype not in implementation.dtypes:
        return f"takes {' and '.join(implementation.dtypes)} alone, not {cell.problem.dtype}"
    if cell.launch == "graph" and not implementation.capturable:
        return "its passes can't be captured as a CUDA graph"
    return implementation.unavailable()
