"""Own the plan of whole models: each as it is, without its FF, and with each layer in its place."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import product

from harness.backends import torch_library
from harness.errors import UnavailableError, UsageError
from harness.machine.facts import Machine
from harness.measure.process_key import ProcessKey
from harness.problem.architecture import INSTALL, Architecture
from harness.problem.models import Model
from harness.problem.problem import CONTROLS
from harness.problem.transformer import DENSE, LEFT_OUT, Transformer
from harness.sweep import gpu as sweep_gpu
from harness.sweep.cell import Cell
from harness.sweep.plan import Plan, check_memory
from harness.sweep.spec import SweepSpec

_FORMS = {DENSE: "model_dense", LEFT_OUT: "model_left_out"}
_LAYERS = ("ff", "fff", *CONTROLS)


def require_packages(architecture: Architecture, checkpoint: str = "") -> None:
    """Raise UnavailableError, in one line that says what to install, where a package is missing."""
    if reason := torch_library.unavailable():
        raise UnavailableError(reason.replace("[torch]", "[model]"))
    if architecture.kind != "ultrafastbert" and importlib.util.find_spec("transformers") is None:
        raise UnavailableError(INSTALL)
    if checkpoint and importlib.util.find_spec("safetensors") is None:
        raise UnavailableError(INSTALL.replace("transformers", "safetensors", 1))


def check_models(models: Sequence[Model]) -> None:
    """Raise UsageError where a layer can't stand in a model here."""
    for model in models:
        if model.layer not in _LAYERS:
            raise UsageError(
                f"--models: what stands in a model are ff-HIDDEN, KxD and the controls of an FFF, got "
                f"{model.name}"
            )


def make_cell(transformer: Transformer, seed: int) -> Cell:
    """Return the cell of a whole model."""
    architecture, layer = transformer.architecture, transformer.layer()
    parts = [f"{architecture.name}-{architecture.layers}", transformer.ff, transformer.shape]
    parts += [*transformer.ways(), *(["parts"] if transformer.in_parts else [])]
    swapped, on_device = transformer.ff not in _FORMS, transformer.device != "cpu"
    problem = transformer.problem(seed)
    return Cell(
        id="/".join(parts), role="model",
        implementation=_FORMS.get(transformer.ff, f"model_{layer.layer}"), level=None,
        model=layer.name if swapped else "", provider="", problem=problem,
        # The same for all: what is gated first is what was planned first.
        workspace_bytes=transformer.batch, conditions=problem.conditions(),
        # A device has one process for all that runs on it.
        runs_in=ProcessKey() if on_device else ProcessKey(library="torch"), on_device=on_device,
        compiles=transformer.compiled, transformer=transformer,
    )  # fmt: skip


def why_unavailable(whole: Transformer) -> str:
    """Return why a pass can't be measured, whatever the machine, or an empty string."""
    is_control = whole.layer().layer in CONTROLS
    if whole.in_parts and whole.compiled:
        return "compiled modules have no hooks, so that the time of parts can't be taken"
    if whole.training and whole.dtype != "float32":
        return "steps of training are measured in float32: AdamW's moments are kept in the weights' dtype"
    if whole.training and is_control:
        return f"a {whole.layer().layer} layer has no backward pass here"
    if whole.compiled and is_control:
        return "a control is no operator of torch, and would break the compiled graph in each layer"
    if whole.compiled and whole.is_step:
        return "the cache of a step of generation grows in it, and would be compiled anew at each length"
    return ""


def _passes(spec: SweepSpec) -> list[Transformer]:
    """Return all passes of a spec, those of one model and batch one after the other."""
    assert spec.architecture is not None
    forms = [DENSE, LEFT_OUT, *(model.name for model in spec.models)]
    shapes = [tuple(map(int, shape.split("x"))) for shape in spec.shapes]
    trained = (False, True) if spec.train else (False,)
    compiled = (False, True) if spec.compile else (False,)
    return [
        Transformer(
            architecture=spec.architecture, sequences=sequences, tokens=tokens, ff=ff,
            in_parts=in_parts, training=training, dtype=dtype, compiled=is_compiled,
            device=spec.device, checkpoint=spec.checkpoint_label,
        )
        for (sequences, tokens), training, dtype, is_compiled, in_parts, ff in product(
            shapes, trained, spec.axes["dtype"], compiled, (False, True), forms
        )
    ]  # fmt: skip


def make_plan(spec: SweepSpec, machine: Machine) -> Plan:
    """Return the plan of whole models on a machine; nothing is run or loaded.

    Raises UsageError where they would not fit into memory, there are fewer processors than threads, or the
    device is not here.
    """
    if spec.architecture is None:
        raise ValueError("architecture: need one, got None")
    sweep_gpu.find(spec.device, machine)
    if spec.threads > machine.cores:
        raise UsageError(
            f"--threads: need 1 to {machine.cores}, the processors here, got {spec.threads}"
        )
    passes = _passes(spec)
    reasons = {whole: why_unavailable(whole) for whole in passes}
    cells = [make_cell(whole, spec.seed) for whole in passes if not reasons[whole]]
    # Nobody asks for the parts of compiled passes: that there are none is said once, in the docs.
    lacking = [
        (make_cell(whole, spec.seed), reason)
        for whole, reason in reasons.items()
        if reason and not whole.in_parts
    ]
    if not cells:
        raise UsageError(f"nothing is left to measure: {lacking[0][0].id}: {lacking[0][1]}")
    plan = Plan(spec=spec, machine=machine, cells=cells, unavailable=lacking)
    check_memory(plan)
    return plan
