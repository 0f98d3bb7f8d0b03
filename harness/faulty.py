"""Own the faulty kernels in the measuring process: their definitions, and one cold sample of each."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from harness import clock, native, oracle
from harness.check import NEAR_TIE, Verdict, check, compare
from harness.oracle import Truth
from harness.problem import Array, Operands, Problem

# Kernels that compute the layer itself, slowly or by a detour: the ordinary oracle is their definition.
RIGHT = ("ff_l1_erfc", "ff_l3_alloc", "ff_l1_blas", "ff_l3_blas", "fff_l1_blas", "fff_l2_blas")
_GATE_TOKENS = 70  # one block of 64 tokens and the beginning of a second


def _path_terms(problem: Problem, operands: Operands, truth: Truth) -> tuple[Array, Array, Array]:
    """Return per token and node of its paths: a, the magnitudes that z was summed from, and the row.

    a, size, row: (batch, trees * (depth + 1)); row counts over all trees.
    """
    batch = len(operands.x)
    first = problem.n_nodes * np.arange(problem.trees)
    row = (truth.nodes + first[None, :, None]).reshape(batch, -1)
    w_in = operands.w_in.reshape(-1, problem.d_in)
    x = operands.x.astype(np.float64)
    z, size = np.empty(row.shape), np.empty(row.shape)
    for i in range(row.shape[1]):
        rows_in = w_in[row[:, i]].astype(np.float64)
        z[:, i] = np.einsum("bi,bi->b", x, rows_in)
        size[:, i] = np.einsum("bi,bi->b", np.abs(x), np.abs(rows_in))
    return oracle.gelu(z), size, row


def _output_rows(problem: Problem, operands: Operands, before: Array, truth: Truth) -> Truth:
    """Return what adding rows of the output makes of it, token after token."""
    a, size, row = _path_terms(problem, operands, truth)
    y = before.astype(np.float64)
    scale = np.zeros_like(y)
    for b in range(problem.batch):
        total, bound = np.zeros(problem.d_out), np.zeros(problem.d_out)
        y[b], scale[b] = 0.0, 0.0
        for i, r in enumerate(row[b] % problem.batch):
            # Its own row is the sum so far.
            source, doubt = (total, bound) if r == b else (y[r], scale[r])
            bound = bound + (size[b, i] + abs(a[b, i])) * np.abs(source) + abs(a[b, i]) * doubt
            total = total + a[b, i] * source
        y[b], scale[b] = total, bound
    return replace(truth, y=y, scale=scale)


def _unit_scale(problem: Problem, operands: Operands, truth: Truth) -> Truth:
    """Return the plain sum of the rows of w_out on each token's paths."""
    row = _path_terms(problem, operands, truth)[2]
    w_out = operands.w_out.reshape(-1, problem.d_out).astype(np.float64)
    terms = row.shape[1]
    y, scale = w_out[row[:, 0]], np.abs(w_out[row[:, 0]])
    for i in range(1, terms):
        y, scale = y + w_out[row[:, i]], scale + np.abs(w_out[row[:, i]])
    # A serial sum of n terms may be off by n/2 roundings of the sum of magnitudes.
    return replace(truth, y=y, scale=scale * max(1.0, terms / 4))


def _same_row(problem: Problem, operands: Operands, before: Array, truth: Truth) -> Truth:
    """Return the first row as the sum over all tokens of the first token's path, the others as before."""
    one = replace(problem, batch=1)
    head = replace(
        truth, y=truth.y[:1], scale=truth.scale[:1], margin=truth.margin[:1], nodes=truth.nodes[:1]
    )
    first = _unit_scale(one, replace(operands, x=operands.x[:1]), head)
    y, scale = before.astype(np.float64), np.zeros(before.shape)
    y[0] = problem.batch * first.y[0]
    scale[0] = problem.batch**2 * first.scale[0]
    margin = np.full(problem.batch, np.inf)
    margin[0] = truth.margin[0]
    return replace(truth, y=y, scale=scale, margin=margin)


def find_definition(kernel: str, problem: Problem, operands: Operands, before: Array) -> Truth:
    """Return the float64 output that a kernel's definition gives, for every token.

    before (batch, d_out): what the output held before the pass, which some of the faults read or keep.

    Raises LookupError for a kernel without a definition.
    """
    x, w_in, w_out = operands.x, operands.w_in, operands.w_out
    if problem.layer == "ff":
        truth = oracle.ff_oracle(x, w_in, w_out)
    else:
        truth = oracle.fff_oracle(x, w_in, w_out, problem.depth)
    if kernel in RIGHT:
        return truth
    if kernel == "fff_l1_output_rows":
        return _output_rows(problem, operands, before, truth)
    if kernel == "fff_l2_unit_scale":
        return _unit_scale(problem, operands, truth)
    if kernel == "fff_l2_same_row":
        return _same_row(problem, operands, before, truth)
    raise LookupError(f"no definition of kernel {kernel!r}")


