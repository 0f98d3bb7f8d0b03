"""Own the plan of a sweep: what was asked for becomes cells, with their predicted time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from harness import axes, blas, machine, registry
from harness.axes import Model
from harness.errors import UnavailableError, UsageError
from harness.problem import Problem
from harness.records import Role, SweepRecord
from harness.registry import Implementation

PAPER_BATCH, PAPER_WIDTH = 16384, 768
QUICK_BATCH = 512
BUDGET_S, QUICK_BUDGET_S = 320.0, 42.0
PROCESSES = 3

# What a core of 2020 or later does, in GFLOP/s; used for the prediction and nothing else.
_RATES = {
    ("ff", 1): 15.0, ("ff", 2): 26.0, ("ff", 3): 90.0, ("fff", 1): 12.0, ("fff", 2): 9.0,
    ("ceiling", 3): 90.0,
}  # fmt: skip
_RATE_UNKNOWN = 20.0
_START_S = 2.0  # a measuring process: interpreter, libraries, drawing the operands
_GATE_S = 0.6  # the float64 oracle on its subset
_PROCESS_BYTES = 160 << 20
# In a second and later process a pass this long is not run whole before it is timed: see worker.py.
LONG_PASS_S = 1.0
_CEILING_EXTENT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSpec:
    """State what a sweep was asked for. passes: blocks to sample, 0 to fill budget_s instead."""

    levels: Sequence[int]
    device: str
    models: Sequence[Model]
    batches: Sequence[int]
    widths: Sequence[int]
    only: Sequence[str]
    skip: Sequence[str]
    blas: Sequence[str]
    threads: int
    seed: int
    passes: int
    budget_s: float
    processes: int
    quick: bool
    keep_blas_env: bool
    out: Path | None

    def record(self) -> SweepRecord:
        """Return what of it stands in the run."""
        return SweepRecord(
            levels=list(self.levels), device=self.device, models=[m.name for m in self.models],
            batches=list(self.batches), widths=list(self.widths), only=list(self.only),
            skip=list(self.skip), blas=list(self.blas), threads=self.threads, seed=self.seed,
            passes=self.passes, budget_s=self.budget_s, processes=self.processes,
            quick=self.quick, keep_blas_env=self.keep_blas_env,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Describe one cell. model is empty for a ceiling; runs_in names the measuring process."""

    id: str
    role: Role
    implementation: str
    level: int | None
    model: str
    provider: str
    runs_in: str
    problem: Problem
    workspace_bytes: int

    def predicted_s(self) -> float:
        """Return a guess of one pass's time, in seconds."""
        layer = self.problem.layer
        rate = _RATES.get((layer, self.level or 0), _RATE_UNKNOWN)
        return self.problem.flops() / rate / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Hold the cells that will be measured, those that can't be, and what the caller should be told."""

    cells: Sequence[Cell]
    unavailable: Sequence[tuple[Cell, str]] = ()
    notices: Sequence[str] = field(default=())

    def providers(self) -> list[str]:
        """Return the measuring processes that the cells need, in order."""
        return list(dict.fromkeys(cell.runs_in for cell in self.cells))

    def gate_s(self, process: int) -> float:
        """Return the predicted time that one set of fresh processes needs before its first sample."""
        passes = [cell.predicted_s() for cell in self.cells]
        whole = sum(p for p in passes if process == 0 or p < LONG_PASS_S)
        return whole + _GATE_S * len(passes) + _START_S * len(self.providers())

    def gates_s(self, spec: SweepSpec) -> float:
        """Return the predicted time of the gates of all processes."""
        return sum(self.gate_s(process) for process in range(spec.processes))

    def block_s(self) -> float:
        """Return the predicted time of one block."""
        return sum(max(cell.predicted_s(), 0.02) for cell in self.cells)

    def memory_bytes(self) -> int:
        """Return the predicted resident memory of all measuring processes together."""
        total = 0
        for provider in self.providers():
            cells = [cell for cell in self.cells if cell.runs_in == provider]
            problems = [cell.problem for cell in cells]
            weights = {(p.layer, p.weight_shapes(), p.seed): p.weight_bytes() for p in problems}
            inputs = {p.d_in: 0 for p in problems}
            for p in problems:
                inputs[p.d_in] = max(inputs[p.d_in], 4 * p.batch * p.d_in)
            total += _PROCESS_BYTES + sum(weights.values()) + sum(inputs.values())
            total += max(4 * p.batch * p.d_out for p in problems)
            total += max(cell.workspace_bytes for cell in cells)
        return total

    def blocks(self, spec: SweepSpec) -> int:
        """Return the predicted number of blocks."""
        if spec.passes:
            return spec.passes
        left = spec.budget_s - self.gates_s(spec)
        return max(spec.processes, int(left / self.block_s()))

    def predicted_s(self, spec: SweepSpec) -> float:
        """Return the predicted time of the whole sweep."""
        return self.gates_s(spec) + self.blocks(spec) * self.block_s()


def _label(provider: str) -> str:
    """Return how a provider is called in ids: its name, or its file's name where it is a path."""
    return provider if provider in blas.names() else Path(provider).name


def _make_cell(implementation: Implementation, problem: Problem, model: str, provider: str) -> Cell:
    bound = provider if implementation.needs_provider else ""
    parts = [
        implementation.id,
        *([model] if model else []),
        f"b{problem.batch}",
        f"w{problem.d_in}",
    ]
    if bound:
        parts.append(_label(provider))
    # A kernel that can't run here can't be asked for its workspace either.
    size = 0 if implementation.unavailable() else implementation.workspace_bytes(problem)
    return Cell(
        id="/".join(parts), role="ceiling" if problem.layer == "ceiling" else "layer",
        implementation=implementation.id, level=implementation.level, model=model,
        provider=_label(bound) if bound else "", runs_in=provider, problem=problem,
        workspace_bytes=size,
    )  # fmt: skip


