"""The truth of an FFF's gradients against finite differences, and the verdict on gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from harness.problem import check, gradients, oracle
from harness.problem.gradients import Gradients
from harness.problem.operands import make_operands
from harness.problem.problem import Array, Problem

PROBLEM = Problem(layer="fff", batch=7, d_in=5, d_out=4, depth=2, trees=2, seed=3)
NAMES = ("dx", "dw_in", "dw_out")


def _inputs(problem: Problem = PROBLEM) -> tuple[Array, Array, Array, Array]:
    o = make_operands(problem)
    x = gradients.without_near_ties(problem, o.x, o.w_in, o.w_out)
    dy = np.random.default_rng(2).standard_normal(o.y.shape).astype(np.float32)
    return x, o.w_in, o.w_out, dy


def _rounded(problem: Problem = PROBLEM) -> tuple[gradients.Truth, Gradients]:
    """Return the truth of a problem, and it in float32."""
    truth = gradients.fff_gradients(*_inputs(problem), problem.depth)
    found = {name: a.astype(np.float32) for name, a in truth.gradients.items()}
    return truth, Gradients(**found)


@pytest.mark.parametrize("which", [0, 1, 2], ids=NAMES)
def test_gradients_are_finite_differences(which: int) -> None:
    """Each element is the slope of <dy, y> along it."""
    *inputs, dy = (a.astype(np.float64) for a in _inputs())
    found = dict(gradients.fff_gradients(*inputs, dy, PROBLEM.depth).gradients.items())

    def loss() -> float:
        return float((dy * oracle.fff_oracle(*inputs, PROBLEM.depth).y).sum())

    moved, step = inputs[which].reshape(-1), 1e-6
    for i in range(moved.size):
        before = moved[i]
        moved[i] = before + step
        above = loss()
        moved[i] = before - step
        slope = (above - loss()) / (2 * step)
        moved[i] = before
        assert found[NAMES[which]].reshape(-1)[i] == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_slope_and_curve_are_the_gelus() -> None:
    """The first and second derivative of the GELU are its finite differences."""
    z, step = np.linspace(-6, 6, 1001), 1e-5
    for function, derivative in (
        (oracle.gelu, oracle.gelu_slope), (oracle.gelu_slope, oracle.gelu_curve),
    ):  # fmt: skip
        differences = (function(z + step) - function(z - step)) / (2 * step)
        np.testing.assert_allclose(derivative(z), differences, rtol=1e-7, atol=1e-9)


def test_rounded_gradients_are_right() -> None:
    """The truth rounded to float32 has no fault."""
    truth, found = _rounded()
    assert gradients.find_fault(found, truth) == ""


# ---- planted faults -----------------------------------------------------------------------------


def _without_a_token(inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    x, w_in, w_out, dy = inputs
    return x, w_in, w_out, np.where(np.arange(len(dy))[:, None] == 5, 0, dy)


def _with_anothers_x(inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    x, w_in, w_out, dy = inputs
    return np.concatenate([x[1:2], x[1:]]), w_in, w_out, dy


def _with_anothers_row(inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    x, w_in, w_out, dy = inputs
    swapped = w_out.copy()
    swapped[:, [1, 2]] = w_out[:, [2, 1]]
    return x, w_in, swapped, dy


@pytest.mark.parametrize("spoil", [_without_a_token, _with_anothers_x, _with_anothers_row])
def test_gradients_of_other_operands_are_found(
    spoil: Callable[[tuple[Array, ...]], tuple[Array, ...]],
) -> None:
    """A token that is missing, one that is another's, and rows of another node are wrong."""
    truth, _ = _rounded()
    other = gradients.fff_gradients(*spoil(_inputs()), PROBLEM.depth).gradients
    found = Gradients(**{name: a.astype(np.float32) for name, a in other.items()})
    assert "times the tolerance" in gradients.find_fault(found, truth)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1 + 1e-4, "times the tolerance"), (0.0, "times the tolerance"), (-1.0, "times the tolerance"),
        (np.nan, "not finite"), (np.inf, "not finite"),
    ],
)  # fmt: skip
def test_one_wrong_element_is_found(name: str, factor: float, said: str) -> None:
    """One element that is off, missing, of the other sign or not finite is a fault, named by its array."""
    truth, found = _rounded()
    array = getattr(found, name).reshape(-1)
    at = int(np.argmax(np.abs(array)))
    array[at] *= factor
    assert gradients.find_fault(found, truth).startswith(f"{name}: ")
    assert said in gradients.find_fault(found, truth)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_written_is_found(name: str) -> None:
    """An element that still holds the poison is a fault."""
    truth, found = _rounded()
    array = getattr(found, name).reshape(-1)
    check.poison(array[-1:])
    assert gradients.find_fault(found, truth) == (
        f"{name}: 1 of {array.size} elements were not written"
    )


