"""Own how each CUDA kernel is launched: its source, and the entry, grid, block and extents of a problem.

Every entry takes the pointers x, w_in, w_out, y and then its extents, all `int`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.problem.problem import Layer, Problem

PIECE_BYTES = 16  # the widest load of a lane; rows of whole pieces are called aligned

_LANES = 32
_NAIVE_THREADS = 128
_FUSED_WARPS = 8
# Elements of a row that a lane of the fused kernel holds, aligned and not: HELD_ALIGNED, HELD_ANY there.
_HELD = {True: 24, False: 8}
# Warps that fill a multiprocessor at the fused kernel's 128 registers a thread.
_WARPS_OF_MULTIPROCESSOR = 16
_INT_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Hold one launch: the entry's name, blocks along x and y, threads of a block, and the extents."""

    entry: str
    grid: tuple[int, int]
    block: int
    extents: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Describe a CUDA kernel: one implementation, one file `<id>.cu`.

    plan: the launch for a problem, for rows that are aligned or not, on so many multiprocessors.
    entries: the names of its entry points, one for each launch that plan can return.
    """

    id: str
    layer: Layer
    summary: str
    dtypes: tuple[str, ...]
    entries: tuple[str, ...]
    plan: Callable[[Problem, bool, int], Launch]


def is_aligned(problem: Problem, pointers: tuple[int, ...]) -> bool:
    """Say whether every row of every operand is whole 16-byte pieces; pointers: where the arrays begin."""
    rows = [d * problem.item_bytes for d in (problem.d_in, problem.d_out)]
    return all(n % PIECE_BYTES == 0 for n in (*rows, *pointers))


def _check(problem: Problem) -> None:
    """Raise ValueError where an index of tokens or neurons leaves the kernels' `int`."""
    for name, extent in (("batch", problem.batch), ("neurons", problem.neurons)):
        if extent > _INT_MAX - _NAIVE_THREADS:
            raise ValueError(f"{name}: the CUDA kernels take fewer than 2**31 - 128, got {extent}")


def _plan_naive(problem: Problem, aligned: bool, multiprocessors: int) -> Launch:
    _check(problem)
    tree = (problem.depth, problem.trees) if problem.layer == "fff" else (problem.hidden,)
    return Launch(
        entry=f"{problem.layer}_cuda_naive_float32",
        grid=(-(-problem.batch // _NAIVE_THREADS), 1),
        block=_NAIVE_THREADS,
        extents=(problem.batch, problem.d_in, problem.d_out, *tree),
    )


def choose_team(problem: Problem, aligned: bool, multiprocessors: int) -> int:
    """Return the warps that a token of the fused kernel gets: 1, 2, 4 or 8.

    As many as hold its rows in registers; more, as long as each has a piece of a row to load, where the
    batch alone gives the multiprocessors too few warps to hide the latency of the weights.
    """
    width = max(problem.d_in, problem.d_out)
    piece = _LANES * PIECE_BYTES // problem.item_bytes
    wanted = multiprocessors * _WARPS_OF_MULTIPROCESSOR
    team = 1
    while team < _FUSED_WARPS and (
        width > team * _LANES * _HELD[aligned]
        or (problem.batch * team < wanted and width > team * piece)
    ):
        team *= 2
    return team


def plan_fused(problem: Problem, aligned: bool, team: int) -> Launch:
    """Return the launch of the fused kernel with `team` warps a token; raises ValueError where too large."""
    _check(problem)
    held = team * _LANES * _HELD[aligned]
    return Launch(
        entry=f"fff_cuda_fused_{problem.dtype}_{'aligned' if aligned else 'any'}",
        grid=(-(-problem.batch * team // _FUSED_WARPS), -(-problem.d_out // held)),
        block=_FUSED_WARPS * _LANES,
        extents=(problem.batch, problem.d_in, problem.d_out, problem.depth, problem.trees, team),
    )


def _plan_fused(problem: Problem, aligned: bool, multiprocessors: int) -> Launch:
    return plan_fused(problem, aligned, choose_team(problem, aligned, multiprocessors))


KERNELS: Mapping[str, Kernel] = {
    kernel.id: kernel
    for kernel in (
        Kernel(
            id="ff_cuda_naive", layer="ff", summary="CUDA, one thread per token",
            dtypes=("float32",), entries=("ff_cuda_naive_float32",), plan=_plan_naive,
        ),
        Kernel(
            id="fff_cuda_naive", layer="fff", summary="CUDA, one thread per token",
            dtypes=("float32",), entries=("fff_cuda_naive_float32",), plan=_plan_naive,
        ),
        Kernel(
            id="fff_cuda_fused", layer="fff",
            summary="CUDA, one launch, a team of warps per token, 16-byte loads",
            dtypes=("float32", "bfloat16"),
            entries=tuple(
                f"fff_cuda_fused_{dtype}_{rows}"
                for dtype in ("float32", "bfloat16")
                for rows in ("aligned", "any")
            ),
            plan=_plan_fused,
        ),
    )
}  # fmt: skip
