"""The gate's verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.problem import check
from harness.problem.operands import Operands, make_operands
from harness.problem.oracle import Truth, find_branches, gelu
from harness.problem.problem import Array, Problem


def _right(problem: Problem) -> Operands:
    """Return operands whose y is the truth, rounded to float32."""
    o = make_operands(problem)
    o.y[...] = check.find_truth(problem, o, np.arange(problem.batch)).y
    return o


def _truth(batch: int, d_out: int, margin: float = np.inf) -> Truth:
    return Truth(
        y=np.ones((batch, d_out)), scale=np.ones((batch, d_out)),
        rounding=np.ones((batch, d_out)), margin=np.full(batch, margin),
        nodes=np.zeros((batch, 0, 0), np.int64),
    )  # fmt: skip


def test_right_output_passes(small_ff: Problem, small_fff: Problem) -> None:
    """The rounded truth passes, far inside the tolerance."""
    for problem in (small_ff, small_fff):
        verdict = check.check(problem, _right(problem))
        assert verdict.ok
        assert verdict.reason == ""
        assert verdict.tokens == problem.batch
        assert verdict.unwritten == 0
        assert verdict.worst < 0.5


@pytest.mark.parametrize("where", [(0, 0), (2, 3), (4, 6)])
def test_one_wrong_element_fails(small_ff: Problem, where: tuple[int, int]) -> None:
    """One element off by a thousandth is wrong, and the reason names its token."""
    o = _right(small_ff)
    o.y[where] += 1e-3
    verdict = check.check(small_ff, o)
    assert not verdict.ok
    assert verdict.worst > 1
    assert f"1 of 5 checked tokens differ; the worst is {where[0]}" in verdict.reason


def test_unwritten_elements_are_counted(small_ff: Problem) -> None:
    """Elements that still hold the poison are counted, wherever they are."""
    o = _right(small_ff)
    kept = o.y.copy()
    check.poison(o.y)
    assert np.isnan(o.y).all()
    o.y[:4] = kept[:4]
    verdict = check.check(small_ff, o)
    assert not verdict.ok
    assert verdict.unwritten == 7
    assert verdict.reason == "7 of 35 output elements were not written"


def test_unwritten_outside_of_the_chosen_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """An element that was not written is seen although its token is not among those compared."""
    monkeypatch.setattr(check, "_ORACLE_FLOPS", 1.0)
    problem = Problem(layer="ff", batch=300, d_in=4, d_out=3, hidden=5)
    o = _right(problem)
    tokens = check.choose_tokens(problem, 0)
    left = int(np.setdiff1d(np.arange(300), tokens)[0])
    check.poison(o.y[left : left + 1])
    verdict = check.check(problem, o)
    assert not verdict.ok
    assert verdict.unwritten == 3
    assert verdict.tokens == len(tokens) == 16


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_where_the_truth_is(small_ff: Problem, value: float) -> None:
    """A NaN or infinity where the oracle is finite fails."""
    o = _right(small_ff)
    o.y[1, 1] = value
    verdict = check.check(small_ff, o)
    assert not verdict.ok
    assert verdict.reason.startswith("1 elements are not finite")


def test_finite_where_the_truth_is_not(small_ff: Problem) -> None:
    """A finite figure where the oracle has a NaN fails as well."""
    o = _right(small_ff)
    o.x[2, 0] = np.nan
    assert not check.check(small_ff, o).ok
    o.y[2] = np.nan
    assert check.check(small_ff, o).ok


def test_tolerance_is_the_table(small_ff: Problem) -> None:
    """An error just inside the tolerance passes, one just outside fails."""
    allowed = check.TOLERANCE["float32"]
    for factor, ok in ((0.9, True), (1.1, False)):
        y = np.ones((5, 7)) + factor * allowed
        assert check.compare(y, _truth(5, 7), small_ff).ok is ok


def test_near_ties_are_left_out_and_bounded(small_fff: Problem) -> None:
    """Tokens on a near-tie are not compared; more than a tenth of them proves nothing and fails."""
    problem = replace(small_fff, batch=100)
    for ties, ok in ((0, True), (10, True), (11, False), (100, False)):
        truth = _truth(100, 7)
        truth.margin[:ties] = check.NEAR_TIE["float32"] / 2
        y = np.ones((100, 7), np.float32)
        y[:ties] = 5.0
        verdict = check.compare(y, truth, problem)
        assert verdict.ok is ok
        assert verdict.near_ties == ties
    assert "nothing is proved" in verdict.reason


def test_one_near_tie_in_a_small_batch_passes(small_fff: Problem) -> None:
    """In a batch of few tokens one near-tie does not fail the whole."""
    truth = _truth(5, 7)
    truth.margin[0] = 0.0
    assert check.compare(np.ones((5, 7), np.float32), truth, small_fff).ok


def test_chosen_tokens() -> None:
    """A subset holds the first and last token, is sorted, unique, seeded and within its bounds."""
    paper = Problem(layer="ff", batch=16384, d_in=768, d_out=768, hidden=4095)
    chosen = check.choose_tokens(paper, 1)
    assert 16 <= len(chosen) <= 512
    assert (np.diff(chosen) > 0).all()
    assert (chosen[0], chosen[-1]) == (0, 16383)
    np.testing.assert_array_equal(chosen, check.choose_tokens(paper, 1))
    assert not np.array_equal(chosen, check.choose_tokens(paper, 2))
    small = replace(paper, batch=7)
    assert check.choose_tokens(small, 0).tolist() == list(range(7))


@pytest.mark.parametrize("batch", [16, 17, 18, 19])
def test_chosen_tokens_at_the_edge(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """A batch around the smallest subset is chosen from without repeats."""
    monkeypatch.setattr(check, "_ORACLE_FLOPS", 1.0)
    problem = Problem(layer="ff", batch=batch, d_in=1, d_out=1, hidden=1)
    assert len(set(check.choose_tokens(problem, 0).tolist())) == 16


def test_subnormal_results_may_round_to_zero(small_ff: Problem) -> None:
    """A truth below float32's smallest normal number may come out as 0."""
    truth = _truth(5, 7)
    truth = replace(truth, y=truth.y * 1e-40, scale=truth.scale * 1e-40)
    assert check.compare(np.zeros((5, 7), np.float32), truth, small_ff).ok


