"""Prove that the input's recipes have the properties that their names claim."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.problem import oracle, recipes, routing
from harness.problem.check import NEAR_TIE, check, poison
from harness.problem.operands import Operands, make_leaves, make_operands, make_weights, make_x
from harness.problem.problem import Array, Problem

BASE = Problem(layer="fff", batch=200, d_in=40, d_out=24, depth=5, trees=2, seed=3)
NEAR = NEAR_TIE["float32"]


def truth_of(problem: Problem) -> tuple[Operands, oracle.Truth]:
    """Return a problem's operands and the oracle's answer to them."""
    operands = make_operands(problem)
    truth = oracle.fff_oracle(operands.x, operands.w_in, operands.w_out, problem.depth)
    return operands, truth


def leaves_of(truth: oracle.Truth, depth: int) -> Array:
    """Return the leaves (batch, trees) that the oracle reached, numbered from the left."""
    return np.asarray(truth.nodes[:, :, -1] - (2**depth - 1))


def entropy(values: Array) -> float:
    """Return the entropy of some integers in bits."""
    share = np.unique(values, return_counts=True)[1] / values.size
    return float(-(share * np.log2(share)).sum())


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Return a trace of 200 tokens through two trees of depth 5, every leaf in it."""
    leaves = np.random.default_rng(0).integers(32, size=(200, 2))
    leaves[:32] = np.arange(32)[:, None]
    path = tmp_path / "trace.npy"
    np.save(path, leaves)
    return path


def test_single_touches_one_path_with_distinct_rows() -> None:
    """Under `single` all tokens take one path of depth + 1 nodes a tree, though no two rows are equal."""
    operands, truth = truth_of(replace(BASE, routing="single"))
    assert (truth.nodes == truth.nodes[0]).all()
    assert np.unique(truth.nodes[:, 0]).size == BASE.depth + 1
    assert len(np.unique(operands.x, axis=0)) == BASE.batch


def test_zipf_is_less_even_than_uniform() -> None:
    """The leaves of zipf have less entropy than those of uniform, and more than those of single."""
    one = replace(BASE, trees=1, batch=1000)
    uniform, zipf = (
        entropy(leaves_of(truth_of(replace(one, routing=r))[1], 5)) for r in ("uniform", "zipf")
    )
    assert 2.0 < zipf < uniform - 0.3


def test_zipf_follows_its_law() -> None:
    """The shares of zipf's leaves, ordered by rank, are 1/r over their sum within four standard errors."""
    rng = np.random.default_rng(5)
    leaves = routing.choose_leaves("zipf", batch=200_000, trees=1, depth=4, rng=rng)
    share = np.sort(np.bincount(leaves[:, 0], minlength=16))[::-1] / len(leaves)
    expected = 1 / np.arange(1, 17) / (1 / np.arange(1, 17)).sum()
    error = np.sqrt(expected * (1 - expected) / len(leaves))
    assert (np.abs(share - expected) < 4 * error + 1e-3).all()


def test_trace_is_followed_by_every_token(trace: Path) -> None:
    """The float64 oracle finds every token in the leaf that the trace names, in every tree."""
    _, truth = truth_of(replace(BASE, routing=f"trace:{trace}"))
    assert (leaves_of(truth, BASE.depth) == np.load(trace)).all()


@pytest.mark.parametrize("routing", ["zipf", "single"])
def test_every_token_reaches_its_leaf(routing: str) -> None:
    """The float64 oracle finds every token in the leaf that was drawn for it."""
    problem = replace(BASE, routing=routing)
    _, truth = truth_of(problem)
    assert (leaves_of(truth, BASE.depth) == make_leaves(problem)).all()


@settings(max_examples=25, deadline=None)
@given(
    depth=st.integers(0, 8), trees=st.integers(1, 3), seed=st.integers(0, 99),
    routing=st.sampled_from(["zipf", "single"]),
)  # fmt: skip
def test_margins_are_far_from_ties(depth: int, trees: int, seed: int, routing: str) -> None:
    """At the least width that is accepted every chosen turn is still ten roundings from a tie."""
    problem = Problem(
        layer="fff", batch=33, d_in=depth * trees + recipes.SPARE, d_out=3, depth=depth,
        trees=trees, seed=seed, routing=routing,
    )  # fmt: skip
    _, truth = truth_of(problem)
    assert (leaves_of(truth, depth) == make_leaves(problem)).all()
    assert truth.margin.min() > 10 * NEAR


