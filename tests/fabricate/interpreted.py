"""Own the Triton layers as cases of the conformance suite, under Triton's interpreter.

Import it where the environment has TRITON_INTERPRET=1: Triton decides at import whether it interprets.
The kernels and the code that launches them run unchanged, on torch tensors over the guarded arrays.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import triton.language as tl
from conformance import Case
from triton._C.libtriton import ir
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from harness.backends import registry, triton_layers, triton_tiling
from harness.backends.registry import Context, Implementation, Prepared
from harness.backends.triton_layers import Candidate, Pass, Weights
from harness.gpu.torch_cuda import as_tensor
from harness.problem.operands import Operands
from harness.problem.problem import Problem

FUSED, GROUPED, LEAF = "fff_triton_fused", "fff_triton_grouped", "leaf_triton_grouped"
_PACKAGE = "harness.backends"


def _widen(handle: TensorHandle) -> TensorHandle:
    """Return a bfloat16 handle, which holds bits, as float32."""
    bits = handle.data.astype(np.uint32) << 16
    return TensorHandle(bits.view(np.float32), tl.float32)


def _cut(handle: TensorHandle) -> TensorHandle:
    """Return a float32 handle whose values have the 10 bits of mantissa that TF32 keeps."""
    bits = np.ascontiguousarray(handle.data).view(np.uint32) & np.uint32(0xFFFFE000)
    return TensorHandle(bits.view(np.float32), tl.float32)


def mend_interpreter() -> None:
    """Let the interpreter's product take bfloat16 and TF32, and let it round as the device does.

    Up to 3.9 it multiplies the bits of bfloat16 as integers, and TF32 as float32. Products of either are
    exact in float32, where the device accumulates them too. It cuts a float32 to bfloat16, where the device
    rounds to the nearest.
    """
    multiply, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def cast_impl(self: Any, value: TensorHandle, dst_type: Any) -> Any:
        if (value.dtype.scalar, dst_type.scalar) == (tl.float32, tl.bfloat16):
            return TensorHandle(value.data.astype(ml_dtypes.bfloat16).view(np.uint16), tl.bfloat16)
        return cast(self, value, dst_type)

    def create_dot(
        self: Any, a: TensorHandle, b: TensorHandle, d: TensorHandle, precision: Any, *rest: Any
    ) -> Any:
        if a.dtype == tl.bfloat16:
            a, b = _widen(a), _widen(b)
        elif precision == ir.INPUT_PRECISION.TF32:
            a, b = _cut(a), _cut(b)
        return multiply(self, a, b, d, precision, *rest)

    InterpreterBuilder.create_dot = create_dot
    InterpreterBuilder.cast_impl = cast_impl


def _tensors(operands: Operands) -> Operands:
    own = {f.name: getattr(operands, f.name) for f in fields(operands) if f.name != "rotation"}
    arrays = {name: as_tensor(array) for name, array in own.items() if array is not None}
    sets = tuple(tuple(map(as_tensor, arrays)) for arrays in operands.rotation)
    return replace(operands, **arrays, rotation=sets)


def make(
    name: str, candidates_of: Any, workspace_bytes: Any = triton_tiling.grouped_workspace_bytes,
    of: str = FUSED,
) -> Case:  # fmt: skip
    """Return a case of candidates, on tensors over its arrays."""
    implementation = replace(
        registry.get(of), id=name, prepare=partial(triton_layers.prepare, candidates_of),
        workspace_bytes=workspace_bytes,
    )  # fmt: skip
    return on_tensors(implementation)


def on_tensors(implementation: Implementation) -> Case:
    """Return a case whose operands and workspace reach the implementation as tensors over the arrays."""

    def prepare(problem: Problem, operands: Operands, context: Context) -> Prepared:
        hosted = replace(context, workspace=lambda size: as_tensor(context.workspace(size)))
        return implementation.prepare(problem, _tensors(operands), hosted)

    hosted = replace(
        implementation, prepare=prepare, devices=("cpu",), unavailable=lambda: ""
    )  # fmt: skip
    return Case(implementation=hosted, provider="", isa="")


def registered(name: str) -> Case:
    """Return what the registry holds, its choice of a tile included."""
    return on_tensors(registry.get(name))


def fused(
    tokens: int, block_in: int = 0, block_out: int = 0, kernels: ModuleType | None = None
) -> Case:
    """Return the fused kernel with a tile of some tokens; blocks as wide as the rows by default."""
    from harness.backends import triton_fused

    module = triton_fused if kernels is None else kernels

    def candidates(problem: Problem, operands: Operands, context: Context) -> list[Candidate]:
        tile = triton_tiling.fused_tile(problem, tokens, 16)
        tile = replace(
            tile, block_in=block_in or tile.block_in, block_out=block_out or tile.block_out
        )

        def bind(weights: Weights) -> Pass:
            launch: Pass = module.bind(problem, tile, weights, operands.x, operands.y)
            return launch

        return [("", bind)]

    suffix = f"_{block_in}_{block_out}" if block_in or block_out else ""
    return make(f"{FUSED}_{tokens}{suffix}", candidates, lambda problem: 0)


def grouped(tokens: int) -> Case:
    """Return the grouped kernels with a tile of some tokens."""
    from harness.backends import triton_grouped_launch

    return grouped_by(triton_grouped_launch, tokens)


def grouped_by(bands: ModuleType, tokens: int = 16) -> Case:
    """Return the grouped kernels as a module launches them."""

    def candidates(problem: Problem, operands: Operands, context: Context) -> list[Candidate]:
        memory = context.workspace(triton_tiling.grouped_workspace_bytes(problem))

        def bind(weights: Weights) -> Pass:
            launch: Pass = bands.bind(problem, tokens, weights, operands.x, operands.y, memory)
            return launch

        return [("", bind)]

    return make(f"{GROUPED}_{tokens}", candidates)


def leaves(tokens: int, kernels: ModuleType | None = None) -> Case:
    """Return the kernels of the leaf FFF with a tile of some tokens."""
    from harness.backends import triton_leaf

    module = triton_leaf if kernels is None else kernels

    def candidates(problem: Problem, operands: Operands, context: Context) -> list[Candidate]:
        memory = context.workspace(triton_tiling.leaf_workspace_bytes(problem))

        def bind(weights: Weights) -> Pass:
            launch: Pass = module.bind(problem, tokens, weights, operands.x, operands.y, memory)
            return launch

        return [("", bind)]

    return make(f"{LEAF}_{tokens}", candidates, triton_tiling.leaf_workspace_bytes, LEAF)


def plant(folder: Path, name: str, right: str, wrong: str) -> ModuleType:
    """Return one of the kernels' modules, loaded from a copy in which one piece of text is another.

    Raises ValueError where the text does not stand there exactly once.
    """
    spec = importlib.util.find_spec(f"{_PACKAGE}.{name}")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    if source.count(right) != 1:
        raise ValueError(f"{name} holds {right!r} {source.count(right)} times")
    copy = folder / f"{name}.py"
    copy.write_text(source.replace(right, wrong), encoding="utf-8")
    planted = importlib.util.spec_from_file_location(f"{name}_planted", copy)
    assert planted is not None
    assert planted.loader is not None
    module = importlib.util.module_from_spec(planted)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    planted.loader.exec_module(module)
    return module


mend_interpreter()
