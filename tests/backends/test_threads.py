"""Claims about the threads that kernels of our own share their work among, and about what `auto` chooses."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from harness._native import ffi

from harness import native
from harness.backends import blas, c_kernels, registry
from harness.measure import clock, libraries
from harness.measure.process_key import ProcessKey
from harness.measure.protocol import GateAnswer, GateRequest
from harness.measure.worker import Worker
from harness.problem.check import check, poison
from harness.problem.operands import Operands, make_aligned, make_operands
from harness.problem.problem import Problem

# Beyond one descent's tokens, ragged, and with skewed subtrees: tiles, pieces and outputs in several units.
LARGE = Problem(layer="fff", batch=1537, d_in=33, d_out=17, depth=9, trees=1, seed=4)
SMALL_CACHES = {"L2": 1 << 14, "L3": 1 << 16}  # many small units, and stores past the caches
PROBLEMS = {
    "one tree": LARGE,
    "two tokens": replace(LARGE, batch=2),
    "more tokens than units": replace(LARGE, batch=37, depth=3, trees=2),
    "aligned rows": replace(LARGE, d_in=64, d_out=64),
    "several trees": replace(LARGE, batch=700, depth=3, trees=5),
    "bfloat16": replace(LARGE, dtype="bfloat16"),
    "bfloat16, several trees": replace(LARGE, batch=700, depth=2, trees=3, dtype="bfloat16"),
    "one path": replace(LARGE, routing="single"),
    "depth 0, several trees": replace(LARGE, batch=300, depth=0, trees=700),
}
# Ranges of neurons in units of their own, tiles of tokens in units of their own, and both.
DENSE = Problem(layer="ff", batch=5, d_in=33, d_out=19, hidden=1000, seed=6)
DENSE_PROBLEMS = {
    "ranges": DENSE,
    "both, aligned rows": replace(DENSE, batch=600, d_in=64, d_out=48),
    "tiles": replace(DENSE, batch=2065, d_in=16, hidden=40),
    "slices of wide rows": replace(DENSE, batch=21, d_in=1100, d_out=2100, hidden=61),
    "few neurons": replace(DENSE, batch=300, hidden=7),
    "bfloat16, ranges": replace(DENSE, dtype="bfloat16"),
    "bfloat16, tiles": replace(DENSE, batch=2065, d_in=16, hidden=40, dtype="bfloat16"),
}


# All but the fastest set with the slow tests: what threads share is the same code under each.
ISAS = [
    pytest.param(isa, marks=[pytest.mark.slow] * (isa != native.isas()[0])) for isa in native.isas()
]
CASES = [
    pytest.param(kernel, problem, id=f"{kernel}-{name}")
    for kernels, problems in (
        (("fff_cpu_grouped", "fff_cpu_auto", "fff_cpu_fused"), PROBLEMS),
        (("ff_cpu_fused",), DENSE_PROBLEMS),
    )
    for kernel in kernels
    for name, problem in problems.items()
]

# Activations of the plain layer on BLAS: less than one unit of 64 Ki, whole units, and a ragged last one.
ACTIVATED = Problem(layer="ff", batch=5, d_in=9, d_out=7, hidden=17, seed=8)
ACTIVATED_PROBLEMS = {
    "less than a unit": ACTIVATED,
    "a whole unit": replace(ACTIVATED, batch=64, hidden=1024),
    "whole units": replace(ACTIVATED, batch=64, hidden=2048),
    "one element more": replace(ACTIVATED, batch=1, hidden=(1 << 16) + 1),
    "ragged": replace(ACTIVATED, batch=67, hidden=4093),
    "several tiles": replace(ACTIVATED, batch=70, d_in=1, d_out=2, hidden=(1 << 16) + 1),
}
ON_BLAS = ("ff_l2_blas", "ff_l3_blas", "ff_l3_tiled")

_UNIT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
_SHARE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, _UNIT, ctypes.c_void_p)


class _Team(ctypes.Structure):
    """Mirror ffk_team, whose members no part of the harness reads."""

    _fields_ = (("threads", ctypes.c_int64), ("share", _SHARE), ("state", ctypes.c_void_p))


def _run(kernel: str, problem: Problem, operands: Operands, around: native.Surroundings) -> bytes:
    workspace = make_aligned((native.workspace_bytes(kernel, problem),), np.uint8)
    forward, time = native.bind(kernel, problem, operands, around, workspace)
    poison(operands.y)
    forward()
    first = operands.y.tobytes()
    poison(operands.y)
    time(3)
    assert operands.y.tobytes() == first
    return first


@pytest.mark.parametrize(("kernel", "problem"), CASES)
@pytest.mark.parametrize("isa", ISAS)
def test_same_bytes_whatever_the_threads(kernel: str, problem: Problem, isa: str) -> None:
    """One, two and five threads write the same bytes, and they are right."""
    operands = make_operands(problem)
    around = [
        native.Surroundings(isa=isa, threads=threads, caches=SMALL_CACHES) for threads in (1, 2, 5)
    ]
    outputs = {_run(kernel, problem, operands, a) for a in around}
    assert len(outputs) == 1
    assert check(problem, operands).ok


@pytest.mark.parametrize(("kernel", "problem"), CASES)
@pytest.mark.parametrize("isa", ISAS)
def test_same_bytes_wherever_the_weights_lie(kernel: str, problem: Problem, isa: str) -> None:
    """What is fetched ahead from memory, and not from a cache, changes no byte."""
    operands = make_operands(problem)
    near = native.Surroundings(isa=isa, caches=SMALL_CACHES)
    far = replace(near, far_weights=True)
    assert _run(kernel, problem, operands, near) == _run(kernel, problem, operands, far)


@pytest.mark.parametrize("kernel", ON_BLAS)
@pytest.mark.parametrize("problem", ACTIVATED_PROBLEMS.values(), ids=ACTIVATED_PROBLEMS.keys())
@pytest.mark.parametrize("isa", ISAS)
def test_same_activations_whatever_the_threads(kernel: str, problem: Problem, isa: str) -> None:
    """Between the products of a BLAS one, two and three threads activate alike, to the byte, and rightly."""
    operands, table = make_operands(problem), blas.load(blas.DEFAULT).table
    around = [native.Surroundings(blas=table, isa=isa, threads=threads) for threads in (1, 2, 3)]
    outputs = {_run(kernel, problem, operands, a) for a in around}
    assert len(outputs) == 1
    verdict = check(problem, operands)
    assert verdict.ok, verdict.reason


def _share_backwards(
    kernel: str, problem: Problem, table: object = None
) -> tuple[Operands, list[int]]:
    """Return operands after a pass whose units run from the last to the first, and each round's number."""
    shared: list[int] = []

    @_SHARE
    def share(_state: int, count: int, unit: Callable[[int, int], None], job: int) -> None:
        shared.append(count)
        for i in reversed(range(count)):
            unit(job, i)

    operands, made = make_operands(problem), _Team(threads=2, share=share)
    team = ffi.cast("ffk_team *", ctypes.addressof(made))
    around = native.Surroundings(blas=table, threads=2, team=team)
    workspace = make_aligned((native.workspace_bytes(kernel, problem),), np.uint8)
    poison(operands.y)
    native.bind(kernel, problem, operands, around, workspace)[0]()
    return operands, shared


