"""Own the registration of the Triton layers; Triton and torch are imported when one is prepared."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from harness.backends import race, triton_tiling
from harness.backends.registry import Context, Implementation, Prepared, TensorPass, register
from harness.backends.timer import TimePasses
from harness.gpu import probe
from harness.problem.operands import Operands
from harness.problem.problem import DTYPES, Problem

Pass = Callable[[], None]
Weights = tuple[Any, ...]  # as `Problem.weights` orders them, torch tensors
# A way of launching: its name in the record, and what makes a pass of it over a set of weights.
Candidate = tuple[str, Callable[[Weights], Pass]]

_INSTALL = "pip install 'fff-harness[cuda]'"
_PASSES, _ROUNDS = 5, 3  # what a candidate is tried with, untimed by the sweep


def unavailable() -> str:
    """Return why no Triton kernel runs here, or an empty string.

    Whether there is a GPU is asked in a process of its own: a driver call without a driver can hang.
    """
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed: {_INSTALL}"
    if reason := probe.why_not("cuda"):
        return reason
    from triton import knobs

    return (
        "TRITON_INTERPRET is set: kernels would run on the CPU" if knobs.runtime.interpret else ""
    )


def fastest(
    candidates: Sequence[Candidate], weights: Weights, timer: Callable[..., TimePasses]
) -> Candidate:
    """Return the candidate whose passes take the least time, the best of rounds that are interleaved.

    Each is run once before, so that nothing compiles on the clock. A single one is not timed.
    """
    if len(candidates) == 1:
        return candidates[0]
    times = {}
    for name, bind in candidates:
        run = bind(weights)
        run()
        times[name] = timer(run)
    least = race.least_times(times, dict.fromkeys(times, _PASSES), _ROUNDS)
    return min(candidates, key=lambda candidate: least[candidate[0]])


def choose(candidates: Sequence[Candidate], weights: Weights, context: Context) -> Candidate:
    """Return the candidate that another process of the run chose, else the fastest.

    Raises RuntimeError where the candidate of that name is not among them.
    """
    if not context.tile:
        return fastest(candidates, weights, context.timer)
    by_name = dict(candidates)
    race.require_known(context.tile, by_name)
    return context.tile, by_name[context.tile]


def fused_candidates(problem: Problem, operands: Operands, context: Context) -> list[Candidate]:
    """Return the fused kernel with each tile that fits the problem."""
    from harness.backends import triton_fused

    def bind(tile: triton_tiling.FusedTile, weights: Weights) -> Pass:
        return triton_fused.bind(problem, tile, weights, operands.x, operands.y)

    return [
        (f"{tile.tokens} tokens, {tile.warps} warps", partial(bind, tile))
        for tile in triton_tiling.fused_tiles(problem)
    ]


def grouped_candidates(problem: Problem, operands: Operands, context: Context) -> list[Candidate]:
    """Return the grouped kernels with each tile; the fused ones where no group is large enough."""
    if not triton_tiling.first_levels(problem.batch, problem.depth):
        return fused_candidates(problem, operands, context)
    if problem.trees > triton_tiling.MAX_TREES:
        raise ValueError(f"trees must be at most {triton_tiling.MAX_TREES}, got {problem.trees}")
    from harness.backends import triton_grouped_launch

    memory = context.workspace(triton_tiling.grouped_workspace_bytes(problem))

    def bind(tile: int, weights: Weights) -> Pass:
        return triton_grouped_launch.bind(problem, tile, weights, operands.x, operands.y, memory)

    return [(f"{tile} tokens", partial(bind, tile)) for tile in triton_tiling.GROUPED_TILES]


def leaf_candidates(problem: Problem, operands: Operands, context: Context) -> list[Candidate]:
    """Return the kernels of a leaf FFF with each tile."""
    from harness.backends import triton_leaf

    memory = context.workspace(triton_tiling.leaf_workspace_bytes(problem))

    def bind(tile: int, weights: Weights) -> Pass:
        return triton_leaf.bind(problem, tile, weights, operands.x, operands.y, memory)

    return [(f"{tile} tokens", partial(bind, tile)) for tile in triton_tiling.GROUPED_TILES]


def prepare(
    candidates_of: Callable[[Problem, Operands, Context], Sequence[Candidate]],
    problem: Problem, operands: Operands, context: Context,
) -> Prepared:  # fmt: skip
    """Choose the fastest candidate on these operands, torch tensors; compile it for every set of weights."""
    import triton

    sets = operands.sets()
    candidates = candidates_of(problem, operands, context)
    name, bind = choose(candidates, sets[0], context)
    passes = [bind(weights) for weights in sets]
    for run in passes:
        run()
    notes = {"tile": name, "tiles_tried": str(len(candidates)), "triton": triton.__version__}
    return Prepared(
        forward=passes[0], time=context.timer(*passes), notes=notes, sets=len(passes)
    )  # fmt: skip


def tensor_pass(
    candidates_of: Callable[[Problem, Operands, Context], Sequence[Candidate]],
    problem: Problem, context: Context,
) -> TensorPass:  # fmt: skip
    """Return a pass of the candidate that is the fastest on the tensors of its first call."""
    chosen: list[str] = []

    def forward(x: Any, w_in: Any, w_out: Any, y: Any) -> None:
        operands = Operands(x=x, w_in=w_in, w_out=w_out, y=y)
        candidates = candidates_of(problem, operands, context)
        if not chosen:
            chosen.append(fastest(candidates, (w_in, w_out), context.timer)[0])
        dict(candidates)[chosen[0]]((w_in, w_out))()

    return forward


def _prepare_grouped(problem: Problem, operands: Operands, context: Context) -> Prepared:
    prepared = prepare(grouped_candidates, problem, operands, context)
    grouped = triton_tiling.grouped_levels(problem)
    prepared.notes["grouped_levels"] = f"{grouped} of {problem.depth + 1}"
    return prepared


register(
    Implementation(
        id="fff_triton_fused", layer="fff", level=None, devices=("cuda",), dtypes=DTYPES,
        summary="Triton: one launch, a program takes tokens from the root to the leaves",
        prepare=partial(prepare, fused_candidates),
        tensor_pass=partial(tensor_pass, fused_candidates), workspace_bytes=lambda problem: 0,
        unavailable=unavailable,
    )
)  # fmt: skip
register(
    Implementation(
        id="fff_triton_grouped", layer="fff", level=None, devices=("cuda",), dtypes=DTYPES,
        summary="Triton: tokens grouped by subtree, dense products of 15 nodes, gathers below",
        prepare=_prepare_grouped, tensor_pass=partial(tensor_pass, grouped_candidates),
        workspace_bytes=triton_tiling.grouped_workspace_bytes, tf32=True,
        unavailable=unavailable,
    )
)  # fmt: skip
register(
    Implementation(
        id="leaf_triton_grouped", layer="leaf", level=None, devices=("cuda",), dtypes=DTYPES,
        summary="Triton: tokens sorted by leaf on the device, two dense products a leaf",
        prepare=partial(prepare, leaf_candidates),
        workspace_bytes=triton_tiling.leaf_workspace_bytes, tf32=True, unavailable=unavailable,
    )
)  # fmt: skip
