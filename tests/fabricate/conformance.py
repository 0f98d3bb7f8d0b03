"""Own the conformance verdict of one implementation on one problem: right, and nothing else touched."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
import pytest
import shim

from harness import native
from harness.backends import blas, registry
from harness.backends.registry import Context, Implementation, Prepared
from harness.problem import check
from harness.problem.operands import Operands, make_aligned, make_operands
from harness.problem.problem import ALIGNMENT, Array, Layer, Problem
from harness.sweep import repro

# A quiet NaN unlike the gate's poison: an element read from a guard row spoils what it is summed into.
# Each half of it is a quiet NaN of bfloat16 too.
CANARY = np.uint32(0x7FCE7FCE)
# Problems that are kept at a time: more than the suite has at fixed extents, a few KiB to a MiB each.
_KEPT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Name an implementation, the BLAS provider that serves it, the instruction set of our own code and
    the dtype of the operands.
    """

    implementation: Implementation
    provider: str
    isa: str
    dtype: str = "float32"

    def __str__(self) -> str:
        """Return the name that the case has among the tests."""
        dtype = "" if self.dtype == "float32" else self.dtype
        return "-".join(p for p in (self.implementation.id, self.provider, self.isa, dtype) if p)


@cache
def load_provider(name: str) -> blas.Provider | None:
    """Return a provider, loaded once; None for an implementation that needs none."""
    return blas.load(name) if name else None


@cache
def present_providers() -> list[str]:
    """Return the providers that this machine has, SciPy's first."""
    missing = blas.find_missing(blas.names())
    return [name for name in blas.names() if name not in missing]


def isas(dtype: str) -> list[str]:
    """Return this processor's instruction sets with functions of their own for a dtype, fastest first."""
    # The float32 functions of this one are those of avx512: test_bfloat16_pairs.py.
    return [isa for isa in native.isas() if (isa, dtype) != ("avx512_bf16", "float32")]


def cases() -> list[Case]:
    """Return every implementation for the CPU with each dtype that it takes, under SciPy's BLAS with each
    instruction set, and those built on BLAS under each further provider with the fastest one.

    Of the ceilings only the bare product: the others have a truth and a test file of their own.
    """
    found = []
    for i in [*registry.layers(), registry.get("ceiling_sgemm")]:
        if "cpu" not in i.devices:
            continue
        provider = blas.DEFAULT if i.needs_provider else ""
        others = [name for name in present_providers() if name != blas.DEFAULT]
        for dtype in i.dtypes:
            # A library brings vector code of its own: none of ours is run.
            own = isas(dtype) if i.library is None else [""]
            served = [(provider, isa) for isa in own]
            served += [(name, own[0]) for name in others if i.needs_provider]
            found += [
                Case(implementation=i, provider=name, isa=isa, dtype=dtype) for name, isa in served
            ]
    return found