# ---- near-ties ------------------------------------------------------------------------------------


def _tied(batch: int = 1) -> tuple[Problem, Operands]:
    """Return an FFF whose first token is within rounding of a tie at the root, y the truth by float64."""
    problem = Problem(layer="fff", batch=batch, d_in=64, d_out=9, depth=3, trees=1, seed=4)
    o = make_operands(problem)
    x = o.x[0].astype(np.float64)
    w = o.w_in[0, 0].astype(np.float64)
    w -= (x @ w) / (x @ x) * x
    o.w_in[0, 0] = w
    truth = check.find_truth(problem, o, np.arange(batch))
    assert truth.margin[0] < check.NEAR_TIE["float32"]
    o.y[...] = truth.y
    return problem, o


@pytest.mark.parametrize("way", [0, 1])
def test_a_near_tie_is_compared_along_either_way(way: int) -> None:
    """A lone token on a near-tie is right by either turn, and is compared along both: anything else fails."""
    problem, o = _tied()
    z = float(o.x[0].astype(np.float64) @ o.w_in[0, 0].astype(np.float64))
    branches = find_branches(o.x[0], o.w_in, o.w_out, problem.depth, check.NEAR_TIE["float32"])
    assert len(branches) >= 2
    o.y[0] = branches[way].y
    verdict = check.check(problem, o)
    assert verdict.ok, verdict.reason
    assert verdict.near_ties == 0
    o.y[0] = 12345.0
    assert not check.check(problem, o).ok
    o.y[0] = (branches[0].y + branches[1].y) / 2
    assert not check.check(problem, o).ok
    assert abs(z) < 1e-4


def test_nothing_compared_is_nothing_proved(small_fff: Problem) -> None:
    """Where every token is left out the verdict is not `ok`, however few there are."""
    truth = _truth(1, 7, margin=0.0)
    verdict = check.compare(np.full((1, 7), 9.0, np.float32), truth, replace(small_fff, batch=1))
    assert not verdict.ok
    assert "nothing is proved" in verdict.reason


