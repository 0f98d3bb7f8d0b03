"""Prove that rotated weights are all used, all checked and more than the cache, and that flushing walks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from extents import EXTENTS

from harness.backends import blas, registry
from harness.backends.registry import Context, Implementation, Prepared
from harness.measure import locality
from harness.measure.buffers import Placed, Store
from harness.measure.gate import CannotRotateError, Gate
from harness.measure.protocol import GateRequest
from harness.measure.timing import HostTiming
from harness.problem import working_set
from harness.problem.axes import AXES, Axis
from harness.problem.check import Verdict, check
from harness.problem.leaf import leaf_oracle
from harness.problem.operands import Operands, make_operands, make_weights
from harness.problem.problem import ROUTERS, Layer, Problem

FFF = Problem(layer="fff", batch=9, d_in=24, d_out=16, depth=3, trees=1, seed=1)
FF = Problem(layer="ff", batch=9, d_in=24, d_out=16, hidden=30, seed=1)
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Rotation:
    """Hold what was taken through the gate of a rotation: its sets of weights, and how that went."""

    sets: list[Placed]
    prepared: Prepared
    verdict: Verdict


def rotate(implementation: Implementation, problem: Problem, count: int) -> Rotation:
    """Take an implementation through its gate on `count` sets of weights, with SciPy's own BLAS."""
    store = Store()
    request = GateRequest(
        cell="c", implementation=implementation.id, problem=problem, loops=0, slices=0, isa="",
        min_sample_ns=1, threads=1, caches={}, weights="rotated", sets=count, check_seed=1,
    )  # fmt: skip
    piece, _, verdict = Gate(blas.load("scipy"), store).check_rotation(implementation, request)
    sets = [store.operands(problem, turn) for turn in range(count)]
    return Rotation(sets=sets, prepared=piece.prepared, verdict=verdict)


def with_prepare(
    prepare: Callable[[Problem, Operands, Context], Prepared], layer: str = "ff"
) -> Implementation:
    """Return FF or FFF level 1 with another way to prepare it; it is not registered."""
    return replace(registry.get(f"{layer}_l1_blas"), prepare=prepare)


@pytest.mark.parametrize(
    ("implementation", "routing"),
    [
        pytest.param(i, routing, id=f"{i.id}-{routing}")
        for i in registry.layers()
        for routing in ("uniform", "zipf", "single")
        if "cpu" in i.devices
    ],
)
def test_rotation_passes_its_gate(implementation: Implementation, routing: str) -> None:
    """Every implementation is right on each set of weights, and takes them in turn."""
    layer = implementation.layer
    shape = {"depth": 3, "trees": 1} if layer == "fff" else EXTENTS[layer]
    steered = layer not in ROUTERS and routing != "uniform"
    router = {"routed_trees": 1, "routed_depth": 3} if steered else {}
    problem = Problem(
        layer=layer, batch=9, d_in=24, d_out=16, seed=1, routing=routing, **shape, **router
    )
    if implementation.unavailable():
        pytest.skip(implementation.unavailable())
    found = rotate(implementation, problem, 3)
    assert found.verdict.ok, found.verdict.reason
    assert found.prepared.sets == 3
    assert found.prepared.notes["weights"].startswith("3 sets in turn")


@pytest.mark.parametrize("layer", ["topk", "peer", "moe"])
def test_rows_that_score_are_touched(layer: Layer) -> None:
    """One token of a control touches its experts and all that scores: what the record's count finds."""
    problem = Problem(layer=layer, batch=1, d_in=24, d_out=16, **EXTENTS[layer])
    counted = working_set.count_nodes(problem, make_operands(problem)).working_set_bytes
    assert locality.touched_bytes(problem) == pytest.approx(counted)


@pytest.mark.parametrize("passes", [1, 2, 3, 4, 5])
def test_pass_i_takes_set_i(passes: int) -> None:
    """After n passes over three sets the output is that of set (n - 1) % 3, and of no other."""
    found = rotate(registry.get("fff_l1_blas"), FFF, 3)
    found.sets[0].poison()
    found.prepared.time(passes)
    right = [check(FFF, placed.host).ok for placed in found.sets]
    assert right == [i == (passes - 1) % 3 for i in range(3)]


