"""The leaf FFF's truth against Algorithm 1 of its paper, written out token by token."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from harness.errors import UsageError
from harness.problem.leaf import leaf_branches, leaf_oracle, leaf_soft
from harness.problem.models import parse_model, parse_models, speedup_limit
from harness.problem.operands import make_operands
from harness.problem.problem import Problem
from harness.problem.working_set import count_nodes


def _draw(depth: int, width: int, seed: int = 0, batch: int = 23) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    nodes, leaves, d_in, d_out = 2**depth - 1, 2**depth, 5, 4

    def of(*shape: int) -> Any:
        return rng.standard_normal(shape)

    return {
        "x": of(batch, d_in), "router": of(nodes, d_in), "router_bias": of(nodes),
        "w_in": of(leaves, width, d_in), "b_in": of(leaves, width),
        "w_out": of(leaves, width, d_out), "b_out": of(leaves, d_out),
    }  # fmt: skip


def _act(z: float, activation: str) -> float:
    if activation == "relu":
        return max(z, 0.0)
    return z * 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))


def _leaf(o: dict[str, Any], b: int, j: int, activation: str) -> list[float]:
    d_in, d_out, width = o["x"].shape[1], o["b_out"].shape[1], o["b_in"].shape[1]
    y = [float(o["b_out"][j][k]) for k in range(d_out)]
    for h in range(width):
        z = sum(float(o["x"][b][i] * o["w_in"][j][h][i]) for i in range(d_in))
        a = _act(z + float(o["b_in"][j][h]), activation)
        for k in range(d_out):
            y[k] += a * float(o["w_out"][j][h][k])
    return y


def _choice(o: dict[str, Any], b: int, m: int, n: int) -> float:
    """Return c[m, n] of Algorithm 1: node n of level m."""
    row = 2**m - 1 + n
    z = float(np.dot(o["x"][b], o["router"][row]) + o["router_bias"][row])
    return 1.0 / (1.0 + math.exp(-z))


def _forward_i(o: dict[str, Any], b: int, m: int, n: int, depth: int, act: str) -> list[float]:
    if m == depth:
        return _leaf(o, b, n, act)
    turn = 1 if _choice(o, b, m, n) >= 0.5 else 0
    return _forward_i(o, b, m + 1, 2 * n + turn, depth, act)


def _forward_t(o: dict[str, Any], b: int, m: int, n: int, depth: int, act: str) -> Any:
    if m == depth:
        return np.array(_leaf(o, b, n, act))
    c = _choice(o, b, m, n)
    right = _forward_t(o, b, m + 1, 2 * n + 1, depth, act)
    return c * right + (1 - c) * _forward_t(o, b, m + 1, 2 * n, depth, act)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize(("depth", "width"), [(0, 3), (1, 1), (3, 2), (4, 5)])
def test_agrees_with_algorithm_1(depth: int, width: int, activation: str) -> None:
    """FORWARD_I and FORWARD_T are what the paper's recursion gives, token by token."""
    o = _draw(depth, width)
    hard = leaf_oracle(**o, depth=depth, activation=activation)
    soft = leaf_soft(**o, depth=depth, activation=activation)
    tokens = range(len(o["x"]))
    want = [_forward_i(o, b, 0, 0, depth, activation) for b in tokens]
    np.testing.assert_allclose(hard.y, want, rtol=1e-12, atol=1e-12)
    mixed = [_forward_t(o, b, 0, 0, depth, activation) for b in tokens]
    np.testing.assert_allclose(soft, mixed, rtol=1e-12, atol=1e-12)
    assert hard.nodes.shape == (len(o["x"]), 1, depth + 1)


def test_hardened_soft_pass_is_the_hard_one() -> None:
    """With the routers' weights scaled up, the soft pass comes to the hard one."""
    o = _draw(3, 2)
    o["router"], o["router_bias"] = 1e6 * o["router"], 1e6 * o["router_bias"]
    np.testing.assert_allclose(leaf_soft(**o, depth=3), leaf_oracle(**o, depth=3).y, rtol=1e-9)