def make_twin(cell: Cell) -> Cell:
    """Return the same cell under a second name: their ratio says what the machine resolves now."""
    return Cell(
        id=f"{cell.id}/again", role="aa", implementation=cell.implementation, level=cell.level,
        model=cell.model, provider=cell.provider, runs_in=cell.runs_in, problem=cell.problem,
        workspace_bytes=cell.workspace_bytes,
    )  # fmt: skip


def _check_device(device: str) -> None:
    devices = sorted({i.device for i in registry.all()})
    if device not in devices:
        raise UsageError(
            f"--device: nothing here runs on {device!r}; this harness has implementations for "
            f"{', '.join(devices)}"
        )


def _choose(spec: SweepSpec) -> list[Implementation]:
    known = [i for i in registry.all() if i.device == spec.device]
    chosen = axes.select([i.id for i in known], spec.only, spec.skip)
    found = []
    for implementation in known:
        is_ceiling = implementation.layer == "ceiling"
        # A ceiling is measured with whatever was asked for: only --skip leaves it out.
        if is_ceiling and any(fnmatchcase(implementation.id, p) for p in spec.skip):
            continue
        if not is_ceiling and implementation.id not in chosen:
            continue
        if implementation.level is None or implementation.level in spec.levels or is_ceiling:
            found.append(implementation)
        elif implementation.id in spec.only:
            raise UsageError(
                f"--only: {implementation.id} is of level {implementation.level}, "
                f"and --levels asks for {', '.join(map(str, spec.levels))}"
            )
    for implementation in found:
        reason = implementation.unavailable()
        if reason and implementation.id in spec.only:
            raise UsageError(f"--only: {implementation.id} is unavailable: {reason}")
    return found


def _with_baseline(spec: SweepSpec, layers: set[str]) -> tuple[list[Model], list[str]]:
    """Return the models, the baseline before them where it was left out and can be measured."""
    models = list(spec.models)
    if "ff" not in layers or any(m.name == axes.BASELINE for m in models):
        return models, []
    notice = f"{axes.BASELINE} is measured too: every speedup is over it"
    return [axes.parse_model(axes.BASELINE), *models], [notice]


def _check_providers(spec: SweepSpec) -> None:
    for name in spec.blas:
        try:
            blas.locate(name)
        except UnavailableError as error:
            raise UsageError(f"--blas: {error}") from None
    called: dict[str, str] = {}
    for name in spec.blas:
        other = called.setdefault(_label(name), name)
        if other != name:
            raise UsageError(
                f"--blas: {other} and {name} would both be called {_label(name)} in the run; "
                "make a link of another name to one of them, or sweep them one at a time"
            )


def _layer_cells(
    spec: SweepSpec, chosen: Sequence[Implementation], models: Sequence[Model]
) -> list[Cell]:
    cells: dict[str, Cell] = {}
    for width in spec.widths:
        for batch in spec.batches:
            for model in models:
                problem = model.problem(batch=batch, width=width, seed=spec.seed)
                for implementation in chosen:
                    if implementation.layer != problem.layer:
                        continue
                    for provider in spec.blas:
                        cell = _make_cell(implementation, problem, model.name, provider)
                        cells.setdefault(cell.id, cell)
    return list(cells.values())


def _ceiling_cells(spec: SweepSpec, chosen: Sequence[Implementation]) -> list[Cell]:
    extent = _CEILING_EXTENT
    problem = Problem(
        layer="ceiling", batch=extent, d_in=extent, d_out=extent, hidden=extent, seed=spec.seed
    )
    cells = [
        _make_cell(implementation, problem, "", provider)
        for implementation in chosen
        if implementation.layer == "ceiling"
        for provider in spec.blas
    ]
    return list({cell.id: cell for cell in cells}.values())


def make_plan(spec: SweepSpec) -> Plan:
    """Return the plan of a sweep; nothing is run or loaded.

    Raises UsageError where nothing is left to measure, a provider or device is not there, or the operands
    would not fit into memory.
    """
    _check_device(spec.device)
    _check_providers(spec)
    chosen = _choose(spec)
    models, notices = _with_baseline(spec, {i.layer for i in chosen})
    cells = _layer_cells(spec, chosen, models)
    reasons = {i.id: i.unavailable() for i in chosen}
    usable = [c for c in cells if not reasons[c.implementation]]
    if not usable:
        raise UsageError(
            "nothing is left to measure: no chosen implementation computes a chosen model"
        )
    plan = Plan(
        cells=[*usable, *_ceiling_cells(spec, chosen)],
        unavailable=[(c, reasons[c.implementation]) for c in cells if reasons[c.implementation]],
        notices=notices,
    )
    _check_memory(plan)
    return plan


def _check_memory(plan: Plan) -> None:
    needed, available = plan.memory_bytes(), machine.available_memory_bytes()
    if needed > 0.9 * available:
        largest = max(plan.cells, key=lambda c: c.problem.weight_bytes() + c.workspace_bytes)
        raise UsageError(
            f"the operands need {needed / 2**30:.1f} GiB and {available / 2**30:.1f} GiB are available "
            f"(the largest cell is {largest.id}: weights {largest.problem.weight_bytes() / 2**30:.1f} GiB, "
            f"workspace {largest.workspace_bytes / 2**30:.1f} GiB); "
            "take a smaller --batch or --width, a smaller depth, or fewer --blas"
        )
