"""Own the Triton kernels that compute an FFF by groups of tokens that share a subtree.

A tree is cut into bands of 4 levels. Where a band begins, each token stands at a node; below it hang 15
nodes of the band, a subtree. Tokens at the same node are a group. A tile of a group is multiplied with all
15 rows of w_in at once, by tl.dot, and each token then finds its path among its 15 pre-activations. That is
15 products for 4 that are used, and still cheaper: rows are read once a tile, not once a token, and a dense
product of 16 columns is what tensor cores, and blocked FMA loops, do well. The first band is one group and
needs no order. Before each further one a counting sort puts the tokens in the order of their subtrees:

    route    grid (tiles, trees)   z of a band, the turns, gelu(z) kept; counts tokens of each next subtree
    scatter  grid (blocks, trees)  each token to its slot; every group begins with a tile of its own
    output   grid (tiles, blocks of d_out)   y = activations times rows of w_out, written once

Tokens of a group of the last band share their whole path above it. So the output is one product too: the
activations, 0 where a node is off the token's path, with the rows of the ancestors and of the 15 nodes.

What is grouped: bands whose groups hold 16 tokens on average (batch >> first level), a full smallest tile;
below that a tile is mostly holes, and a row that is read for it serves fewer tokens than a gather wastes.
The levels under them are left to the fused kernel, which goes on from the node that was reached and adds to
what was summed. Depth 11 has 3 bands: all are grouped from batch 4096 on, two from 256, one from 16.

Traffic a token at batch 16384, depth 11, tiles of 32, in rows of width d: x once a band and y once, 4 rows;
weights, (3 * 15 + 8 + 15) / 32 = 2.1 rows; the fused kernel moves 26. In float32 at d 768: 18 KiB for 78.
flops: 2 * d * (3 * 16 + 32) a token, where 2 * d * 24 are used: 2 Gflop a pass, 0.1 ms at the peak of an
A100's FMA units (float32) and next to nothing on its tensor cores (bfloat16).

Counters are global atomics: 16 a tile, one for each next subtree. Where a token stands in its group hangs on
their order; its result does not, since no row of a product knows of another: every pass leaves the same
bytes. Nothing waits for the host, so that a pass can be captured in a CUDA graph.

float32 products are "ieee", or "tf32" where the problem says so: grouped levels then turn by TF32 sums, as
torch's would, and the levels below by float32 ones.

Needs: finite weights (a node off the path is multiplied by 0, not skipped) and contiguous arrays. x may hold
NaN and infinities, which stay in their rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from harness.backends import triton_tiling
from harness.backends.triton_fused import gelu

BAND = tl.constexpr(triton_tiling.BAND)
WIDTH = tl.constexpr(1 << triton_tiling.BAND)  # a subtree's 15 nodes and one hole


@triton.jit
def _is_empty(
    slots: tl.tensor, n_slots: tl.tensor, tree: tl.tensor, TILE: tl.constexpr
) -> tl.tensor:
    """Say whether a tile holds no token: the first slot of one that does is no hole."""
    return tl.load(slots + tree * n_slots + tl.program_id(0) * TILE) == 0


@triton.jit
def _tile(
    slots: tl.tensor, path: tl.tensor, tree: tl.tensor, batch: tl.tensor, n_slots: tl.tensor,
    FIRST_LEVEL: tl.constexpr, TILE: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return a tile's tokens, which of them are there, and the number of their subtree in its level.

    A slot holds a token's number plus 1, or 0 for a hole.
    """
    slot = tl.program_id(0) * TILE + tl.arange(0, TILE)
    if FIRST_LEVEL == 0:
        token = slot
        valid = slot < batch
        group = tl.full((), 0, tl.int32)
    else:
        held = tl.load(slots + tree * n_slots + slot)
        first = tl.load(slots + tree * n_slots + tl.program_id(0) * TILE)
        token = tl.maximum(held - 1, 0)
        valid = held > 0
        group = tl.load(path + tree * batch + first - 1)
    return token.to(tl.int64), valid, group