@pytest.mark.parametrize("routing", ["zipf", "single"])
def test_steered_rows_stay_normal(routing: str) -> None:
    """Steered rows keep the mean and the spread of standard normals within a few per cent."""
    x = make_x(
        Problem(layer="fff", batch=500, d_in=256, d_out=3, depth=9, trees=1, routing=routing)
    )
    assert abs(float(x.mean())) < 0.02
    assert abs(float(x.std()) - 1) < 0.02


def test_ff_gets_the_same_input(trace: Path) -> None:
    """An FF that names the FFF gets that FFF's x, bit for bit."""
    for name in ("zipf", "single", f"trace:{trace}"):
        fff = replace(BASE, routing=name)
        ff = Problem(
            layer="ff", batch=200, d_in=40, d_out=24, hidden=50, seed=3, routing=name,
            routed_trees=2, routed_depth=5,
        )  # fmt: skip
        assert fff.input_key() == ff.input_key()
        assert make_x(ff).tobytes() == make_x(fff).tobytes()


CHANGES: list[dict[str, Any]] = [
    {"data": "zeros"}, {"rows": "same"}, {"routing": "zipf"}, {"routing": "single"},
    {"rows": "same", "routing": "single"},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_same_seed_same_bytes(change: dict[str, Any]) -> None:
    """The same problem gives the same bytes; another seed gives others, unless all are 0."""
    first, again, other = (make_operands(replace(BASE, seed=seed, **change)) for seed in (3, 3, 4))
    for name in ("x", "w_in", "w_out"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
    assert (first.x.tobytes() == other.x.tobytes()) == ("data" in change)


def test_default_recipes_leave_the_input_as_it_was() -> None:
    """Uniform, distinct, random x is the plain stream of standard normals."""
    drawn = np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([3, *b"x"]))
    ).standard_normal((BASE.batch, BASE.d_in), dtype=np.float32)
    assert make_x(BASE).tobytes() == drawn.tobytes()


def test_rows_same() -> None:
    """`same` repeats one row, which is the first of the distinct ones."""
    x = make_x(replace(BASE, rows="same"))
    assert (x == x[0]).all()
    assert (x[0] == make_x(BASE)[0]).all()


@pytest.mark.parametrize("layer", ["ff", "fff"])
def test_zeros(layer: str) -> None:
    """`zeros`: x and both weights are 0, tokens turn right, and only an output of 0 passes the gate."""
    extents = {"hidden": 9} if layer == "ff" else {"depth": 3, "trees": 2}
    problem = Problem(layer=layer, batch=6, d_in=5, d_out=4, data="zeros", **extents)  # type: ignore[arg-type]
    operands = make_operands(problem)
    assert not operands.x.any()
    assert not operands.w_in.any()
    assert not operands.w_out.any()
    poison(operands.y)
    assert not check(problem, operands).ok
    operands.y.fill(0)
    assert check(problem, operands).ok
    operands.y[3, 2] = 1e-30
    assert not check(problem, operands).ok
    if layer == "fff":
        truth = oracle.fff_oracle(operands.x, operands.w_in, operands.w_out, 3)
        assert truth.nodes[0, 0].tolist() == [0, 2, 6, 14]


def test_exact_cancellation_is_still_a_near_tie() -> None:
    """Only products that are all 0 are certain: 1 - 1 is a near-tie, since rounding could turn it."""
    x = np.array([[1, 1], [0, 0]], np.float32)
    w_in = np.array([[[1, -1], [1, 0], [0, 1]]], np.float32)
    truth = oracle.fff_oracle(x, w_in, w_in, 1)
    assert truth.margin.tolist() == [0.0, np.inf]


