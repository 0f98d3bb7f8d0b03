"""Own the faulty kernels in the measuring process: their definitions, and one cold sample of each."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness import native
from harness.measure import clock
from harness.measure.protocol import PublishedAnswer, PublishedRequest
from harness.paper import faults as paper_faults
from harness.paper.faults import RIGHT
from harness.problem import oracle
from harness.problem.check import NEAR_TIE, Expected, Verdict, compare, expect, judge
from harness.problem.operands import Operands
from harness.problem.problem import Array, Problem

_GATE_TOKENS = 70  # one block of 64 tokens and the beginning of a second


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
    known: dict[tuple[str, Problem], Verdict] = field(default_factory=dict)

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
        expected = paper_faults.find_definition(kernel, small, operands, before)
        forward, _ = self._bind(kernel, small, operands)
        forward()
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
        self, kernel: str, problem: Problem, operands: Operands, expected: Expected | None, *,
        unwritten: bool,
    ) -> Verdict | None:  # fmt: skip
        """Check what the timed passes left behind; None where the gate alone can speak."""
        if expected is not None:
            return judge(problem, operands, expected)
        if unwritten or kernel == "fff_l1_output_rows":  # zeros make zeros, and so do sums of them
            wrong = int(np.count_nonzero(operands.y))
            if wrong:
                reason = f"{wrong} output elements are not 0, as the kernel's definition makes them"
                worst = float(np.nanmax(np.abs(operands.y))) / float(np.finfo(np.float32).tiny)
                return Verdict(ok=False, reason=reason, worst=worst, tokens=problem.batch,
                               near_ties=0, unwritten=0)  # fmt: skip
        return None

    def run(self, request: PublishedRequest) -> PublishedAnswer:
        """Check a kernel, then time `loops` passes as one interval, the first of them cold."""
        kernel, problem, unwritten = request.kernel, request.problem, request.unwritten
        verdict = self.gate(kernel, problem)
        notes = {
            "protocol": "published",
            "buffers": "never written" if unwritten else "written",
            "isa": native.isas()[0],
        }
        if not verdict.ok:
            return PublishedAnswer(verdict=verdict, notes=notes)
        operands = self._cold(problem, unwritten=unwritten)
        right = kernel in RIGHT and not unwritten
        expected = expect(problem, operands, seed=problem.seed) if right else None
        _, time = self._bind(kernel, problem, operands)
        sample = clock.sample(time, request.loops, math.inf)
        after = self._check_timed(kernel, problem, operands, expected, unwritten=unwritten)
        return PublishedAnswer(verdict=after or verdict, notes=notes, sample=sample)
