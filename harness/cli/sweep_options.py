"""Own the way from a command's words to what a sweep is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.backends import blas
from harness.cli import grammar
from harness.cli.options import require_positive, split_patterns
from harness.errors import UsageError
from harness.paper.published import PAPER_BATCH
from harness.problem import axes, recipes
from harness.problem.models import BASELINE, parse_baseline, parse_models
from harness.problem.problem import MATHS
from harness.sweep import defaults
from harness.sweep.spec import SweepSpec


def make_spec(
    *, levels: str = "1,2,3", device: str = "cpu", models: str, batch: str | None, width: str,
    only: list[str] | None = None, skip: list[str] | None = None, blas_names: list[str] | None,
    threads: int = 1, seed: int, passes: int | None, budget: float | None, processes: int,
    quick: bool, keep_blas_env: bool = False, out: Path | None,
    plugins: Sequence[Path] = (), timeout: float | None = None, strict: bool = False,
    data: str = "random", rows: str = "distinct", routing: str = "uniform",
    weights: str | None = None, order: str = "interleaved", dtype: str | None = None, isa: str = "",
    math: str | None = None, launch: str | None = None, baseline: str = BASELINE,
) -> SweepSpec:  # fmt: skip
    """Return the spec that the words of the command line ask for. Raises UsageError that names the option."""
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
    usual = axes.usual(device)
    default_batch = str(defaults.QUICK_BATCH if quick else PAPER_BATCH)
    default_budget = defaults.QUICK_BUDGET_S if quick else defaults.BUDGET_S
    return SweepSpec(
        levels=grammar.parse_levels(levels), device=device, models=parse_models(models),
        batches=grammar.parse_extents("--batch", batch or default_batch),
        widths=grammar.parse_extents("--width", width), only=split_patterns(only),
        skip=split_patterns(skip),
        blas=_parse_blas(device, blas_names),
        threads=threads, seed=seed, passes=passes or 0, budget_s=budget or default_budget,
        processes=min(processes, passes) if passes else processes,
        quick=quick, keep_blas_env=keep_blas_env, out=out, strict=strict,
        plugins=[str(path.resolve()) for path in plugins], timeout_s=timeout or 0.0,
        data=grammar.parse_choices("--data", data, recipes.DATA),
        rows=grammar.parse_choices("--rows", rows, recipes.ROWS), routing=grammar.parse_routing(routing),
        weights=grammar.parse_choices("--weights", weights or usual.weights, axes.WEIGHTS),
        order=grammar.parse_order(order), dtype=grammar.parse_dtypes(dtype or usual.dtype),
        isa=isa, math=_of_device("--math", device, math or usual.math, MATHS),
        launch=_of_device("--launch", device, launch or usual.launch, axes.LAUNCHES),
        baseline=parse_baseline(baseline),
    )  # fmt: skip


def _parse_blas(device: str, names: list[str] | None) -> list[str]:
    """Return the BLAS providers, none on a device. Raises UsageError where some were named for one."""
    if device == "cpu":
        return list(dict.fromkeys(split_patterns(names))) or [blas.DEFAULT]
    if names:
        raise UsageError(f"--blas: a BLAS library of the CPU; --device {device} uses none")
    return []


def _of_device(option: str, device: str, text: str, known: Sequence[str]) -> list[str]:
    """Return the choices of an option whose first alone exists on the CPU. Raises UsageError."""
    chosen = grammar.parse_choices(option, text, known)
    if device == "cpu" and chosen != [known[0]]:
        raise UsageError(
            f"{option}: the CPU has {known[0]} alone, got {text!r}; take --device cuda"
        )
    return chosen
