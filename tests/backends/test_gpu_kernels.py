"""Every implementation for CUDA on a real GPU, against the oracle."""

from __future__ import annotations

import pytest
from extents import EXTENTS

from harness.backends import registry
from harness.backends.registry import Implementation
from harness.problem.problem import Problem

pytest.importorskip("torch")

from device_conformance import judge_on

from harness.gpu.torch_cuda import TorchDevice

# batch, d_in, d_out: odd, whole 16-byte pieces, around what the fused kernel's warps hold, the paper's, and
# enough tokens that every band of depth 11 is grouped.
SHAPES = (
    (1, 1, 1),
    (5, 37, 9),
    (129, 16, 24),
    (3, 769, 776),
    (2, 4100, 8),
    (2, 8, 6152),
    (512, 768, 768),
    (4100, 24, 40),
)


def _problems() -> list[tuple[Implementation, Problem]]:
    found = []
    for implementation in registry.layers():
        extents = {
            "ff": [{"hidden": 65}],
            "fff": [{"depth": 0, "trees": 3}, {"depth": 11, "trees": 1}],
        }.get(implementation.layer) or [EXTENTS[implementation.layer]]
        found += [
            (
                implementation,
                Problem(
                    layer=implementation.layer, batch=batch, d_in=d_in, d_out=d_out, dtype=dtype,
                    **more,
                ),
            )
            for dtype in implementation.dtypes
            for batch, d_in, d_out in SHAPES
            for more in extents
            if "cuda" in implementation.devices
        ]  # fmt: skip
    return found


def _name(value: object) -> str:
    if isinstance(value, Problem):
        inner = f"{value.trees}x{value.depth}" if value.layer == "fff" else str(value.hidden)
        return f"b{value.batch}-{value.d_in}-{inner}-{value.d_out}-{value.dtype}"
    assert isinstance(value, Implementation)
    return value.id


@pytest.mark.gpu
@pytest.mark.parametrize(("implementation", "problem"), _problems(), ids=_name)
def test_agrees_with_oracle_on_the_gpu(implementation: Implementation, problem: Problem) -> None:
    """Every pass on the GPU equals the oracle, from a graph too, and touches its output alone."""
    if reason := implementation.unavailable():
        pytest.fail(reason)
    assert judge_on(TorchDevice(), implementation, problem) == ""
