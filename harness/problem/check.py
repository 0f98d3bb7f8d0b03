"""Own the verdict: whether an output agrees with the float64 oracle. Tests and the sweep's gate share it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.problem import ceilings, experts, leaf, oracle
from harness.problem.operands import Operands
from harness.problem.problem import EXPERTS, Array, Problem
from harness.problem.projection import Projection, find_suspects, project

# An element may miss the truth by 2 float32 roundings of the magnitudes that were summed into it.
# Serial summation of n terms drifts by about sqrt(n)/2 roundings of its partial sums, which stay a
# factor of sqrt(n) below the sum of magnitudes: 2 covers every order of summation (correct kernels
# reach 0.1 of it), while one wrong or missing neuron of 4095 stands out by an order of magnitude.
# Products of bfloat16 are exact in float32 and are accumulated in it: the same holds for them.
_EPS = float(np.finfo(np.float32).eps)
_ACCUMULATED = 2 * _EPS
TOLERANCE = {"float32": _ACCUMULATED, "bfloat16": _ACCUMULATED}
# That bound grows with the number of neurons where the errors themselves grow with its root: from some
# 4096 x 16384 on, products of factors that were rounded to TF32 would lie within it. So a second one holds
# too, of how roundings add up that are independent (oracle.Truth.deviation): a serial sum of n terms is
# off by 0.2 sqrt(n) roundings of it, one standard deviation; ten of them are allowed, and 8 for the GELU's
# own. TF32 misses it by a factor of 30 at 768 x 4095 and of 8 at GPT-3's 12288 x 49152.
_TERMS, _GELU = 2.0, 16.0
# A tensor core adds 16 products at a time and cuts the sum: n / 16 cuts, all towards zero, of the whole sum.
_CUT_TERMS = 16
# What is stored with 8 bits is off by up to 2^-8 of itself. y is rounded once: that of |y|. z and gelu(z)
# may be rounded too, once each: SPREAD times the root of the sum of squares of what each neuron's two
# roundings make of y (oracle.Truth). Up to 9 neurons that is no less than their plain sum, the worst case.
# Of more, roundings are independent and of zero mean, with 0.18 of the variance of the bound (a third for
# errors spread evenly, about half since mantissas are): 3 is seven standard deviations. (The plain sum
# over 4095 neurons would be 21 times as much, and let several be missing.) Correct passes reach half of
# it; one missing neuron of 4095 is off by 2 to 4 of it, one of 12 by 40. What can't be told from
# rounding is the tanh form of the GELU: it is off by less than 5e-4 where a hidden value may be by 4e-3.
ROUNDED = {"float32": 0.0, "bfloat16": 2.0**-8}
SPREAD = 3.0
# TF32 keeps 10 bits of each factor: off by up to 2^-11 each, 2^-10 where a device cuts. That of the
# hidden values is bounded as above; that of x and w_in, over the terms of a dot product, comes to less than
# that of z itself. y is not rounded, but a device that cuts makes all of the four factors of y smaller.
_TF32 = 2.0**-10
# Below this relative pre-activation a float32 sum may fall on either side of the turn. Whatever the dtype:
# a turn is decided by the float32 sum of exact products, before any rounding to bfloat16.
_SUM_NEAR_TIE = 4 * _EPS
NEAR_TIE = {"float32": _SUM_NEAR_TIE, "bfloat16": _SUM_NEAR_TIE}
# TF32's dot products are off by their factors: over d terms by 0.6 / sqrt(d) of 2^-10 of the magnitudes.
_TF32_NEAR_TIE = _TF32 / 4
MAX_LEFT_OUT = 0.1  # share of near-tie tokens above which nothing would be proved

# Quiet NaNs that no arithmetic on our data makes: the default NaN is 0x7FC00000, in bfloat16 0x7FC0.
_POISON_BITS: dict[int, np.uint32 | np.uint16] = {
    4: np.uint32(0x7FC0DEAD),
    2: np.uint16(0x7FED),
}
_ORACLE_FLOPS = 3e9  # float64 work that a check may cost: a second or less
_MIN_TOKENS, MAX_TOKENS = 16, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """State whether an output is right, and how it was judged.

    worst: the largest error as a share of its tolerance. near_ties: checked tokens left out because more of
    their turns are within rounding of a tie than can be followed. unwritten: elements that still hold the
    poison. tokens: compared element by element; every other one by a projection (projection.py), where the
    problem allows it.
    """

    ok: bool
    reason: str
    worst: float
    tokens: int
    near_ties: int
    unwritten: int


def near_tie(problem: Problem) -> float:
    """Return the relative pre-activation below which a turn may be taken either way."""
    return _TF32_NEAR_TIE if problem.math == "tf32" else NEAR_TIE[problem.dtype]


def _rounded(problem: Problem) -> tuple[float, float]:
    """Return what the elements of y, and what hidden values, may be rounded to, relative to themselves."""
    if problem.math == "tf32":
        return 2 * _TF32, _TF32
    unit = ROUNDED[problem.dtype]
    return unit, 0.0 if problem.layer == "ceiling" else unit  # a bare product hides nothing


def poison(y: Array) -> None:
    """Fill an output with a NaN of known bits, so that an element that is not written shows."""
    bits = _POISON_BITS[y.itemsize]
    y.view(bits.dtype).fill(bits)


def count_unwritten(y: Array) -> int:
    """Return the elements of an output that still hold the poison."""
    bits = _POISON_BITS[y.itemsize]
    return int(np.count_nonzero(y.view(bits.dtype) == bits))


def choose_tokens(problem: Problem, seed: int, most: int = MAX_TOKENS) -> Array:
    """Return the sorted tokens that a check compares: all, or the first, the last and a random subset.

    The subset holds 16 to `most` (512) tokens, as many as a second of float64 work allows.
    """
    per_token = 5 * problem.flops() / problem.batch  # the output and its error scales
    count = int(np.clip(_ORACLE_FLOPS / per_token, _MIN_TOKENS, most))
    if count >= problem.batch:
        return np.arange(problem.batch)
    rng = np.random.default_rng([seed, problem.batch])
    inner = rng.choice(np.arange(1, problem.batch - 1), size=count - 2, replace=False)
    return np.sort(np.concatenate([[0, problem.batch - 1], inner]))


def find_truth(
    problem: Problem, operands: Operands, tokens: Array, implementation: str = "ceiling_sgemm"
) -> oracle.Truth:
    """Return the oracle's answer for the chosen tokens; the implementation tells one ceiling from another."""
    if problem.layer == "ceiling":
        return ceilings.find_truth(implementation, problem, operands, tokens)
    x = operands.x[tokens]
    if problem.layer == "ff":
        return oracle.ff_oracle(x, operands.w_in, operands.w_out)
    threshold = near_tie(problem)
    find: Callable[..., list[oracle.Branch]] = oracle.find_branches
    own: dict[str, Any] = dict(zip(problem.weights(), operands.weights(), strict=True))
    if problem.layer == "hash":
        return experts.hash_oracle(x, **own, depth=problem.depth)
    if problem.layer in EXPERTS:
        own |= {"layer": problem.layer, "active": problem.active}
        truth, find = experts.experts_oracle(x, **own), experts.experts_branches
    elif problem.layer == "leaf":
        own |= {"depth": problem.depth, "activation": problem.activation}
        truth, find = leaf.leaf_oracle(x, **own), leaf.leaf_branches
    else:
        own["depth"] = problem.depth
        truth = oracle.fff_oracle(x, **own)
    branches = {
        int(row): find(x[row], **own, near_tie=threshold)
        for row in np.flatnonzero(truth.margin < threshold)
    }
    return replace(truth, branches={row: found for row, found in branches.items() if found})


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Hold what outputs of one problem are compared with.

    tokens: whose rows are compared element by element, with truth. projection: of all tokens, None where the
    problem allows none.
    """

    tokens: Array
    truth: oracle.Truth
    projection: Projection | None


def expect(
    problem: Problem,
    operands: Operands,
    *,
    seed: int = 0,
    implementation: str = "ceiling_sgemm",
    most: int = MAX_TOKENS,
    projected: bool = True,
) -> Expected:
    """Return what an output must be. To be asked before the first pass: a pass may spoil its operands.

    seed: draws the tokens that are compared, and the direction of the projection. projected: whether all
    other tokens are to be looked at too.
    """
    with np.errstate(all="ignore"):
        tokens = choose_tokens(problem, seed, most)
        truth = find_truth(problem, operands, tokens, implementation)
        left = projected and len(tokens) < problem.batch and problem.layer != "ceiling"
        return Expected(
            tokens=tokens,
            truth=truth,
            projection=project(problem, operands, seed) if left else None,
        )


def check(
    problem: Problem,
    operands: Operands,
    *,
    seed: int = 0,
    implementation: str = "ceiling_sgemm",
    most: int = MAX_TOKENS,
) -> Verdict:
    """Compare ``operands.y``, poisoned before the pass, with the oracle. A pass that is not trusted with its
    operands is judged by what `expect` returned before it.

    Every element of y must have been written. The rows of the chosen tokens must be finite where the truth
    is, and lie within the tolerance; those of all others must agree in their projection, and are compared
    as well where they don't. A token with near-tied turns may have taken each of them either way; one with
    more of them than can be followed is left out, and more than MAX_LEFT_OUT of these is a failure, since
    too little would be proved.
    """
    expected = expect(problem, operands, seed=seed, implementation=implementation, most=most)
    return judge(problem, operands, expected)


def judge(problem: Problem, operands: Operands, expected: Expected) -> Verdict:
    """Compare ``operands.y`` with what was expected of it; the operands serve tokens that look wrong."""
    y, unwritten = operands.y, count_unwritten(operands.y)
    with np.errstate(all="ignore"):
        verdict = compare(y[expected.tokens], expected.truth, problem, unwritten=unwritten)
        if not verdict.ok or expected.projection is None:
            return verdict
        suspects = find_suspects(y, expected.projection)
        if not len(suspects):
            return verdict
        drawn = suspects[:: max(1, len(suspects) // _MIN_TOKENS)][:MAX_TOKENS]
        found = compare(y[drawn], find_truth(problem, operands, drawn), problem)
    if found.ok:
        return verdict
    reason = (
        f"{len(suspects)} of {len(y)} tokens are not what a projection of the oracle says, such as token "
        f"{drawn[0]}: {found.reason}"
    )
    return replace(verdict, ok=False, reason=reason, worst=max(verdict.worst, found.worst))


def _allowed(
    problem: Problem, want: Array, scale: Array, rounding: Array, deviation: Array | None
) -> Array:
    """Return what each element of an output may be off by."""
    allowed = TOLERANCE[problem.dtype] * scale
    if deviation is not None:
        terms = max(problem.d_in, problem.used_neurons) + (problem.layer == "leaf")  # and a bias
        independent = (_TERMS * math.sqrt(terms) + _GELU) * _EPS * (deviation + np.abs(want))
        if problem.layer == "ceiling" and (problem.math, problem.dtype) != ("ieee", "float32"):
            independent = independent + problem.hidden / _CUT_TERMS * _EPS * deviation
            allowed = np.maximum(allowed, independent)
        allowed = np.minimum(allowed, independent)
    own, hidden = _rounded(problem)
    if own or hidden:
        allowed = allowed + own * np.abs(want) + SPREAD * hidden * rounding
    # Subnormal results may round to zero.
    return np.asarray(allowed + float(np.finfo(np.float32).tiny))


def _errors(got: Array, want: Array, allowed: Array) -> tuple[Array, Array]:
    """Return each element's error as a share of what is allowed, and where one is finite and one is not."""
    finite, error = np.isfinite(want), np.zeros_like(want)
    np.divide(np.abs(got - want), allowed, out=error, where=finite & np.isfinite(got))
    return error, np.isfinite(got) != finite


