"""Own the ceilings: what each one computes, its truth, its counts of work, and the sets that it runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from harness.oracle import Truth, product_oracle
from harness.problem import Array, Operands, Problem

MEMORY = "memory"
# What a core has had since about 2015, for a system that does not tell.
ASSUMED_CACHES = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}
MAX_SET_BYTES = 256 << 20
_BEYOND_CACHE = 4  # a set this many times the last cache leaves next to nothing of itself in it
_SHARE_OF_CACHE = 2  # half a cache: the rest is for the stack, the output, and what else runs
_MIN_TRAFFIC_BYTES = 4 << 20  # of one pass: small sets are walked many times within it
_MAX_WALKS = 256
_FMA_WIDTH, _FMA_STEPS, _FMA_BATCH = 768, 1024, 32  # 50 MFLOP, no lane wasted
_ROW_LANES = 128  # eight sums of the widest vector: a row of whole such groups has no tail
# What a core of 2020 or later reaches; for the prediction and nothing else.
_PREDICTED_FLOPS, _PREDICTED_BYTES = 90e9, 10e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Place one ceiling: the kernel, the part of the memory that its set fits, and the problem."""

    implementation: str
    place: str
    problem: Problem


# ---- what they compute ------------------------------------------------------------------------------


def scattered(visits: Array, rows: int) -> Array:
    """Return the rows that `ceiling_gather` reads on the given visits; `rows` is a power of two.

    A permutation of 0..rows - 1 without a fixed stride: an odd factor modulo `rows`, the upper half of the
    bits folded into the lower, another odd factor.
    """
    mask = np.uint64(rows - 1)
    half = np.uint64(max(1, -(-(rows.bit_length() - 1) // 2)))
    row = (visits.astype(np.uint64) * np.uint64(0x9E3779B1)) & mask
    row ^= row >> half
    return ((row * np.uint64(0x85EBCA6B)) & mask).astype(np.int64)


def _truth(y: Array, scale: Array, width: int) -> Truth:
    """Return the truth of an output whose `width` columns are equal or given."""
    shape = (len(y), width)
    return Truth(
        y=np.broadcast_to(y, shape), scale=np.broadcast_to(scale, shape), rounding=np.zeros(shape),
        margin=np.full(len(y), np.inf), nodes=np.empty((len(y), 0, 0), np.int64),
    )  # fmt: skip


def _fma(problem: Problem, operands: Operands, tokens: Array) -> Truth:
    """y = x m^n + c (1 + m + ... + m^(n-1)), n = hidden; each of the n steps may round, and m itself did."""
    n = problem.hidden
    w, c = float(operands.w_in[0, 0]), float(operands.w_out[0, 0])
    m = 1 - abs(w) / n
    powers = float(n) if m == 1 else (1 - m**n) / (1 - m)
    x = operands.x[tokens].astype(np.float64)
    return _truth(x * m**n + c * powers, n * (np.abs(x) + n * abs(c)), problem.d_out)


def _read(problem: Problem, operands: Operands, tokens: Array) -> Truth:
    x = operands.x[tokens].astype(np.float64)
    return _truth(x.sum(1, keepdims=True), np.abs(x).sum(1, keepdims=True), problem.d_out)


def _write(problem: Problem, operands: Operands, tokens: Array) -> Truth:
    y = operands.x[tokens, :1].astype(np.float64) * float(operands.w_out[-1, 0])
    return _truth(y, np.abs(y), problem.d_out)


def _copy(problem: Problem, operands: Operands, tokens: Array) -> Truth:
    y = operands.x[tokens].astype(np.float64) * float(operands.w_out[-1, 0])
    return _truth(y, np.abs(y), problem.d_out)


def _gather(problem: Problem, operands: Operands, tokens: Array) -> Truth:
    x = operands.x[scattered(tokens, problem.batch)].astype(np.float64)
    w = operands.w_in[-1].astype(np.float64)[:, None]
    return _truth(x @ w, np.abs(x) @ np.abs(w), problem.d_out)


def _sgemm(problem: Problem, operands: Operands, tokens: Array) -> Truth:
    return product_oracle(operands.x[tokens], operands.w_out)


_TRUTHS: Mapping[str, Callable[[Problem, Operands, Array], Truth]] = {
    "ceiling_fma": _fma, "ceiling_read": _read, "ceiling_write": _write, "ceiling_copy": _copy,
    "ceiling_stream": _copy, "ceiling_gather": _gather, "ceiling_sgemm": _sgemm,
    "ceiling_cuda_copy": _copy, "ceiling_cuda_matmul": _sgemm,
}  # fmt: skip


def find_truth(implementation: str, problem: Problem, operands: Operands, tokens: Array) -> Truth:
    """Return a ceiling's answer for the chosen tokens in float64. Raises KeyError for an unknown one."""
    return _TRUTHS[implementation](problem, operands, tokens)


def count_work(implementation: str, problem: Problem) -> tuple[int, int]:
    """Return the flops and bytes of one pass; no flops where the ceiling's rate is of bytes."""
    p = problem
    bytes_moved = {
        "ceiling_read": 4 * p.hidden * p.batch * p.d_in,
        "ceiling_write": 4 * p.hidden * p.batch * p.d_out,
        "ceiling_copy": 8 * p.hidden * p.batch * p.d_in,
        "ceiling_stream": 8 * p.hidden * p.batch * p.d_in,
        "ceiling_cuda_copy": 8 * p.hidden * p.batch * p.d_in,
        "ceiling_gather": 4 * p.hidden * p.batch * p.d_in,
    }
    if implementation in bytes_moved:
        return 0, bytes_moved[implementation]
    return p.flops(), p.bytes_moved()


def predict_s(implementation: str, problem: Problem) -> float:
    """Return a guess of one pass's time in seconds."""
    flops, moved = count_work(implementation, problem)
    return flops / _PREDICTED_FLOPS if flops else moved / _PREDICTED_BYTES


# ---- where they run ---------------------------------------------------------------------------------


def find_capacities(caches: Mapping[str, int], threads: int = 1) -> dict[str, int]:
    """Return the bytes of each cache level, the fastest first; assumed ones where the system tells none.

    caches: as one core sees them. Several threads have as many of each level as they are, but for the last:
    that one all cores are taken to share.
    """
    found = {name.removesuffix("d"): size for name, size in sorted(caches.items()) if size > 0}
    *own, last = (found or ASSUMED_CACHES).items()
    return {**{name: threads * size for name, size in own}, last[0]: last[1]}


def choose_sets(caches: Mapping[str, int], available: int) -> tuple[dict[str, int], list[str]]:
    """Return the bytes of the working set for each place, and what the caller should be told.

    Half of each cache; for the memory four times the last cache, at most 256 MiB and at most an eighth of
    the available bytes. A set that is not twice the last cache would not measure the memory: it is left out.
    """
    notices = []
    capacities = find_capacities(caches)
    if not caches:
        sizes = ", ".join(f"{k} {v >> 10} KiB" for k, v in capacities.items())
        notices.append(f"the system tells no cache sizes; the ceilings assume {sizes}")
    most = min(MAX_SET_BYTES, available // 8)
    sets = {place: size // _SHARE_OF_CACHE for place, size in capacities.items()}
    sets = {place: size for place, size in sets.items() if size <= most}
    last = max(capacities.values())
    memory = min(_BEYOND_CACHE * last, most)
    if memory < 2 * last:
        notices.append(
            f"no ceiling of the memory: {most >> 20} MiB at most are taken, and the last cache has "
            f"{last >> 20} MiB"
        )
        return sets, notices
    if memory < _BEYOND_CACHE * last:
        notices.append(
            f"the ceilings of the memory run on {memory >> 20} MiB, {memory / last:.1f} times the last "
            "cache: part of their traffic comes from the cache"
        )
    return {**sets, MEMORY: memory}, notices


def _walks(set_bytes: int) -> int:
    return int(np.clip(_MIN_TRAFFIC_BYTES // set_bytes, 1, _MAX_WALKS))


def stream(name: str, place: str, size: int, row: int, seed: int) -> Extent:
    """Place a stream of `size` bytes in rows of `row` elements."""
    d_in, d_out = {"read": (row, 1), "write": (1, row)}.get(name, (row, row))
    rows = max(1, size // (4 * row * (2 if d_in == d_out else 1)))
    problem = Problem(
        layer="ceiling", batch=rows, d_in=d_in, d_out=d_out, hidden=_walks(size), seed=seed
    )
    return Extent(implementation=f"ceiling_{name}", place=place, problem=problem)


def _gathers(sets: Mapping[str, int], width: int, seed: int) -> list[Extent]:
    """Place the gather on tables of rows of `width`: powers of two within a cache, beyond it in memory."""
    found = []
    for place, size in sets.items():
        rows = 1 << max(0, (size // (4 * width)).bit_length() - 1)
        if place == MEMORY and 8 * rows * width <= MAX_SET_BYTES:
            rows *= 2  # rounded up: half of the set could lie in the cache
        # A few rows of a cache would be no scattered order; the first level can't hold a layer.
        if place != "L1" and rows >= 8:
            problem = Problem(
                layer="ceiling", batch=rows, d_in=width, d_out=1,
                hidden=_walks(4 * rows * width), seed=seed,
            )  # fmt: skip
            found.append(Extent(implementation="ceiling_gather", place=place, problem=problem))
    return found


def place_all(sets: Mapping[str, int], widths: list[int], seed: int) -> list[Extent]:
    """Return the ceilings of the processor and its memory, largest set first.

    Largest first, since the inputs of the smaller sets are the head of the larger one's. Rows of streams
    are a quarter of the first cache: long enough that the call does not count, short enough that a source
    and a target of one row are half of it.
    """
    fma = Problem(
        layer="ceiling", batch=_FMA_BATCH, d_in=_FMA_WIDTH, d_out=_FMA_WIDTH, hidden=_FMA_STEPS,
        seed=seed,
    )  # fmt: skip
    found = [Extent(implementation="ceiling_fma", place="", problem=fma)]
    if not sets:
        return found
    ordered = dict(sorted(sets.items(), key=lambda item: -item[1]))
    row = max(_ROW_LANES, min(ordered.values()) // 8 // _ROW_LANES * _ROW_LANES)
    for name in ("read", "write", "copy"):
        found += [stream(name, place, size, row, seed) for place, size in ordered.items()]
    if MEMORY in ordered:  # its stores leave every cache: the set of a cache would not be in one
        found.append(stream("stream", MEMORY, ordered[MEMORY], row, seed))
    for width in widths:
        found += _gathers(ordered, width, seed)
    return found


def spread(extents: list[Extent], caches: Mapping[str, int], threads: int) -> list[Extent]:
    """Return extents for several threads: registers and caches of a core's own get a set for each of them.

    The gather's tables stay a power of two of rows.
    """
    before, now = find_capacities(caches), find_capacities(caches, threads)

    def spread_one(extent: Extent) -> Extent:
        place = extent.place
        if place == MEMORY or (place and now[place] == before[place]):
            return extent
        power = 1 << (threads.bit_length() - 1)
        times = power if extent.implementation == "ceiling_gather" else threads
        larger = replace(extent.problem, batch=times * extent.problem.batch)
        return replace(extent, problem=larger)

    return [spread_one(extent) for extent in extents]