@pytest.mark.parametrize(
    ("kernel", "units"), [("ff_l2_blas", [4, 2]), ("ff_l3_blas", [6]), ("ff_l3_tiled", [6])]
)
def test_activations_are_shared(kernel: str, units: list[int]) -> None:
    """The plain layer on BLAS hands its activations to the caller's threads, in units that depend on none
    of each other.
    """
    problem = replace(ACTIVATED, batch=96, hidden=4093)
    operands, shared = _share_backwards(kernel, problem, blas.load(blas.DEFAULT).table)
    assert shared == units
    assert check(problem, operands).ok


@pytest.mark.parametrize(("batch", "units"), [(1, []), (2, [2]), (16, [16]), (37, [16])])
def test_tokens_are_shared(batch: int, units: list[int]) -> None:
    """From two tokens on the fused kernel hands ranges of them to the caller's threads; one is a chain."""
    problem = replace(LARGE, batch=batch)
    operands, shared = _share_backwards("fff_cpu_fused", problem)
    assert shared == units
    assert check(problem, operands).ok


def test_rounds_follow_each_other() -> None:
    """Many passes in a row over one team, each of few units, write what each alone writes."""
    team, around = native.make_team(4), native.Surroundings(threads=4)
    problems = [replace(LARGE, batch=batch, seed=batch) for batch in (2, 3, 5, 16)]
    drawn = [make_operands(problem) for problem in problems]
    expected = [
        _run("fff_cpu_fused", p, o, native.Surroundings())
        for p, o in zip(problems, drawn, strict=True)
    ]
    around = replace(around, team=team)
    passes = []
    for problem, operands in zip(problems, drawn, strict=True):
        size = native.workspace_bytes("fff_cpu_fused", problem)
        workspace = make_aligned((size,), np.uint8)
        passes.append(native.bind("fff_cpu_fused", problem, operands, around, workspace)[0])
    for _ in range(100):
        for forward, operands, bytes_ in zip(passes, drawn, expected, strict=True):
            poison(operands.y)
            forward()
            assert operands.y.tobytes() == bytes_


