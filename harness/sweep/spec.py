"""Own what a sweep was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.problem.architecture import Architecture
from harness.problem.axes import lists
from harness.problem.models import BASELINE, Model
from harness.records.schema import Order, SweepRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSpec:
    """State what a sweep was asked for. passes: blocks to sample, 0 to fill budget_s instead.

    axes: the values that it takes on each axis, by the axis's name (axes.lists makes them).
    plugin_digests: of the files of each plugin as they were loaded, by source.
    architecture, shapes: of whole models and of their batches (sequences x tokens), None for layers alone.
    train, compile: whether steps of training, and compiled passes, are measured beside plain ones.
    checkpoint, checkpoint_label: of the models' weights, the file and how a record calls it, empty for drawn
    ones.
    timeout_s: how long a measuring process may take to answer, 0 to derive it from the prediction.
    """

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
    plugins: Sequence[str] = ()
    plugin_digests: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 0.0
    strict: bool = False
    axes: Mapping[str, Sequence[str]] = field(default_factory=lists)
    order: Order = "interleaved"
    isa: str = ""
    baseline: str = BASELINE
    architecture: Architecture | None = None
    shapes: Sequence[str] = ()
    train: bool = False
    compile: bool = False
    checkpoint: str = ""
    checkpoint_label: str = ""

    def record(self) -> SweepRecord:
        """Return what of it stands in the run."""
        named = {name: getattr(self, name) for name in SweepRecord.model_fields}
        return SweepRecord(**{**named, "models": [model.name for model in self.models]})
