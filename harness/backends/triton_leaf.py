"""Own the Triton kernels that compute a leaf FFF by groups of tokens that came to the same leaf.

A leaf's tokens are two dense products with its own weights, which tl.dot computes by tiles: each weight that
is loaded serves a tile of tokens. How many tokens a leaf has is known on the device alone, and stays there:

    descent  grid (blocks,)                    z of each turn, gathered; the leaf; a count a leaf
    places   grid (blocks of leaves,)          where the tokens of each leaf begin, from a tile of its own on
    scatter  grid (blocks,)                    each token to its slot
    hidden   grid (tiles, blocks of a leaf)    a = act(x w_in[j]^T + b_in[j])
    output   grid (tiles, blocks of d_out)     y = a w_out[j] + b_out[j], written once

Leaves take their slots in whatever order they ask for them, and a leaf's tokens stand there in the order of
their atomics. No row of a product knows of another, so every pass leaves the same bytes. Nothing waits for
the host: a pass can be captured in a CUDA graph. Tiles are launched for the worst distribution; those that
hold no token end at once.

Traffic a token, in elements: depth * d_in of the router, gathered, of which the upper levels stay in L1; x
twice, y once, a twice; hidden * (d_in + d_out) of its leaf over the tokens of its tile.
flops: 2 * batch * (depth * d_in + hidden * (d_in + d_out)) are used; products pad hidden to 16, and a
leaf's tokens to whole tiles: where it has fewer than 16 they are mostly holes, and its weights still are read
once.

Turns are summed in float32 whatever the dtype and `Problem.math`; products are "ieee", or "tf32" where the
problem says so. The activations are kept in the dtype of the operands.

Needs: finite weights and contiguous arrays. x may hold NaN and infinities, which stay in their rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from harness.backends import triton_tiling
from harness.backends.triton_fused import gelu
from harness.problem.problem import Problem


@triton.jit
def _dot_rows(
    x: tl.tensor, router: tl.tensor, token: tl.tensor, valid: tl.tensor, node: tl.tensor,
    d_in: tl.tensor, TILE: tl.constexpr, BLOCK_IN: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return <x[token], router[node]> (TILE,) of rows that are wider than a block."""
    z = tl.zeros((TILE,), tl.float32)
    for first in range(0, d_in, BLOCK_IN):
        i = first + tl.arange(0, BLOCK_IN)
        mask = valid[:, None] & (i < d_in)[None, :]
        part = tl.load(x + token[:, None] * d_in + i[None, :], mask=mask, other=0.0)
        row = tl.load(router + node[:, None] * d_in + i[None, :], mask=mask, other=0.0)
        z += tl.sum(part.to(tl.float32) * row.to(tl.float32), 1)
    return z


@triton.jit
def leaf_descent_kernel(
    x: tl.tensor, router: tl.tensor, router_bias: tl.tensor, leaf: tl.tensor, rank: tl.tensor,
    counts: tl.tensor, batch: tl.tensor, d_in: tl.tensor, depth: tl.tensor,
    TILE: tl.constexpr, BLOCK_IN: tl.constexpr, WHOLE_ROW: tl.constexpr,
) -> None:  # fmt: skip
    """Take TILE tokens to their leaves; write leaf (batch,), and rank (batch,) by counting counts (leaves,).

    WHOLE_ROW: BLOCK_IN covers d_in, so that x stays in registers from the root on.
    """
    token = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)
    valid = token < batch
    i = tl.arange(0, BLOCK_IN)
    mask = valid[:, None] & (i < d_in)[None, :]
    if WHOLE_ROW:
        x_row = tl.load(x + token[:, None] * d_in + i[None, :], mask=mask, other=0.0)
        x_row = x_row.to(tl.float32)
    node = tl.zeros((TILE,), tl.int64)
    for _ in range(depth):
        bias = tl.load(router_bias + node, mask=valid, other=0.0).to(tl.float32)
        if WHOLE_ROW:
            row = tl.load(router + node[:, None] * d_in + i[None, :], mask=mask, other=0.0)
            z = tl.sum(x_row * row.to(tl.float32), 1)
        else:
            z = _dot_rows(x, router, token, valid, node, d_in, TILE, BLOCK_IN)
        node = 2 * node + 1 + (z + bias >= 0).to(tl.int64)
    reached = (node + 1 - (1 << depth)).to(tl.int32)
    tl.store(leaf + token, reached, mask=valid)
    one = tl.full((TILE,), 1, tl.int32)
    stands = tl.atomic_add(counts + reached, one, mask=valid, sem="relaxed")
    tl.store(rank + token, stands, mask=valid)