@pytest.mark.parametrize("caches", [{}, {"L2": 1 << 12, "L3": 1 << 13}, {"L2": 1 << 26}])
@pytest.mark.parametrize("batch", [1, 255, 256, 257, 600])
@pytest.mark.parametrize(
    ("kernel", "problem"), [("fff_cpu_grouped", LARGE), ("ff_cpu_fused", DENSE)]
)
def test_right_whatever_the_caches(
    caches: dict[str, int], batch: int, kernel: str, problem: Problem
) -> None:
    """Sizes of caches decide how a batch is cut and never what comes out of it, around the largest group."""
    problem = replace(problem, batch=batch, d_out=32)
    operands = make_operands(problem)
    _run(kernel, problem, operands, native.Surroundings(caches=caches))
    verdict = check(problem, operands)
    assert verdict.ok, verdict.reason


@pytest.mark.parametrize(("trees", "first"), [(1, 3), (2, 8)])
def test_auto_says_what_it_chooses(trees: int, first: int) -> None:
    """A small batch is left to the fused kernel, a larger one to the grouped one; others choose nothing."""
    around, problem = native.Surroundings(), replace(LARGE, trees=trees)
    chosen = [
        native.choice("fff_cpu_auto", replace(problem, batch=b), around)
        for b in (1, first - 1, first, 1537)
    ]
    assert chosen == ["fff_cpu_fused", "fff_cpu_fused", "fff_cpu_grouped", "fff_cpu_grouped"]
    assert native.choice("fff_cpu_grouped", problem, around) == ""


NEAR = replace(LARGE, batch=5)


def _prepared(problem: Problem, **changes: Any) -> registry.Prepared:
    context = registry.Context(
        provider=None, workspace=lambda size: make_aligned((size,), np.uint8), **changes
    )
    return registry.get("fff_cpu_auto").prepare(problem, make_operands(problem), context)


def test_auto_measures_its_candidates_where_they_are_near() -> None:
    """A few tokens, hot: the record says what was measured, and what was chosen for the rest of the run."""
    notes = _prepared(NEAR).notes
    assert notes["chosen"] == notes["tile"] in ("fff_cpu_fused", "fff_cpu_grouped")
    assert [part.split()[0] for part in notes["calibration"].split(", ")] == [
        "fff_cpu_fused", "fff_cpu_grouped",
    ]  # fmt: skip