@pytest.mark.parametrize(("trees", "depth"), [(1, 11), (2, 10), (4, 9), (8, 8), (32, 6)])
def test_tf32_near_ties_are_followed(trees: int, depth: int) -> None:
    """A pass in TF32, which turns the other way at many a near-tie, is right at each shape of the family."""
    problem = Problem(
        layer="fff", batch=48, d_in=256, d_out=24, depth=depth, trees=trees, math="tf32", seed=2
    )
    o = make_operands(problem)

    def cut(array: Array) -> Array:
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32) + np.uint32(0x1000)
        return (bits & np.uint32(0xFFFFE000)).view(np.float32)

    x = cut(o.x)
    for k in range(trees):
        node = np.zeros(problem.batch, np.int64)
        for _ in range(depth + 1):
            z = np.einsum("bi,bi->b", x, cut(o.w_in[k, node]))
            o.y[...] += cut(gelu(z).astype(np.float32))[:, None] * cut(o.w_out[k, node])
            node = 2 * node + 1 + (z >= 0)
    verdict = check.check(problem, o)
    assert verdict.ok, verdict.reason
    assert not check.check(replace(problem, math="ieee"), o).ok


# ---- every token ----------------------------------------------------------------------------------


@pytest.fixture(params=["ff", "fff"])
def large(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Problem, Operands]:
    """Return a batch of which 16 tokens are compared element by element, y the truth."""
    monkeypatch.setattr(check, "_ORACLE_FLOPS", 1.0)
    shape = {"hidden": 60} if request.param == "ff" else {"depth": 4, "trees": 3}
    problem = Problem(layer=request.param, batch=1000, d_in=24, d_out=16, seed=5, **shape)
    return problem, _right(problem)


@pytest.mark.parametrize("seed", range(4))
def test_a_right_batch_has_no_suspects(large: tuple[Problem, Operands], seed: int) -> None:
    """The rounded truth passes the check of all tokens, whatever is drawn for it."""
    verdict = check.check(*large, seed=seed)
    assert verdict.ok, verdict.reason


def test_each_wrong_token_is_seen(large: tuple[Problem, Operands]) -> None:
    """One token of a thousand that holds another's row is seen, though it is not among those compared."""
    problem, o = large
    expected = check.expect(problem, o, seed=3)
    for token in np.setdiff1d(np.arange(1000), expected.tokens)[::40]:
        kept = o.y[token].copy()
        o.y[token] = o.y[token - 1]
        verdict = check.judge(problem, o, expected)
        assert not verdict.ok
        assert f"token {token}" in verdict.reason
        o.y[token] = kept


def test_rows_copied_beyond_the_drawn_tokens(large: tuple[Problem, Operands]) -> None:
    """A pass that computes the tokens of the last check alone, and copies a row into the others, is wrong."""
    problem, o = large
    tokens = check.choose_tokens(problem, 7)
    others = np.setdiff1d(np.arange(1000), tokens)
    o.y[others] = o.y[0]
    assert not check.check(problem, o, seed=7).ok


# ---- large shapes ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_products_of_rounded_factors_are_no_float32() -> None:
    """At 4096 x 16384, where the sum of magnitudes is thousands of times y, TF32 still does not pass as
    float32, and a plain float32 product does."""
    problem = Problem(layer="ff", batch=2, d_in=4096, d_out=8, hidden=16384, seed=1)
    o = make_operands(problem)

    def run(cut: bool) -> None:
        def rounded(array: Array) -> Array:
            mask = np.uint32(0xFFFFE000 if cut else 0xFFFFFFFF)
            bits = array.view(np.uint32) + np.uint32(0x1000 if cut else 0)
            return (bits & mask).view(np.float32)

        a = gelu(rounded(o.x) @ rounded(o.w_in).T).astype(np.float32)
        o.y[...] = rounded(a) @ rounded(o.w_out)

    run(cut=False)
    verdict = check.check(problem, o)
    assert verdict.ok, verdict.reason
    assert verdict.worst < 0.2
    run(cut=True)
    assert not check.check(problem, o).ok
