"""The backward passes in C: right against the float64 truth at every shape, and nothing else touched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conformance import fence, isas, make_ties
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import native
from harness.problem import check, gradients, oracle
from harness.problem.gradients import Gradients
from harness.problem.operands import make_aligned, make_operands
from harness.problem.problem import Array, Problem

NAMES = ("dx", "dw_in", "dw_out")
INPUTS = ("x", "w_in", "w_out", "dy")
CASES = [(name, isa) for name in native.BACKWARD for isa in isas("float32")]
SMALL_CACHES = {"L2": 1 << 14, "L3": 1 << 16}  # many small pieces


def _problem(batch: int, d_in: int, d_out: int, depth: int = 3, trees: int = 1) -> Problem:
    return Problem(
        layer="fff", batch=batch, d_in=d_in, d_out=d_out, depth=depth, trees=trees, seed=d_in
    )


# Around the widths of vector registers and blocks of tokens, the largest descent (256 tokens) and the
# subtrees: none, some without a token, and all of 64; levels that are no whole threes.
PROBLEMS = [
    *(_problem(batch, d, d) for d in (1, 7, 8, 9, 31, 32, 33, 61) for batch in (1, 5)),
    *(_problem(3, d_in, d_out) for d_in, d_out in ((1, 33), (33, 1), (31, 8), (9, 61))),
    *(_problem(batch, 9, 7, depth=4) for batch in (1, 2, 3, 63, 64, 65, 130, 257)),
    *(_problem(11, 16, 13, depth=d, trees=t) for d in range(8) for t in (1, 2, 5)),
    _problem(300, 17, 8, depth=11),
    _problem(5, 8, 9, depth=12, trees=2),
]


def _inputs(problem: Problem) -> dict[str, Array]:
    o = make_operands(problem)
    dy = np.random.default_rng(problem.seed).standard_normal(o.y.shape).astype(np.float32)
    x = gradients.without_near_ties(problem, o.x, o.w_in, o.w_out)
    return {"x": x, "w_in": o.w_in, "w_out": o.w_out, "dy": dy}


def _run(
    name: str, problem: Problem, inputs: dict[str, Array], around: native.Surroundings, *,
    wanted: tuple[str, ...] = NAMES, repeat: int = 1,
) -> tuple[str, Gradients]:  # fmt: skip
    """Return what else went wrong in passes over guarded, poisoned memory, and the gradients."""
    shaped = {f"d{of}": np.empty_like(inputs[of]) for of in ("x", "w_in", "w_out")}
    made = fence({**inputs, **shaped}, native.backward_workspace_bytes(name, problem))
    arrays = made.arrays
    run = native.bind_backward(name, problem, around, arrays["workspace"])
    before = [arrays[of].tobytes() for of in INPUTS]
    outputs = set()
    for _ in range(repeat):
        for of in NAMES:
            check.poison(arrays[of])
        run(
            *(arrays[of].ctypes.data for of in INPUTS),
            *(arrays[of].ctypes.data if of in wanted else 0 for of in NAMES),
        )
        outputs.add(b"".join(arrays[of].tobytes() for of in NAMES))
    found = Gradients(**{of: arrays[of] for of in NAMES})
    if not made.intact():
        return "something outside of the arrays was written", found
    if [arrays[of].tobytes() for of in INPUTS] != before:
        return "an operand was changed", found
    return "" if len(outputs) == 1 else "passes left different bytes", found


def _judge(name: str, problem: Problem, around: native.Surroundings) -> str:
    inputs = _inputs(problem)
    fault, found = _run(name, problem, inputs, around, repeat=2)
    truth = gradients.fff_gradients(*inputs.values(), problem.depth)
    return fault or gradients.find_fault(found, truth)


@pytest.mark.parametrize(("name", "isa"), CASES)
@pytest.mark.parametrize(
    "problem", PROBLEMS, ids=lambda p: f"b{p.batch}-{p.d_in}-{p.trees}x{p.depth}-{p.d_out}"
)
def test_gradients_are_the_truths(name: str, isa: str, problem: Problem) -> None:
    """Every element agrees with the float64 truth; operands and all memory around are as they were."""
    assert _judge(name, problem, native.Surroundings(isa=isa)) == ""


_extent = st.integers(1, 40)


@pytest.mark.parametrize(("name", "isa"), CASES)
@settings(
    max_examples=15, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(data=st.data())
def test_any_shape(name: str, isa: str, data: st.DataObject) -> None:
    """Random extents, sizes of caches and seeds are right too."""
    draw = data.draw
    problem = Problem(
        layer="fff", batch=draw(st.integers(1, 70)), d_in=draw(_extent), d_out=draw(_extent),
        depth=draw(st.integers(0, 6)), trees=draw(st.integers(1, 4)), seed=draw(st.integers(0, 2**32)),
    )  # fmt: skip
    caches = draw(st.sampled_from([{}, SMALL_CACHES]))
    o = make_operands(problem)
    margin = oracle.fff_oracle(o.x, o.w_in, o.w_out, problem.depth).margin
    if (margin < check.near_tie(problem)).mean() <= check.MAX_LEFT_OUT:
        assert _judge(name, problem, native.Surroundings(isa=isa, caches=caches)) == ""


@pytest.mark.parametrize("name", native.BACKWARD)
@pytest.mark.parametrize(
    "problem",
    [
        _problem(1537, 33, 17, depth=9), _problem(700, 16, 24, depth=3, trees=5),
        replace(_problem(600, 32, 32, depth=9), routing="single"),
    ],
    ids=["one tree", "several trees", "one path"],
)  # fmt: skip
def test_same_bytes_whatever_the_threads(name: str, problem: Problem) -> None:
    """One, two and five threads leave the same bytes, and they are right."""
    inputs, found = _inputs(problem), set()
    truth = gradients.fff_gradients(*inputs.values(), problem.depth)
    for threads in (1, 2, 5):
        around = native.Surroundings(threads=threads, caches=SMALL_CACHES)
        fault, made = _run(name, problem, inputs, around)
        assert fault == ""
        assert gradients.find_fault(made, truth) == ""
        found.add(b"".join(a.tobytes() for _, a in made.items()))
    assert len(found) == 1


@pytest.mark.parametrize("name", native.BACKWARD)
@pytest.mark.parametrize("wanted", [("dx",), ("dw_in",), ("dw_out",), ("dx", "dw_out"), ()])
def test_only_what_is_wanted_is_filled(name: str, wanted: tuple[str, ...]) -> None:
    """A gradient that is wanted has the bytes that it has beside all others; others are left alone."""
    problem = _problem(70, 9, 13, depth=5, trees=2)
    inputs = _inputs(problem)
    _, everything = _run(name, problem, inputs, native.Surroundings())
    fault, found = _run(name, problem, inputs, native.Surroundings(), wanted=wanted)
    assert fault == ""
    for (of, own), (_, full) in zip(found.items(), everything.items(), strict=True):
        if of in wanted:
            assert own.tobytes() == full.tobytes()
        else:
            assert check.count_unwritten(own) == own.size


@pytest.mark.parametrize(("name", "isa"), CASES)
def test_exact_ties_turn_right(name: str, isa: str) -> None:
    """A token whose pre-activation is exactly 0 gives its gradients to the path on the right."""
    problem, o = make_ties()
    dy = np.random.default_rng(1).integers(-3, 4, o.y.shape).astype(np.float32)
    inputs = {"x": o.x, "w_in": o.w_in, "w_out": o.w_out, "dy": dy}
    fault, found = _run(name, problem, inputs, native.Surroundings(isa=isa))
    truth = gradients.fff_gradients(o.x, o.w_in, o.w_out, dy, problem.depth)
    assert (truth.margin == 0).any()
    assert fault == gradients.find_fault(found, truth) == ""


@pytest.mark.parametrize(("name", "isa"), CASES)
def test_slope_is_the_gelus(name: str, isa: str) -> None:
    """gelu'(z) is within 4e-7 of the exact one, for all finite z."""
    dense, large = np.linspace(-12, 12, 40_001), np.geomspace(12, 1e18, 200)
    z = np.concatenate([dense, large, -large, [0.0, 6.0, -6.0]]).astype(np.float32)
    problem = Problem(layer="fff", batch=len(z), d_in=1, d_out=1, depth=0, trees=1)
    one = np.ones((1, 1, 1), np.float32)
    inputs = {"x": z[:, None], "w_in": one, "w_out": one, "dy": np.ones((len(z), 1), np.float32)}
    _, found = _run(name, problem, inputs, native.Surroundings(isa=isa))
    with np.errstate(all="ignore"):
        exact = oracle.gelu_slope(z.astype(np.float64))
    assert np.abs(found.dx[:, 0] - exact).max() < 4e-7


