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
MODELS = {
    "ff": BASELINE, "fff": "ultrafastbert-1x11", "leaf": "leaf-16x8", "topk": "topk-12", "hash": "hash-12",
    "peer": "peer-12", "moe": "moe-256x16-k1",
}  # fmt: skip


@pytest.fixture(scope="session")
def provider() -> blas.Provider:
    """Load SciPy's BLAS once."""
    return blas.load()


def _group(implementation: Implementation) -> str:
    if implementation.library is not None:
        return implementation.library.name
    return f"level {implementation.level}" if implementation.level else "own kernels"


@pytest.mark.parametrize(
    ("implementation", "model"),
    [
        pytest.param(i, MODELS[i.layer], id=i.id)
        for i in registry.layers()
        if "cpu" in i.devices and not i.unavailable()
    ],
)
def test_pass(
    benchmark: Any, provider: blas.Provider, implementation: Implementation, model: str
) -> None:
    """Time one pass of an implementation, after its output has been checked."""
    problem: Problem = parse_model(model).problem(batch=BATCH, width=WIDTH, seed=0)
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
        model=model,
        batch=BATCH,
        flops=problem.flops(),
        provider=provider.describe() if implementation.needs_provider else "",
        architecture=provider.architecture if implementation.needs_provider else "",
        **prepared.notes,
    )
    benchmark(prepared.forward)
