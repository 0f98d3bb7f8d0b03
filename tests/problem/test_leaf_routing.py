"""Prove that a chosen routing leads every token of a leaf FFF to its leaf, through nodes with biases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.problem import recipes
from harness.problem.check import NEAR_TIE
from harness.problem.leaf import leaf_oracle
from harness.problem.operands import make_leaves, make_operands, make_weights, make_x
from harness.problem.oracle import Truth
from harness.problem.problem import DTYPES, Array, Problem
from harness.problem.working_set import count_nodes

BASE = Problem(layer="leaf", batch=200, d_in=40, d_out=24, hidden=3, depth=5, trees=1, seed=3)


def truth_of(problem: Problem, turn: int = 0) -> Truth:
    """Return the oracle's answer to a problem's input under one of its sets of weights."""
    weights = dict(zip(problem.weights(), make_weights(problem, turn), strict=True))
    return leaf_oracle(make_x(problem), **weights, depth=problem.depth)


def leaves_of(problem: Problem, turn: int = 0) -> Array:
    """Return the leaf that the oracle found each token in, (batch, 1)."""
    return truth_of(problem, turn).nodes[:, :, -1] - (problem.n_leaves - 1)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Return a trace of 200 tokens to 32 leaves, every leaf in it."""
    leaves = np.random.default_rng(0).integers(32, size=200)
    leaves[:32] = np.arange(32)
    path = tmp_path / "trace.npy"
    np.save(path, leaves)
    return path


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("routing", ["zipf", "single"])
def test_every_token_reaches_its_leaf(routing: str, dtype: str) -> None:
    """The float64 oracle finds every token in the leaf that was drawn for it, in either dtype."""
    problem = replace(BASE, routing=routing, dtype=dtype)
    assert (leaves_of(problem) == make_leaves(problem)).all()


def test_a_trace_is_followed(trace: Path) -> None:
    """The float64 oracle finds every token in the leaf that the trace names."""
    found = leaves_of(replace(BASE, routing=f"trace:{trace}"))
    assert (found[:, 0] == np.load(trace)).all()


@settings(max_examples=25, deadline=None)
@given(
    depth=st.integers(0, 8), seed=st.integers(0, 99), routing=st.sampled_from(["zipf", "single"])
)
def test_margins_are_far_from_ties(depth: int, seed: int, routing: str) -> None:
    """At the least width that is accepted every turn, with its bias, is ten roundings from a tie."""
    problem = Problem(
        layer="leaf", batch=33, d_in=depth + recipes.SPARE, d_out=3, hidden=2, depth=depth, trees=1,
        seed=seed, routing=routing,
    )  # fmt: skip
    assert (leaves_of(problem) == make_leaves(problem)).all()
    assert truth_of(problem).margin.min() > 10 * NEAR_TIE["float32"]


def test_single_touches_one_leaf() -> None:
    """Under `single` all tokens take one way to one leaf, and zipf touches more than that."""
    touched = {
        name: count_nodes(replace(BASE, routing=name), make_operands(replace(BASE, routing=name)))
        for name in ("single", "zipf")
    }
    assert touched["single"].nodes == BASE.depth + 1
    assert set(touched["single"].entropy_bits) == {0.0}
    assert touched["zipf"].nodes > BASE.depth + 1


def test_other_layers_get_the_same_input(trace: Path) -> None:
    """An FF that names the leaf FFF, and one of wider leaves, get its x, bit for bit; an FFF does not."""
    ff: dict[str, Any] = {"layer": "ff", "batch": 200, "d_in": 40, "d_out": 24, "hidden": 50}
    for name in ("zipf", "single", f"trace:{trace}"):
        own = replace(BASE, routing=name)
        beside = Problem(
            **ff, seed=3, routing=name, routed_layer="leaf", routed_trees=1, routed_depth=5
        )
        wider = replace(own, hidden=17, activation="relu")
        for problem in (beside, wider):
            assert problem.input_key() == own.input_key()
            assert make_x(problem).tobytes() == make_x(own).tobytes()
        fff = Problem(
            layer="fff", batch=200, d_in=40, d_out=24, depth=5, trees=1, seed=3, routing=name
        )
        assert fff.input_key() != own.input_key()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("routing", ["uniform", "zipf"])
def test_further_weights_differ_and_route_alike(routing: str, dtype: str) -> None:
    """Every set of weights has other values; where leaves are chosen each set leads to the same."""
    problem = replace(BASE, routing=routing, dtype=dtype)
    first = make_weights(problem)
    for turn in (1, 2):
        for one, other in zip(make_weights(problem, turn), first, strict=True):
            assert (one != other).mean() > 0.9
        alike = (leaves_of(problem, turn) == leaves_of(problem)).all()
        assert alike == (routing == "zipf")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"routing": "trained"}, "a leaf FFF takes trace:FILE"),
        ({"routing": "zipf", "d_in": 8}, "needs d_in of at least 9, got 8"),
        ({"routing": "zipf", "routed_trees": 1}, "belong to a layer beside an FFF"),
        ({"routed_layer": "moe"}, "routed_layer must be one of"),
        ({"routing": "zipf", "rows": "same"}, "rows same sends every token along one path"),
    ],
)
def test_refusals(change: dict[str, Any], text: str) -> None:
    """What can't be had is refused with what is needed, in one line."""
    with pytest.raises(ValueError, match=text) as told:
        replace(BASE, **change)
    assert "\n" not in str(told.value)
