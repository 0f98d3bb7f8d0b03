"""Own the ceilings of a CUDA device: a copy, and torch's product of large matrices in each precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.backends import torch_library
from harness.backends.registry import Context, Implementation, Prepared, register
from harness.problem.operands import Operands
from harness.problem.problem import Problem


def _prepare_copy(problem: Problem, operands: Operands, context: Context) -> Prepared:
    """Scale x into y by the first number of each row of w_out in turn: bytes read and written alike."""
    import torch

    factors = [operands.w_out[i, :1] for i in range(problem.hidden)]

    def forward() -> None:
        for factor in factors:
            torch.mul(operands.x, factor, out=operands.y)

    return Prepared(forward=forward, time=context.timer(forward))


def _prepare_matmul(problem: Problem, operands: Operands, context: Context) -> Prepared:
    """Multiply x by w_out as torch does; the problem's math and dtype choose the units."""
    import torch

    def forward() -> None:
        torch.mm(operands.x, operands.w_out, out=operands.y)

    return Prepared(forward=forward, time=context.timer(forward))


def _register(
    id: str, summary: str, prepare: Callable[[Problem, Operands, Context], Prepared], **more: Any
) -> None:
    register(
        Implementation(
            id=id, layer="ceiling", level=None, devices=("cuda",), summary=summary, prepare=prepare,
            workspace_bytes=lambda problem: 0, unavailable=torch_library.unavailable, **more,
        )
    )  # fmt: skip


_register("ceiling_cuda_copy", "scales a set into another, read and written", _prepare_copy)
_register("ceiling_cuda_matmul", "torch's product of 4096 x 4096 matrices", _prepare_matmul,
          tf32=True, dtypes=("float32", "bfloat16"))  # fmt: skip
