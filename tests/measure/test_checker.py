"""What the gate holds for: not one pass, but all that are timed, on operands that stay what they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter_ns

import numpy as np
import planted
import pytest

from harness.backends import registry
from harness.backends.registry import Context, Implementation, Prepared
from harness.measure import libraries
from harness.measure.clock import ClockError
from harness.measure.process_key import ProcessKey
from harness.measure.protocol import (
    Answer,
    GateAnswer,
    GateRequest,
    SampleAnswer,
    SampleRequest,
    WrongOutput,
)
from harness.measure.worker import Worker
from harness.problem.check import choose_tokens
from harness.problem.operands import Operands
from harness.problem.problem import Array, Problem

FFF = Problem(layer="fff", batch=64, d_in=8, d_out=8, depth=2, trees=1, seed=1)
FF = Problem(layer="ff", batch=64, d_in=8, d_out=8, hidden=12, seed=1)
PROBLEMS = [FFF, FF, replace(FFF, batch=1), replace(FF, batch=1, dtype="bfloat16")]
SPACE = 4096  # bytes of workspace

# One timed call: what runs a right pass, the operands, the workspace, and a dictionary that lives on.
Call = Callable[[Callable[[], None], Operands, Array, dict[str, Array]], None]


def computes_once(
    right: Callable[[], None], _o: Operands, _w: Array, kept: dict[str, Array]
) -> None:
    """Return at once ever after."""
    if "done" not in kept:
        right()
        kept["done"] = np.ones(1)


def remembers(right: Callable[[], None], o: Operands, _w: Array, kept: dict[str, Array]) -> None:
    """Write the first output again, whatever the input is now."""
    if "y" not in kept:
        right()
        kept["y"] = o.y.copy()
    o.y[...] = kept["y"]


def trusts_workspace(right: Callable[[], None], o: Operands, work: Array, _k: object) -> None:
    """Add what the workspace holds, which was zero where it was made."""
    right()
    o.y[0, 0] += work.view(np.float32)[0].astype(o.y.dtype)


def spoils(name: str) -> Call:
    """Return what writes into an operand after it has used it."""

    def run(right: Callable[[], None], o: Operands, _w: Array, _k: object) -> None:
        right()
        getattr(o, name).reshape(-1)[-1] += 1

    run.__name__ = f"spoils_{name}"
    return run


def clears_all(_right: Callable[[], None], o: Operands, _w: Array, _k: object) -> None:
    """Make the input zero, so that an output of zeros is right."""
    o.x[...] = 0
    o.y[...] = 0


def plant(call: Call, layer: str) -> Implementation:
    """Return an implementation whose timed calls are made so; its second call begins anew by no means."""
    right = planted.make(layer)

    def prepare(problem: Problem, operands: Operands, context: Context) -> Prepared:
        prepared, kept = right.prepare(problem, operands, context), dict[str, Array]()
        work = context.workspace(SPACE)

        def time(loops: int) -> int:
            began = perf_counter_ns()
            for _ in range(loops):
                call(prepared.forward, operands, work, kept)
            return perf_counter_ns() - began

        return replace(prepared, time=time)

    return replace(
        right, id=f"{layer}_numpy_planted", prepare=prepare, workspace_bytes=lambda problem: SPACE
    )


@pytest.fixture
def worker() -> Worker:
    """Return the inside of a measuring process that serves no BLAS."""
    return Worker(libraries.load(ProcessKey()))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[Implementation], Implementation]:
    """Return what registers an implementation for a test."""

    def register(implementation: Implementation) -> Implementation:
        registry.all()
        monkeypatch.setitem(registry._known, implementation.id, implementation)
        return implementation

    return register


def ask(worker: Worker, implementation: str, problem: Problem, **changes: object) -> Answer:
    """Take a cell through its gate, and return the answer."""
    request = GateRequest(
        cell="c", implementation=implementation, problem=problem, loops=0, slices=0, isa="",
        min_sample_ns=1000, threads=1, caches={}, check_seed=1,
    )  # fmt: skip
    return worker.answer(replace(request, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.layer}-{p.batch}-{p.dtype}")
@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (computes_once, "in a second pass, on other inputs: "),
        (remembers, "in a second pass, on other inputs: "),
        (trusts_workspace, "not finite"),
        (spoils("x"), "changed their operands: x"),
        (spoils("w_in"), "changed their operands: w_in"),
        (spoils("w_out"), "changed their operands: w_out"),
        (clears_all, "changed their operands: x"),
    ],
    ids=lambda v: v.__name__ if callable(v) else "",
)
def test_what_is_right_once_is_wrong(
    worker: Worker, known: Callable[[Implementation], Implementation], problem: Problem, call: Call,
    reason: str,
) -> None:  # fmt: skip
    """A kernel with a memory, a debt to its workspace or a hand in its operands fails its gate, for that."""
    made = known(plant(call, problem.layer))
    answer = ask(worker, made.id, problem)
    assert isinstance(answer, GateAnswer)
    assert not answer.verdict.ok
    assert reason in answer.verdict.reason
    assert "c" not in worker.cells


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.layer}-{p.batch}-{p.dtype}")
def test_a_gate_leaves_the_operands_as_they_were(
    worker: Worker, known: Callable[[Implementation], Implementation], problem: Problem
) -> None:
    """The other inputs of the second pass are taken back before anything is timed."""
    made = known(planted.make(problem.layer, name=f"{problem.layer}_numpy_planted"))
    before = {
        name: getattr(worker.store.operands(problem).host, name).copy()
        for name in ("x", "w_in", "w_out")
    }
    answer = ask(worker, made.id, problem)
    assert isinstance(answer, GateAnswer)
    assert answer.verdict.ok, answer.verdict.reason
    held = worker.store.operands(problem).host
    for name, array in before.items():
        assert array.tobytes() == getattr(held, name).tobytes()


def test_what_a_sample_leaves_is_judged_where_asked(
    worker: Worker, known: Callable[[Implementation], Implementation]
) -> None:
    """A kernel that turns wrong behind its gate yields samples until one is judged: then it is wrong."""
    state = {"wrong": False}

    def call(right: Callable[[], None], o: Operands, _w: Array, _k: object) -> None:
        right()
        o.y[0, 0] += state["wrong"]

    made = known(plant(call, "fff"))
    answer = ask(worker, made.id, FFF)
    assert isinstance(answer, GateAnswer)
    assert answer.verdict.ok, answer.verdict.reason
    state["wrong"] = True
    asked = SampleRequest(cell="c", loops=1, turn=0, expected_ns=1e3)
    assert isinstance(worker.answer(asked), SampleAnswer)
    judged = worker.answer(replace(asked, check=True))
    assert isinstance(judged, WrongOutput)
    assert judged.verdict.reason.startswith("behind a sample: the largest error")


def test_what_stops_behind_its_gate_is_wrong(
    worker: Worker, known: Callable[[Implementation], Implementation]
) -> None:
    """A kernel that returns at once after it was right leaves an output that a sample poisons before."""
    state = {"stops": False}

    def call(right: Callable[[], None], _o: Operands, _w: Array, _k: object) -> None:
        if not state["stops"]:
            right()

    made = known(plant(call, "fff"))
    answer = ask(worker, made.id, FFF)
    assert isinstance(answer, GateAnswer)
    assert answer.verdict.ok, answer.verdict.reason
    asked = SampleRequest(cell="c", loops=1, turn=0, expected_ns=1e3, check=True)
    assert isinstance(worker.answer(asked), SampleAnswer)
    state["stops"] = True
    judged = worker.answer(asked)
    assert isinstance(judged, WrongOutput)
    assert "output elements were not written" in judged.verdict.reason


def test_operands_that_another_cell_spoils_show(
    worker: Worker, known: Callable[[Implementation], Implementation]
) -> None:
    """Where a cell changes weights after its gate, what is sampled on them by any cell is wrong."""
    made = known(planted.make("fff", name="fff_numpy_planted"))
    answer = ask(worker, made.id, FFF)
    assert isinstance(answer, GateAnswer)
    worker.store.operands(FFF).host.w_out.reshape(-1)[0] += 1
    asked = SampleRequest(cell="c", loops=1, turn=0, expected_ns=1e3, check=True)
    judged = worker.answer(asked)
    assert isinstance(judged, WrongOutput)
    assert "changed their operands: w_out" in judged.verdict.reason


@pytest.mark.parametrize("layer", ["ff", "fff"])
def test_zeros_are_proved_on_random_data(
    worker: Worker, known: Callable[[Implementation], Implementation], layer: str
) -> None:
    """On zeros an output of zeros is right: what writes nothing else is found by random data before."""
    problem = replace(FF if layer == "ff" else FFF, data="zeros")

    def zeroes(_right: Callable[[], None], o: Operands, _w: Array, _k: object) -> None:
        o.y[...] = 0

    made = known(plant(zeroes, layer))
    answer = ask(worker, made.id, problem)
    assert isinstance(answer, GateAnswer)
    assert answer.verdict.reason.startswith("on random data: ")
    right = known(planted.make(layer, name=f"{layer}_numpy_planted"))
    answer = ask(worker, right.id, problem)
    assert isinstance(answer, GateAnswer)
    assert answer.verdict.ok, answer.verdict.reason
    (piece,) = worker.cells["c"].pieces
    assert piece.problem.data == "zeros"
    assert not piece.placed.host.x.any()


@pytest.mark.parametrize("told", [0.1, 0.5, 0.97, 1.01, 3.0])
def test_no_clock_but_ours_is_believed(
    worker: Worker, known: Callable[[Implementation], Implementation], told: float
) -> None:
    """A plugin whose clock tells another time than passes by around its passes fails, with both times."""
    right = planted.make("fff", name="fff_numpy_planted")

    def prepare(problem: Problem, operands: Operands, context: Context) -> Prepared:
        prepared = right.prepare(problem, operands, context)

        def time(loops: int) -> int:
            began = perf_counter_ns()
            prepared.time(loops)
            while (took := perf_counter_ns() - began) < 20_000_000:
                pass
            return int(told * took)

        return replace(prepared, time=time)

    known(replace(right, prepare=prepare))
    with pytest.raises(ClockError, match=r"its clock told .* ms for 1 passes"):
        ask(worker, right.id, FFF)


def test_the_compared_tokens_are_drawn_by_the_seed_of_the_process(
    worker: Worker, known: Callable[[Implementation], Implementation]
) -> None:
    """What is right on the tokens of one seed alone is wrong by another: they can't be known in advance."""
    problem = replace(FFF, batch=4096)
    chosen = set(choose_tokens(problem, 1).tolist())
    others = [t for t in range(problem.batch) if t not in chosen]
    made = known(planted.make("fff", name="fff_numpy_planted"))
    answer = ask(worker, made.id, problem)
    assert isinstance(answer, GateAnswer)
    pieces = worker.cells["c"].pieces
    assert answer.verdict.tokens == len(chosen)
    drawn = worker.gate.checker.expect(pieces[0]).tokens
    assert set(drawn.tolist()) == chosen
    again = worker.gate.checker.expect(replace(pieces[0], check_seed=2)).tokens
    assert set(again.tolist()) & set(others)
