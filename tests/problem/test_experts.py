"""The controls' truth against their definitions, written out token by token."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from extents import EXTENTS

from harness.errors import UsageError
from harness.problem import check
from harness.problem.experts import (
    choose,
    experts_branches,
    experts_oracle,
    hash_leaves,
    hash_oracle,
    hashed_paths,
)
from harness.problem.models import find_controls, parse_model, speedup_limit
from harness.problem.operands import make_operands
from harness.problem.problem import CONTROLS, DTYPES, EXPERTS, Problem
from harness.problem.working_set import count_nodes

_SHAPES = [
    ("topk", 7, 1, 3), ("topk", 4, 1, 4), ("peer", 16, 1, 5), ("peer", 9, 1, 9), ("peer", 1, 1, 1),
    ("moe", 5, 3, 1), ("moe", 6, 2, 4),
]  # fmt: skip


def _gelu(z: float) -> float:
    return z * 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))


def _draw(layer: str, experts: int, hidden: int, seed: int = 0, batch: int = 9) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    d_in, d_out = 6, 4
    drawn = {
        "x": rng.standard_normal((batch, d_in)),
        "w_in": rng.standard_normal((experts, hidden, d_in)),
        "w_out": rng.standard_normal((experts, hidden, d_out)),
    }
    rows = {"peer": 2 * math.isqrt(experts), "moe": experts}.get(layer, 0)
    return drawn | ({"router": rng.standard_normal((rows, d_in))} if rows else {})


def _dot(x: Any, row: Any) -> float:
    return sum(float(a) * float(b) for a, b in zip(x, row, strict=True))


def _score(layer: str, o: dict[str, Any], b: int, expert: int) -> float:
    if layer == "topk":
        return _dot(o["x"][b], o["w_in"][expert][0])
    if layer == "moe":
        return _dot(o["x"][b], o["router"][expert])
    side = math.isqrt(len(o["w_in"]))
    first, second = divmod(expert, side)
    return _dot(o["x"][b], o["router"][first]) + _dot(o["x"][b], o["router"][side + second])


def _output(layer: str, o: dict[str, Any], b: int, active: int) -> Any:
    experts, hidden, _ = o["w_in"].shape
    scores = [_score(layer, o, b, e) for e in range(experts)]
    chosen = sorted(range(experts), key=lambda e: -scores[e])[:active]
    among = {"topk": [], "peer": chosen, "moe": range(experts)}[layer]
    total = sum(math.exp(scores[e]) for e in among)
    y = np.zeros(o["w_out"].shape[2])
    for e, h in itertools.product(chosen, range(hidden)):
        gate = math.exp(scores[e]) / total if total else 1.0
        y += gate * _gelu(_dot(o["x"][b], o["w_in"][e][h])) * o["w_out"][e][h]
    return y


@pytest.mark.parametrize(("layer", "experts", "hidden", "active"), _SHAPES)
def test_agrees_with_its_definition(layer: str, experts: int, hidden: int, active: int) -> None:
    """Scores, choice, gates and output are those that the module's page says, token by token."""
    o = _draw(layer, experts, hidden)
    truth = experts_oracle(**o, layer=layer, active=active)
    want = [_output(layer, o, b, active) for b in range(len(o["x"]))]
    np.testing.assert_allclose(truth.y, want, rtol=1e-12, atol=1e-12)
    assert truth.nodes.shape == (len(want), 1, active)
    assert (truth.margin > 0).all()
    assert np.isinf(truth.margin).all() == (active == experts)


@pytest.mark.parametrize(("layer", "experts", "hidden", "active"), _SHAPES)
def test_float32_choice_is_the_oracles(layer: str, experts: int, hidden: int, active: int) -> None:
    """The choice that statistics are made of is the oracle's, gates included."""
    o = _draw(layer, experts, hidden, batch=40)
    rows = np.ascontiguousarray(o["router"] if "router" in o else o["w_in"][:, 0], np.float32)
    chosen, gates = choose(layer, o["x"], rows, active)
    truth = experts_oracle(**o, layer=layer, active=active)
    np.testing.assert_array_equal(np.sort(chosen), np.sort(truth.nodes[:, 0]))
    if layer == "peer":
        np.testing.assert_allclose(gates.sum(axis=1), 1.0, rtol=1e-5)
    elif layer == "moe":
        assert (gates.sum(axis=1) < 1 + 1e-5).all()
    else:
        assert (gates == 1).all()


