"""Own the check of every token: an output's projection on one random direction, against the truth's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.problem import experts, leaf, oracle
from harness.problem.operands import Operands
from harness.problem.problem import EXPERTS, Array, Problem

# Work that it may cost, in float64 where paths are walked and rows gathered, and in float32 for an FF's
# product and for scores; of a problem that costs more, so many tokens that it does not: a stretch that begins
# at a random one.
_FLOPS, _FLOPS_OF_PRODUCT = 2e9, 20e9
_BLOCK_ELEMENTS = 1 << 22
# An element of the projection may be off by this share of its own magnitude and of the typical one. It is for
# faults of whole tokens, not for roundings: another token's row is off by all of it.
_SHARE = {("float32", "ieee"): 1e-3, ("float32", "tf32"): 2e-2, ("bfloat16", "ieee"): 5e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Hold what ``y direction`` must be for a stretch of tokens.

    first: the first token. values (tokens,): in float64. allowed (tokens,): what each may be off by.
    direction (d_out,): of random signs.
    """

    first: int
    values: Array
    allowed: Array
    direction: Array


def project(problem: Problem, operands: Operands, seed: int) -> Projection:
    """Return the projection of a layer's output, of all tokens where that costs no more than a second.

    y d = sum over the neurons h that a token uses of gelu(z_h) (w_out[h] d): with w_out d known, a token
    costs its pre-activations alone. Along an FFF's path z is summed in float64, and turns as the oracle
    does: a token on a near-tie that turned the other way is a suspect, whose whole row is then compared.
    """
    rng = np.random.default_rng([seed, problem.batch, 1])
    direction = rng.choice([-1.0, 1.0], problem.d_out)
    gathered = 2 * problem.used_neurons * problem.d_in
    routed = problem.routing_flops() / problem.batch
    if problem.layer == "ff":
        share = gathered / _FLOPS_OF_PRODUCT
    elif problem.layer in EXPERTS:
        share = gathered / _FLOPS + routed / _FLOPS_OF_PRODUCT
    else:
        share = (gathered + routed) / _FLOPS
    count = int(min(problem.batch, max(1, 1 / share)))
    first = int(rng.integers(0, problem.batch - count + 1))
    x = operands.x[first : first + count]
    if problem.layer == "leaf":
        values, squares = _reach(problem, x, operands, direction)
    else:
        walk = {"ff": _multiply, "fff": _walk, "hash": _follow}.get(problem.layer, _select)
        values, squares = walk(problem, x, operands, operands.w_out.astype(np.float64) @ direction)
    magnitude = np.sqrt(squares)
    allowed = _SHARE[problem.dtype, problem.math] * (
        magnitude + np.abs(values) + float(np.median(magnitude))
    )
    return Projection(first=first, values=values, allowed=allowed, direction=direction)


def _walk(problem: Problem, x: Array, operands: Operands, weights: Array) -> tuple[Array, Array]:
    """Return sum of gelu(z) weights[node] along each token's paths, and the sum of its squares."""
    w_in = operands.w_in
    values, squares = np.zeros(len(x)), np.zeros(len(x))
    step = max(1, _BLOCK_ELEMENTS // problem.d_in)
    for begin in range(0, len(x), step):
        tokens = slice(begin, begin + step)
        xs = x[tokens].astype(np.float64)
        for k in range(problem.trees):
            node = np.zeros(len(xs), np.int64)
            for _ in range(problem.depth + 1):
                z = np.einsum("bi,bi->b", xs, w_in[k, node].astype(np.float64))
                term = oracle.gelu(z) * weights[k, node]
                values[tokens] += term
                squares[tokens] += term**2
                node = 2 * node + 1 + (z >= 0)
    return values, squares


def _reach(problem: Problem, x: Array, operands: Operands, direction: Array) -> tuple[Array, Array]:
    """Return the projection of each token's leaf network, and the sum of its terms' squares."""
    w_in, w_out, router, router_bias, b_in, b_out = operands.weights()
    along = (
        w_in, (w_out.astype(np.float64) @ direction)[:, :, None], router, router_bias, b_in,
        (b_out.astype(np.float64) @ direction)[:, None],
    )  # fmt: skip
    truth = leaf.leaf_oracle(x, *along, depth=problem.depth, activation=problem.activation)
    return truth.y[:, 0], truth.rounding[:, 0] ** 2


def _gather(
    x: Array, w_in: Array, weights: Array, chosen: Array, gates: Array | float = 1.0
) -> tuple[Array, Array]:
    """Return sum of gate gelu(z) weights over chosen neurons, and the sum of its squares, z in float64.

    w_in (experts, hidden, d_in), weights (experts, hidden), chosen (tokens, active) experts.
    """
    values, squares = np.zeros(len(x)), np.zeros(len(x))
    step = max(1, _BLOCK_ELEMENTS // (chosen.shape[1] * w_in[0].size))
    for begin in range(0, len(x), step):
        tokens = slice(begin, begin + step)
        own = chosen[tokens]
        rows = w_in[own].astype(np.float64)
        z = np.einsum("bi,behi->beh", x[tokens].astype(np.float64), rows)
        gate = gates[tokens, :, None] if isinstance(gates, np.ndarray) else gates
        term = (gate * oracle.gelu(z) * weights[own]).reshape(len(own), -1)
        values[tokens], squares[tokens] = term.sum(axis=1), (term**2).sum(axis=1)
    return values, squares


def _follow(problem: Problem, x: Array, operands: Operands, weights: Array) -> tuple[Array, Array]:
    """Return `_walk`'s sums along the paths that a hash picks."""
    paths = experts.hashed_paths(x, problem.depth)
    return _gather(x, operands.w_in[0][:, None], weights[0][:, None], paths)


def _select(problem: Problem, x: Array, operands: Operands, weights: Array) -> tuple[Array, Array]:
    """Return the sums over the experts that each token chooses by scores in float32."""
    scored = operands.w_in[:, 0] if operands.router is None else operands.router
    rows = np.ascontiguousarray(scored, np.float32)
    values, squares = np.zeros(len(x)), np.zeros(len(x))
    step = max(1, _BLOCK_ELEMENTS // problem.experts)
    for begin in range(0, len(x), step):
        own = slice(begin, begin + step)
        chosen, gates = experts.choose(problem.layer, x[own], rows, problem.active)
        values[own], squares[own] = _gather(x[own], operands.w_in, weights, chosen, gates)
    return values, squares


def _multiply(
    problem: Problem, x: Array, operands: Operands, weights: Array
) -> tuple[Array, Array]:
    """Return sum of gelu(z) weights over the neurons of an FF, z in float32, and the sum of its squares."""
    values, squares = np.zeros(len(x)), np.zeros(len(x))
    rows = np.ascontiguousarray(operands.w_in, np.float32)
    own = weights.astype(np.float32)
    step = max(1, _BLOCK_ELEMENTS // problem.hidden)
    for begin in range(0, len(x), step):
        tokens = slice(begin, begin + step)
        a = oracle.gelu(x[tokens].astype(np.float32) @ rows.T)
        values[tokens] = a @ own
        squares[tokens] = a**2 @ own**2
    return values, squares


def find_suspects(y: Array, projection: Projection) -> Array:
    """Return the tokens whose output is not what the projection says, or not finite where it is."""
    last = projection.first + len(projection.values)
    got = y[projection.first : last].astype(np.float64) @ projection.direction
    with np.errstate(invalid="ignore"):
        right = np.abs(got - projection.values) <= projection.allowed
    right |= ~np.isfinite(got) & ~np.isfinite(projection.values)
    return projection.first + np.flatnonzero(~right)
