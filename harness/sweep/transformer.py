"""Own the plan of whole models: each as it is, without its FF, and with each layer in its place."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from harness.backends import torch_library
from harness.errors import UnavailableError, UsageError
from harness.machine.facts import Machine
from harness.measure.process_key import ProcessKey
from harness.problem.architecture import INSTALL, Architecture
from harness.problem.models import Model
from harness.problem.transformer import DENSE, LEFT_OUT, Transformer
from harness.sweep.cell import Cell
from harness.sweep.plan import Plan, check_memory
from harness.sweep.spec import SweepSpec

_FORMS = {DENSE: "model_dense", LEFT_OUT: "model_left_out"}


def require_packages(architecture: Architecture) -> None:
    """Raise UnavailableError, in one line that says what to install, where a package is missing."""
    if reason := torch_library.unavailable():
        raise UnavailableError(reason.replace("[torch]", "[model]"))
    if architecture.kind != "ultrafastbert" and importlib.util.find_spec("transformers") is None:
        raise UnavailableError(INSTALL)


def check_models(models: Sequence[Model]) -> None:
    """Raise UsageError where a layer can't stand in a model here."""
    for model in models:
        if model.layer not in ("ff", "fff"):
            raise UsageError(
                f"--models: what stands in a model are ff-HIDDEN and KxD, got {model.name}"
            )


def make_cell(transformer: Transformer, seed: int) -> Cell:
    """Return the cell of a whole model."""
    architecture, layer = transformer.architecture, transformer.layer()
    parts = [f"{architecture.name}-{architecture.layers}", transformer.ff, transformer.shape]
    swapped = transformer.ff not in _FORMS
    return Cell(
        id="/".join([*parts, *(["parts"] if transformer.in_parts else [])]), role="model",
        implementation=_FORMS.get(transformer.ff, f"model_{layer.layer}"), level=None,
        model=layer.name if swapped else "", provider="", problem=transformer.problem(seed),
        # The same for all: what is gated first is what was planned first.
        workspace_bytes=transformer.batch, runs_in=ProcessKey(library="torch"),
        transformer=transformer,
    )  # fmt: skip


def _cells(architecture: Architecture, spec: SweepSpec) -> list[Cell]:
    forms = [DENSE, LEFT_OUT, *(model.name for model in spec.models)]
    found = []
    for shape in spec.shapes:
        sequences, tokens = map(int, shape.split("x"))
        for in_parts in (False, True):
            found += [
                make_cell(
                    Transformer(
                        architecture=architecture, sequences=sequences, tokens=tokens, ff=ff,
                        in_parts=in_parts,
                    ),
                    spec.seed,
                )
                for ff in forms
            ]  # fmt: skip
    return found


def make_plan(spec: SweepSpec, machine: Machine) -> Plan:
    """Return the plan of whole models on a machine; nothing is run or loaded.

    Raises UsageError where they would not fit into memory, or there are fewer processors than threads.
    """
    if spec.architecture is None:
        raise ValueError("architecture: need one, got None")
    if spec.threads > machine.cores:
        raise UsageError(
            f"--threads: need 1 to {machine.cores}, the processors here, got {spec.threads}"
        )
    plan = Plan(spec=spec, machine=machine, cells=_cells(spec.architecture, spec))
    check_memory(plan)
    return plan