def test_a_wrong_set_is_named() -> None:
    """A kernel that is wrong on one set of weights only fails the gate, which names the set."""
    real = registry.get("ff_l1_blas")
    second, _ = make_weights(FF, 1)

    def prepare(problem: Problem, operands: Operands, context: Context) -> Prepared:
        prepared = real.prepare(problem, operands, context)
        if not np.array_equal(operands.w_in, second):
            return prepared

        def time(loops: int) -> int:
            elapsed = prepared.time(loops)
            operands.y[0, 0] += 1
            return elapsed

        return replace(prepared, time=time)

    verdict = rotate(with_prepare(prepare), FF, 3).verdict
    assert not verdict.ok
    assert verdict.reason.startswith("weight set 2 of 3: ")


def test_a_rotation_that_stays_on_one_set_is_wrong() -> None:
    """A kernel that claims to rotate and stays on its first set fails the gate."""
    real = registry.get("ff_l1_blas")

    def prepare(problem: Problem, operands: Operands, context: Context) -> Prepared:
        alone = real.prepare(problem, replace(operands, rotation=()), context)
        return replace(alone, sets=1 + len(operands.rotation))

    verdict = rotate(with_prepare(prepare), FF, 2).verdict
    assert not verdict.ok
    assert "after a round" in verdict.reason


def test_an_implementation_without_rotation_says_so() -> None:
    """One that ignores the rotation is found out by what it says of itself, and refused by name."""
    real = registry.get("ff_l1_blas")

    def prepare(problem: Problem, operands: Operands, context: Context) -> Prepared:
        return real.prepare(problem, replace(operands, rotation=()), context)

    with pytest.raises(CannotRotateError, match="ff_l1_blas takes one set"):
        rotate(with_prepare(prepare), FF, 2)


@pytest.mark.parametrize("cache", [MIB, 3 * MIB])
@pytest.mark.parametrize(
    "problem",
    [
        FFF,
        replace(FFF, batch=500, depth=6),
        replace(FFF, batch=500, depth=6, routing="single"),
        replace(FFF, batch=500, depth=6, routing="zipf"),
        FF,
    ],
    ids=lambda p: f"{p.layer}-{p.routing}-{p.batch}",
)
def test_a_round_is_twice_the_cache(problem: Problem, cache: int) -> None:
    """What the passes of a round touch is at least twice the last-level cache, with no set to spare."""
    sets, reason = locality.count_sets(problem, "rotated", cache)
    touched = locality.touched_rows(problem) * (24 + 16) * 4
    assert not reason
    assert sets * touched >= 2 * cache
    assert sets == 2 or (sets - 1) * touched < 2 * cache


