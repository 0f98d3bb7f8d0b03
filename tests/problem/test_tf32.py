"""The tolerance of TF32, held against a simulation of its rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.problem import check, oracle
from harness.problem.operands import Operands, make_operands
from harness.problem.problem import Array, Problem

FF = Problem(layer="ff", batch=24, d_in=96, d_out=40, hidden=900, math="tf32", seed=3)
FFF = Problem(layer="fff", batch=64, d_in=256, d_out=40, depth=7, trees=1, math="tf32", seed=3)
PRODUCT = Problem(layer="ceiling", batch=16, d_in=512, d_out=48, hidden=512, math="tf32", seed=3)


def _rounded(array: Array, *, cut: bool) -> Array:
    """Return float32 values with 10 bits of mantissa: to nearest, or the rest cut off as devices may do."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    bits = bits if cut else bits + np.uint64(0x1000)
    return (bits & np.uint64(0xFFFFE000)).astype(np.uint32).view(np.float32)


def _product(a: Array, b: Array, cut: bool) -> Array:
    return np.asarray(_rounded(a, cut=cut) @ _rounded(b, cut=cut))


def _run(problem: Problem, o: Operands, *, cut: bool, neurons: slice = slice(None)) -> None:
    """Compute an output as a device does with TF32 on: every product of two float32 is of rounded factors."""
    if problem.layer == "ceiling":
        o.y[:] = _product(o.x, o.w_out, cut)
    elif problem.layer == "ff":
        a = oracle.gelu(_product(o.x, o.w_in[neurons].T, cut)).astype(np.float32)
        o.y[:] = _product(a, o.w_out[neurons], cut)
    else:
        z = _product(o.x, o.w_in[0].T, cut)
        o.y[:] = 0
        for token in range(problem.batch):
            node = 0
            for _ in range(problem.depth + 1):
                a = oracle.gelu(z[token, node]).astype(np.float32)
                o.y[token] += _product(np.array([[a]]), o.w_out[0, node][None], cut)[0]
                node = 2 * node + 1 + int(z[token, node] >= 0)


@pytest.mark.parametrize("cut", [False, True], ids=["nearest", "cut"])
@pytest.mark.parametrize("problem", [FF, FFF, PRODUCT], ids=lambda p: p.layer)
def test_tf32_passes_as_tf32_alone(problem: Problem, cut: bool) -> None:
    """A pass in TF32 is right where TF32 was asked for, with room to spare, and wrong as float32."""
    operands = make_operands(problem)
    _run(problem, operands, cut=cut)
    name = "ceiling_cuda_matmul"
    verdict = check.check(problem, operands, implementation=name)
    assert verdict.ok, verdict.reason
    assert verdict.worst < 0.8
    assert not check.check(replace(problem, math="ieee"), operands, implementation=name).ok


@pytest.mark.parametrize("missing", [0, 450, 899])
def test_a_missing_neuron_shows(missing: int) -> None:
    """One neuron of 900 that is left out is more than TF32's roundings can explain."""
    operands = make_operands(FF)
    o = replace(operands, w_in=np.delete(operands.w_in, missing, 0),
                w_out=np.delete(operands.w_out, missing, 0))  # fmt: skip
    _run(FF, o, cut=False)
    assert not check.check(FF, operands).ok


def test_tf32_is_of_float32() -> None:
    """TF32 is a way to multiply float32: with bfloat16 it is refused."""
    with pytest.raises(ValueError, match="math tf32 is of float32"):
        replace(FF, dtype="bfloat16")
