"""Register one implementation for each native kernel."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from harness import native
from harness.backends import race
from harness.backends.registry import Context, Implementation, Prepared, TensorPass, register
from harness.backends.timer import TimePasses
from harness.machine import processor
from harness.machine.resources import Files
from harness.problem.operands import Operands
from harness.problem.problem import Layer, Problem

_OWN = {
    ("ff", "fused"): "own code, one walk over the weights for both products",
    ("fff", "fused"): "own code, token by token",
    ("fff", "grouped"): "own code, tokens grouped by node",
    ("leaf", "grouped"): "own code, tokens grouped by leaf",
    ("fff", "auto"): "own code, whichever suits the problem",
    ("topk", "fused"): "own code, all logits, then the largest",
    ("hash", "fused"): "own code, token by token",
    ("hash", "grouped"): "own code, tokens grouped by node",
    ("peer", "fused"): "own code, scores of keys, then token by token",
    ("moe", "grouped"): "own code, tokens grouped by expert",
}
# What the processor must report, beyond the instruction sets that are chosen between, by kernel.
_UNITS = {"ceiling_bfdot": "avx512_bf16", "ceiling_amx": "amx_bf16"}
# What a kernel may leave a problem to. Where that is near, its own table of shapes fits one machine and not
# another: which is faster is then measured, up to this many tokens.
_CANDIDATES = {"fff_cpu_auto": ("fff_cpu_fused", "fff_cpu_grouped")}
_CALIBRATED_TOKENS = 64
_ROUNDS, _ROUND_NS, _ADVANTAGE = 7, 200_000, 0.97
_LEVELS = {1: "dot and axpy", 2: "batched gemv and batched axpy", 3: "gemm"}


def _surroundings(context: Context) -> native.Surroundings:
    return native.Surroundings(
        blas=context.provider.table if context.provider is not None else None,
        isa=context.isa, threads=context.threads, caches=context.caches,
        far_weights=context.far_weights,
        team=context.team() if context.team is not None and context.threads > 1 else None,
    )  # fmt: skip


def _notes(kernel: native.Kernel, problem: Problem, context: Context) -> dict[str, str]:
    notes = {"isa": context.isa or native.isas()[0]}
    if context.provider is not None:
        if kernel.batches_gemv:
            notes["batched_gemv"] = "routine" if context.provider.has("sgemv_batch") else "loop"
        if kernel.batches_axpy:
            notes["batched_axpy"] = "routine" if context.provider.has("saxpy_batch") else "loop"
    # The other kernels take what they can use of them; the loops of the ceilings share all their work.
    if kernel.layer == "ceiling" and not kernel.needs_blas and context.threads > 1:
        notes["threads"] = str(context.threads)
    if chosen := native.choice(kernel.id, problem, _surroundings(context)):
        notes["chosen"] = chosen
    return notes


def _calibrates(kernel: native.Kernel, problem: Problem, context: Context) -> bool:
    """Say whether the faster candidate is measured. Not where weights come from memory: none is there now."""
    near = 1 < problem.batch <= _CALIBRATED_TOKENS and problem.depth > 0
    return kernel.id in _CANDIDATES and near and not context.far_weights


def calibrate(times: Mapping[str, TimePasses], usual: str) -> tuple[str, dict[str, float]]:
    """Return the fastest of some kernels, and the least time of a pass of each in ns.

    times: as for `race.least_times`. A kernel that is not the `usual` one must be faster by 3 %: less is what
    one process differs from the next.
    """
    loops = {name: max(1, _ROUND_NS // max(1, time(1))) for name, time in times.items()}
    least = race.least_times(times, loops, _ROUNDS)
    fastest = min(least, key=least.__getitem__)
    return (fastest if least[fastest] < _ADVANTAGE * least[usual] else usual), least


def _prepare(
    kernel: native.Kernel, problem: Problem, operands: Operands, context: Context
) -> Prepared:
    workspace = context.workspace(native.workspace_bytes(kernel.id, problem))
    around, notes = _surroundings(context), _notes(kernel, problem, context)

    names: tuple[str, ...] = (kernel.id,)
    calibrates = _calibrates(kernel, problem, context)
    if calibrates:
        names = _CANDIDATES[kernel.id]
        if context.tile:
            race.require_known(context.tile, names)
            names = (context.tile,)
    bound = {name: native.bind(name, problem, operands, around, workspace) for name in names}
    name = names[0]
    if len(names) > 1:
        name, least = calibrate({n: time for n, (_, time) in bound.items()}, notes["chosen"])
        notes["calibration"] = ", ".join(f"{n} {ns / 1000:.3g} us" for n, ns in least.items())
    if calibrates:
        notes |= {"chosen": name, "tile": name}
    forward, time = bound[name]
    return Prepared(forward=forward, time=time, notes=notes, sets=1 + len(operands.rotation))


def _why_not(kernel: native.Kernel) -> str:
    """Return why the processor can't run a kernel, or an empty string."""
    unit = _UNITS.get(kernel.id)
    if unit is None or unit in processor.read_isa(Files()):
        return ""
    return f"the processor reports no {unit}"


def _tensor_pass(kernel: native.Kernel, problem: Problem, context: Context) -> TensorPass:
    workspace = context.workspace(native.workspace_bytes(kernel.id, problem))
    run = native.bind_shape(kernel.id, problem, _surroundings(context), workspace)

    def forward(x: Any, w_in: Any, w_out: Any, y: Any) -> None:
        run(x.data_ptr(), w_in.data_ptr(), w_out.data_ptr(), y.data_ptr())

    return forward


def _summary(kernel: native.Kernel) -> str:
    how = kernel.id.rsplit("_", 1)[-1]
    if not kernel.level:
        return _OWN.get((kernel.layer, how), f"own code, {how}")
    built_on = f"BLAS level {kernel.level}: {_LEVELS[kernel.level]}"
    return built_on if how == "blas" else f"{built_on}, {how}"


for _kernel in native.KERNELS.values():
    register(
        Implementation(
            id=_kernel.id,
            layer=cast(Layer, _kernel.layer),
            level=_kernel.level,
            devices=("cpu",),
            summary=_summary(_kernel),
            prepare=partial(_prepare, _kernel),
            tensor_pass=partial(_tensor_pass, _kernel) if _kernel.layer in ("ff", "fff") else None,
            by_address=True,
            workspace_bytes=partial(native.workspace_bytes, _kernel.id),
            needs_provider=_kernel.needs_blas,
            dtypes=_kernel.dtypes,
            token_block=_kernel.token_block,
            unavailable=partial(_why_not, _kernel),
        )
    )
