"""Own the cell: one implementation on one problem under one protocol, and what it is predicted to take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from harness.backends import blas
from harness.backends.registry import Implementation
from harness.errors import UsageError
from harness.measure import clock, process_key
from harness.measure.process_key import ProcessKey
from harness.problem import axes, ceilings
from harness.problem.axes import DEFAULTS, Conditions
from harness.problem.problem import Problem
from harness.problem.transformer import Transformer
from harness.records.schema import Role
from harness.sweep import estimate
from harness.sweep.estimate import (
    CEILING_GATE_S,
    COMPILE_S,
    DEVICE_BYTES_PER_S,
    DEVICE_RATES,
    FLUSHES_S,
    GATE_S,
    KEPT,
    LONG_PASS_S,
    RATE_UNKNOWN,
    RATES,
    SET_S,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Describe one cell. model is empty for a ceiling; runs_in names the measuring process.

    workspace_bytes: what it is given, and what its passes allocate beside. allocates_bytes: the latter alone.
    place: the part of the memory that a ceiling's set fits (`L2`, `memory`), empty for all others.
    conditions: its value on each axis; those of the problem are the problem's own. sets: of weights, where
    they are rotated. on_device: not on the CPU.
    compiles, token_block: what its implementation says of itself (registry.Implementation).
    transformer: role model only: what a pass is of; `problem` is that of one of its FFs.
    """

    id: str
    role: Role
    implementation: str
    level: int | None
    model: str
    provider: str
    runs_in: ProcessKey
    problem: Problem
    workspace_bytes: int
    allocates_bytes: int = 0
    place: str = ""
    conditions: Conditions = DEFAULTS
    sets: int = 1
    on_device: bool = False
    compiles: bool = False
    token_block: int = 0
    transformer: Transformer | None = None
    unwritten: bool = False  # role ladder only: the buffers are zero pages that nothing ever wrote

    @property
    def weights(self) -> str:
        """Return where the weights stand as a pass begins (locality.py)."""
        return self.conditions.weights

    @property
    def launch(self) -> str:
        """Return how a pass is started: `eager`, or `graph` where it is replayed from a CUDA graph."""
        return self.conditions.launch

    def work(self) -> tuple[int, int]:
        """Return the flops of one pass and the bytes that it has to move."""
        if self.transformer:
            return self.transformer.flops(), self.transformer.bytes_moved()
        if self.role == "ceiling":
            return ceilings.count_work(self.implementation, self.problem)
        return self.problem.flops(), self.problem.bytes_moved()

    def check_s(self) -> float:
        """Return a guess of what checking the output takes, in seconds."""
        if self.transformer:
            return estimate.check_transformer_s(self.transformer)
        return GATE_S if self.role != "ceiling" or self.provider else CEILING_GATE_S

    def compile_s(self, *, kept: bool = False) -> float:
        """Return a guess of how long it compiles, in seconds; kept: one before left the result on disk."""
        if not self.compiles:
            return 0.0
        whole_s = (
            estimate.compile_transformer_s(self.transformer) if self.transformer else COMPILE_S
        )
        return (KEPT if kept else 1.0) * whole_s

    def is_run_whole(self) -> bool:
        """Say whether no pass of it is of a part of the batch, however long it is."""
        return self.weights != "hot" or self.launch == "graph"

    def slices(self) -> int:
        """Return into how many slices a sample of the predicted pass would be cut."""
        if self.is_run_whole():
            return 1
        pass_ns = int(1e9 * self.predicted_s())
        return clock.count_slices(self.problem.batch, self.token_block, pass_ns)

    def predicted_s(self) -> float:
        """Return a guess of one pass's time, in seconds."""
        if self.on_device:
            flops, moved = self.work()
            how = "naive" if self.implementation.endswith("naive") else ""
            return flops / DEVICE_RATES[how] / 1e9 + moved / DEVICE_BYTES_PER_S
        if self.transformer:
            return estimate.predict_transformer_s(self.transformer)
        if self.role == "ceiling":
            return estimate.predict_s(self.implementation, self.problem)
        layer = self.problem.layer
        rate = RATES.get((layer, self.level or 0), RATE_UNKNOWN)
        return self.problem.flops() / rate / 1e9

    def weight_bytes(self) -> int:
        """Return the bytes of all its sets of weights."""
        return self.sets * self.problem.weight_bytes()

    def gate_s(self) -> float:
        """Return a guess of the time of a gate's passes.

        Checked are each set of weights alone, then all in turn; then a slice is calibrated. A device's gate
        has more passes, since whole rounds are captured too.
        """
        rotated = 2 * self.sets if self.weights == "rotated" else 1
        checked_s = rotated * self.predicted_s() + SET_S * (self.sets - 1)
        if self.on_device:
            further = estimate.count_gate_passes(self.weights, self.launch) - 1
            return checked_s + further * self.sets * self.predicted_s()
        return checked_s + self.predicted_s() / self.slices()

    def is_checked_by_head(self) -> bool:
        """Say whether later processes are predicted to check its first tokens alone: see sweep/gate.py."""
        long = self.predicted_s() >= LONG_PASS_S
        return long and not self.transformer and not self.is_run_whole()

    def sample_s(self) -> float:
        """Return a guess of what one sample takes."""
        pass_s = self.predicted_s() / self.slices()
        untimed_s = FLUSHES_S if self.weights == "flushed" else 0.0
        if self.weights == "hot":
            untimed_s = clock.count_warming(1e9 * pass_s) * pass_s
        if self.weights == "flushed" and self.on_device:
            untimed_s += pass_s  # for the wall time
        return max(self.sets * pass_s, 1.2e-9 * clock.MIN_SAMPLE_NS) + untimed_s


