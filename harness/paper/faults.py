"""Own the faults of the published benchmark: what each faulty kernel computes, by definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.problem import oracle
from harness.problem.operands import Operands
from harness.problem.oracle import Truth
from harness.problem.problem import Array, Problem

# Kernels that compute the layer itself, slowly or by a detour: the ordinary oracle is their definition.
RIGHT = ("ff_l1_erfc", "ff_l3_alloc", "ff_l1_blas", "ff_l3_blas", "fff_l1_blas", "fff_l2_blas")


def _redefine(truth: Truth, y: Array, scale: Array) -> Truth:
    """Return a truth with another output; how the layer's own roundings add up says nothing of it."""
    return replace(truth, y=y, scale=scale, deviation=None, branches={})


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
    return _redefine(truth, y, scale)


def _unit_scale(problem: Problem, operands: Operands, truth: Truth) -> Truth:
    """Return the plain sum of the rows of w_out on each token's paths."""
    row = _path_terms(problem, operands, truth)[2]
    w_out = operands.w_out.reshape(-1, problem.d_out).astype(np.float64)
    terms = row.shape[1]
    y, scale = w_out[row[:, 0]], np.abs(w_out[row[:, 0]])
    for i in range(1, terms):
        y, scale = y + w_out[row[:, i]], scale + np.abs(w_out[row[:, i]])
    # A serial sum of n terms may be off by n/2 roundings of the sum of magnitudes.
    return _redefine(truth, y, scale * max(1.0, terms / 4))


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
    return replace(_redefine(truth, y, scale), margin=margin)


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