def _unwritten(shape: tuple[int, ...]) -> Array:
    """Return a float32 array on private pages that nothing has touched: all read as one page of zeros."""
    size = 4 * int(np.prod(shape))
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, np.float32).reshape(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Run kernels of the ladder in a measuring process.

    table: the provider's C table. operands: returns a problem's written operands. workspace: lends bytes.
    known: the verdicts of this process so far, since a kernel is gated once in a process.
    """

    table: Any
    operands: Callable[[Problem], Operands]
    workspace: Callable[[int], Array]
    known: dict[tuple[str, Problem], Verdict]

    def _bind(self, kernel: str, problem: Problem, operands: Operands) -> Any:
        space = self.workspace(native.workspace_bytes(kernel, problem))
        return native.bind(kernel, problem, operands, native.Surroundings(blas=self.table), space)

    def gate(self, kernel: str, problem: Problem) -> Verdict:
        """Compare a kernel with its definition on the first tokens that hang on no near-tie."""
        if (kernel, problem) not in self.known:
            self.known[kernel, problem] = self._gate(kernel, problem)
        return self.known[kernel, problem]

    def _gate(self, kernel: str, problem: Problem) -> Verdict:
        whole = self.operands(problem)
        x = whole.x[: 2 * _GATE_TOKENS]
        if problem.layer == "fff":
            truth = oracle.fff_oracle(x, whole.w_in, whole.w_out, problem.depth)
            x = x[truth.margin >= NEAR_TIE[problem.dtype]]
        x = np.ascontiguousarray(x[:_GATE_TOKENS])
        small = replace(problem, batch=len(x))
        # Not poisoned: one of the faults reads what the output held, another keeps most of it.
        before = np.random.default_rng(problem.seed).standard_normal(
            (small.batch, small.d_out), dtype=np.float32
        )
        operands = replace(whole, x=x, y=before.copy())
        forward, _ = self._bind(kernel, small, operands)
        forward()
        expected = find_definition(kernel, small, operands, before)
        return compare(operands.y, expected, small)

    def _cold(self, problem: Problem, *, unwritten: bool) -> Operands:
        """Return operands for the timed passes; the output's pages have never been touched."""
        y = _unwritten((problem.batch, problem.d_out))
        if not unwritten:
            return replace(self.operands(problem), y=y)
        shape_in, shape_out = problem.weight_shapes()
        x = _unwritten((problem.batch, problem.d_in))
        return Operands(x=x, w_in=_unwritten(shape_in), w_out=_unwritten(shape_out), y=y)

    def _check_timed(
        self, kernel: str, problem: Problem, operands: Operands, *, unwritten: bool
    ) -> Verdict | None:
        """Check what the timed passes left behind; None where the gate alone can speak."""
        if kernel in RIGHT and not unwritten:
            return check(problem, operands, seed=problem.seed)
        if unwritten or kernel == "fff_l1_output_rows":  # zeros make zeros, and so do sums of them
            wrong = int(np.count_nonzero(operands.y))
            if wrong:
                reason = f"{wrong} output elements are not 0, as the kernel's definition makes them"
                worst = float(np.nanmax(np.abs(operands.y))) / float(np.finfo(np.float32).tiny)
                return Verdict(ok=False, reason=reason, worst=worst, tokens=problem.batch,
                               near_ties=0, unwritten=0)  # fmt: skip
        return None

    def run(self, kernel: str, problem: Problem, loops: int, *, unwritten: bool) -> dict[str, Any]:
        """Check a kernel, then time `loops` passes as one interval, the first of them cold.

        Returns the verdict, the notes of the record and, where the kernel is right, the sample.
        """
        verdict = self.gate(kernel, problem)
        notes = {
            "protocol": "published",
            "buffers": "never written" if unwritten else "written",
            "isa": native.isas()[0],
        }
        answer: dict[str, Any] = {"verdict": asdict(verdict), "notes": notes, "loops": loops}
        if not verdict.ok:
            return answer
        operands = self._cold(problem, unwritten=unwritten)
        _, time = self._bind(kernel, problem, operands)
        answer["sample"] = asdict(clock.sample(time, loops, math.inf))
        after = self._check_timed(kernel, problem, operands, unwritten=unwritten)
        if after is not None:
            answer["verdict"] = asdict(after)
        return answer
