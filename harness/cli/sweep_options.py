"""Own the way from a command's words to what a sweep is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import plugin
from harness.backends import blas
from harness.cli import grammar
from harness.cli.options import require_positive, split_patterns
from harness.errors import UsageError
from harness.paper.published import PAPER_BATCH
from harness.problem.models import BASELINE, Model, find_controls, parse_model
from harness.sweep import defaults
from harness.sweep.spec import SweepSpec


def make_spec(
    *, levels: str = "1,2,3", device: str = "cpu", models: str, batch: str | None, width: str,
    only: list[str] | None = None, skip: list[str] | None = None, blas_names: list[str] | None,
    threads: int = 1, seed: int, passes: int | None, budget: float | None, processes: int,
    quick: bool, keep_blas_env: bool = False, out: Path | None,
    plugins: Sequence[Path] = (), timeout: float | None = None, strict: bool = False,
    order: str = "interleaved", isa: str = "", baseline: str = BASELINE, controls: bool = False,
    **asked: str | None,
) -> SweepSpec:  # fmt: skip
    """Return the spec that the words of the command line ask for. asked: the words on each axis, by its name.

    Raises UsageError that names the option.
    """
    for option, value in (("--threads", threads), ("--passes", passes), ("--budget", budget),
                          ("--processes", processes), ("--timeout", timeout)):  # fmt: skip
        require_positive(option, value)
    if device != "cpu" and threads != 1:
        raise UsageError(f"--threads: of the CPU; --device {device} takes none, got {threads}")
    if seed < 0:
        raise UsageError(f"--seed: need 0 or more, got {seed}")
    if passes is not None and budget is not None:
        raise UsageError(
            "--passes and --budget: give one of them; each decides when the sweep ends"
        )
    default_batch = str(defaults.QUICK_BATCH if quick else PAPER_BATCH)
    default_budget = defaults.QUICK_BUDGET_S if quick else defaults.BUDGET_S
    return SweepSpec(
        levels=grammar.parse_levels(levels), device=device,
        models=_with_controls(grammar.parse_models(models), controls),
        batches=grammar.parse_extents("--batch", batch or default_batch),
        widths=grammar.parse_extents("--width", width), only=split_patterns(only),
        skip=split_patterns(skip),
        blas=_parse_blas(device, blas_names),
        threads=threads, seed=seed, passes=passes or 0, budget_s=budget or default_budget,
        processes=min(processes, passes) if passes else processes,
        quick=quick, keep_blas_env=keep_blas_env, out=out, strict=strict,
        plugins=[str(path.resolve()) for path in plugins], plugin_digests=plugin.digests(),
        timeout_s=timeout or 0.0,
        axes=grammar.parse_axes(device, asked), order=grammar.parse_order(order), isa=isa,
        baseline=grammar.parse_baseline(baseline),
    )  # fmt: skip


def _with_controls(models: list[Model], controls: bool) -> list[Model]:
    """Return the models, and where asked for the controls of each FFF behind them.

    Raises UsageError where no FFF is among them.
    """
    if not controls:
        return models
    names = [name for model in models for name in find_controls(model)]
    if not names:
        raise UsageError("--controls: they are of an FFF of trees x depth, and --models has none")
    return list({m.name: m for m in [*models, *map(parse_model, names)]}.values())


def _parse_blas(device: str, names: list[str] | None) -> list[str]:
    """Return the BLAS providers, none on a device. Raises UsageError where some were named for one."""
    if device == "cpu":
        return list(dict.fromkeys(split_patterns(names))) or [blas.DEFAULT]
    if names:
        raise UsageError(f"--blas: a BLAS library of the CPU; --device {device} uses none")
    return []
