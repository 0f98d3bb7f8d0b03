"""Own the command that repeats the check of one cell: every record of a wrong or failed cell carries it."""

from __future__ import annotations

import shlex

from harness.problem.architecture import ARCHITECTURES
from harness.problem.axes import AXES, Conditions
from harness.problem.models import BASELINE, parse_model
from harness.problem.problem import EXPERTS, Problem
from harness.problem.transformer import DENSE, LEFT_OUT, Transformer
from harness.sweep.cell import Cell
from harness.sweep.spec import SweepSpec

_PROGRAM = ("python", "-m", "harness")


def name_model(problem: Problem) -> str:
    """Return the name by which `--models` takes a layer's shape."""
    if problem.layer == "fff":
        return f"{problem.trees}x{problem.depth}"
    if problem.layer == "leaf":
        relu = "-relu" if problem.activation == "relu" else ""
        return f"leaf-{problem.hidden}x{problem.depth}{relu}"
    if problem.layer == "hash":
        return f"hash-{problem.used_neurons}"
    if problem.layer == "moe":
        return f"moe-{problem.experts}x{problem.hidden}-k{problem.active}"
    if problem.layer in EXPERTS:
        return parse_model(f"{problem.layer}-{problem.active}of{problem.experts}").name
    return f"ff-{problem.hidden}"


def words_of(
    implementation: str,
    problem: Problem,
    conditions: Conditions,
    *,
    model: str,
    device: str = "cpu",
) -> list[str]:
    """Return the words that name one implementation on one problem under conditions.

    model: by which `--models` takes the layer's shape, empty for a ceiling. problem: with d_in = d_out, as
    all that a sweep measures.
    """
    words = ["--only", implementation, "--batch", str(problem.batch), "--width", str(problem.d_in)]
    if problem.seed:
        words += ["--seed", str(problem.seed)]
    if device != "cpu":
        words += ["--device", device]
    if model:
        # The FFF that another layer's input is steered through is named with it; it is not in `--only`.
        router = problem.router()
        steered = [name_model(router)] if router is not None and router is not problem else []
        words += ["--models", ",".join([*steered, model])]
        if problem.layer == "ff" and model != BASELINE:
            words += ["--baseline", model]
    for axis, value in zip(AXES, conditions, strict=True):
        if value != axis.default or len(axis.usual.get(device, ())) > 1:
            words += [f"--{axis.name}", value]
    return words


def _transformer_command(spec: SweepSpec, whole: Transformer) -> str:
    """Return the command line that measures one cell of a whole model again, one block of it; empty where its
    architecture is of a file.
    """
    architecture = whole.architecture
    if architecture.name not in ARCHITECTURES and not spec.checkpoint:
        return ""
    source = ["--weights", spec.checkpoint] if spec.checkpoint else ["--arch", architecture.name]
    words = [
        *source, "--layers", str(architecture.layers), "--batch", whole.shape,
        "--seed", str(spec.seed), "--threads", str(spec.threads), "--passes", "1",
    ]  # fmt: skip
    if whole.ff not in (DENSE, LEFT_OUT):
        words += ["--models", whole.ff]
    if whole.dtype != "float32" or whole.device != "cpu":
        words += ["--dtype", whole.dtype]
    words += ["--device", whole.device] if whole.device != "cpu" else []
    words += ["--train"] if whole.training else []
    words += ["--compile"] if whole.compiled else []
    return shlex.join([*_PROGRAM, "model", *words])


def command(spec: SweepSpec, cell: Cell, check_seed: int) -> str:
    """Return the command line that repeats the check of a cell of a sweep. check_seed: of its process."""
    if cell.role == "ladder":
        own = [
            "--batch", str(spec.batches[0]), "--width", str(spec.widths[0]), "--seed", str(spec.seed),
        ]  # fmt: skip
        return shlex.join([*_PROGRAM, "explain", *own, "--blas", cell.runs_in.provider])
    if cell.transformer:
        return _transformer_command(spec, cell.transformer)
    words = words_of(
        cell.implementation, cell.problem, cell.conditions, model=cell.model, device=spec.device
    )
    if cell.runs_in.provider:
        words += ["--blas", cell.runs_in.provider]
    if spec.threads != 1:
        words += ["--threads", str(spec.threads)]
    if spec.isa:
        words += ["--isa", spec.isa]
    if spec.keep_blas_env:
        words += ["--keep-blas-env"]
    for path in spec.plugins:
        words += ["--plugin", path]
    if check_seed:
        words += ["--check-seed", str(check_seed)]
    return shlex.join([*_PROGRAM, "check", *words])
