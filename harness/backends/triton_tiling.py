"""Own how a problem is cut for the Triton kernels: bands, tiles, warps, workspace. Triton is not needed."""

from __future__ import annotations

from dataclasses import dataclass

from harness.problem.problem import Problem

BAND = 4  # levels that are computed as one dense product of 15 nodes
LEAST_GROUP = 16  # mean tokens of a group: a full smallest tile
MOST_FIRST_LEVEL = (
    12  # 4096 groups a tree: what one program of the counting sort holds in registers
)
# Tokens of a program, and elements of a row that a thread holds where the warps allow it.
FUSED_TILES = ((1, 8), (1, 16), (2, 16), (4, 16))
GROUPED_TILES = (16, 32, 64)

# A program sums at most this many columns of y, and holds at most this many of x, in registers: 16
# floats a thread with 16 warps.
MAX_BLOCK = 8192
MAX_WARPS = 16
MAX_TREES = 65535  # the second axis of a grid
GROUPED_WARPS = 4
LEAST_EXTENT = 16  # of a tensor-core product, in any direction
SCATTER_BLOCK = 1024  # tokens of a program that puts tokens in order
_ALIGNMENT = 64


def power_of_2(extent: int) -> int:
    """Return the least power of 2 that is not below an extent."""
    return 1 << (extent - 1).bit_length()


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedTile:
    """State a tile of the fused kernel: tokens of a program, blocks of columns, warps."""

    tokens: int
    block_in: int
    block_out: int
    warps: int


def fused_tile(problem: Problem, tokens: int, per_thread: int) -> FusedTile:
    """Return a tile whose threads hold per_thread elements of the wider of x and y, where warps allow it."""
    block_in = min(power_of_2(problem.d_in), MAX_BLOCK)
    block_out = min(power_of_2(problem.d_out), MAX_BLOCK)
    warps = tokens * max(block_in, block_out) // (32 * per_thread)
    return FusedTile(
        tokens=tokens, block_in=block_in, block_out=block_out, warps=min(max(warps, 1), MAX_WARPS)
    )


def fused_tiles(problem: Problem) -> list[FusedTile]:
    """Return the tiles worth trying: those that neither exceed the warps nor the batch."""
    found = [fused_tile(problem, *tile) for tile in FUSED_TILES if tile[0] <= problem.batch]
    fit = [
        t for t in found
        if t.tokens * max(t.block_in, t.block_out) <= 16 * 32 * MAX_WARPS
    ]  # fmt: skip
    return list(dict.fromkeys(fit))