def test_rotation_is_refused_where_it_would_need_too_much() -> None:
    """One token of the paper's FFF touches 12 rows: rotation would need gigabytes, and says how many."""
    token = Problem(layer="fff", batch=1, d_in=768, d_out=768, depth=11, trees=1)
    sets, reason = locality.count_sets(token, "rotated", 32 * MIB)
    assert sets == -(-64 * MIB // (12 * 768 * 2 * 4))
    assert f"{sets} sets" in reason
    assert "--weights flushed" in reason


def test_unknown_cache_is_assumed() -> None:
    """Where the system does not tell its cache, 32 MiB are assumed, not none."""
    assert locality.eviction_bytes(0) == 64 * MIB
    assert locality.eviction_bytes(MIB) == 2 * MIB


@pytest.mark.parametrize("routing", ["zipf", "single"])
def test_touched_rows_of_chosen_paths(routing: str) -> None:
    """The rows that a chosen routing touches are those that the routing's statistics count."""
    from harness.problem import working_set

    problem = replace(FFF, batch=40, trees=2, routing=routing)
    counted = working_set.count_nodes(problem, make_operands(problem)).nodes
    assert locality.touched_rows(problem) == counted


@pytest.mark.parametrize("routing", ["zipf", "single"])
def test_touched_rows_of_chosen_leaves(routing: str) -> None:
    """The neurons of leaves that a chosen routing touches are those of the leaves that the oracle finds."""
    problem = Problem(
        layer="leaf", batch=40, d_in=24, d_out=16, hidden=7, depth=4, trees=1, routing=routing
    )
    operands = make_operands(problem)
    weights = dict(zip(problem.weights(), operands.weights(), strict=True))
    truth = leaf_oracle(operands.x, **weights, depth=problem.depth)
    leaves = len(np.unique(truth.nodes[:, 0, -1]))
    assert locality.touched_rows(problem) == pytest.approx(7 * leaves)


def test_expected_rows_of_uniform() -> None:
    """Under uniform routing the expectation is near the count, and exact for one token."""
    from harness.problem import working_set

    problem = replace(FFF, batch=64, depth=6, d_in=64)
    counted = working_set.count_nodes(problem, make_operands(problem)).nodes
    assert locality.touched_rows(problem) == pytest.approx(counted, rel=0.15)
    assert locality.touched_rows(replace(problem, batch=1)) == pytest.approx(7)


def test_loops_are_whole_rounds() -> None:
    """A sample of rotated weights is a multiple of the sets, never fewer than asked."""
    assert [locality.rotate_loops(n, 3) for n in (1, 3, 4, 100)] == [3, 3, 6, 102]
    assert locality.rotate_loops(7, 1) == 7


def test_every_flushed_pass_is_walked_before_and_timed_alone() -> None:
    """n passes are n calls of one pass, each after a walk over the whole buffer; the sum is returned."""
    seen: list[str] = []

    class Watched(locality.Flusher):
        def flush(self) -> list[int]:
            seen.append("walk")
            return super().flush()

    def passes(loops: int) -> int:
        seen.append(f"{loops} pass")
        return 10 * len(seen)

    assert Watched.make(MIB).singles(passes)(3) == 20 + 40 + 60
    assert seen == ["walk", "1 pass"] * 3


@pytest.mark.parametrize("threads", [1, 3])
def test_a_walk_reads_all_of_the_buffer_and_writes_none(threads: int) -> None:
    """As many threads as a pass has read every word, and none leaves a line that must be written back."""
    flusher = locality.Flusher.make(MIB, threads)
    assert flusher.buffer.nbytes == 2 * MIB
    flusher.buffer[:] = np.arange(flusher.buffer.size)
    flusher.buffer.flags.writeable = False
    assert flusher.flush() == [sum(range(flusher.buffer.size))] * threads


def test_a_flush_is_of_the_threads_that_are_asked_for() -> None:
    """The flusher of a sweep with several threads walks in as many."""
    timing = HostTiming()
    prepared = Prepared(forward=lambda: None, time=lambda loops: 10**6 * loops)
    timing.flushed(prepared, 10**7, {"L2": MIB}, 2)
    assert timing._flusher is not None
    assert len(timing._flusher.flush()) == 2


def test_flushed_samples_are_few_passes() -> None:
    """A flushed sample is as many passes as fill it, at least one and at most eight."""
    assert locality.flushed_loops(1e9, 20_000_000) == 1
    assert locality.flushed_loops(5e6, 20_000_000) == 4
    assert locality.flushed_loops(10.0, 20_000_000) == 8


def test_flush_note_states_the_clocks_share() -> None:
    """The note says what was walked, and a clock's share that halves as the pass doubles."""
    flusher = locality.Flusher.make(MIB)
    assert flusher.note(1e12).startswith("2 MiB walked before each pass")
    share = float(flusher.note(1000.0).rsplit(" ", 4)[1])
    assert 0 < share < 1000


def test_shared_sets_are_held_once() -> None:
    """The bytes that are counted are those of all different sets, however problems share them."""
    first = Problem(layer="fff", batch=8, d_in=16, d_out=16, depth=3, trees=1)
    steered = replace(first, routing="single")
    other = replace(first, seed=5)
    problems = [(first, 3), (first, 5), (steered, 4), (other, 1), (steered, 1)]
    held = {
        locality.weight_key(problem, turn): problem.weight_bytes()
        for problem, sets in problems
        for turn in range(sets)
    }
    assert locality.weight_bytes(problems) == sum(held.values())
    assert len(held) == 1 + 4 + 3 + 1


@pytest.mark.parametrize("axis", [a for a in AXES if a.of == "problem"], ids=lambda axis: axis.name)
@pytest.mark.parametrize("turn", [0, 1])
def test_one_weight_key_is_one_set(axis: Axis, turn: int) -> None:
    """Problems that differ in an axis alone and have one key of a set of weights have one such set too."""
    plain = make_weights(FFF, turn)
    for value in axis.values:
        problem = replace(FFF, **{axis.name: value})  # type: ignore[arg-type]
        if locality.weight_key(problem, turn) == locality.weight_key(FFF, turn):
            for own, other in zip(make_weights(problem, turn), plain, strict=True):
                assert own.tobytes() == other.tobytes()
