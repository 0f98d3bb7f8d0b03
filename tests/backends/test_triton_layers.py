"""How the Triton layers choose among their tiles, without Triton: candidates and times are made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.backends import triton_layers
from harness.backends.registry import Context
from harness.backends.triton_layers import Candidate, Weights
from harness.problem.operands import Operands
from harness.problem.problem import Problem

FFF = Problem(layer="fff", batch=2, d_in=8, d_out=8, depth=2, trees=1)
TIMES_NS = {"small": 5, "large": 3}


def test_a_tile_is_chosen_once_for_a_shape() -> None:
    """The fastest candidate is found on the first call's tensors; later calls run it alone, on their own."""
    ran: list[tuple[str, tuple[Any, ...]]] = []

    def candidates_of(problem: Problem, operands: Operands, context: Context) -> list[Candidate]:
        def bind(name: str, weights: Weights) -> Callable[[], None]:
            def run() -> None:
                ran.append((name, (operands.x, *weights, operands.y)))

            run.__name__ = name
            return run

        return [(name, lambda weights, name=name: bind(name, weights)) for name in TIMES_NS]

    def timer(run: Callable[[], None]) -> Callable[[int], int]:
        return lambda loops: loops * TIMES_NS[run.__name__]

    context = Context(provider=None, workspace=bytearray, device="cuda", timer=timer)
    forward = triton_layers.tensor_pass(candidates_of, FFF, context)
    forward("x", "w_in", "w_out", "y")
    assert [name for name, _ in ran] == ["small", "large", "large"]  # each compiles, then the pass
    ran.clear()
    forward("x2", "w_in2", "w_out2", "y2")
    assert ran == [("large", ("x2", "w_in2", "w_out2", "y2"))]
