"""The gate of a cell in its measuring process, with implementations whose time is made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import planted
import pytest

from harness.backends import registry
from harness.backends.registry import Context, Prepared
from harness.measure import libraries
from harness.measure.process_key import ProcessKey
from harness.measure.protocol import (
    GateAnswer,
    GateRequest,
    SampleAnswer,
    SampleRequest,
    Unavailable,
    WrongOutput,
)
from harness.measure.timing import HostTiming
from harness.measure.worker import Worker
from harness.problem.operands import Operands
from harness.problem.problem import Problem

PROBLEM = Problem(layer="fff", batch=64, d_in=8, d_out=8, depth=2, trees=1, seed=1)
MADE_UP = "fff_numpy_made_up"
TOKEN_NS = 1000  # of a warm pass
MIN_NS = 10_000_000

Time = Callable[[int, int], float]  # tokens, number of the call -> ns a pass


@dataclass(slots=True)
class Wall:
    """Hold the time of a made-up clock, in ns."""

    now: int = 0


@pytest.fixture
def wall() -> Wall:
    """Return a clock that passes alone advance."""
    return Wall()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch, wall: Wall) -> Callable[..., list[tuple[int, int]]]:
    """Return what registers a right implementation whose passes take a made-up time.

    It returns the list in which each call of the timer is noted: the tokens of a pass, and the passes.
    """

    def register(
        time: Time, *, token_block: int = 0, fault: str = "", fault_beyond_head: str = ""
    ) -> list[tuple[int, int]]:
        kept, beyond = planted.make("fff", fault), planted.make("fff", fault_beyond_head)
        calls: list[tuple[int, int]] = []

        def prepare(problem: Problem, operands: Operands, context: Context) -> Prepared:
            chosen = kept if problem.batch == 64 else beyond
            prepared = chosen.prepare(problem, operands, context)

            def made_up(loops: int) -> int:
                prepared.forward()
                calls.append((problem.batch, loops))
                took = int(loops * time(problem.batch, len(calls)))
                wall.now += took
                return took

            return replace(prepared, time=made_up)

        made = replace(kept, id=MADE_UP, prepare=prepare, token_block=token_block)
        registry.all()
        monkeypatch.setitem(registry._known, MADE_UP, made)
        return calls

    return register


def make_request(**changes: object) -> GateRequest:
    """Return the request for the first gate of the cell."""
    first = GateRequest(
        cell="c", implementation=MADE_UP, problem=PROBLEM, loops=0, slices=0, min_sample_ns=MIN_NS,
        isa="", threads=1, caches={}, check_seed=1,
    )  # fmt: skip
    return replace(first, **changes)  # type: ignore[arg-type]


def prepare(worker: Worker, **changes: object) -> GateAnswer:
    """Take the cell through its gate, which must be passed."""
    answer = worker.answer(make_request(**changes))
    assert isinstance(answer, GateAnswer)
    assert answer.verdict.ok, answer.verdict.reason
    return answer


@pytest.fixture
def worker(wall: Wall) -> Worker:
    """Return the inside of a measuring process that serves no BLAS, on a made-up clock."""
    made = Worker(libraries.load(ProcessKey()))
    made.gate.timing = HostTiming(wall_ns=lambda: wall.now)
    return made


def warm(tokens: int, _call: int) -> float:
    """Return the time of a pass that is always the same."""
    return TOKEN_NS * tokens


@pytest.mark.parametrize("first_ns", [64 * TOKEN_NS, 99_000_000, 101_000_000, 5_000_000_000])
@pytest.mark.parametrize("token_block", [0, 8])
def test_a_first_pass_that_compiles_decides_nothing(
    passes: Callable[..., list[tuple[int, int]]], worker: Worker, first_ns: int, token_block: int
) -> None:
    """However long the first pass took, loops, slices and the pass are those of the passes after it."""
    passes(lambda n, call: first_ns if call == 1 else warm(n, call), token_block=token_block)
    answer = prepare(worker)
    assert answer.gate_ns == first_ns
    assert answer.pass_ns == 64 * TOKEN_NS
    assert (answer.loops, answer.slices) == (188, 1)  # 1.2 times 10 ms


def test_a_long_pass_is_run_whole_once(
    passes: Callable[..., list[tuple[int, int]]], worker: Worker
) -> None:
    """A pass of 8 s that can be cut is checked whole and calibrated by one slice of a second."""
    calls = passes(lambda n, _: 8e9 * n / 64, token_block=8)
    answer = prepare(worker)
    assert calls == [(64, 1), (16, 1), (8, 1)]  # the second, on other inputs, over a head
    assert (answer.loops, answer.slices, answer.pass_ns) == (1, 8, 8e9)
    asked = SampleRequest(cell="c", loops=1, turn=9, expected_ns=1e9)
    assert isinstance(worker.answer(asked), SampleAnswer)
    assert calls[3:] == [(8, 1)]


def test_a_later_process_samples_as_the_first(
    passes: Callable[..., list[tuple[int, int]]], worker: Worker
) -> None:
    """Loops and slices that were found before are taken over, whatever this process would find."""
    passes(lambda n, _: 8e9 * n / 64, token_block=8)
    assert prepare(worker, loops=3, slices=2).loops == 3
    assert prepare(worker, loops=3, slices=2).slices == 2


def test_by_its_head_a_cell_is_proved_sample_by_sample(
    passes: Callable[..., list[tuple[int, int]]], worker: Worker
) -> None:
    """A gate by the head runs nothing whole and tells no pass; each slice is checked behind its sample."""
    problem = replace(PROBLEM, batch=256)
    calls = passes(warm, token_block=8)
    answer = prepare(worker, problem=problem, head_only=True, loops=1, slices=2)
    assert calls == [(64, 1), (64, 1)]  # and on other inputs
    assert (answer.loops, answer.slices, answer.pass_ns) == (1, 2, 0.0)
    assert worker.cells["c"].proved == [False, False]
    asked = SampleRequest(cell="c", loops=1, turn=1, expected_ns=1e18)
    assert isinstance(worker.answer(asked), SampleAnswer)
    assert worker.cells["c"].proved == [False, True]


def test_a_slice_that_is_wrong_is_no_sample(
    passes: Callable[..., list[tuple[int, int]]], worker: Worker
) -> None:
    """Where the head is right and a slice is wrong, its first sample is told as wrong, not as a time."""
    passes(warm, token_block=8, fault_beyond_head="scale_one")
    prepare(worker, problem=replace(PROBLEM, batch=256), head_only=True, loops=1, slices=2)
    answer = worker.answer(SampleRequest(cell="c", loops=1, turn=0, expected_ns=1e18))
    assert isinstance(answer, WrongOutput)
    assert "times the tolerance" in answer.verdict.reason
    assert worker.cells["c"].proved == [False, False]


def test_a_wrong_cell_can_not_be_sampled(
    passes: Callable[..., list[tuple[int, int]]], worker: Worker
) -> None:
    """What fails its gate is not warmed up, and there is nothing to sample."""
    calls = passes(warm, fault="scale_one")
    answer = worker.answer(make_request())
    assert isinstance(answer, GateAnswer)
    assert not answer.verdict.ok
    assert calls == [(64, 1)]
    assert "c" not in worker.cells


def test_one_set_of_weights_is_unavailable_not_failed(
    passes: Callable[..., list[tuple[int, int]]], worker: Worker
) -> None:
    """An implementation that takes one set of weights says so where several are to be rotated."""
    passes(warm)
    answer = worker.answer(make_request(weights="rotated", sets=2))
    assert answer == Unavailable(
        reason=f"{MADE_UP} takes one set of weights: it can't rotate several"
    )


@pytest.mark.parametrize(("weights", "far"), [("hot", False), ("rotated", True), ("flushed", True)])
def test_kernels_are_told_where_the_weights_lie(worker: Worker, weights: str, far: bool) -> None:
    """Weights that are rotated past the caches, or flushed out of them, are said to come from memory."""
    assert worker.gate.context(make_request(weights=weights)).far_weights is far