@pytest.mark.parametrize("layer", EXPERTS)
def test_near_tie_has_every_choice(layer: str) -> None:
    """Where the last chosen and the first other score alike, the outputs of both choices are right."""
    o = _draw(layer, 9, 1, batch=1)
    scored = "w_in" if layer == "topk" else "router"
    rows = o[scored].reshape(-1, o["x"].shape[1])
    if layer == "peer":  # equal keys of one half: pairs of experts that score alike
        rows[4] = rows[3] * (1 + 1e-12)
    else:
        order = np.argsort([-_score(layer, o, 0, e) for e in range(9)])
        rows[order[3]] = rows[order[2]] * (1 - 1e-12)
    active = 3
    truth = experts_oracle(**o, layer=layer, active=active)
    weights = {name: a for name, a in o.items() if name != "x"}
    near = experts_branches(
        o["x"][0], **weights, layer=layer, active=active, near_tie=2 * float(truth.margin[0])
    )
    far = experts_branches(o["x"][0], **weights, layer=layer, active=active, near_tie=0.0)
    assert len(near) >= 2
    assert len(far) == 1
    np.testing.assert_allclose(far[0].y, truth.y[0])
    assert any(np.allclose(branch.y, truth.y[0]) for branch in near)


def test_too_many_choices_have_no_branches() -> None:
    """Where all score alike, more choices are right than can be followed: the token is left out."""
    o = _draw("topk", 40, 1, batch=1)
    o["w_in"][:] = o["w_in"][0]
    weights = {name: a for name, a in o.items() if name != "x"}
    assert experts_branches(o["x"][0], **weights, layer="topk", active=20, near_tie=1e-6) == []


# ---- the hash -----------------------------------------------------------------------------------


def _hash(bits: list[int], depth: int) -> int:
    h = 0
    for word in bits:
        h = (h ^ word) * 0x9E3779B1 % 2**32
        h ^= h >> 15
    return h >> (32 - depth)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d_in", [1, 3, 4, 9])
def test_hash_is_of_the_first_elements(dtype: str, d_in: int) -> None:
    """The leaf is that of the hash, written out on integers, of at most four stored elements."""
    problem = Problem(layer="hash", batch=21, d_in=d_in, d_out=2, depth=7, trees=1, dtype=dtype)
    x = make_operands(problem).x
    size = x.itemsize
    raw = [x[b, : min(d_in, 4)].tobytes() for b in range(len(x))]
    words = [
        [int.from_bytes(r[i : i + size], "little") for i in range(0, len(r), size)] for r in raw
    ]
    assert hash_leaves(x, 7).tolist() == [_hash(w, 7) for w in words]