def label(provider: str) -> str:
    """Return how a provider is called in ids: its name, or its file's name where it is a path."""
    return provider if provider in blas.names() else Path(provider).name


def _memory_bytes(implementation: Implementation, problem: Problem, device: str) -> tuple[int, int]:
    """Return what an implementation asks for and allocates; a plugin's declaration may raise."""
    try:
        given, allocated = implementation.memory_bytes(problem, device)
        return int(given), int(allocated)
    except Exception as error:
        raise UsageError(
            f"{implementation.id}: its workspace_bytes raised {type(error).__name__}: {error}"
        ) from error


def make_cell(
    implementation: Implementation, problem: Problem, model: str, provider: str, *,
    place: str = "", sets: int = 1, **protocol: str,
) -> Cell:  # fmt: skip
    """Return the cell of an implementation on a problem, under a provider where it needs one.

    protocol: values on the axes that are not the problem's, the default of those that are not given.

    Raises UsageError where a plugin's declaration raises.
    """
    bound = provider if implementation.needs_provider else ""
    parts = [
        implementation.id,
        *([model] if model else []),
        *([place] if place else []),
        f"b{problem.batch}",
        f"w{problem.d_in}",
    ]
    if bound:
        parts.append(label(provider))
    conditions = problem.conditions(**protocol)
    parts += axes.suffix(conditions)
    # A kernel that can't run here can't be asked for its workspace either.
    barred = implementation.unavailable() or problem.dtype not in implementation.dtypes
    device = "cpu" if provider else "cuda"
    given, allocated = (0, 0) if barred else _memory_bytes(implementation, problem, device)
    return Cell(
        id="/".join(parts), role="ceiling" if problem.layer == "ceiling" else "layer",
        implementation=implementation.id, level=implementation.level, model=model,
        provider=label(bound) if bound else "", problem=problem,
        workspace_bytes=given + allocated, allocates_bytes=allocated,
        runs_in=process_key.find(implementation, provider), place=place, conditions=conditions,
        sets=sets, on_device=not provider,
        compiles=implementation.costly_prepare, token_block=implementation.token_block,
    )  # fmt: skip


def make_twin(cell: Cell) -> Cell:
    """Return the same cell under a second name: their ratio says what the machine resolves now."""
    return replace(cell, id=f"{cell.id}/again", role="aa")
