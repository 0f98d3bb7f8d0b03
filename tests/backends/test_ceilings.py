"""The kernels of the ceilings: what they compute, and that the gate sees what they leave out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conformance import isas

from harness import native
from harness.backends import registry
from harness.backends.registry import Context
from harness.problem.ceilings import CEILINGS
from harness.problem.check import check, poison
from harness.problem.operands import Operands, make_operands
from harness.problem.problem import Problem

OWN = [
    "ceiling_fma", "ceiling_gather", *(c.id for c in CEILINGS.values() if c.places)
]  # fmt: skip
# d_in = d_out
SQUARE = ["ceiling_fma", *(c.id for c in CEILINGS.values() if c.reads and c.writes)]


def run_kernel(
    implementation: str, problem: Problem, operands: Operands, isa: str = "", threads: int = 1
) -> None:
    """Run one pass over a poisoned output."""
    context = Context(
        provider=None, workspace=lambda size: np.empty(size, np.uint8), isa=isa, threads=threads
    )
    poison(operands.y)
    registry.get(implementation).prepare(problem, operands, context).forward()


def make_problem(implementation: str, batch: int, d_in: int, d_out: int, hidden: int) -> Problem:
    """Return a problem that the ceiling takes."""
    if implementation in SQUARE:
        d_out = d_in
    return Problem(layer="ceiling", batch=batch, d_in=d_in, d_out=d_out, hidden=hidden, seed=d_in)


@pytest.mark.parametrize("isa", isas("float32"))
@pytest.mark.parametrize("implementation", OWN)
@pytest.mark.parametrize("d_in", [1, 7, 8, 31, 33, 127, 128, 129, 384, 769])
def test_agrees_with_the_oracle(implementation: str, d_in: int, isa: str) -> None:
    """Each ceiling gives its known answer for every instruction set, at widths beside every vector's edge."""
    for batch, d_out, hidden in ((1, 1, 1), (8, 5, 3), (32, 1, 2)):
        problem = make_problem(implementation, batch, d_in, d_out, hidden)
        operands = make_operands(problem)
        run_kernel(implementation, problem, operands, isa)
        verdict = check(problem, operands, implementation=implementation)
        assert verdict.ok, verdict.reason


@pytest.mark.parametrize("threads", [2, 3, 40])
@pytest.mark.parametrize("hidden", [1, 5])
@pytest.mark.parametrize("implementation", OWN)
def test_right_whatever_the_threads(implementation: str, hidden: int, threads: int) -> None:
    """Threads that share the rows, walked once or often, write what one thread writes, and it is right."""
    problem = make_problem(implementation, 32, 130, 1, hidden)
    operands = make_operands(problem)
    run_kernel(implementation, problem, operands)
    alone = operands.y.copy()
    run_kernel(implementation, problem, operands, threads=threads)
    np.testing.assert_array_equal(operands.y, alone)
    verdict = check(problem, operands, implementation=implementation)
    assert verdict.ok, verdict.reason


@pytest.mark.parametrize("implementation", OWN)
def test_writes_its_output_and_nothing_else(implementation: str) -> None:
    """Guard rows around the output survive, and the operands are unchanged."""
    problem = make_problem(implementation, 16, 37, 3, 2)
    made = make_operands(problem)
    guarded = np.full((problem.batch + 2, problem.d_out), 42.0, np.float32)
    operands = dataclasses.replace(made, y=guarded[1:-1])
    before = [operands.x.copy(), operands.w_in.copy(), operands.w_out.copy()]
    run_kernel(implementation, problem, operands)
    assert (guarded[[0, -1]] == 42.0).all()
    for array, old in zip((operands.x, operands.w_in, operands.w_out), before, strict=True):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("implementation", OWN)
def test_nan_and_inf_arrive_where_the_oracle_has_them(implementation: str) -> None:
    """A NaN and an infinity in the input come out in the places that the oracle says."""
    problem = make_problem(implementation, 8, 40, 2, 2)
    operands = make_operands(problem)
    operands.x[3, 0], operands.x[5, 0] = np.nan, np.inf
    run_kernel(implementation, problem, operands)
    assert check(problem, operands, implementation=implementation).ok
    assert not np.isfinite(operands.y).all()


@pytest.mark.parametrize("steps", [1, 5, 1023])
def test_the_check_sees_a_missing_step(steps: int) -> None:
    """An FMA loop that does one step too few is wrong, at the count of steps that the sweep uses too."""
    done = Problem(layer="ceiling", batch=4, d_in=96, d_out=96, hidden=steps)
    asked = dataclasses.replace(done, hidden=steps + 1)
    operands = make_operands(asked)
    fewer = dataclasses.replace(operands, w_in=operands.w_in[:-1], w_out=operands.w_out[:-1])
    run_kernel("ceiling_fma", done, fewer)
    assert not check(asked, operands, implementation="ceiling_fma").ok


@pytest.mark.parametrize(
    "implementation", ["ceiling_write", "ceiling_copy", "ceiling_stream", "ceiling_gather"]
)
def test_the_check_sees_a_missing_walk(implementation: str) -> None:
    """A ceiling that skips the last walk over its set is wrong."""
    asked = make_problem(implementation, 8, 64, 1, 4)
    operands = make_operands(asked)
    done = dataclasses.replace(asked, hidden=3)
    fewer = dataclasses.replace(operands, w_in=operands.w_in[:-1], w_out=operands.w_out[:-1])
    run_kernel(implementation, done, fewer)
    assert not check(asked, operands, implementation=implementation).ok


@pytest.mark.parametrize("implementation", ["ceiling_read", "ceiling_gather"])
def test_the_check_sees_a_line_that_was_not_read(implementation: str) -> None:
    """A row of which one cache line was left out is wrong."""
    problem = make_problem(implementation, 8, 2048, 1, 1)
    operands = make_operands(problem)
    whole = operands.x.copy()
    operands.x[5, 1024:1040] = 0
    run_kernel(implementation, problem, operands)
    operands.x[:] = whole
    assert not check(problem, operands, implementation=implementation).ok


@pytest.mark.parametrize(
    ("implementation", "extents"),
    [
        ("ceiling_fma", {"batch": 1, "d_in": 4, "d_out": 5, "hidden": 1}),
        ("ceiling_copy", {"batch": 1, "d_in": 4, "d_out": 5, "hidden": 1}),
        ("ceiling_stream", {"batch": 1, "d_in": 4, "d_out": 5, "hidden": 1}),
        ("ceiling_gather", {"batch": 6, "d_in": 4, "d_out": 1, "hidden": 1}),
    ],
)
def test_refuses_an_unfit_shape(implementation: str, extents: dict[str, int]) -> None:
    """A ceiling refuses extents on which its answer would not be defined."""
    problem = Problem(layer="ceiling", **extents)
    with pytest.raises(native.NativeError, match="bad shape"):
        run_kernel(implementation, problem, make_operands(problem))
