"""Own the truth of an FFF's gradients, in float64, and the verdict on those of a backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

import numpy as np

from harness.problem import check, oracle
from harness.problem.problem import Array, Problem

# gelu' is fitted to within 3e-7, 2.5 roundings, whatever its value: of da, two and a half times what the
# tolerance allows for one magnitude.
_SLOPE = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """Hold the gradients of a loss by x (batch, d_in), w_in (trees, n_nodes, d_in) and w_out (.., d_out)."""

    dx: Array
    dw_in: Array
    dw_out: Array

    def items(self) -> Iterator[tuple[str, Array]]:
        """Return each gradient with its name."""
        return iter((("dx", self.dx), ("dw_in", self.dw_in), ("dw_out", self.dw_out)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Hold the gradients in float64 and what is needed to judge those of fewer bits.

    scale: for each element the sum of the magnitudes that its rounding errors are proportional to.
    margin (batch,): as of `oracle.Truth`.
    """

    gradients: Gradients
    scale: Gradients
    margin: Array


def ff_gradients(x: Array, w_in: Array, w_out: Array, dy: Array) -> Truth:
    """Return the gradients of an FF, as `fff_gradients` those of the neurons on a path.

    x (batch, d_in), w_in (hidden, d_in), w_out (hidden, d_out), dy (batch, d_out).
    """
    x, w_in, w_out, dy = (a.astype(np.float64) for a in (x, w_in, w_out, dy))
    z, da = x @ w_in.T, dy @ w_out.T
    size_z, size_da = np.abs(x) @ np.abs(w_in).T, np.abs(dy) @ np.abs(w_out).T
    a, slope, curve = oracle.gelu(z), oracle.gelu_slope(z), oracle.gelu_curve(z)
    dz, size_a = slope * da, size_z + np.abs(a)
    size_dz = np.abs(slope) * size_da + (np.abs(curve) * size_z + _SLOPE) * np.abs(da) + np.abs(dz)
    return Truth(
        gradients=Gradients(dx=dz @ w_in, dw_in=dz.T @ x, dw_out=a.T @ dy),
        scale=Gradients(
            dx=size_dz @ np.abs(w_in), dw_in=size_dz.T @ np.abs(x), dw_out=size_a.T @ np.abs(dy)
        ),
        margin=np.full(len(x), np.inf),
    )  # fmt: skip


def fff_gradients(
    x: Array, w_in: Array, w_out: Array, dy: Array, depth: int, nodes: Array | None = None
) -> Truth:
    """Return the gradients through the neurons on each token's path; the turns themselves have none.

    With z = <x[b], w_in[node]>, a = gelu(z), da = <dy[b], w_out[node]> and dz = gelu'(z) da:
    dx[b] = sum over the path of dz w_in[node], dw_in[node] = sum over the node's tokens of dz x[b], and
    dw_out[node] of a dy[b]. x (batch, d_in), dy (batch, d_out), w_in (trees, n_nodes, d_in),
    w_out (trees, n_nodes, d_out). nodes (batch, trees, depth + 1): the paths, those of the oracle if None.

    An error of z moves the slope by gelu''(z) times itself, and z is off by roundings of
    sum_i |x_i w_in_i|, as da is of sum_j |dy_j w_out_j|: what that makes of dz, and dz itself, is the scale
    of what dz is multiplied with.
    """
    found = oracle.fff_oracle(x, w_in, w_out, depth)
    x, w_in, w_out, dy = (a.astype(np.float64) for a in (x, w_in, w_out, dy))
    exact = Gradients(
        dx=np.zeros_like(x), dw_in=np.zeros_like(w_in), dw_out=np.zeros_like(w_out)
    )  # fmt: skip
    scale = Gradients(
        dx=np.zeros_like(x), dw_in=np.zeros_like(w_in), dw_out=np.zeros_like(w_out)
    )  # fmt: skip
    for k in range(w_in.shape[0]):
        for node in (found.nodes if nodes is None else nodes)[:, k].T:
            rows_in, rows_out = w_in[k, node], w_out[k, node]
            z, da = (x * rows_in).sum(1), (dy * rows_out).sum(1)
            size_z, size_da = np.abs(x * rows_in).sum(1), np.abs(dy * rows_out).sum(1)
            a, slope, curve = oracle.gelu(z), oracle.gelu_slope(z), oracle.gelu_curve(z)
            dz = slope * da
            size_a = size_z + np.abs(a)  # as in oracle.Truth
            size_dz = np.abs(slope) * size_da + (np.abs(curve) * size_z + _SLOPE) * np.abs(da)
            size_dz += np.abs(dz)
            exact.dx[...] += dz[:, None] * rows_in
            scale.dx[...] += size_dz[:, None] * np.abs(rows_in)
            np.add.at(exact.dw_in[k], node, dz[:, None] * x)
            np.add.at(scale.dw_in[k], node, size_dz[:, None] * np.abs(x))
            np.add.at(exact.dw_out[k], node, a[:, None] * dy)
            np.add.at(scale.dw_out[k], node, size_a[:, None] * np.abs(dy))
    return Truth(gradients=exact, scale=scale, margin=found.margin)


