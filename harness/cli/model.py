"""Own the command `model`: whole models with one layer or another as their FF."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options, signals
from harness.cli.exit_status import ExitStatus
from harness.cli.runs import write_outputs
from harness.cli.streams import print_notice
from harness.cli.sweep import measure, print_missing, print_plan, take_up
from harness.cli.sweep_options import make_spec
from harness.errors import UsageError
from harness.machine import facts
from harness.problem.models import BASELINE
from harness.problem.transformer import Architecture, find_architecture, parse_shapes
from harness.records.reader import Run
from harness.sweep import defaults, resume
from harness.sweep import transformer as sweep_transformer
from harness.sweep.spec import SweepSpec

# What of the options stands in the spec under another name.
_FIELDS = {
    "arch": "architecture", "layers": "architecture", "batch": "shapes", "budget": "budget_s",
    "timeout": "timeout_s",
}  # fmt: skip


def _usual_shapes(architecture: Architecture, *, quick: bool) -> str:
    """Return the batches where none is asked for."""
    if architecture.is_decoder:
        return defaults.DECODER_SHAPES
    return defaults.MODEL_QUICK_SHAPES if quick else defaults.MODEL_SHAPES


def _make_spec(
    arch: str, layers: int | None, batch: str | None, spec: SweepSpec
) -> SweepSpec:  # fmt: skip
    """Return the spec of whole models, from one of the layers that stand in them. Raises UsageError."""
    options.require_positive("--layers", layers)
    architecture = find_architecture(arch, layers)
    try:
        shapes = parse_shapes(batch or _usual_shapes(architecture, quick=spec.quick), architecture)
    except UsageError as error:
        raise UsageError(f"--batch: {error}") from None
    sweep_transformer.check_models(spec.models)
    return replace(
        spec, architecture=architecture, shapes=[f"{s}x{t}" for s, t in shapes],
        batches=list(dict.fromkeys(s * (1 if architecture.is_decoder else t) for s, t in shapes)),
        widths=[architecture.width],
        blas=[], levels=[], baseline=BASELINE,
    )  # fmt: skip


def model_command(
    context: typer.Context,
    arch: Annotated[
        str,
        typer.Option(
            help="Architecture: bert-base, ultrafastbert, gpt2-small (a pass is one step of "
            "generation), or a config.json of transformers' BERT or GPT-2."
        ),
    ] = "bert-base",
    layers: Annotated[
        int | None,
        typer.Option(
            help="Layers of the model. [default: the architecture's own; with --quick "
            f"{defaults.MODEL_QUICK_LAYERS}]"
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Batches, a list of SEQUENCESxTOKENS; of a decoder the tokens that it has read before the "
            f"step. [default: {defaults.MODEL_SHAPES}; with --quick {defaults.MODEL_QUICK_SHAPES}; of a "
            f"decoder {defaults.DECODER_SHAPES}]"
        ),
    ] = None,
    models: Annotated[
        str,
        typer.Option(help="What stands as the FF, beside its own: a list of KxD and ff-HIDDEN."),
    ] = "1x11,ff-12",
    threads: options.Threads = 1,
    seed: options.Seed = 0,
    passes: options.Passes = None,
    budget: Annotated[
        float | None, options.budget(defaults.MODEL_BUDGET_S, defaults.MODEL_QUICK_BUDGET_S)
    ] = None,
    processes: options.Processes = defaults.PROCESSES,
    quick: options.Quick = False,
    keep_blas_env: options.KeepBlasEnv = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    figures: options.Figures = True,
    out: options.Out = None,
    resume_run: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Take up a run of this command that was killed or interrupted; the options are those of "
            "the run.",
        ),
    ] = None,
) -> ExitStatus:
    """Say whether a whole model is faster with an FFF as its FF, by how much, and why not by more.

    The model as it is, the model without its FF and the model with each layer in its place are measured in
    interleaved random order, and once more with the time of each part. Weights are drawn, not trained: the
    time of a pass hangs on them through the routing alone.
    """
    spec = make_spec(
        models=models, batch=None, width="1", blas_names=None, threads=threads, seed=seed,
        passes=passes, budget=budget, processes=processes, quick=quick,
        keep_blas_env=keep_blas_env, out=out, timeout=timeout,
    )  # fmt: skip
    if budget is None and not passes:
        spec = replace(
            spec, budget_s=defaults.MODEL_QUICK_BUDGET_S if quick else defaults.MODEL_BUDGET_S
        )
    spec = _make_spec(
        arch, defaults.MODEL_QUICK_LAYERS if quick and layers is None else layers,
        batch, spec,
    )  # fmt: skip
    resumed: Run | None = None
    if resume_run is not None:
        resumed, spec = take_up(context, resume_run, spec, _FIELDS)
    made = sweep_transformer.make_plan(spec, facts.read_machine(device="cpu", missing_providers={}))
    if dry_run:
        print_missing(resumed, made) if resumed else print_plan(made)
        return ExitStatus.CLEAN
    if resumed and resume.has_ended(resumed):
        print_notice(f"{resumed.folder}: nothing is missing")
        written = write_outputs(resumed.folder, figures=figures, page=False)
        return ExitStatus.CLEAN if written else ExitStatus.BAD
    assert made.spec.architecture is not None
    sweep_transformer.require_packages(made.spec.architecture)
    return signals.end_in_order(
        partial(measure, made, resumed, figures=figures, page=False, command="model")
    )
