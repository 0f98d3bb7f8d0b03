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


def output_columns(problem: Problem, tile: int) -> int:
    """Return the columns of a grouped output tile.

    A thread holds 16 sums of a float32 product, whose FMA loop unrolls into more than registers hold at
    64, or 32 of a bfloat16 one on tensor cores.
    """
    sums = 16 if problem.dtype == "float32" else 32
    most = min(128, sums * 32 * GROUPED_WARPS // tile)
    return min(most, max(LEAST_EXTENT, power_of_2(problem.d_out)))


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
    spans, cursor = {}, 0
    for name, size in sizes.items():
        spans[name] = (cursor, size)
        cursor += -(-size // _ALIGNMENT) * _ALIGNMENT
    return Workspace(**spans, bytes=cursor)


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
