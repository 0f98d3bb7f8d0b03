"""Own the ceilings that torch measures: of a CUDA device a copy and products, of the CPU one of bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.backends import torch_library
from harness.backends.registry import Context, Implementation, Prepared, register
from harness.machine import processor
from harness.machine.resources import Files
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


def _prepare_host_matmul(problem: Problem, operands: Operands, context: Context) -> Prepared:
    """Multiply x by w_out on the CPU as torch does, which leaves it to oneDNN."""
    import torch

    x, w, y = (torch_library.as_tensor(a) for a in (operands.x, operands.w_out, operands.y))

    def forward() -> None:
        torch.mm(x, w, out=y)

    notes = {"threads": str(context.threads)} if context.threads > 1 else {}
    return Prepared(forward=forward, time=torch_library.make_timer(context, [forward]), notes=notes)


def _why_no_bfloat16() -> str:
    """Return why the CPU has no products of bfloat16 that torch could call, or an empty string."""
    reported = set(processor.read_isa(Files()))
    if not reported & {"avx512_bf16", "amx_bf16", "bf16"}:
        return "the processor reports no products of bfloat16 (avx512_bf16, amx_bf16, bf16)"
    return torch_library.unavailable()


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
register(
    Implementation(
        id="ceiling_torch_matmul", layer="ceiling", level=None, devices=("cpu",),
        summary="torch's product of 2048 x 2048 matrices of bfloat16", prepare=_prepare_host_matmul,
        workspace_bytes=lambda problem: 0, dtypes=("bfloat16",), library=torch_library.TORCH,
        unavailable=_why_no_bfloat16,
    )
)  # fmt: skip