def follow_paths(
    problem: Problem, x: Array, w_in: Array, w_out: Array, dy: Array, dx: Array
) -> Array:
    """Return the paths (batch, trees, depth + 1) that a backward pass took, told by the dx that it left.

    They are the oracle's, but for tokens with turns that may be taken either way: of their paths the one
    whose dx is nearest to what came. More than `oracle.MOST_BRANCHES` of them are not followed.
    """
    found = oracle.fff_oracle(x, w_in, w_out, problem.depth)
    near, nodes = check.near_tie(problem), found.nodes.copy()
    for token in np.flatnonzero(found.margin < near):
        xs, dys = x[token].astype(np.float64), dy[token].astype(np.float64)
        own = [oracle.leaves_within(xs, rows, problem.depth, near) for rows in w_in]
        if any(paths is None for paths in own):
            continue
        choices = list(islice(product(*(paths or [] for paths in own)), oracle.MOST_BRANCHES + 1))
        if len(choices) > oracle.MOST_BRANCHES:
            continue
        off = [
            np.abs(_path_dx(xs, w_in, w_out, dys, c)[: dx.shape[1]] - dx[token]) for c in choices
        ]
        nodes[token] = choices[int(np.argmin([o.max() for o in off]))]
    return nodes


def _path_dx(x: Array, w_in: Array, w_out: Array, dy: Array, paths: Sequence[list[int]]) -> Array:
    """Return a token's dx by its path through each tree; x (d_in,), dy (d_out,)."""
    found = np.zeros(len(x))
    for k, path in enumerate(paths):
        rows_in, rows_out = w_in[k, path].astype(np.float64), w_out[k, path].astype(np.float64)
        found += (oracle.gelu_slope(rows_in @ x) * (rows_out @ dy)) @ rows_in
    return found


def without_near_ties(problem: Problem, x: Array, w_in: Array, w_out: Array) -> Array:
    """Return x with its near-tied tokens replaced by the first that is none.

    One that took another path than the truth's would spoil the gradients of all nodes on both.
    Raises ValueError where more than `check.MAX_LEFT_OUT` of the tokens hang on a near-tie.
    """
    margin = oracle.fff_oracle(x, w_in, w_out, problem.depth).margin
    tied = margin < check.near_tie(problem)
    if tied.mean() > check.MAX_LEFT_OUT:
        raise ValueError(f"{int(tied.sum())} of {len(x)} tokens hang on a near-tie")
    kept = x.copy()
    kept[tied] = x[np.argmin(tied)]
    return kept


def find_fault(found: Gradients, truth: Truth, dtype: str = "float32") -> str:
    """Return what is wrong with gradients over poisoned memory, an empty string where nothing is.

    Every element must have been written, be finite where the truth is, and miss it by no more than the
    tolerance of outputs (`check.TOLERANCE`) times its scale: the bound holds for any order of summation.
    """
    tiny = float(np.finfo(np.float32).tiny)
    for (name, got), (_, want), (_, scale) in zip(
        found.items(), truth.gradients.items(), truth.scale.items(), strict=True
    ):
        if unwritten := check.count_unwritten(got):
            return f"{name}: {unwritten} of {got.size} elements were not written"
        finite = np.isfinite(want)
        if (np.isfinite(got) != finite).any():
            return f"{name}: elements are not finite where the truth is, or finite where it is not"
        allowed = check.TOLERANCE[dtype] * scale + tiny
        error = np.abs(got.astype(np.float64) - want)[finite] / allowed[finite]
        if (worst := float(error.max(initial=0.0))) > 1:
            return f"{name}: the largest error is {worst:.3g} times the tolerance"
    return ""