def product_columns(problem: Problem, extent: int, tile: int) -> int:
    """Return the columns of a tile of a grouped product whose rows have an extent.

    A thread holds 16 sums of a float32 product, whose FMA loop unrolls into more than registers hold at
    64, or 32 of a bfloat16 one on tensor cores.
    """
    sums = 16 if problem.dtype == "float32" else 32
    most = min(128, sums * 32 * GROUPED_WARPS // tile)
    return min(most, max(LEAST_EXTENT, power_of_2(extent)))


def output_columns(problem: Problem, tile: int) -> int:
    """Return the columns of a grouped output tile."""
    return product_columns(problem, problem.d_out, tile)


def input_columns(problem: Problem) -> int:
    """Return the columns of x and w_in in one step of a grouped product: a line of the caches of each row."""
    line = 32 if problem.dtype == "float32" else 64
    return min(line, max(LEAST_EXTENT, power_of_2(problem.d_in)))


def first_levels(batch: int, depth: int) -> tuple[int, ...]:
    """Return where the bands begin whose groups are large enough; the levels after them are gathered."""
    levels = range(0, min(depth, MOST_FIRST_LEVEL) + 1, BAND)
    return tuple(s for s in levels if batch >> s >= LEAST_GROUP)


def tiles(batch: int, first_level: int, tile: int) -> int:
    """Return the most tiles that a band can need: each group may leave one that is not full."""
    if first_level == 0:
        return -(-batch // tile)
    return batch // tile + min(1 << first_level, batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """State where the parts of the grouped workspace lie, as (first byte, bytes).

    state: the counts and slots of every band but the first, int32, to be zeroed before a pass. paths: one
    (trees, batch) int32 a band. rank: the same, once. activations: (trees, batch, depth + 1) float32. total:
    (batch, d_out) float32, where y itself can't hold what is summed so far.
    """

    state: tuple[int, int]
    paths: tuple[int, int]
    rank: tuple[int, int]
    activations: tuple[int, int]
    total: tuple[int, int]
    bytes: int


def _place(sizes: dict[str, int]) -> tuple[dict[str, tuple[int, int]], int]:
    """Return (first byte, bytes) of parts that lie one behind the other, aligned, and where they end."""
    spans, cursor = {}, 0
    for name, size in sizes.items():
        spans[name] = (cursor, size)
        cursor += -(-size // _ALIGNMENT) * _ALIGNMENT
    return spans, cursor


def grouped_workspace(problem: Problem, tile: int) -> Workspace:
    """Return the layout for a tile; empty where nothing is grouped."""
    bands = first_levels(problem.batch, problem.depth)
    per_tree = problem.batch * 4
    state = sum((1 << s) + tiles(problem.batch, s, tile) * tile for s in bands[1:])
    sizes = {
        "state": 4 * problem.trees * state,
        "paths": len(bands) * problem.trees * per_tree,
        "rank": problem.trees * per_tree if len(bands) > 1 else 0,
        "activations": problem.trees * per_tree * (problem.depth + 1) if bands else 0,
        "total": per_tree * problem.d_out if needs_total(problem) else 0,
    }
    spans, size = _place(sizes)
    return Workspace(**spans, bytes=size)


def needs_total(problem: Problem) -> bool:
    """Say whether y is summed by several launches and is too narrow to hold the sums between them."""
    bands = first_levels(problem.batch, problem.depth)
    launches = (problem.trees if len(bands) > 1 else 1) + has_tail(problem)
    return bool(bands) and problem.dtype != "float32" and launches > 1


def grouped_levels(problem: Problem) -> int:
    """Return how many levels, from the root, lie in grouped bands."""
    return min(BAND * len(first_levels(problem.batch, problem.depth)), problem.depth + 1)


def has_tail(problem: Problem) -> bool:
    """Say whether levels are left behind the grouped bands."""
    return grouped_levels(problem) <= problem.depth


def grouped_workspace_bytes(problem: Problem) -> int:
    """Return the bytes that the grouped implementation asks for: the most that any of its tiles needs."""
    return max(grouped_workspace(problem, tile).bytes for tile in GROUPED_TILES)


def descent_tile(problem: Problem) -> FusedTile:
    """Return the tile of a descent of a leaf FFF's router: as many tokens, up to 4, as registers hold x of.

    A thread holds 16 elements of x where the warps allow it.
    """
    block = min(power_of_2(problem.d_in), MAX_BLOCK)
    most = min(problem.batch, max(1, 16 * 32 * MAX_WARPS // block))
    tokens = next(n for n in (4, 2, 1) if n <= most)
    warps = min(max(tokens * block // (32 * 16), 1), MAX_WARPS)
    return FusedTile(tokens=tokens, block_in=block, block_out=0, warps=warps)


def leaf_columns(problem: Problem) -> int:
    """Return the neurons of a leaf in one step of its output product."""
    line = 32 if problem.dtype == "float32" else 64
    return min(line, max(LEAST_EXTENT, power_of_2(problem.hidden)))


def leaf_tiles(problem: Problem, tile: int) -> int:
    """Return the most tiles that the tokens of a leaf FFF can need: each leaf may leave one not full."""
    return problem.batch // tile + min(problem.n_leaves, problem.batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafWorkspace:
    """State where the parts of a leaf FFF's workspace lie, as (first byte, bytes) by name.

    state: tokens of each leaf, and the slots taken so far; slots: the token of each slot; both int32, zeroed
    before a pass. leaf, rank: of each token; first: of each leaf its first slot, int32. activations (batch,
    hidden), in the dtype of the operands.
    """

    spans: dict[str, tuple[int, int]]
    bytes: int


def leaf_workspace(problem: Problem, tile: int) -> LeafWorkspace:
    """Return the layout for a tile."""
    sizes = {
        "state": 4 * (problem.n_leaves + 1),
        "slots": 4 * leaf_tiles(problem, tile) * tile,
        "leaf": 4 * problem.batch,
        "rank": 4 * problem.batch,
        "first": 4 * problem.n_leaves,
        "activations": problem.item_bytes * problem.batch * problem.hidden,
    }
    spans, size = _place(sizes)
    return LeafWorkspace(spans=spans, bytes=size)


def leaf_workspace_bytes(problem: Problem) -> int:
    """Return the bytes that the leaf FFF asks for: the most that any of its tiles needs."""
    return max(leaf_workspace(problem, tile).bytes for tile in GROUPED_TILES)