@pytest.mark.parametrize(("name", "isa"), CASES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("of", ["x", "dy"])
def test_not_finite_stays_on_its_path(name: str, isa: str, value: float, of: str) -> None:
    """A NaN or infinity in one token is in its own dx and its path's rows, and in nobody else's."""
    problem = _problem(67, 17, 9, depth=3)
    inputs = _inputs(problem)
    _, clean = _run(name, problem, inputs, native.Surroundings(isa=isa))
    inputs[of][5, 3] = value
    _, found = _run(name, problem, inputs, native.Surroundings(isa=isa))
    finite = np.isfinite(found.dx).all(1)
    if of == "dy" or np.isnan(value):  # beyond its tails the slope is 0 or 1
        assert not finite[5]
    assert np.delete(finite, 5).all()
    for own, before in ((found.dw_in, clean.dw_in), (found.dw_out, clean.dw_out)):
        spoilt = ~np.isfinite(own[0]).all(1)
        assert spoilt[0]
        assert spoilt.sum() <= problem.depth + 1
        assert (np.isfinite(before[0]).all(1)).all()


@pytest.mark.parametrize("name", native.BACKWARD)
def test_unfit_arguments_are_refused(name: str) -> None:
    """A missing operand, too little workspace and another dtype are refused with the pass's name."""
    problem = _problem(5, 4, 4)
    size = native.backward_workspace_bytes(name, problem)
    workspace, around = make_aligned((size + 64,), np.uint8), native.Surroundings()
    run = native.bind_backward(name, problem, around, workspace)
    with pytest.raises(native.NativeError, match=f"{name}: null pointer"):
        run(0, 0, 0, 0, 0, 0, 0)
    array = make_aligned((4096,), np.float32).ctypes.data
    for room, said in (
        (workspace[: size - 1], "workspace too small"), (workspace[1:], "workspace misaligned"),
    ):  # fmt: skip
        run = native.bind_backward(name, problem, around, room)
        with pytest.raises(native.NativeError, match=f"{name}: {said}"):
            run(array, array, array, array, 0, 0, 0)
    other = replace(problem, dtype="bfloat16")
    assert native.backward_workspace_bytes(name, other) == 0
    run = native.bind_backward(name, other, around, workspace)
    with pytest.raises(native.NativeError, match=f"{name}: unsupported dtype"):
        run(array, array, array, array, 0, 0, 0)
