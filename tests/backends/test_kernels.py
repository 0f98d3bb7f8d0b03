"""The conformance suite: every implementation, as the registry knows them, against the float64 oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import planted
import pytest
from conformance import (
    Case,
    cases,
    cuda_cases,
    guard,
    isas,
    judge,
    judge_ties,
    make_ties,
    prepare,
    with_x,
)
from extents import EXTENTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import erf

from harness import native
from harness.backends import blas
from harness.problem.check import check, choose_tokens, poison
from harness.problem.operands import Operands, make_aligned, make_operands
from harness.problem.oracle import fff_oracle
from harness.problem.problem import CONTROLS, DTYPES, EXPERTS, Array, Layer, Problem

CASES = [*cases(), *cuda_cases()]
LAYER_CASES = [c for c in CASES if c.implementation.layer != "ceiling"]
FFF_CASES = [c for c in CASES if c.implementation.layer == "fff"]
ROUTED_CASES = [c for c in CASES if c.implementation.layer in ("fff", "leaf")]
FF_CASES = [c for c in CASES if c.implementation.layer == "ff"]

# Extents around the widths of vector registers (8 and 16 floats) and their unrolled multiples, and primes.
WIDTHS = (1, 7, 8, 9, 31, 32, 33, 37, 61)
UNEQUAL = ((1, 33), (33, 1), (31, 8), (9, 61))
BATCHES = (1, 2, 3, 63, 64, 65, 130)  # odd, and around a block of 64 tokens


def _further(layer: Layer, make: Callable[..., Problem]) -> list[Problem]:
    """Return the problems that are a layer's own: its least and odd extents, and around its blocks."""
    found: list[Problem] = []
    if layer == "fff":
        found += [make(11, 16, 13, depth=d, trees=t) for d in range(6) for t in (1, 2, 5)]
        found += [make(67, 17, 8, depth=12), make(5, 8, 9, depth=12, trees=2)]
    elif layer == "leaf":
        found += [make(11, 16, 13, depth=d, hidden=h) for d in (0, 1, 5) for h in (1, 2, 3, 4, 8)]
        # Around a block of 63 neurons and its bias, and around a piece of 64 tokens of one leaf.
        found += [make(5, 9, 7, depth=2, hidden=h) for h in (62, 63, 64, 65, 126, 127, 128)]
        found += [make(batch, 9, 7, depth=0) for batch in (63, 64, 65, 300)]
        found += [make(67, 17, 8, depth=11, hidden=2)]
    elif layer == "hash":
        found += [make(11, 16, 13, depth=d) for d in range(6)]
        found += [make(67, 17, 8, depth=12), make(300, 9, 7, depth=7)]
    elif layer in EXPERTS:
        # All of them, one of them; of many; around the blocks that scores are looked through in.
        found += [make(5, 9, 7, experts=n, active=k) for n, k in ((1, 1), (4, 4), (4, 1), (64, 1))]
        found += [make(5, 9, 7, experts=n, active=7) for n in (9, 49, 144, 1024)]
        found += [make(65, 9, 7, experts=169, active=64)]
        found += [make(300, 9, 7, experts=4, active=2)]
    if layer == "moe":
        # Around a block of 63 neurons, and a piece of 64 tokens of one expert.
        found += [make(5, 9, 7, experts=3, hidden=h) for h in (62, 63, 64, 127)]
        found += [make(b, 9, 7, experts=1, active=1) for b in (63, 64, 65)]
    elif layer == "ff":
        found += [make(5, 16, 13, hidden=h) for h in (1, *WIDTHS, 127, 128, 129)]
    return found


def _problems(layer: Layer) -> list[Problem]:
    """Return the problems that every implementation of a layer has to get right."""

    def make(batch: int, d_in: int, d_out: int, **extents: int) -> Problem:
        if layer == "fff":
            shape = {"depth": extents.get("depth", 3), "trees": extents.get("trees", 1)}
        elif layer == "leaf":
            shape = {
                "depth": extents.get("depth", 3),
                "hidden": extents.get("hidden", 5),
                "trees": 1,
            }
        elif layer == "ceiling":
            shape = {"hidden": d_in}  # a bare product: the inner extent is x's own
        else:
            shape = {**EXTENTS[layer], **extents}
        return Problem(layer=layer, batch=batch, d_in=d_in, d_out=d_out, seed=d_in, **shape)

    found = [make(batch, d, d) for d in WIDTHS for batch in (1, 5)]
    found += [make(3, d_in, d_out) for d_in, d_out in UNEQUAL]
    found += [make(batch, 9, 7) for batch in BATCHES]
    found += _further(layer, make)
    found += [replace(p, activation="relu") for p in found[::5] if layer == "leaf"]
    return list(dict.fromkeys(found))


