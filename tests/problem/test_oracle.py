"""The float64 oracle against a second one in plain Python: double loops over lists, no NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from harness.problem.oracle import ff_oracle, fff_oracle, gelu, product_oracle
from harness.problem.problem import Array


def _gelu(z: float) -> float:
    return z * math.erfc(-z / math.sqrt(2)) / 2


def _dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _brute_ff(x: Array, w_in: Array, w_out: Array) -> list[list[float]]:
    neurons = list(zip(w_in.tolist(), w_out.tolist(), strict=True))
    return [
        [
            math.fsum(_gelu(_dot(row, w)) * out[j] for w, out in neurons)
            for j in range(w_out.shape[1])
        ]
        for row in x.tolist()
    ]


def _brute_fff(
    x: Array, w_in: Array, w_out: Array, depth: int
) -> tuple[list[list[float]], list[list[list[int]]]]:
    outputs, paths = [], []
    for row in x.tolist():
        y = [0.0] * w_out.shape[2]
        walked = []
        for tree_in, tree_out in zip(w_in.tolist(), w_out.tolist(), strict=True):
            node, walk = 0, []
            for _ in range(depth + 1):
                walk.append(node)
                z = _dot(row, tree_in[node])
                y = [have + _gelu(z) * w for have, w in zip(y, tree_out[node], strict=True)]
                node = 2 * node + 2 if z >= 0 else 2 * node + 1
            walked.append(walk)
        outputs.append(y)
        paths.append(walked)
    return outputs, paths


@pytest.mark.parametrize(
    ("batch", "d_in", "hidden", "d_out"), [(1, 1, 1, 1), (3, 5, 7, 2), (4, 2, 9, 6)]
)
def test_ff(draw: Callable[..., Array], batch: int, d_in: int, hidden: int, d_out: int) -> None:
    """The FF oracle is the double loop of the definition."""
    x, w_in, w_out = draw(batch, d_in), draw(hidden, d_in, seed=1), draw(hidden, d_out, seed=2)
    truth = ff_oracle(x, w_in, w_out)
    np.testing.assert_allclose(truth.y, _brute_ff(x, w_in, w_out), rtol=1e-12, atol=1e-13)
    assert (truth.margin == np.inf).all()
    assert truth.nodes.shape == (batch, 0, 0)


@pytest.mark.parametrize(("trees", "depth"), [(1, 0), (1, 3), (2, 2), (3, 0), (2, 5)])
def test_fff(draw: Callable[..., Array], trees: int, depth: int) -> None:
    """The FFF oracle walks and sums as the double loop of the definition."""
    nodes = 2 ** (depth + 1) - 1
    x, w_in, w_out = draw(70, 6), draw(trees, nodes, 6, seed=1), draw(trees, nodes, 4, seed=2)
    truth = fff_oracle(x, w_in, w_out, depth)
    y, paths = _brute_fff(x, w_in, w_out, depth)
    np.testing.assert_allclose(truth.y, y, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(truth.nodes, paths)
    assert len(np.unique(truth.nodes[:, 0, -1])) > 2**depth // 4


def test_full_tree_at_depth_0_is_an_ff(draw: Callable[..., Array]) -> None:
    """A forest of depth 0 is the FF with one neuron a tree."""
    x, w_in, w_out = draw(5, 6), draw(9, 6, seed=1), draw(9, 4, seed=2)
    forest = fff_oracle(x, w_in[:, None], w_out[:, None], 0)
    dense = ff_oracle(x, w_in, w_out)
    np.testing.assert_allclose(forest.y, dense.y, rtol=1e-12)
    np.testing.assert_allclose(forest.scale, dense.scale, rtol=1e-12)
    assert (forest.margin == np.inf).all()


def test_tie_turns_right() -> None:
    """At z = 0 the path goes to node 2n + 2, and the margin is 0."""
    x = np.array([[1.0, 1.0]], np.float32)
    w_in = np.array([[[1, -1], [1, 0], [0, 1]]], np.float32)
    w_out = np.array([[[1], [10], [100]]], np.float32)
    truth = fff_oracle(x, w_in, w_out, 1)
    assert truth.nodes.tolist() == [[[0, 2]]]
    assert truth.margin.tolist() == [0.0]
    assert truth.y[0, 0] == pytest.approx(100 * _gelu(1.0))


def test_margin_is_relative_and_leaves_the_leaf_out() -> None:
    """The margin is the smallest |z| over sum |x w| of the nodes that decide a turn."""
    x = np.array([[1.0, 1.0]], np.float32)
    w_in = np.array([[[3, 1], [1, 0], [1, -1]]], np.float32)  # root z = 4 of 4; right child z = 0
    w_out = np.ones((1, 3, 1), np.float32)
    assert fff_oracle(x, w_in, w_out, 1).margin.tolist() == [1.0]
    w_in[0, 0] = [3, -1]  # z = 2 of 4
    assert fff_oracle(x, w_in, w_out, 1).margin.tolist() == [0.5]


def test_product(draw: Callable[..., Array]) -> None:
    """The ceiling's truth is the product x w."""
    x, w = draw(3, 5), draw(5, 2, seed=1)
    expected = [[_dot(row, column) for column in w.T.tolist()] for row in x.tolist()]
    np.testing.assert_allclose(product_oracle(x, w).y, expected, rtol=1e-12)


def test_gelu_keeps_the_precision_of_z() -> None:
    """The exact GELU is z Phi(z), and neither the tanh nor the sigmoid form."""
    z = np.linspace(-6, 6, 241)
    np.testing.assert_allclose(gelu(z), [_gelu(v) for v in z], rtol=1e-9, atol=1e-15)
    tanh = z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    assert np.abs(gelu(z) - tanh).max() > 1e-4
    assert gelu(np.float64(0.0)) == 0.0
