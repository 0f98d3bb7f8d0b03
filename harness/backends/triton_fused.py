"""Own the Triton kernel that descends every level of an FFF in one launch.

A program takes a tile of tokens from the root to the leaves. Per level it reads one row of w_in and one
of w_out for each token, takes the dot product, adds gelu(z) times the output row to a sum that stays in
registers, and turns right where z >= 0. y is written once.

Traffic a token, width d, element size e: (depth + 1) * 2 * d * e for weights, 2 * d * e for x and y. At
depth 11, d 768: 72 KiB of weights in float32, 36 KiB in bfloat16. All weights are 24 MiB (12 MiB), so
they stay in the L2 of an A100 (40 MB) or H100 (50 MB), and the upper levels in L1: levels 0 to 3 are 15
rows, 90 KiB. So the kernel is bound by the way from L2 to the multiprocessors, 64 bytes a clock each:
1.2 GB (0.6 GB) at batch 16384, which no schedule of one token's reads can lessen. triton_grouped does.
flops: 2 * batch * trees * (depth + 1) * (d_in + d_out), a quarter of a flop a byte: no tensor cores.

Small batches are bound by latency: depth + 1 reads that each wait for the turn before. So both rows of a
node are asked for at once, before the reduction, and a token's row is spread over more warps.

Tile and warps: a thread holds 8 or 16 elements of x, of each weight row and of the sum, so 2 or 4 reads of
16 bytes (float32) are under way and 32 to 64 registers hold data: 16 warps or more share a
multiprocessor, and another warp runs while one waits.

Needs: contiguous arrays; extents are masked, so any will do. Sums are float32 for either dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from harness.backends.triton_tiling import FusedTile
from harness.problem.problem import Problem


@triton.jit
def gelu(z: tl.tensor) -> tl.tensor:
    """Return ``z * Phi(z)``, the exact erf form, in float32."""
    return 0.5 * z * (1.0 + tl.math.erf(z * 0.7071067811865476))


@triton.jit
def fff_fused_kernel(
    x: tl.tensor, w_in: tl.tensor, w_out: tl.tensor, y: tl.tensor, path: tl.tensor,
    previous: tl.tensor, batch: tl.tensor, d_in: tl.tensor, d_out: tl.tensor, n_nodes: tl.tensor,
    trees: tl.tensor, depth: tl.tensor, first_level: tl.tensor,
    TILE: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr,
    WHOLE_ROW: tl.constexpr, CONTINUES: tl.constexpr,
) -> None:  # fmt: skip
    """Take TILE tokens down all trees; program axis 1 takes blocks of y's columns.

    CONTINUES: start at first_level, at the node that `path` (trees, batch) numbers within its level, and
    add to `previous` (batch, d_out), float32. WHOLE_ROW: BLOCK_IN covers d_in.
    """
    token = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)
    valid = token < batch
    i = tl.arange(0, BLOCK_IN)
    j = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    out_at = token[:, None] * d_out + j[None, :]
    out_mask = valid[:, None] & (j < d_out)[None, :]
    if CONTINUES:
        total = tl.load(previous + out_at, mask=out_mask, other=0.0)
    else:
        total = tl.zeros((TILE, BLOCK_OUT), tl.float32)
    in_mask = valid[:, None] & (i < d_in)[None, :]
    if WHOLE_ROW:
        x_row = tl.load(x + token[:, None] * d_in + i[None, :], mask=in_mask, other=0.0)
        x_row = x_row.to(tl.float32)
    for number in range(trees):
        tree = tl.cast(number, tl.int64)
        node = tl.zeros((TILE,), tl.int32)
        if CONTINUES:
            in_level = tl.load(path + tree * batch + token, mask=valid, other=0)
            node = in_level + (1 << first_level) - 1
        for _ in range(first_level, depth + 1):
            row = tree * n_nodes + node
            out_row = tl.load(w_out + row[:, None] * d_out + j[None, :], mask=out_mask, other=0.0)
            if WHOLE_ROW:
                in_row = tl.load(w_in + row[:, None] * d_in + i[None, :], mask=in_mask, other=0.0)
                z = tl.sum(x_row * in_row.to(tl.float32), 1)
            else:
                z = tl.zeros((TILE,), tl.float32)
                for first in range(0, d_in, BLOCK_IN):
                    mask = valid[:, None] & (first + i < d_in)[None, :]
                    at = (first + i)[None, :]
                    part = tl.load(x + token[:, None] * d_in + at, mask=mask, other=0.0)
                    in_part = tl.load(w_in + row[:, None] * d_in + at, mask=mask, other=0.0)
                    z += tl.sum(part.to(tl.float32) * in_part.to(tl.float32), 1)
            total += gelu(z)[:, None] * out_row.to(tl.float32)
            node = 2 * node + 1 + (z >= 0).to(tl.int32)
    tl.store(y + out_at, total.to(y.dtype.element_ty), mask=out_mask)


def bind(
    problem: Problem, tile: FusedTile, weights: tuple[torch.Tensor, torch.Tensor],
    x: torch.Tensor, y: torch.Tensor, *,
    path: torch.Tensor | None = None, previous: torch.Tensor | None = None, first_level: int = 0,
) -> Callable[[], None]:  # fmt: skip
    """Return the launch of one pass on the current stream.

    path (trees, batch) int32 and previous (batch, d_out) float32: the nodes at first_level to go on from, and
    what the levels above gave; both None from the root.
    """
    w_in, w_out = weights
    grid = (-(-problem.batch // tile.tokens), -(-problem.d_out // tile.block_out))

    def launch() -> None:
        fff_fused_kernel[grid](
            x, w_in, w_out, y, y if path is None else path, y if previous is None else previous,
            problem.batch, problem.d_in, problem.d_out, problem.n_nodes, problem.trees,
            problem.depth, first_level,
            TILE=tile.tokens, BLOCK_IN=tile.block_in, BLOCK_OUT=tile.block_out,
            WHOLE_ROW=tile.block_in >= problem.d_in, CONTINUES=path is not None,
            num_warps=tile.warps, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip

    return launch