def _name(problem: Problem) -> str:
    inner = f"{problem.trees}x{problem.depth}" if problem.layer == "fff" else str(problem.hidden)
    if problem.layer == "leaf":
        inner = f"{problem.hidden}x{problem.depth}{problem.activation}"
    elif problem.layer == "hash":
        inner = f"1x{problem.depth}"
    elif problem.layer in EXPERTS:
        inner = f"{problem.experts}x{problem.hidden}k{problem.active}"
    return f"b{problem.batch}-{problem.d_in}-{inner}-{problem.d_out}"


_LAYERS: tuple[Layer, ...] = ("ff", "fff", "leaf", *CONTROLS, "ceiling")
_PROBLEMS = {layer: _problems(layer) for layer in _LAYERS}
# What compiles for every shape gets few: the smallest, an odd one, two of unequal extents, a whole block.
_FEW = [
    Problem(layer="ff", batch=batch, d_in=d_in, d_out=d_out, hidden=hidden, seed=d_in)
    for batch, d_in, hidden, d_out in (
        (1, 1, 1, 1), (5, 9, 17, 9), (3, 1, 31, 33), (65, 37, 129, 8), (64, 32, 128, 32),
    )
]  # fmt: skip


def _problems_of(case: Case) -> list[Problem]:
    return _FEW if case.implementation.costly_prepare else _PROBLEMS[case.implementation.layer]


def _marks(case: Case) -> list[pytest.MarkDecorator]:
    """Warps of a block are emulated on threads: eight are a hundred times as slow as what needs none."""
    return [pytest.mark.slow] * case.implementation.id.endswith(("_team2", "_team8"))


# Problems that one test judges: a test costs as much as one of the small passes that it is about.
_TOGETHER = 9


def _together(case: Case) -> list[list[Problem]]:
    """Return the problems of a case, a few at a time, in their order."""
    problems = [replace(problem, dtype=case.dtype) for problem in _problems_of(case)]
    size = 1 if case.implementation.costly_prepare else _TOGETHER
    return [problems[i : i + size] for i in range(0, len(problems), size)]


@pytest.mark.parametrize(
    ("case", "problems"),
    [
        pytest.param(
            case, problems, id=f"{case}-{_name(problems[0])}-{len(problems)}", marks=_marks(case)
        )
        for case in CASES
        for problems in _together(case)
    ],
)
def test_agrees_with_oracle(case: Case, problems: list[Problem]) -> None:
    """Every pass equals the oracle, leaves the same bytes, and touches its output and workspace only."""
    faults = {_name(problem): judge(case, problem) for problem in problems}
    assert {name: fault for name, fault in faults.items() if fault} == {}


@pytest.mark.parametrize(
    "case",
    [c for c in FF_CASES if c.isa in ("", isas(c.dtype)[0]) and c.provider in ("", blas.DEFAULT)],
    ids=str,
)
def test_hidden_beyond_a_tile(case: Case) -> None:
    """An FF so wide that the tokens of its intermediate need several tiles is right in each of them."""
    problem = Problem(layer="ff", batch=65, d_in=1, d_out=2, hidden=(1 << 16) + 1, dtype=case.dtype)
    assert judge(case, problem) == ""


@pytest.mark.parametrize("case", [c for c in FF_CASES if c.provider in ("", blas.DEFAULT)], ids=str)
@pytest.mark.parametrize("batch", [1, 2, 3, 9])
def test_wide_rows(case: Case, batch: int) -> None:
    """An FF of rows that are cut into slices, or taken whole by few tokens, is right."""
    problem = Problem(layer="ff", batch=batch, d_in=1100, d_out=2100, hidden=61, dtype=case.dtype)
    assert judge(case, problem) == ""


@pytest.mark.parametrize("case", LAYER_CASES, ids=str)
def test_same_seed_same_bytes(case: Case) -> None:
    """Operands drawn twice from one seed, and the outputs from them, are the same bytes; another seed's
    are not."""
    layer = case.implementation.layer

    def run(seed: int) -> list[bytes]:
        problem = Problem(
            layer=layer, batch=65, d_in=17, d_out=9, seed=seed, dtype=case.dtype, **EXTENTS[layer]
        )
        guarded, prepared = prepare(case, problem, make_operands(problem))
        prepared.forward()
        o = guarded.operands
        return [a.tobytes() for a in (o.x, *o.weights(), o.y)]

    first = run(3)
    assert run(3) == first
    assert all(a != b for a, b in zip(run(4), first, strict=True))