@triton.jit
def _subtree(group: tl.tensor, depth: tl.tensor, FIRST_LEVEL: tl.constexpr) -> tl.tensor:
    """Return, for the 16 columns of a band's product: level in the band, node, whether there is one."""
    column = tl.arange(0, WIDTH)
    level = (column >= 1).to(tl.int32) + (column >= 3).to(tl.int32) + (column >= 7).to(tl.int32)
    in_level = column + 1 - (1 << level)
    node = (1 << (FIRST_LEVEL + level)) - 1 + (group << level) + in_level
    present = (column < WIDTH - 1) & (FIRST_LEVEL + level <= depth)
    return level, node, present


@triton.jit
def _rank(counts: tl.tensor, turns: tl.tensor, valid: tl.tensor, TILE: tl.constexpr) -> tl.tensor:
    """Count a tile's tokens of each of its 16 next subtrees; return where each token stands in its group."""
    column = tl.arange(0, WIDTH)
    mine = ((turns[:, None] == column[None, :]) & valid[:, None]).to(tl.int32)
    count = tl.sum(mine, 0)
    before = tl.atomic_add(counts + column, count, mask=count > 0, sem="relaxed")
    return tl.sum(mine * (before[None, :] + tl.cumsum(mine, 0) - 1), 1)


@triton.jit
def route_kernel(
    x: tl.tensor, w_in: tl.tensor, activations: tl.tensor, slots: tl.tensor, path: tl.tensor,
    next_path: tl.tensor, rank: tl.tensor, counts: tl.tensor,
    batch: tl.tensor, d_in: tl.tensor, n_nodes: tl.tensor, depth: tl.tensor, n_slots: tl.tensor,
    FIRST_LEVEL: tl.constexpr, TILE: tl.constexpr, BLOCK_IN: tl.constexpr, COUNTS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Take one tile of one tree through a band.

    Writes activations (trees, batch, depth + 1) of the band's levels; next_path (trees, batch), the number
    of the node that is reached, within its level; and, where COUNTS, rank (trees, batch), where the token
    stands in its next group, of which counts (trees, 16 << FIRST_LEVEL) holds the sizes.
    """
    tree = tl.program_id(1).to(tl.int64)
    if FIRST_LEVEL > 0:  # noqa: SIM102 - the first is decided when compiled, the second on the device
        if _is_empty(slots, n_slots, tree, TILE):
            return
    token, valid, group = _tile(slots, path, tree, batch, n_slots, FIRST_LEVEL, TILE)
    _level, node, present = _subtree(group, depth, FIRST_LEVEL)
    row = tree * n_nodes + node
    z = tl.zeros((TILE, WIDTH), tl.float32)
    for first in range(0, d_in, BLOCK_IN):
        i = first + tl.arange(0, BLOCK_IN)
        x_mask = valid[:, None] & (i < d_in)[None, :]
        w_mask = present[None, :] & (i < d_in)[:, None]
        x_part = tl.load(x + token[:, None] * d_in + i[None, :], mask=x_mask, other=0.0)
        w_part = tl.load(w_in + row[None, :] * d_in + i[:, None], mask=w_mask, other=0.0)
        z = tl.dot(x_part, w_part, z, input_precision=PRECISION)
    at = (tree * batch + token) * (depth + 1) + FIRST_LEVEL
    turns = tl.zeros((TILE,), tl.int32)
    for step in tl.static_range(BAND):
        mine = tl.arange(0, WIDTH)[None, :] == ((1 << step) - 1 + turns)[:, None]
        z_step = tl.sum(tl.where(mine, z, 0.0), 1)
        if FIRST_LEVEL + step <= depth:
            tl.store(activations + at + step, gelu(z_step), mask=valid)
        turns = 2 * turns + (z_step >= 0).to(tl.int32)
    tl.store(next_path + tree * batch + token, group * WIDTH + turns, mask=valid)
    if COUNTS:
        counter = counts + (tree << (FIRST_LEVEL + BAND)) + group * WIDTH
        tl.store(rank + tree * batch + token, _rank(counter, turns, valid, TILE), mask=valid)


@triton.jit
def scatter_kernel(
    path: tl.tensor, rank: tl.tensor, counts: tl.tensor, slots: tl.tensor,
    batch: tl.tensor, n_slots: tl.tensor,
    GROUPS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Put each token's number plus 1 in its slot, groups in order and each from a tile of its own on.

    path, rank (trees, batch); counts (trees, GROUPS); slots (trees, n_slots), 0 before.
    """
    tree = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = token < batch
    group = tl.load(path + tree * batch + token, mask=valid, other=0)
    place = tl.load(rank + tree * batch + token, mask=valid, other=0)
    tiles = (tl.load(counts + tree * GROUPS + tl.arange(0, GROUPS)) + TILE - 1) // TILE
    first = (tl.cumsum(tiles, 0) - tiles) * TILE
    slot = tl.gather(first, group, 0) + place
    tl.store(slots + tree * n_slots + slot, token + 1, mask=valid)


@triton.jit
def output_kernel(
    w_out: tl.tensor, activations: tl.tensor, slots: tl.tensor, path: tl.tensor,
    last_path: tl.tensor, previous: tl.tensor, y: tl.tensor,
    batch: tl.tensor, d_out: tl.tensor, n_nodes: tl.tensor, depth: tl.tensor, n_slots: tl.tensor,
    first_tree: tl.tensor, end_tree: tl.tensor,
    FIRST_LEVEL: tl.constexpr, TILE: tl.constexpr, BLOCK_OUT: tl.constexpr, ADDS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Sum the levels down to the last grouped band, and write a tile's block of columns.

    Takes several trees only where FIRST_LEVEL is 0: elsewhere each has its own order of tokens. ADDS: begin
    with previous (batch, d_out), float32.
    """
    if FIRST_LEVEL > 0:  # noqa: SIM102 - the first is decided when compiled, the second on the device
        if _is_empty(slots, n_slots, first_tree, TILE):
            return
    token, valid, group = _tile(slots, path, first_tree, batch, n_slots, FIRST_LEVEL, TILE)
    level, node, present = _subtree(group, depth, FIRST_LEVEL)
    in_level = tl.arange(0, WIDTH) + 1 - (1 << level)
    turns_below = tl.full((WIDTH,), BAND, tl.int32) - level
    j = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    in_row = (j < d_out)[None, :]
    out_at = token[:, None] * d_out + j[None, :]
    out_mask = valid[:, None] & in_row
    total = tl.zeros((TILE, BLOCK_OUT), tl.float32)
    if ADDS:
        total = tl.load(previous + out_at, mask=out_mask, other=0.0)
    for number in range(first_tree, end_tree):
        tree = tl.cast(number, tl.int64)
        at = activations + (tree * batch + token)[:, None] * (depth + 1)
        rows = w_out + tree * n_nodes * d_out + j[None, :]
        turns = tl.load(last_path + tree * batch + token, mask=valid, other=0) & (WIDTH - 1)
        on_path = (turns[:, None] >> turns_below[None, :]) == in_level[None, :]
        used = on_path & valid[:, None] & present[None, :]
        a = tl.load(at + (FIRST_LEVEL + level)[None, :], mask=used, other=0.0)
        w_at = rows + node.to(tl.int64)[:, None] * d_out
        w = tl.load(w_at, mask=present[:, None] & in_row, other=0.0)
        total = tl.dot(a.to(w.dtype), w, total, input_precision=PRECISION)
        if FIRST_LEVEL > 0:
            above = tl.arange(0, WIDTH)  # FIRST_LEVEL is 12 at most
            real = above < FIRST_LEVEL
            ancestor = (1 << above) - 1 + (group >> tl.maximum(FIRST_LEVEL - above, 0))
            a = tl.load(at + above[None, :], mask=valid[:, None] & real[None, :], other=0.0)
            w_at = rows + ancestor.to(tl.int64)[:, None] * d_out
            w = tl.load(w_at, mask=real[:, None] & in_row, other=0.0)
            total = tl.dot(a.to(w.dtype), w, total, input_precision=PRECISION)
    tl.store(y + out_at, total.to(y.dtype.element_ty), mask=out_mask)