@pytest.mark.parametrize("tile", ["fff_cpu_fused", "fff_cpu_grouped"])
def test_auto_keeps_what_the_run_has_chosen(tile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later process measures nothing and computes by the kernel that the first one chose."""
    bound: list[str] = []
    bind = native.bind
    monkeypatch.setattr(
        native, "bind", lambda name, *rest: (bound.append(name), bind(name, *rest))[1]
    )
    notes = _prepared(NEAR, tile=tile).notes
    assert bound == [tile]
    assert notes["chosen"] == notes["tile"] == tile
    assert "calibration" not in notes


@pytest.mark.parametrize(
    ("problem", "far"),
    [(replace(NEAR, batch=1), False), (replace(NEAR, batch=65), False), (NEAR, True)],
    ids=["one token", "many", "weights in memory"],
)
def test_auto_goes_by_its_table_elsewhere(problem: Problem, far: bool) -> None:
    """One token, many, and weights that lie in memory when the clock runs: nothing is measured."""
    notes = _prepared(problem, far_weights=far).notes
    assert notes["chosen"] == native.choice("fff_cpu_auto", problem, native.Surroundings())
    assert not {"tile", "calibration"} & set(notes)


@pytest.mark.parametrize(("other", "chosen"), [(96, "b"), (98, "a"), (120, "a")])
def test_what_is_not_usual_must_be_faster_by_more_than_noise(other: int, chosen: str) -> None:
    """The least of rounds in turn decides, and a lead within 3 % decides nothing."""
    asked: list[str] = []

    def make(name: str, ns: int) -> Callable[[int], int]:
        def time(loops: int) -> int:
            asked.append(name)
            # Whole rounds of noise, but one.
            return loops * (ns if asked.count(name) == 5 else 3 * ns)

        return time

    times = {"a": make("a", 100_000), "b": make("b", other * 1000)}
    name, least = c_kernels.calibrate(times, "a")
    assert name == chosen
    assert least == {"a": 100_000, "b": other * 1000}
    assert "".join(asked) == "ab" * 8


def test_threads_beyond_what_can_be_had_are_refused() -> None:
    """More threads than the team allows are an error that names the number."""
    problem = replace(LARGE, batch=3)
    with pytest.raises(native.NativeError, match="the system refuses 5000 threads"):
        _run("fff_cpu_grouped", problem, make_operands(problem), native.Surroundings(threads=5000))


def test_passes_may_share_a_team() -> None:
    """Passes of several shapes over one team write what they write with threads of their own."""
    team = native.make_team(3)
    for kernel, problem in (("fff_cpu_grouped", LARGE), ("ff_cpu_fused", DENSE)):
        operands = make_operands(problem)
        around = native.Surroundings(threads=3, caches=SMALL_CACHES)
        own = _run(kernel, problem, operands, around)
        assert _run(kernel, problem, operands, replace(around, team=team)) == own


def test_arrays_may_come_with_each_call() -> None:
    """A pass that is bound to a shape takes the arrays of a call, and refuses what its kernel refuses."""
    size = native.workspace_bytes("fff_cpu_auto", LARGE)
    around, workspace = native.Surroundings(), make_aligned((size,), np.uint8)
    run = native.bind_shape("fff_cpu_auto", LARGE, around, workspace)
    for seed in (4, 5):
        problem = replace(LARGE, seed=seed)
        operands = make_operands(problem)
        poison(operands.y)
        arrays = (operands.x, operands.w_in, operands.w_out, operands.y)
        run(*(array.ctypes.data for array in arrays))
        assert check(problem, operands).ok
    with pytest.raises(native.NativeError, match="fff_cpu_auto: null pointer"):
        run(0, *(array.ctypes.data for array in arrays[1:]))
    run = native.bind_shape("fff_cpu_auto", LARGE, around, workspace[:64])
    with pytest.raises(native.NativeError, match="fff_cpu_auto: workspace too small"):
        run(*(array.ctypes.data for array in arrays))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_measuring_process_hands_on_its_threads_and_caches(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a cell is prepared with holds the threads that the sweep asked for and the caches it was told.

    Several threads are at rest before the answer: a pool's would take processors from the next cell.
    """
    rests: list[str] = []
    monkeypatch.setattr(clock, "rest", lambda: rests.append("rest"))
    worker = Worker(libraries.load(ProcessKey()))
    request = GateRequest(
        cell="c", implementation="fff_cpu_grouped", loops=1, slices=1, min_sample_ns=1, isa="",
        problem=replace(LARGE, batch=8), threads=threads, caches=SMALL_CACHES,
        check_seed=1,
    )  # fmt: skip
    answer = worker.answer(request)
    assert isinstance(answer, GateAnswer)
    assert answer.verdict.ok
    context = worker.gate.context(request)
    assert (context.threads, context.caches) == (threads, SMALL_CACHES)
    assert rests == (["rest"] if threads > 1 else [])
