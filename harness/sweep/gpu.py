"""Own how a plan for a device differs from one for the CPU: ways to run, ceilings, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.backends.registry import Implementation
from harness.errors import UsageError
from harness.gpu.device import flush_bytes
from harness.machine.facts import Machine
from harness.measure import locality
from harness.problem import ceilings
from harness.problem.axes import DEVICES, Conditions
from harness.problem.problem import Problem
from harness.records.facts import DeviceFacts
from harness.sweep import ceilings as sweep_ceilings
from harness.sweep.cell import Cell, make_cell
from harness.sweep.spec import SweepSpec

_MATMUL_EXTENT = 4096  # 137 GFLOP: some ms of a large GPU, so that its launch is nothing
_COPY_ROW = 1 << 14
# What torch, its context and its libraries take beside the tensors.
_CONTEXT_BYTES = 1 << 30
# A graph's pool keeps to itself what its passes allocate, and of a library's workspace this much.
_GRAPH_BYTES = 32 << 20
_USABLE = 0.95  # the allocator rounds up


def find(device: str, machine: Machine) -> DeviceFacts | None:
    """Return what a device is, None for the CPU. Raises UsageError that says what is missing."""
    if device not in DEVICES:
        raise UsageError(
            f"--device: nothing here runs on {device!r}; this harness has implementations for "
            f"{', '.join(DEVICES)}"
        )
    if device == "cpu":
        return None
    if machine.gpu.facts is None:
        raise UsageError(f"--device {device}: {machine.gpu.reason}")
    return machine.gpu.facts


def ways(
    spec: SweepSpec, implementation: Implementation, conditions: Conditions
) -> list[Conditions]:
    """Return the conditions with each math and launch under which an implementation has a cell of its own.

    TF32 is of float32 products that run on tensor cores. Cold passes are measured in one way alone, since
    their launches are kept out of the figure: replayed where that is asked for and can be, else launched.
    """
    maths = [m for m in spec.axes["math"] if m == "ieee" or implementation.tf32]
    if conditions.dtype != "float32":
        maths = ["ieee"]
    launches = spec.axes["launch"]
    if conditions.weights == "flushed":
        replayed = implementation.capturable and "graph" in launches
        launches = ["graph"] if replayed else launches[:1]
    return [conditions._replace(math=math, launch=launch) for math in maths for launch in launches]


# ---- ceilings -----------------------------------------------------------------------------------


def ceiling_cells(
    spec: SweepSpec, facts: DeviceFacts, chosen: Sequence[Implementation]
) -> tuple[list[Cell], list[str]]:
    """Return the cells of the device's own ceilings, and what the caller should be told.

    Copies of a set of half the L2 and of one beyond it; a product of large matrices in each precision that
    the sweep measures. All replayed from graphs: a ceiling has no launches in it.
    """
    known = {i.id: i for i in chosen if i.layer == "ceiling"}
    cells, notices = [], list[str]()
    if matmul := known.get("ceiling_cuda_matmul"):
        cells += [make_cell(matmul, p, "", "", launch="graph") for p in _products(spec)]
    if copy := known.get("ceiling_cuda_copy"):
        caches = {"L2": facts.l2_bytes} if facts.l2_bytes else {}
        sets, notices = sweep_ceilings.choose_sets(caches, facts.free_bytes)
        ceiling = ceilings.CEILINGS[copy.id]
        for place, size in sets.items():
            if place in ("L2", ceilings.MEMORY):
                extent = sweep_ceilings.stream(ceiling, place, size, _COPY_ROW, spec.seed)
                cells.append(make_cell(copy, extent.problem, "", "", place=place, launch="graph"))
    return cells, notices


def _products(spec: SweepSpec) -> list[Problem]:
    extent = _MATMUL_EXTENT
    plain = Problem(
        layer="ceiling", batch=extent, d_in=extent, d_out=extent, hidden=extent, seed=spec.seed
    )
    dtypes = spec.axes["dtype"]
    float32 = [replace(plain, math=m) for m in spec.axes["math"] if "float32" in dtypes]
    return [*float32, *(replace(plain, dtype=d) for d in dtypes if d != "float32")]


# ---- memory -------------------------------------------------------------------------------------


def cell_bytes(cell: Cell) -> int:
    """Return what one cell holds on the device: weights of all sets, x, y and its workspace."""
    p = cell.problem
    operands = p.item_bytes * p.batch * (p.d_in + p.d_out)
    return cell.weight_bytes() + operands + cell.workspace_bytes


def total_bytes(cells: Sequence[Cell], facts: DeviceFacts) -> int:
    """Return what one measuring process holds on the device: what is shared counts once.

    Shared are x, weights and outputs of one recipe, the workspace, and what launched passes allocate. What a
    graph's passes allocate stays with it.
    """
    inputs: dict[object, int] = {}
    outputs: dict[object, int] = {}
    for p in (cell.problem for cell in cells):
        for held, key, width in (
            (inputs, p.input_key(), p.d_in), (outputs, (p.d_out, p.dtype), p.d_out),
        ):  # fmt: skip
            held[key] = max(held.get(key, 0), p.item_bytes * p.batch * width)
    weights = locality.weight_bytes((cell.problem, cell.sets) for cell in cells)
    workspace = max((cell.workspace_bytes - cell.allocates_bytes for cell in cells), default=0)
    allocated = max((cell.allocates_bytes for cell in cells), default=0)
    graphs = sum(_GRAPH_BYTES + c.allocates_bytes for c in cells if c.launch == "graph")
    own = workspace + allocated + graphs + flush_bytes(facts.l2_bytes)
    return sum(inputs.values()) + sum(outputs.values()) + weights + own


def why_too_large(cell: Cell, facts: DeviceFacts) -> str:
    """Return why a cell does not fit the device by itself, with the figures, or an empty string."""
    needed = cell_bytes(cell) + flush_bytes(facts.l2_bytes)
    if needed + _CONTEXT_BYTES <= _USABLE * facts.free_bytes:
        return ""
    return (
        f"needs {needed / 2**30:.2f} GiB on the device (workspace "
        f"{cell.workspace_bytes / 2**30:.2f} GiB), of which {facts.free_bytes / 2**30:.2f} GiB are free"
    )


def check_memory(cells: Sequence[Cell], facts: DeviceFacts) -> None:
    """Refuse cells that do not fit the device together. Raises UsageError with the figures."""
    homes = {cell.runs_in for cell in cells}
    needed = sum(
        _CONTEXT_BYTES + total_bytes([c for c in cells if c.runs_in == home], facts)
        for home in homes
    )
    if needed > _USABLE * facts.free_bytes:
        largest = max(cells, key=cell_bytes)
        raise UsageError(
            f"the operands need {needed / 2**30:.1f} GiB on {facts.name} and "
            f"{facts.free_bytes / 2**30:.1f} GiB of {facts.memory_bytes / 2**30:.1f} GiB are free (the "
            f"largest cell is {largest.id}: {cell_bytes(largest) / 2**30:.1f} GiB); take a smaller --batch, "
            "--width or depth, or fewer --models"
        )