def test_hashed_paths_are_those_of_a_tree() -> None:
    """A path begins at the root, each node is a child of the one before, and the last is the hashed leaf."""
    x = np.random.default_rng(1).standard_normal((50, 8)).astype(np.float32)
    nodes = hashed_paths(x, 5)
    assert (nodes[:, 0] == 0).all()
    assert ((nodes[:, 1:] - 1) // 2 == nodes[:, :-1]).all()
    assert (nodes[:, -1] - (2**5 - 1) == hash_leaves(x, 5)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_hash_spreads_tokens_evenly(dtype: str) -> None:
    """Over the leaves tokens are spread as by chance: chi squared is within five standard deviations."""
    problem = Problem(layer="hash", batch=1 << 15, d_in=8, d_out=1, depth=11, trees=1, dtype=dtype)
    counts = np.bincount(hash_leaves(make_operands(problem).x, 11), minlength=2048)
    expected = (1 << 15) / 2048
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi - 2047) < 5 * math.sqrt(2 * 2047)


def test_hash_layer_is_the_path_of_its_tree() -> None:
    """The output is the sum over the hashed path, and no token's margin is finite."""
    rng = np.random.default_rng(2)
    x, w_in, w_out = (rng.standard_normal(s) for s in ((7, 5), (1, 15, 5), (1, 15, 3)))
    x = x.astype(np.float32)
    truth = hash_oracle(x, w_in, w_out, 3)
    want = [
        sum(_gelu(_dot(x[b], w_in[0][n])) * w_out[0][n] for n in path)
        for b, path in enumerate(hashed_paths(x, 3))
    ]
    np.testing.assert_allclose(truth.y, want, rtol=1e-12)
    assert np.isinf(truth.margin).all()


# ---- shapes, names, counts ----------------------------------------------------------------------


def _problem(layer: str, **changes: Any) -> Problem:
    shape = {"batch": 10, "d_in": 8, "d_out": 6, **EXTENTS[layer], **changes}
    return Problem(layer=layer, **shape)  # type: ignore[arg-type]


def test_counts_of_work() -> None:
    """What only chooses is counted apart: all other logits, the keys of both halves, the gate."""
    assert _problem("topk").routing_flops() == 2 * 10 * (33 - 5) * 8
    assert _problem("peer").routing_flops() == 2 * 10 * 12 * 8
    assert _problem("moe").routing_flops() == 2 * 10 * 9 * 8
    assert _problem("hash").routing_flops() == 0
    for layer, used in (("topk", 5), ("peer", 5), ("moe", 14), ("hash", 5)):
        p = _problem(layer)
        assert p.used_neurons == used
        assert p.flops() - p.routing_flops() == 2 * 10 * used * (8 + 6)
    # all logits are read, and the rows of w_out that ten tokens can use; one token uses five
    assert _problem("topk").bytes_moved() == 4 * ((33 + 10) * 14)
    assert _problem("topk", batch=1).bytes_moved() == 4 * (33 * 8 + 5 * 6 + 14)
    assert _problem("moe", batch=1).bytes_moved() == 4 * (14 * 14 + 9 * 8 + 14)


@pytest.mark.parametrize(
    ("layer", "wrong", "says"),
    [
        ("topk", {"active": 34}, "active must be 1 to the 33"), ("topk", {"hidden": 2}, "has 1 neuron"),
        ("topk", {"active": 0}, "active must be"), ("peer", {"experts": 35}, "square number"),
        ("moe", {"experts": 100, "active": 65}, "at most 64"), ("moe", {"hidden": 0}, "has 1 neuron"),
        ("moe", {"depth": 2}, "belong to an FFF"), ("hash", {"trees": 2}, "1 tree"),
        ("hash", {"active": 2}, "experts and active belong"), ("ff", {"experts": 2}, "belong to"),
    ],
)  # fmt: skip
def test_what_is_no_control(layer: str, wrong: dict[str, int], says: str) -> None:
    """A shape that no kernel takes is refused with what it should be."""
    with pytest.raises(ValueError, match=says):
        _problem(layer, **wrong)


def test_controls_of_an_fff() -> None:
    """An FFF of one tree has five controls that use as many neurons of as many; of several, a dense one."""
    names = find_controls(parse_model("1x11"))
    assert names == ["ff-12", "hash-12", "topk-12", "peer-12", "moe-256x16-k1"]
    plain = [parse_model(n).problem(batch=1, width=768, seed=0) for n in names]
    assert [p.used_neurons for p in plain] == [12, 12, 12, 12, 16]
    assert [p.neurons for p in plain] == [12, 4095, 4095, 4096, 4096]
    assert find_controls(parse_model("4x9")) == ["ff-40"]
    assert find_controls(parse_model("ff-12")) == []
    for depth in range(21):  # a name for each, which leads to a layer
        for name in find_controls(parse_model(f"1x{depth}")):
            assert parse_model(name).name == name


def test_limits_count_what_chooses() -> None:
    """The limit of a control is that of its operations: a row that only scores is half a neuron."""
    assert speedup_limit("hash-12") == speedup_limit("1x11") == 4095 / 12
    assert speedup_limit("topk-12") == 4095 / (12 + (4095 - 12) / 2)
    assert speedup_limit("peer-12") == 4095 / (12 + 64)
    assert speedup_limit("moe-256x16-k1") == 4095 / (16 + 128)


@pytest.mark.parametrize(
    "name", ["topk-0", "topk-65", "peer-12of4095", "hash-0", "hash-22", "moe-4x1-k5"]
)
def test_names_that_are_no_control(name: str) -> None:
    """A control that can't be is refused by its name."""
    with pytest.raises(UsageError, match=name):
        parse_model(name)


@pytest.mark.parametrize("layer", CONTROLS)
def test_touched_are_the_chosen(layer: str) -> None:
    """What is counted as touched is what the oracle's choice touches."""
    problem = _problem(layer, batch=17)
    operands = make_operands(problem)
    found = count_nodes(problem, operands)
    truth = check.find_truth(problem, operands, np.arange(17))
    distinct = len(np.unique(truth.nodes))
    assert found.nodes == distinct
    rows_in = 33 if layer == "topk" else distinct * problem.hidden if problem.hidden else distinct
    rows_out = distinct * max(1, problem.hidden)
    assert found.working_set_bytes == 4 * (8 * (rows_in + problem.routers) + 6 * rows_out)