# ---- ties ---------------------------------------------------------------------------------------


def testmake_ties_has_ties() -> None:
    """The tie problem has many tokens that meet a pre-activation of exactly 0 and turn right there."""
    problem, o = make_ties()
    truth = fff_oracle(o.x, o.w_in, o.w_out, problem.depth)
    ties = 0
    for k in range(problem.trees):
        z = np.einsum("bi,bdi->bd", o.x, o.w_in[k, truth.nodes[:, k]])
        turned = truth.nodes[:, k, 1:] - 2 * truth.nodes[:, k, :-1] - 1
        ties += int((z[:, :-1] == 0).sum())
        assert (turned[z[:, :-1] == 0] == 1).all()
    assert ties > 20
    assert (truth.margin == 0).any()


@pytest.mark.parametrize("case", ROUTED_CASES, ids=str)
def test_exact_ties_turn_right(case: Case) -> None:
    """A pre-activation of exactly 0 turns right."""
    assert judge_ties(case)


# ---- values that are not finite -----------------------------------------------------------------


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case), marks=_marks(case)) for case in LAYER_CASES]
)
def test_not_finite_stays_in_its_rows(case: Case) -> None:
    """A NaN or infinity in x makes its own rows not finite, as the oracle's, and touches no other."""
    layer = case.implementation.layer
    problem = Problem(layer=layer, batch=67, d_in=17, d_out=9, dtype=case.dtype, **EXTENTS[layer])
    operands = make_operands(problem)
    hit = np.array([0, 2, 5, 9, 63, 66])
    x = operands.x.copy()
    x[hit, [0, 2, 8, 16, 3, 9]] = [np.nan, np.inf, -np.inf, np.nan, np.inf, -np.inf]
    assert judge(case, problem, with_x(operands, x)) == ""
    guarded, prepared = prepare(case, problem, with_x(operands, x))
    prepared.forward()
    finite = np.isfinite(guarded.operands.y).all(axis=1)
    assert not finite[hit].any()
    assert np.delete(finite, hit).all()


# ---- any shape ----------------------------------------------------------------------------------

_extent = st.integers(1, 40)


