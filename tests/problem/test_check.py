"""The gate's verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.problem import check
from harness.problem.operands import Operands, make_operands
from harness.problem.oracle import Truth
from harness.problem.problem import Problem


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
