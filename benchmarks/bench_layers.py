"""Compare FF with FFF per BLAS level in pytest-benchmark's own table: one group a level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.backends import blas, registry
from harness.backends.registry import Context, Implementation
from harness.problem import check
from harness.problem.models import BASELINE, parse_model
from harness.problem.operands import make_aligned, make_operands
from harness.problem.problem import Problem

BATCH, WIDTH = 256, 768
MODELS = {"ff": BASELINE, "fff": "ultrafastbert-1x11", "leaf": "leaf-16x8"}


@pytest.fixture(scope="session")
def provider() -> blas.Provider:
    """Load SciPy's BLAS once."""
    return blas.load()


def _group(implementation: Implementation) -> str:
    if implementation.library is not None:
        return implementation.library.name
    return f"level {implementation.level}" if implementation.level else "own kernels"


@pytest.mark.parametrize(
    "implementation",
    [i for i in registry.layers() if "cpu" in i.devices and not i.unavailable()],
    ids=lambda i: i.id,
)
def test_pass(benchmark: Any, provider: blas.Provider, implementation: Implementation) -> None:
    """Time one pass of an implementation, after its output has been checked."""
    problem: Problem = parse_model(MODELS[implementation.layer]).problem(
        batch=BATCH, width=WIDTH, seed=0
    )
    operands = make_operands(problem)
    context = Context(
        provider=provider if implementation.needs_provider else None,
        workspace=lambda size: make_aligned((size,), np.uint8),
    )
    prepared = implementation.prepare(problem, operands, context)
    check.poison(operands.y)
    prepared.forward()
    verdict = check.check(problem, operands)
    assert verdict.ok, verdict.reason
    benchmark.group = _group(implementation)
    benchmark.extra_info.update(
        model=MODELS[implementation.layer],
        batch=BATCH,
        flops=problem.flops(),
        provider=provider.describe() if implementation.needs_provider else "",
        architecture=provider.architecture if implementation.needs_provider else "",
        **prepared.notes,
    )
    benchmark(prepared.forward)