@st.composite
def _any_problem(draw: st.DrawFn, layer: Layer) -> Problem:
    d_in = draw(_extent)
    if layer == "fff":
        shape = {"depth": draw(st.integers(0, 6)), "trees": draw(st.integers(1, 4))}
    elif layer == "leaf":
        shape = {"depth": draw(st.integers(0, 6)), "hidden": draw(st.integers(1, 70)), "trees": 1}
    elif layer == "hash":
        shape = {"depth": draw(st.integers(0, 8)), "trees": 1}
    elif layer in EXPERTS:
        side = draw(st.integers(1, 9))
        experts = side**2 if layer == "peer" else draw(st.integers(1, 81))
        shape = {
            "experts": experts, "active": draw(st.integers(1, min(experts, 12))),
            "hidden": draw(st.integers(1, 9)) if layer == "moe" else 1,
        }  # fmt: skip
    else:
        shape = {"hidden": d_in if layer == "ceiling" else draw(st.integers(1, 70))}
    return Problem(
        layer=layer, batch=draw(st.integers(1, 70)), d_in=d_in, d_out=draw(_extent),
        seed=draw(st.integers(0, 2**32)), **shape,
    )  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=str(case), marks=_marks(case))
        for case in CASES
        if not case.implementation.costly_prepare
    ],
)
@settings(
    max_examples=15, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(data=st.data())
def test_any_shape(case: Case, data: st.DataObject) -> None:
    """Random extents and seeds are right too."""
    problem = data.draw(_any_problem(case.implementation.layer))
    assert judge(case, replace(problem, dtype=case.dtype)) == ""


# ---- the activation -----------------------------------------------------------------------------


def _activations() -> Array:
    dense = np.linspace(-12, 12, 40_001)
    large = np.geomspace(12, 3e38, 200)
    tiny = np.geomspace(1e-45, 1e-3, 200)
    edges = [0.0, 5.1999, 5.2, 5.2001, float(np.finfo(np.float32).max)]
    positive = np.concatenate([large, tiny, edges])
    return np.concatenate([dense, positive, -positive]).astype(np.float32)


@pytest.mark.parametrize("case", [c for c in FF_CASES if c.dtype == "float32"], ids=str)
def test_activation_is_the_erf_gelu(case: Case) -> None:
    """gelu(z) is within 3e-7 of max(1, |z|) from z (1 + erf(z / sqrt 2)) / 2, for all finite z.

    A library's own doubles z before it halves it: there, for the half of them.
    """
    z = _activations()
    if case.implementation.library is not None:
        z = z[np.abs(z) < np.finfo(np.float32).max / 2]
    problem = Problem(layer="ff", batch=len(z), d_in=1, d_out=1, hidden=1)
    one = np.ones((1, 1), np.float32)
    y = np.zeros((len(z), 1), np.float32)
    guarded, prepared = prepare(case, problem, Operands(x=z[:, None], w_in=one, w_out=one, y=y))
    prepared.forward()
    exact = z.astype(np.float64)
    truth = exact * 0.5 * (1 + erf(exact / np.sqrt(2)))
    got = guarded.operands.y[:, 0]
    assert np.isfinite(got).all(), z[~np.isfinite(got)]
    error = np.abs(got - truth) / np.maximum(1, np.abs(exact))
    assert error.max() < 3e-7, z[error.argmax()]


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.implementation.layer == "moe" and c.dtype == "float32"],
    ids=str,
)
def test_gates_are_the_softmax(case: Case) -> None:
    """A gate is within 5e-7 of e^s / (e^s + 1), relative to itself, from 80 down to where floats end."""
    s = np.linspace(-87, 80, 20_001).astype(np.float32)
    problem = Problem(
        layer="moe", batch=len(s), d_in=2, d_out=1, experts=2, hidden=1, active=2
    )  # fmt: skip
    # The first expert scores s, the second 0; both are 16 before and behind the GELU, and the first counts.
    operands = Operands(
        x=np.stack([s, np.ones_like(s)], axis=1), y=np.zeros((len(s), 1), np.float32),
        w_in=np.array([[[0, 16]], [[0, 16]]], np.float32),
        w_out=np.array([[[1]], [[0]]], np.float32),
        router=np.array([[1, 0], [0, 0]], np.float32),
    )  # fmt: skip
    guarded, prepared = prepare(case, problem, operands)
    prepared.forward()
    exact = 16 / (1 + np.exp(-s.astype(np.float64)))
    error = np.abs(guarded.operands.y[:, 0] / exact - 1)
    assert error.max() < 5e-7, s[error.argmax()]


# ---- planted faults -----------------------------------------------------------------------------

_FAULT_PROBLEMS = {
    "ff": [
        Problem(layer="ff", batch=5, d_in=9, d_out=9, hidden=17),
        Problem(layer="ff", batch=64, d_in=64, d_out=64, hidden=1023),
    ],
    "fff": [
        Problem(layer="fff", batch=5, d_in=9, d_out=9, depth=3, trees=1),
        Problem(layer="fff", batch=64, d_in=64, d_out=64, depth=9, trees=2),
    ],
    "topk": [
        Problem(layer="topk", batch=5, d_in=9, d_out=9, experts=17, hidden=1, active=3),
        Problem(layer="topk", batch=64, d_in=64, d_out=64, experts=1023, hidden=1, active=12),
    ],
    "hash": [
        Problem(layer="hash", batch=5, d_in=9, d_out=9, depth=3, trees=1),
        Problem(layer="hash", batch=64, d_in=64, d_out=64, depth=9, trees=1),
    ],
    "peer": [
        Problem(layer="peer", batch=5, d_in=9, d_out=9, experts=16, hidden=1, active=3),
        Problem(layer="peer", batch=64, d_in=64, d_out=64, experts=1024, hidden=1, active=12),
    ],
    "moe": [
        Problem(layer="moe", batch=5, d_in=9, d_out=9, experts=4, hidden=3, active=2),
        Problem(layer="moe", batch=64, d_in=64, d_out=64, experts=64, hidden=16, active=1),
    ],
    "leaf": [
        Problem(layer="leaf", batch=5, d_in=9, d_out=9, depth=3, trees=1, hidden=4),
        Problem(layer="leaf", batch=64, d_in=64, d_out=64, depth=5, trees=1, hidden=32),
    ],
}


def _numpy_case(layer: Layer, fault: str = "", dtype: str = "float32") -> Case:
    return Case(implementation=planted.make(layer, fault), provider="", isa="", dtype=dtype)


