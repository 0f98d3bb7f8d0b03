"""Own the launches of the grouped Triton kernels: their arrays in the workspace, their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from harness.backends import triton_fused, triton_grouped, triton_tiling
from harness.problem.problem import Problem


def _carve(problem: Problem, tile: int, memory: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the parts of the workspace as arrays; `memory` is bytes."""
    layout = triton_tiling.grouped_workspace(problem, tile)

    def part(name: str, dtype: torch.dtype) -> torch.Tensor:
        first, size = getattr(layout, name)
        return memory[first : first + size].view(dtype)

    integers = {name: part(name, torch.int32) for name in ("state", "paths", "rank")}
    return integers | {name: part(name, torch.float32) for name in ("activations", "total")}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Band:
    """Hold where a band begins, the most tiles it needs, and its arrays.

    counts, slots: of the groups that it takes, empty for the first band. path: the node that each token is
    at; next_path: the one below the band.
    """

    first_level: int
    tiles: int
    counts: torch.Tensor
    slots: torch.Tensor
    path: torch.Tensor
    next_path: torch.Tensor


def _bands(problem: Problem, tile: int, parts: dict[str, torch.Tensor]) -> list[_Band]:
    found: list[_Band] = []
    paths = parts["paths"].view(-1, problem.trees, problem.batch)
    cursor = 0

    def take(size: int) -> torch.Tensor:
        nonlocal cursor
        cursor += problem.trees * size
        return parts["state"][cursor - problem.trees * size : cursor]

    for n, level in enumerate(triton_tiling.first_levels(problem.batch, problem.depth)):
        tiles = triton_tiling.tiles(problem.batch, level, tile)
        found.append(
            _Band(
                first_level=level, tiles=tiles, counts=take(1 << level if n else 0),
                slots=take(tiles * tile if n else 0), path=paths[max(n - 1, 0)], next_path=paths[n],
            )
        )  # fmt: skip
    return found


def _route(
    problem: Problem, tile: int, band: _Band, following: _Band | None,
    x: torch.Tensor, w_in: torch.Tensor, parts: dict[str, torch.Tensor],
) -> Callable[[], None]:  # fmt: skip
    block_in = triton_tiling.input_columns(problem)
    counts, rank = (following.counts, parts["rank"]) if following else (band.path, band.path)

    def launch() -> None:
        triton_grouped.route_kernel[(band.tiles, problem.trees)](
            x, w_in, parts["activations"], band.slots, band.path, band.next_path, rank, counts,
            problem.batch, problem.d_in, problem.n_nodes, problem.depth, band.tiles * tile,
            FIRST_LEVEL=band.first_level, TILE=tile, BLOCK_IN=block_in,
            COUNTS=following is not None, PRECISION=problem.math,
            num_warps=triton_tiling.GROUPED_WARPS, num_stages=3, enable_fp_fusion=True,
        )  # fmt: skip

    return launch


def _scatter(
    problem: Problem, tile: int, band: _Band, reached: torch.Tensor, rank: torch.Tensor
) -> Callable[[], None]:
    block = triton_tiling.SCATTER_BLOCK
    grid = (-(-problem.batch // block), problem.trees)

    def launch() -> None:
        triton_grouped.scatter_kernel[grid](
            reached, rank, band.counts, band.slots, problem.batch, band.tiles * tile,
            GROUPS=1 << band.first_level, TILE=tile, BLOCK=block,
            num_warps=4, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip

    return launch


def _output(
    problem: Problem, tile: int, band: _Band, trees: tuple[int, int],
    w_out: torch.Tensor, parts: dict[str, torch.Tensor], total: torch.Tensor, y: torch.Tensor,
) -> Callable[[], None]:  # fmt: skip
    block_out = triton_tiling.output_columns(problem, tile)
    # Left to itself, ptxas spills 8 bytes in the loop over trees for a higher occupancy.
    most_registers = 255 if trees[1] - trees[0] > 1 else None

    def launch() -> None:
        triton_grouped.output_kernel[(band.tiles, -(-problem.d_out // block_out))](
            w_out, parts["activations"], band.slots, band.path, band.next_path, total, y,
            problem.batch, problem.d_out, problem.n_nodes, problem.depth, band.tiles * tile, *trees,
            FIRST_LEVEL=band.first_level, TILE=tile, BLOCK_OUT=block_out, ADDS=trees[0] > 0,
            PRECISION=problem.math,
            num_warps=triton_tiling.GROUPED_WARPS, num_stages=1, enable_fp_fusion=True,
            maxnreg=most_registers,
        )  # fmt: skip

    return launch


def bind(
    problem: Problem, tile: int, weights: tuple[torch.Tensor, torch.Tensor],
    x: torch.Tensor, y: torch.Tensor, memory: torch.Tensor,
) -> Callable[[], None]:  # fmt: skip
    """Return the launches of one pass on the current stream; `memory` is the workspace, in bytes.

    The problem has at least one band whose groups are large enough.
    """
    parts = _carve(problem, tile, memory)
    bands = _bands(problem, tile, parts)
    steps = []
    for band, following in zip(bands, [*bands[1:], None], strict=True):
        steps.append(_route(problem, tile, band, following, x, weights[0], parts))
        if following is not None:
            steps.append(_scatter(problem, tile, following, band.next_path, parts["rank"]))
    last = bands[-1]
    # Trees whose tokens need no order share a launch; y is then summed in registers over all of them.
    ranges = [(0, problem.trees)] if len(bands) == 1 else [(k, k + 1) for k in range(problem.trees)]
    has_tail = triton_tiling.has_tail(problem)
    total = parts["total"] if triton_tiling.needs_total(problem) else y
    for n, trees in enumerate(ranges):
        to = y if n == len(ranges) - 1 and not has_tail else total
        steps.append(_output(problem, tile, last, trees, weights[1], parts, total, to))
    if has_tail:
        steps.append(
            triton_fused.bind(
                problem, triton_tiling.fused_tiles(problem)[0], weights, x, y, path=last.next_path,
                previous=total, first_level=last.first_level + triton_tiling.BAND,
            )
        )  # fmt: skip

    def forward() -> None:
        parts["state"].zero_()
        for step in steps:
            step()

    return forward