def cuda_cases() -> list[Case]:
    """Return every CUDA kernel in the shim, which needs no GPU."""
    return [
        Case(implementation=i, provider="", isa="", dtype=dtype)
        for i in shim.implementations()
        for dtype in i.dtypes
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Hold arrays that lie in one aligned allocation with canaries around each."""

    arrays: dict[str, Array]
    memory: Array
    outside: Array  # which bytes of `memory` belong to no array
    canaries: Array  # what those bytes held

    def intact(self) -> bool:
        """Say whether every canary survived, to the byte."""
        return bool((self.memory[self.outside] == self.canaries).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """Hold operands and a workspace between canaries."""

    operands: Operands
    workspace: Array
    fence: Fence

    @property
    def memory(self) -> Array:
        """Return the memory that the operands and the canaries lie in."""
        return self.fence.memory

    def intact(self) -> bool:
        """Say whether every canary survived, to the byte."""
        return self.fence.intact()


def _padded(size: int) -> int:
    """Return a number of bytes rounded up to whole cache lines."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def fence(arrays: dict[str, Array], workspace_bytes: int = 0) -> Fence:
    """Copy arrays between rows of canaries, and put a `workspace` beside them.

    Each begins at a multiple of 64 bytes. Two rows of the widest one stand before and behind each array,
    directly behind its last element.
    """
    gap = _padded(2 * max(a.shape[-1] * a.itemsize for a in arrays.values()))
    spans: dict[str, slice] = {}
    cursor = gap
    for name, size in [*((n, a.nbytes) for n, a in arrays.items()), ("workspace", workspace_bytes)]:
        spans[name] = slice(cursor, cursor + size)
        cursor += _padded(size) + gap
    memory = make_aligned((cursor,), np.uint8)
    memory.view(np.uint32).fill(CANARY)
    outside = np.ones(cursor, bool)
    for span in spans.values():
        # Every gap has canaries of its own: a NaN that is read behind x and stored behind y shows.
        memory[span.stop // 4 * 4 :].view(np.uint32)[:] += np.uint32(1)
        outside[span] = False
    canaries = memory[outside].copy()
    placed = {
        name: memory[spans[name]].view(a.dtype).reshape(a.shape) for name, a in arrays.items()
    }
    for name, a in arrays.items():
        placed[name][...] = a
    placed["workspace"] = memory[spans["workspace"]]
    return Fence(arrays=placed, memory=memory, outside=outside, canaries=canaries)


def guard(operands: Operands, workspace_bytes: int = 0) -> Guarded:
    """Copy operands between rows of canaries, with a workspace beside them."""
    names = ("x", "w_in", "w_out", "y", "router", "router_bias", "b_in", "b_out")
    own = {name: getattr(operands, name) for name in names}
    made = fence({name: a for name, a in own.items() if a is not None}, workspace_bytes)
    return Guarded(
        operands=Operands(**{name: made.arrays[name] for name in names if name in made.arrays}),
        workspace=made.arrays["workspace"], fence=made,
    )  # fmt: skip


@lru_cache(maxsize=_KEPT)
def draw_once(problem: Problem) -> Operands:
    """Return a problem's own operands, drawn once for all cases: to be copied, and never written to."""
    operands = make_operands(problem)
    for array in (operands.x, *operands.weights(), operands.y):
        array.flags.writeable = False
    return operands


@lru_cache(maxsize=_KEPT)
def expect_once(problem: Problem) -> check.Expected:
    """Return what every case must make of a problem's own operands."""
    return check.expect(problem, draw_once(problem))


def prepare(
    case: Case, problem: Problem, operands: Operands | None = None
) -> tuple[Guarded, Prepared]:
    """Guard copies of the operands (the problem's own by default) and prepare the case on them.

    Skips the test where the implementation can't run here.
    """
    implementation = case.implementation
    if reason := implementation.unavailable():
        pytest.skip(reason)
    size = implementation.workspace_bytes(problem)
    guarded = guard(draw_once(problem) if operands is None else operands, size)

    def take(asked: int) -> Array:
        if asked != size:
            raise AssertionError(f"asked for {asked} bytes of workspace, announced {size}")
        return guarded.workspace

    context = Context(provider=load_provider(case.provider), workspace=take, isa=case.isa)
    return guarded, implementation.prepare(problem, guarded.operands, context)


def repeat(case: Case, problem: Problem, operands: Operands | None) -> str:
    """Return the command that repeats a case: the harness's own check where it takes such a problem."""
    if operands is not None or problem.d_in != problem.d_out or problem.layer == "ceiling":
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        return shlex.join(["python", "-m", "pytest", test])
    words = repro.words_of(
        case.implementation.id, problem, problem.conditions(), model=repro.name_model(problem)
    )
    provider = ["--blas", case.provider] if case.provider else []
    isa = ["--isa", case.isa] if case.isa else []
    return shlex.join(["python", "-m", "harness", "check", *words, *provider, *isa])


def judge(case: Case, problem: Problem, operands: Operands | None = None) -> str:
    """Return the first fault that a case shows on a problem, or an empty string.

    Every pass is judged by the gate's own check on poisoned output: one, a second, one over the first's
    output, and two inside `time`. All must leave the same bytes, the operands as they were and every
    canary in place.
    """
    guarded, prepared = prepare(case, problem, operands)
    expected = expect_once(problem) if operands is None else check.expect(problem, operands)
    inputs = [guarded.operands.x, *guarded.operands.weights()]
    before = [a.tobytes() for a in inputs]
    y = guarded.operands.y
    outputs = set()

    def time() -> None:
        prepared.time(2)

    passes: list[tuple[Callable[[], None], bool]] = [
        (prepared.forward, True), (prepared.forward, True), (prepared.forward, False), (time, True),
    ]  # fmt: skip
    for run, poisoned in passes:
        if poisoned:
            check.poison(y)
        run()
        verdict = check.judge(problem, guarded.operands, expected)
        if not verdict.ok:
            return f"{verdict.reason}; repeat with: {repeat(case, problem, operands)}"
        outputs.add(y.tobytes())
    if not guarded.intact():
        return "something outside of the arrays was written"
    if [a.tobytes() for a in inputs] != before:
        return "an operand was changed"
    if len(outputs) != 1:
        return "passes over the same operands left different bytes"
    return ""


def with_x(operands: Operands, x: Array) -> Operands:
    """Return the operands with another input."""
    return replace(operands, x=x)


# ---- ties ---------------------------------------------------------------------------------------


def make_ties(dtype: str = "float32", layer: Layer = "fff") -> tuple[Problem, Operands]:
    """Return small integers, with which every pre-activation is exact and many are exactly 0."""
    problem = Problem(
        layer=layer, batch=65, d_in=5, d_out=7, depth=4, dtype=dtype, hidden=3 * (layer == "leaf"),
        trees=1 if layer == "leaf" else 2,
        activation="relu" if layer == "leaf" else "gelu",  # exact too, where it alone is computed
    )  # fmt: skip
    rng = np.random.default_rng(5)
    o = make_operands(problem)
    o.x[...] = rng.integers(-3, 4, o.x.shape)
    o.w_in[...] = rng.integers(-2, 3, o.w_in.shape)
    o.w_out[...] = rng.integers(1, 100, o.w_out.shape)
    for array in o.weights()[2:]:
        array[...] = rng.integers(-2, 3, array.shape)
    return problem, o


def judge_ties(case: Case) -> bool:
    """Say whether a case turns right wherever a pre-activation is exactly 0."""
    problem, operands = make_ties(case.dtype, case.implementation.layer)
    guarded, prepared = prepare(case, problem, operands)
    check.poison(guarded.operands.y)
    prepared.forward()
    truth = check.find_truth(problem, operands, np.arange(problem.batch))
    # The arithmetic is exact, so no token may be left out as a near-tie.
    truth = replace(truth, margin=np.full(problem.batch, np.inf), branches={})
    return check.compare(guarded.operands.y, truth, problem).ok