def _judge_planted(layer: Layer, size: int, dtype: str, fault: str = "") -> str:
    problem = replace(_FAULT_PROBLEMS[layer][size], dtype=dtype)
    return judge(_numpy_case(layer, fault, dtype), problem)


@pytest.mark.parametrize("layer", _FAULT_PROBLEMS)
@pytest.mark.parametrize("size", [0, 1], ids=["small", "large"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_right_numpy_passes(layer: Layer, size: int, dtype: str) -> None:
    """The implementation that the faults are planted in passes without them."""
    assert _judge_planted(layer, size, dtype) == ""


@pytest.mark.parametrize(
    ("layer", "fault", "dtype"),
    [
        (layer, fault, dtype)
        for dtype in DTYPES
        for layer in _FAULT_PROBLEMS
        for fault in (
            *planted.FAULTS,
            *(planted.ROUTING_FAULTS if layer != "ff" else ()),
            *(planted.BIAS_FAULTS if layer == "leaf" else ()),
            *(planted.GATE_FAULTS if layer in ("peer", "moe") else ()),
        )
        if dtype == "float32" or fault not in planted.NOT_IN_BFLOAT16
    ],
)
@pytest.mark.parametrize("size", [0, 1], ids=["small", "large"])
def test_planted_fault_is_caught(layer: Layer, fault: str, dtype: str, size: int) -> None:
    """The suite's own judgement rejects each planted fault."""
    assert _judge_planted(layer, size, dtype, fault) != ""


@pytest.mark.parametrize("layer", ["fff", "leaf"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_tie_rule_is_caught(layer: Layer, dtype: str) -> None:
    """Turning left on a tie fails the tie test, and nothing but it: elsewhere the two rules agree."""
    assert judge_ties(_numpy_case(layer, "", dtype))
    assert not judge_ties(_numpy_case(layer, planted.TIE_FAULT, dtype))
    assert _judge_planted(layer, 0, dtype, planted.TIE_FAULT) == ""


@pytest.mark.parametrize("layer", _FAULT_PROBLEMS)
def test_rounded_hidden_values_pass_in_bfloat16(layer: Layer) -> None:
    """A pass may round its pre-activations and activations to bfloat16, after it decided the turns."""
    for size in (0, 1):
        assert _judge_planted(layer, size, "bfloat16", planted.ROUNDS_HIDDEN) == ""
        assert _judge_planted(layer, size, "float32", planted.ROUNDS_HIDDEN) != ""


def test_turns_decided_by_rounded_sums_are_caught() -> None:
    """A turn decided by a sum that was accumulated in bfloat16 is wrong."""
    assert _judge_planted("fff", 1, "bfloat16", planted.ROUNDS_SUMS) != ""


@pytest.mark.parametrize("name", ["x", "w_in", "w_out", "y", "workspace"])
@pytest.mark.parametrize("end", ["before", "behind"])
def test_guard_sees_one_byte(name: str, end: str, small_fff: Problem) -> None:
    """One byte written directly before or behind any array breaks its guard."""
    guarded = guard(make_operands(small_fff), 128)
    assert guarded.intact()
    array = guarded.workspace if name == "workspace" else getattr(guarded.operands, name)
    memory = guarded.memory.view(np.uint8)
    start = array.ctypes.data - memory.ctypes.data
    assert array.ctypes.data % 64 == 0
    memory[start - 1 if end == "before" else start + array.nbytes] ^= 1
    assert not guarded.intact()


def test_every_token_is_compared(small_fff: Problem) -> None:
    """The problems of this suite are small enough that no token is left to chance."""
    problems = [p for group in (_PROBLEMS, _FAULT_PROBLEMS) for ps in group.values() for p in ps]
    assert all(len(choose_tokens(p, 0)) == p.batch for p in problems)


@pytest.mark.parametrize("layer", ["fff", "hash"])
def test_outputs_past_the_caches(layer: Layer) -> None:
    """Where y is larger than a core can hope to keep, grouped outputs go past the caches, all of them."""
    problem = Problem(layer=layer, batch=40, d_in=32, d_out=64, depth=3, trees=1, seed=1)
    operands = make_operands(problem)
    around = native.Surroundings(caches={"L1d": 32 << 10, "L2": 1 << 20, "L3": 4096})
    name = f"{layer}_cpu_grouped"
    workspace = make_aligned((native.workspace_bytes(name, problem),), np.uint8)
    forward, _ = native.bind(name, problem, operands, around, workspace)
    poison(operands.y)
    forward()
    assert check(problem, operands, seed=0).ok
