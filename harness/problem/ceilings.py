"""Own the ceilings' definitions: what each computes, its truth, its counts of work, the capacities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.problem.operands import Operands
from harness.problem.oracle import Truth, product_oracle
from harness.problem.problem import Array, Problem

MEMORY = "memory"
# What a core has had since about 2015, for a system that does not tell.
ASSUMED_CACHES = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}


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


def _repeated(problem: Problem, operands: Operands, tokens: Array) -> Truth:
    """y = n x w, n = hidden, w = the first d_in rows of w_out; each of the n sums may round, in float32."""
    x, w = operands.x[tokens].astype(np.float64), operands.w_out[: problem.d_in].astype(np.float64)
    n = problem.hidden
    return _truth(n * (x @ w), n * n * (np.abs(x) @ np.abs(w)), problem.d_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """Define one ceiling.

    truth: returns the answer for some tokens. reads, writes: how often one walk reads each element of x and
    writes each of y, where the rate is of bytes; both 0 where it is of flops. places: which sets its streams
    walk over: one in every place of the processor's memory, the largest alone, or none, where the plan has
    a rule of its own for it.
    """

    id: str
    truth: Callable[[Problem, Operands, Array], Truth]
    reads: int = 0
    writes: int = 0
    places: Literal["", "every", "memory"] = ""


# The one list of the ceilings, in the order of the tables.
CEILINGS: Mapping[str, Ceiling] = {
    ceiling.id: ceiling
    for ceiling in (
        Ceiling(id="ceiling_sgemm", truth=_sgemm),
        Ceiling(id="ceiling_torch_matmul", truth=_sgemm),
        Ceiling(id="ceiling_cuda_matmul", truth=_sgemm),
        Ceiling(id="ceiling_fma", truth=_fma),
        Ceiling(id="ceiling_bfdot", truth=_repeated),
        Ceiling(id="ceiling_amx", truth=_repeated),
        Ceiling(id="ceiling_read", truth=_read, reads=1, places="every"),
        Ceiling(id="ceiling_write", truth=_write, writes=1, places="every"),
        Ceiling(id="ceiling_copy", truth=_copy, reads=1, writes=1, places="every"),
        # Its stores leave every cache: the set of a cache would not be in one.
        Ceiling(id="ceiling_stream", truth=_copy, reads=1, writes=1, places="memory"),
        Ceiling(id="ceiling_cuda_copy", truth=_copy, reads=1, writes=1),
        Ceiling(id="ceiling_gather", truth=_gather, reads=1),
    )
}
ORDER: Mapping[str, int] = {name: i for i, name in enumerate(CEILINGS)}


def find_truth(implementation: str, problem: Problem, operands: Operands, tokens: Array) -> Truth:
    """Return a ceiling's answer for the chosen tokens in float64. Raises KeyError for an unknown one."""
    return CEILINGS[implementation].truth(problem, operands, tokens)


def count_work(implementation: str, problem: Problem) -> tuple[int, int]:
    """Return the flops and bytes of one pass; no flops where the ceiling's rate is of bytes."""
    p, ceiling = problem, CEILINGS.get(implementation)
    if ceiling is not None and (ceiling.reads or ceiling.writes):
        moved = ceiling.reads * p.d_in + ceiling.writes * p.d_out
        return 0, 4 * p.hidden * p.batch * moved
    if ceiling is not None and ceiling.truth is _repeated:
        return p.d_in * p.flops(), p.bytes_moved()
    return p.flops(), p.bytes_moved()


# ---- where they run ---------------------------------------------------------------------------------


def find_capacities(
    caches: Mapping[str, int], threads: int = 1, last_level_caches: int = 1
) -> dict[str, int]:
    """Return the bytes of each cache level, the fastest first; assumed ones where the system tells none.

    caches: as one core sees them. Several threads have as many of each level as they are, but for the last:
    of that one they have no more than there are for all cores.
    """
    found = {name.removesuffix("d"): size for name, size in sorted(caches.items()) if size > 0}
    *own, last = (found or ASSUMED_CACHES).items()
    shared = min(threads, last_level_caches)
    return {**{name: threads * size for name, size in own}, last[0]: shared * last[1]}