@triton.jit
def leaf_places_kernel(
    counts: tl.tensor, cursor: tl.tensor, first: tl.tensor, leaves: tl.tensor,
    TILE: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Write first (leaves,), the slot from which on a leaf's tokens stand; cursor (1,) counts taken slots."""
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = j < leaves
    count = tl.load(counts + j, mask=valid, other=0)
    slots = (count + TILE - 1) // TILE * TILE
    before = tl.atomic_add(cursor, tl.sum(slots, 0), sem="relaxed")
    tl.store(first + j, before + tl.cumsum(slots, 0) - slots, mask=valid)


@triton.jit
def leaf_scatter_kernel(
    leaf: tl.tensor, rank: tl.tensor, first: tl.tensor, slots: tl.tensor, batch: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Put each token's number plus 1 in its slot; slots are 0 before."""
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = token < batch
    begins = tl.load(first + tl.load(leaf + token, mask=valid, other=0), mask=valid, other=0)
    slot = begins + tl.load(rank + token, mask=valid, other=0)
    tl.store(slots + slot, token + 1, mask=valid)


@triton.jit
def _tile(slots: tl.tensor, leaf: tl.tensor, TILE: tl.constexpr) -> tl.tensor:
    """Return a tile's tokens, which of them are there, and their leaf; its first slot is no hole."""
    slot = tl.program_id(0) * TILE
    held = tl.load(slots + slot + tl.arange(0, TILE))
    token = tl.maximum(held - 1, 0).to(tl.int64)
    return token, held > 0, tl.load(leaf + tl.load(slots + slot) - 1).to(tl.int64)


@triton.jit
def leaf_hidden_kernel(
    x: tl.tensor, w_in: tl.tensor, b_in: tl.tensor, slots: tl.tensor, leaf: tl.tensor,
    activations: tl.tensor, d_in: tl.tensor, hidden: tl.tensor,
    TILE: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, RELU: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Write activations (batch, hidden) of one tile of tokens and one block of its leaf's neurons."""
    if tl.load(slots + tl.program_id(0) * TILE) == 0:
        return
    token, valid, j = _tile(slots, leaf, TILE)
    h = tl.program_id(1) * BLOCK_HIDDEN + tl.arange(0, BLOCK_HIDDEN)
    neuron = j * hidden + h
    present = h < hidden
    z = tl.zeros((TILE, BLOCK_HIDDEN), tl.float32)
    for begin in range(0, d_in, BLOCK_IN):
        i = begin + tl.arange(0, BLOCK_IN)
        x_mask = valid[:, None] & (i < d_in)[None, :]
        w_mask = present[None, :] & (i < d_in)[:, None]
        x_part = tl.load(x + token[:, None] * d_in + i[None, :], mask=x_mask, other=0.0)
        w_part = tl.load(w_in + neuron[None, :] * d_in + i[:, None], mask=w_mask, other=0.0)
        z = tl.dot(x_part, w_part, z, input_precision=PRECISION)
    z += tl.load(b_in + neuron, mask=present, other=0.0).to(tl.float32)[None, :]
    if RELU:  # noqa: SIM108 - a branch of the compiler's, not one of values
        a = tl.where(z < 0, 0.0, z)  # a NaN stays one
    else:
        a = gelu(z)
    a_at = activations + token[:, None] * hidden + h[None, :]
    a_mask = valid[:, None] & present[None, :]
    tl.store(a_at, a.to(activations.dtype.element_ty), mask=a_mask)


@triton.jit
def leaf_output_kernel(
    activations: tl.tensor, w_out: tl.tensor, b_out: tl.tensor, slots: tl.tensor, leaf: tl.tensor,
    y: tl.tensor, hidden: tl.tensor, d_out: tl.tensor,
    TILE: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Write a block of columns of y of one tile of tokens."""
    if tl.load(slots + tl.program_id(0) * TILE) == 0:
        return
    token, valid, j = _tile(slots, leaf, TILE)
    o = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    in_row = o < d_out
    bias = tl.load(b_out + j * d_out + o, mask=in_row, other=0.0).to(tl.float32)
    total = tl.zeros((TILE, BLOCK_OUT), tl.float32) + bias[None, :]
    for begin in range(0, hidden, BLOCK_HIDDEN):
        h = begin + tl.arange(0, BLOCK_HIDDEN)
        a_mask = valid[:, None] & (h < hidden)[None, :]
        w_mask = (h < hidden)[:, None] & in_row[None, :]
        a = tl.load(activations + token[:, None] * hidden + h[None, :], mask=a_mask, other=0.0)
        w = tl.load(w_out + (j * hidden + h)[:, None] * d_out + o[None, :], mask=w_mask, other=0.0)
        total = tl.dot(a, w, total, input_precision=PRECISION)
    y_at = y + token[:, None] * d_out + o[None, :]
    tl.store(y_at, total.to(y.dtype.element_ty), mask=valid[:, None] & in_row[None, :])


def _carve(problem: Problem, tile: int, memory: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the parts of the workspace as arrays; `memory` is bytes."""
    spans = triton_tiling.leaf_workspace(problem, tile).spans
    return {
        name: memory[first : first + size].view(
            getattr(torch, problem.dtype) if name == "activations" else torch.int32
        )
        for name, (first, size) in spans.items()
    }


def bind(
    problem: Problem, tile: int, weights: tuple[torch.Tensor, ...], x: torch.Tensor, y: torch.Tensor,
    memory: torch.Tensor,
) -> Callable[[], None]:  # fmt: skip
    """Return the launches of one pass on the current stream.

    weights: as `Problem.weights` orders them. memory: the workspace, in bytes, of `leaf_workspace`.
    """
    w_in, w_out, router, router_bias, b_in, b_out = weights
    parts, leaves = _carve(problem, tile, memory), problem.n_leaves
    counts, state = parts["state"][:leaves], parts["state"]
    cursor, slots = state[leaves : leaves + 1], parts["slots"]
    descent = triton_tiling.descent_tile(problem)
    tiles, block = triton_tiling.leaf_tiles(problem, tile), triton_tiling.SCATTER_BLOCK
    block_hidden = triton_tiling.product_columns(problem, problem.hidden, tile)
    block_out = triton_tiling.product_columns(problem, problem.d_out, tile)
    products = {
        "TILE": tile, "PRECISION": problem.math, "num_warps": triton_tiling.GROUPED_WARPS,
        "enable_fp_fusion": True,
    }  # fmt: skip

    def forward() -> None:
        state.zero_()
        slots.zero_()
        leaf_descent_kernel[(-(-problem.batch // descent.tokens),)](
            x, router, router_bias, parts["leaf"], parts["rank"], counts,
            problem.batch, problem.d_in, problem.depth,
            TILE=descent.tokens, BLOCK_IN=descent.block_in,
            WHOLE_ROW=descent.block_in >= problem.d_in,
            num_warps=descent.warps, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip
        leaf_places_kernel[(-(-leaves // block),)](
            counts, cursor, parts["first"], leaves,
            TILE=tile, BLOCK=block, num_warps=4, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip
        leaf_scatter_kernel[(-(-problem.batch // block),)](
            parts["leaf"], parts["rank"], parts["first"], slots, problem.batch,
            BLOCK=block, num_warps=4, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip
        leaf_hidden_kernel[(tiles, -(-problem.hidden // block_hidden))](
            x, w_in, b_in, slots, parts["leaf"], parts["activations"],
            problem.d_in, problem.hidden,
            BLOCK_IN=triton_tiling.input_columns(problem), BLOCK_HIDDEN=block_hidden,
            RELU=problem.activation == "relu", num_stages=3, **products,
        )  # fmt: skip
        leaf_output_kernel[(tiles, -(-problem.d_out // block_out))](
            parts["activations"], w_out, b_out, slots, parts["leaf"], y,
            problem.hidden, problem.d_out,
            BLOCK_HIDDEN=triton_tiling.leaf_columns(problem), BLOCK_OUT=block_out,
            num_stages=1, **products,
        )  # fmt: skip

    return forward