@pytest.mark.parametrize("routing", ["uniform", "zipf"])
def test_further_weights_differ_and_route_alike(routing: str) -> None:
    """Every set of weights has other values; where paths are chosen each set leads along the same."""
    problem = replace(BASE, routing=routing)
    x = make_x(problem)
    sets = [make_weights(problem, turn) for turn in range(3)]
    nodes = [oracle.fff_oracle(x, w_in, w_out, problem.depth).nodes for w_in, w_out in sets]
    for i, (w_in, w_out) in enumerate(sets[1:], start=1):
        assert (w_in != sets[0][0]).mean() > 0.9
        assert (w_out != sets[0][1]).mean() > 0.9
        assert (nodes[i] == nodes[0]).all() == (routing == "zipf")


def test_paths() -> None:
    """Leaf 5 of depth 3 is reached by turning right, left, right."""
    nodes, right = routing.path_of(np.array([5]), 3)
    assert nodes.tolist() == [[0, 2, 5]]
    assert right.tolist() == [[True, False, True]]


def test_shorter_batch_is_the_head() -> None:
    """A smaller batch's tokens go to the leaves of the larger one's first tokens."""
    long, short = (make_leaves(replace(BASE, routing="zipf", batch=b)) for b in (200, 50))
    assert (long[:50] == short).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"data": "ones"}, "data must be one of"),
        ({"rows": "other"}, "rows must be one of"),
        ({"routing": "skewed"}, "routing must be one of"),
        ({"routing": "trace:"}, "routing must be one of"),
        ({"data": "zeros", "rows": "same"}, "data zeros has one row"),
        ({"rows": "same", "routing": "zipf"}, "rows same sends every token"),
        ({"routing": "zipf", "d_in": 13}, "needs d_in of at least 14, got 13"),
        ({"routed_trees": 1}, "belong to a layer beside an FFF"),
    ],
)
def test_refusals(change: dict[str, Any], text: str) -> None:
    """A recipe that is unknown, contradicts another or can't be had is refused with what is needed."""
    with pytest.raises(ValueError, match=text):
        replace(BASE, **change)


def test_dependent_rows_are_refused() -> None:
    """Where a path's rows of w_in are equal no x can turn both ways, and that is said."""
    w_in = np.ones((1, 7, 12), np.float32)
    x = np.random.default_rng(0).standard_normal((4, 12), dtype=np.float32)
    with pytest.raises(ValueError, match="nearly dependent"):
        routing.steer(x, w_in, np.full((4, 1), 1), 2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 1\n2\n", "rows of integers"),
        ("0 1\nx 2\n", "rows of integers"),
        ("0.5 1\n", "rows of integers"),
        ("", "rows of integers"),
        ("1\n2\n3\n", "a column a tree, 2, got 1"),
        ("0 1\n", "a row a token, 2, got 1"),
        ("0 1\n4 9\n", "leaves from 0 to 3, got 4"),
        ("0 1\n-1 0\n", "leaves from 0 to 3, got -1"),
    ],
)
def test_bad_traces(tmp_path: Path, text: str, reason: str) -> None:
    """A trace that does not fit says what it should hold."""
    path = tmp_path / "t.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        routing.read_trace(str(path), batch=2, trees=2, depth=2)


def test_text_trace(tmp_path: Path) -> None:
    """Text may use commas or blanks and comments; a longer trace is cut to the batch."""
    path = tmp_path / "t.txt"
    path.write_text("# tree 0, tree 1\n0, 3\n1 2  # second token\n3,3\n")
    found = routing.read_trace(str(path), batch=2, trees=2, depth=2)
    assert found.tolist() == [[0, 3], [1, 2]]


def test_float_and_pickled_traces_are_refused(tmp_path: Path) -> None:
    """A .npy of floats, or of objects, is no trace."""
    for array in (np.zeros(3), np.array([{}, 1], dtype=object)):
        path = tmp_path / "t.npy"
        np.save(path, array, allow_pickle=True)
        with pytest.raises(ValueError, match="need an integer array"):
            routing.read_trace(str(path), batch=1, trees=1, depth=2)


def test_trace_label_follows_its_bytes(tmp_path: Path) -> None:
    """Two traces of one name but other content have other labels."""
    path = tmp_path / "t.txt"
    labels = []
    for text in ("0\n", "1\n", "0\n"):
        path.write_text(text)
        labels.append(routing.label(f"trace:{path}"))
    assert labels[0].startswith("trace-t-")
    assert labels[0] == labels[2] != labels[1]
