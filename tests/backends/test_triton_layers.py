"""How the Triton layers choose among their tiles, without Triton: candidates and times are made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from harness.backends import triton_layers  # noqa: E402
from harness.backends.registry import Context  # noqa: E402
from harness.backends.triton_layers import Candidate, Weights  # noqa: E402
from harness.problem.operands import Operands  # noqa: E402
from harness.problem.problem import Problem  # noqa: E402

FFF = Problem(layer="fff", batch=2, d_in=8, d_out=8, depth=2, trees=1)
# x and y with two dimensions before the last, as a model calls a layer.
SHAPES = ((1, 2, 8), (1, 7, 8), (1, 7, 8), (1, 2, 8))
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
    first, second = ([torch.empty(shape) for shape in SHAPES] for _ in range(2))
    forward(*first)
    assert [name for name, _ in ran] == ["small", "large", "large"]  # each compiles, then the pass
    ran.clear()
    forward(*second)
    ((name, given),) = ran
    assert name == "large"
    assert [t.data_ptr() for t in given] == [t.data_ptr() for t in second]
    assert [tuple(t.shape) for t in given] == [
        (FFF.batch, FFF.d_in),
        *SHAPES[1:3],
        (FFF.batch, FFF.d_out),
    ]