def compare(y: Array, truth: oracle.Truth, problem: Problem, *, unwritten: int = 0) -> Verdict:
    """Compare an output ``(tokens, d_out)`` with the truth for the same tokens."""
    got = y.astype(np.float64)
    allowed = _allowed(problem, truth.y, truth.scale, truth.rounding, truth.deviation)
    error, misplaced = _errors(got, truth.y, allowed)
    for row, branches in truth.branches.items():
        tries = [
            _errors(got[row], b.y, _allowed(problem, b.y, b.scale, b.rounding, b.deviation))
            for b in branches
        ]
        error[row], misplaced[row] = min(tries, key=lambda t: (t[1].any(), t[0].max(initial=0.0)))
    left_out = truth.margin < near_tie(problem)
    left_out[list(truth.branches)] = False
    error[left_out], misplaced[left_out] = 0.0, False
    near_ties, compared = int(left_out.sum()), int((~left_out).sum())
    worst = float(error.max(initial=0.0))

    reason = ""
    if unwritten:
        reason = f"{unwritten} of {problem.batch * problem.d_out} output elements were not written"
    elif misplaced.any():
        reason = (
            f"{int(misplaced.sum())} elements are not finite where the oracle is, or finite where it "
            "is not"
        )
    elif worst > 1:
        row = int(np.argmax(error.max(axis=1, initial=0.0)))
        reason = (
            f"the largest error is {worst:.3g} times the tolerance "
            f"({int((error > 1).any(axis=1).sum())} of {compared} checked tokens differ; the worst is {row})"
        )
    elif near_ties > max(1, MAX_LEFT_OUT * len(y)) or (near_ties and not compared):
        reason = f"{near_ties} of {len(y)} checked tokens hang on a near-tie: nothing is proved"
    return Verdict(
        ok=not reason, reason=reason, worst=worst, tokens=len(y), near_ties=near_ties,
        unwritten=unwritten,
    )  # fmt: skip
