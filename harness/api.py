"""Own the door for Python callers: run an implementation on one's own arrays."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from harness import plugin
from harness.backends import blas, registry
from harness.backends.registry import Context, Implementation
from harness.errors import UnavailableError, UnknownNameError
from harness.problem.operands import Operands, make_aligned
from harness.problem.problem import DTYPES, Array, Problem


def implementations() -> list[Implementation]:
    """Return the implementations of FF and FFF, in the order that `python -m harness list` shows.

    Those of a leaf FFF have more operands than `forward` takes: the list of the command line shows them too.
    """
    plugin.load_installed()
    return [i for i in registry.layers() if i.layer in ("ff", "fff")]


@cache
def _provider(name: str) -> blas.Provider:
    return blas.load(name)


def _require(name: str, array: Array, ndim: tuple[int, ...]) -> None:
    """Refuse anything but a C-contiguous array of a known dtype and the right number of dimensions."""
    needed = " or ".join(str(n) for n in ndim)
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name}: need a NumPy array, got {type(array).__name__}")
    known = str(array.dtype) in DTYPES
    if not known or array.ndim not in ndim or not array.flags.c_contiguous:
        raise ValueError(
            f"{name}: need C-contiguous {' or '.join(DTYPES)} with {needed} dimensions, got {array.dtype} "
            f"{array.shape} (contiguous={array.flags.c_contiguous})"
        )
    if 0 in array.shape:
        raise ValueError(
            f"{name}: need at least one element along each dimension, got {array.shape}"
        )


def _depth_of(n_nodes: int) -> int:
    depth = (n_nodes + 1).bit_length() - 2
    if 2 ** (depth + 1) - 1 != n_nodes:
        raise ValueError(
            f"w_in: a tree has 2**(depth + 1) - 1 nodes (1, 3, 7, ... 4095, ...), got {n_nodes}"
        )
    return depth


def make_problem(layer: str, x: Array, w_in: Array, w_out: Array) -> Problem:
    """Return the problem that the caller's arrays pose; for an FFF the depth is inferred.

    Raises ValueError for arrays of the wrong dtype, order or shape, or a node count that is no tree's.
    """
    ndim = (2, 3) if layer == "fff" else (2,)
    _require("x", x, (2,))
    _require("w_in", w_in, ndim)
    _require("w_out", w_out, ndim)
    for name, array in (("w_in", w_in), ("w_out", w_out)):
        if array.dtype != x.dtype:
            raise ValueError(f"{name}: need the dtype of x, {x.dtype}, got {array.dtype}")
    if w_in.shape[:-1] != w_out.shape[:-1]:
        raise ValueError(
            f"w_out: need the neurons of w_in, {w_in.shape[:-1]}, got {w_out.shape[:-1]}"
        )
    if w_in.shape[-1] != x.shape[1]:
        raise ValueError(f"w_in: need the d_in of x, {x.shape[1]}, got {w_in.shape[-1]}")
    extents: dict[str, Any] = {
        "batch": x.shape[0], "d_in": x.shape[1], "d_out": w_out.shape[-1], "dtype": str(x.dtype),
    }  # fmt: skip
    if layer == "fff":
        trees = w_in.shape[0] if w_in.ndim == 3 else 1
        return Problem(layer="fff", depth=_depth_of(w_in.shape[-2]), trees=trees, **extents)
    return Problem(layer="ff", hidden=w_in.shape[0], **extents)


def forward(
    implementation: str,
    x: Array,
    w_in: Array,
    w_out: Array,
    *,
    blas: str = blas.DEFAULT,
    isa: str = "",
) -> Array:
    """Run one pass of an implementation and return ``y (batch, d_out)``, in x's dtype.

    x (batch, d_in). FF: w_in (hidden, d_in), w_out (hidden, d_out). FFF: (n_nodes, ...) or
    (trees, n_nodes, ...) with n_nodes = 2**(depth + 1) - 1. All C-contiguous, float32 or bfloat16.
    blas: provider's name or path, where the implementation is built on BLAS. isa: instruction set of our
    own vector code, the fastest by default. For timing use the sweep: this call allocates.

    Raises UnknownNameError (a LookupError) for an unknown id, ValueError for unfit arrays or a dtype that
    the implementation does not take, UnavailableError where the implementation or its provider is not on
    this machine.
    """
    plugin.load_installed()
    found = registry.get(implementation)
    if found.layer not in ("ff", "fff"):  # a leaf FFF has more operands than these
        known = [i.id for i in registry.layers() if i.layer in ("ff", "fff")]
        raise UnknownNameError("implementation of an FF or FFF", implementation, known=known)
    if reason := found.unavailable():
        raise UnavailableError(f"{implementation}: {reason}")
    problem = make_problem(found.layer, x, w_in, w_out)
    if problem.dtype not in found.dtypes:
        raise ValueError(f"x: {found.id} takes {' or '.join(found.dtypes)}, got {problem.dtype}")
    shape_in, shape_out = problem.weight_shapes()
    operands = Operands(
        x=x, w_in=w_in.reshape(shape_in), w_out=w_out.reshape(shape_out),
        y=make_aligned((problem.batch, problem.d_out), problem.stored),
    )  # fmt: skip
    context = Context(
        provider=_provider(blas) if found.needs_provider else None,
        workspace=lambda size: make_aligned((size,), np.uint8),
        isa=isa,
    )
    found.prepare(problem, operands, context).forward()
    return operands.y