def test_the_tanh_form_is_found() -> None:
    """Gradients of the tanh form of the GELU are wrong."""
    x, w_in, w_out, dy = _inputs()
    truth, found = _rounded()
    z = x[0].astype(np.float64) @ w_in[0, 0].astype(np.float64)
    inner = np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)
    a = z * 0.5 * (1 + np.tanh(inner))
    others = [b for b in range(1, len(x))]
    rest = gradients.fff_gradients(x[others], w_in, w_out, dy[others], PROBLEM.depth).gradients
    found.dw_out[0, 0] = rest.dw_out[0, 0] + a * dy[0]
    assert gradients.find_fault(found, truth).startswith("dw_out: the largest error")


# ---- near-ties ----------------------------------------------------------------------------------


def test_near_ties_are_replaced() -> None:
    """A token that hangs on a near-tie becomes another that does not; the others stay."""
    problem = replace(PROBLEM, batch=30)
    o = make_operands(problem)
    o.x[7] = o.x[7] - o.w_in[0, 0] * (o.x[7] @ o.w_in[0, 0]) / (o.w_in[0, 0] @ o.w_in[0, 0])
    kept = gradients.without_near_ties(problem, o.x, o.w_in, o.w_out)
    assert np.array_equal(np.delete(kept, 7, 0), np.delete(o.x, 7, 0))
    assert np.array_equal(kept[7], o.x[0])


def test_too_many_near_ties_are_refused() -> None:
    """Where most tokens hang on a near-tie nothing could be compared."""
    o = make_operands(PROBLEM)
    o.w_in[0, 0] = 1e-3
    o.x[:] = np.array([1, -1, 1, -1, 1e-9], np.float32)
    with pytest.raises(ValueError, match="7 of 7 tokens hang on a near-tie"):
        gradients.without_near_ties(PROBLEM, o.x, o.w_in, o.w_out)


def test_an_ff_is_trees_of_one_neuron() -> None:
    """The gradients and scales of an FF are those of as many trees of depth 0."""
    rng = np.random.default_rng(5)
    x, w_in, w_out, dy = (
        rng.standard_normal(s).astype(np.float32) for s in ((6, 5), (8, 5), (8, 4), (6, 4))
    )
    dense = gradients.ff_gradients(x, w_in, w_out, dy)
    trees = gradients.fff_gradients(x, w_in[:, None], w_out[:, None], dy, 0)
    for mine, exact in ((dense.gradients, trees.gradients), (dense.scale, trees.scale)):
        for (name, got), (_, want) in zip(mine.items(), exact.items(), strict=True):
            np.testing.assert_allclose(got, want.reshape(got.shape), rtol=1e-12, err_msg=name)


def test_the_path_that_was_taken_is_followed() -> None:
    """A token on a tie is judged along the path whose dx came; without a tie the path is the oracle's."""
    x, w_in, w_out, dy = _inputs()
    # The root's row of the first tree is orthogonal to the first token: that turn may be taken either way.
    w_in = w_in.copy()
    w_in[0, 0] = [x[0, 1], -x[0, 0], 0.0, 0.0, 0.0]
    right = oracle.fff_oracle(x, w_in, w_out, PROBLEM.depth).nodes
    left = right.copy()
    w_other = w_in.copy()
    w_other[0, 0] = -x[0]  # now it turns left
    left[0] = oracle.fff_oracle(x, w_other, w_out, PROBLEM.depth).nodes[0]
    assert (left[0] != right[0]).any()
    for nodes in (right, left):
        truth = gradients.fff_gradients(x, w_in, w_out, dy, PROBLEM.depth, nodes)
        dx = truth.gradients.dx.astype(np.float32)
        found = gradients.follow_paths(PROBLEM, x, w_in, w_out, dy, dx)
        np.testing.assert_array_equal(found[0], nodes[0])