def test_half_turns_right() -> None:
    """A choice of exactly 1/2 turns right, and its margin is 0."""
    o = _draw(1, 2)
    o["router"][:], o["router_bias"][:] = 0.0, 0.0
    truth = leaf_oracle(**o, depth=1)
    assert (truth.nodes[:, 0, 1] == 2).all()
    assert np.isinf(truth.margin).all()  # every product is 0, in any order of summation
    o["x"][:, 0], o["router"][0, 0], o["router_bias"][0] = 2.0, 1.0, -2.0
    truth = leaf_oracle(**o, depth=1)
    assert (truth.nodes[:, 0, 1] == 2).all()
    assert (truth.margin == 0).all()


def test_near_tie_has_both_leaves() -> None:
    """A token on a near-tie has the outputs of both leaves, any other the one of its own."""
    o = _draw(2, 3, batch=1)
    o["router_bias"][0] = -float(o["x"][0] @ o["router"][0])
    weights = {name: a for name, a in o.items() if name != "x"}
    branches = leaf_branches(o["x"][0], **weights, depth=2, near_tie=1e-9)
    assert len(branches) == 2
    right = leaf_oracle(**o, depth=2).y[0]
    assert any(np.allclose(b.y, right) for b in branches)
    o["router_bias"][0] += 1.0
    (only,) = leaf_branches(o["x"][0], **weights, depth=2, near_tie=1e-9)
    np.testing.assert_allclose(only.y, leaf_oracle(**o, depth=2).y[0])


# ---- its shape ----------------------------------------------------------------------------------

PROBLEM = Problem(layer="leaf", batch=7, d_in=10, d_out=6, hidden=3, depth=2, trees=1)


def test_counts_of_work() -> None:
    """Routing is counted apart from the leaves; bytes are x and y, each leaf and the nodes on the way."""
    assert PROBLEM.routing_flops() == 2 * 7 * 2 * 10
    assert PROBLEM.flops() == 2 * 7 * (2 * 10 + 3 * 16)
    weights = 4 * (3 * 16 + 3 + 6) + 3 * 11
    assert PROBLEM.weight_bytes() == 4 * weights
    assert PROBLEM.bytes_moved() == 4 * (weights + 7 * 16)


def test_names_of_models() -> None:
    """`leaf-WIDTHxD` has 2**D leaves of so many neurons; `-relu` has the paper's activation."""
    problem = parse_model("leaf-16x8-relu").problem(batch=5, width=32, seed=0)
    assert (problem.neurons, problem.used_neurons, problem.activation) == (4096, 16, "relu")
    assert parse_model("leaf-16x8").problem(batch=5, width=32, seed=0).activation == "gelu"
    assert speedup_limit("leaf-16x8") == 4095 / 20
    assert len(parse_models("ffp-table1")) == 4 + 16
    assert len(parse_models("ffp-figure")) == 5 + 15
    for name in ("leaf-0x3", "leaf-4x21"):
        with pytest.raises(UsageError):
            parse_model(name)


def test_what_is_no_leaf_layer() -> None:
    """Several trees, no neuron and an unknown activation are refused."""
    shape: dict[str, Any] = {"layer": "leaf", "batch": 2, "d_in": 8, "d_out": 8}
    with pytest.raises(ValueError, match="a leaf FFF has 1 tree"):
        Problem(**shape, hidden=2, depth=1, trees=2)
    with pytest.raises(ValueError, match="at least 1 hidden neuron"):
        Problem(**shape, depth=1, trees=1)
    with pytest.raises(ValueError, match="activation must be gelu"):
        Problem(**shape, hidden=2, depth=1, trees=1, activation="silu")


def test_what_a_pass_touches() -> None:
    """The nodes and leaves that are counted are those of the truth's paths."""
    operands = make_operands(PROBLEM)
    weights = dict(zip(PROBLEM.weights(), operands.weights(), strict=True))
    truth = leaf_oracle(operands.x, **weights, depth=2)
    touched = count_nodes(PROBLEM, operands)
    nodes = np.unique(truth.nodes)
    leaves = int((nodes >= 3).sum())
    assert touched.nodes == len(nodes)
    elements = leaves * (3 * 16 + 3 + 6) + (len(nodes) - leaves) * 11
    assert touched.working_set_bytes == 4 * elements
