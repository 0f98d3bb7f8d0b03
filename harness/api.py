"""Own the door for Python callers: run an implementation on one's own arrays."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from harness import plugin
from harness.backends import blas, registry
from harness.backends.registry import Context, Implementation
from harness.errors import UnavailableError, UnknownNameError
from harness.problem.operands import Operands, make_aligned
from harness.problem.problem import DTYPES, Array, Problem

_LAYERS = ("ff", "fff", "leaf")
_LEAF_OPERANDS = ("router", "router_bias", "b_in", "b_out")


def implementations() -> list[Implementation]:
    """Return what `forward` runs, in the order that `python -m harness list` shows: FF, FFF and leaf FFF.

    Those of the controls choose their neurons in other ways: the list of the command line shows them too.
    """
    plugin.load_installed()
    return [i for i in registry.layers() if i.layer in _LAYERS]


@cache
def _provider(name: str) -> blas.Provider:
    return blas.load(name)


def _require(name: str, array: Any, ndim: tuple[int, ...], *, may_be_empty: bool = False) -> None:
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
    if 0 in array.shape and not may_be_empty:
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


def _leaf_depth_of(leaves: int) -> int:
    depth = leaves.bit_length() - 1
    if 2**depth != leaves:
        raise ValueError(f"w_in: a router leads to 2**depth leaves (1, 2, 4, ...), got {leaves}")
    return depth


def _check_leaf_operands(problem: Problem, given: Mapping[str, Any]) -> None:
    """Refuse the router and the biases of a leaf FFF where they do not fit its leaves."""
    for name in _LEAF_OPERANDS:
        shape = problem.weights()[name]
        # A single leaf has no node before it.
        _require(name, given[name], (len(shape),), may_be_empty=0 in shape)
        if given[name].shape != shape:
            raise ValueError(f"{name}: need the shape {shape}, got {given[name].shape}")
        if str(given[name].dtype) != problem.dtype:
            raise ValueError(
                f"{name}: need the dtype of x, {problem.dtype}, got {given[name].dtype}"
            )


def make_problem(
    layer: str, x: Array, w_in: Array, w_out: Array, activation: str = "gelu", **leaf: Any
) -> Problem:
    """Return the problem that the caller's arrays pose; the depth of a tree or of a router is inferred.

    leaf: router, router_bias, b_in and b_out, of a leaf FFF alone.

    Raises ValueError for arrays of the wrong dtype, order or shape, a node count that is no tree's, or a
    count of leaves that is no router's.
    """
    ndim = {"fff": (2, 3), "leaf": (3,)}.get(layer, (2,))
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
        "activation": activation,
    }  # fmt: skip
    if layer == "fff":
        trees = w_in.shape[0] if w_in.ndim == 3 else 1
        return Problem(layer="fff", depth=_depth_of(w_in.shape[-2]), trees=trees, **extents)
    if layer == "leaf":
        depth, hidden = _leaf_depth_of(w_in.shape[0]), w_in.shape[1]
        problem = Problem(layer="leaf", depth=depth, trees=1, hidden=hidden, **extents)
        _check_leaf_operands(problem, leaf)
        return problem
    return Problem(layer="ff", hidden=w_in.shape[0], **extents)


def _check_given(found: Implementation, given: Mapping[str, Any]) -> None:
    """Refuse operands of a leaf FFF for another layer, and a leaf FFF without one of them."""
    for name, array in given.items():
        if found.layer == "leaf" and array is None:
            raise ValueError(
                f"{name}: {found.id} is of a leaf FFF, which needs {', '.join(_LEAF_OPERANDS)}"
            )
        if found.layer != "leaf" and array is not None:
            raise ValueError(f"{name}: belongs to a leaf FFF, and {found.id} is of none")


def forward(
    implementation: str,
    x: Array,
    w_in: Array,
    w_out: Array,
    *,
    router: Array | None = None,
    router_bias: Array | None = None,
    b_in: Array | None = None,
    b_out: Array | None = None,
    activation: str = "gelu",
    blas: str = blas.DEFAULT,
    isa: str = "",
) -> Array:
    """Run one pass of an implementation and return ``y (batch, d_out)``, in x's dtype.

    x (batch, d_in). FF: w_in (hidden, d_in), w_out (hidden, d_out). FFF: (n_nodes, ...) or
    (trees, n_nodes, ...) with n_nodes = 2**(depth + 1) - 1. Leaf FFF: w_in (leaves, hidden, d_in), w_out
    (leaves, hidden, d_out), router (leaves - 1, d_in), router_bias (leaves - 1,), b_in (leaves, hidden),
    b_out (leaves, d_out) with leaves = 2**depth, and an activation, `gelu` or `relu`:
    ``y = act(w_in[j] x + b_in[j]) w_out[j] + b_out[j]`` of the leaf j that is come to by turning right
    wherever ``<x, router[n]> + router_bias[n] >= 0``. All C-contiguous, float32 or bfloat16.
    blas: provider's name or path, where the implementation is built on BLAS. isa: instruction set of our
    own vector code, the fastest by default. For timing use the sweep: this call allocates.

    Raises UnknownNameError (a LookupError) for an unknown id, ValueError for unfit arrays or a dtype that
    the implementation does not take, UnavailableError where the implementation or its provider is not on
    this machine.

    Source of the leaf FFF: Belcak and Wattenhofer 2023, arXiv 2308.14711.
    """
    plugin.load_installed()
    found = registry.get(implementation)
    if found.layer not in _LAYERS:
        known = [i.id for i in registry.layers() if i.layer in _LAYERS]
        raise UnknownNameError("implementation of an FF, FFF or leaf FFF", implementation, known)
    leaf: dict[str, Any] = {
        "router": router, "router_bias": router_bias, "b_in": b_in, "b_out": b_out,
    }  # fmt: skip
    _check_given(found, leaf)
    if reason := found.unavailable():
        raise UnavailableError(f"{implementation}: {reason}")
    problem = make_problem(found.layer, x, w_in, w_out, activation, **leaf)
    if problem.dtype not in found.dtypes:
        raise ValueError(f"x: {found.id} takes {' or '.join(found.dtypes)}, got {problem.dtype}")
    shape_in, shape_out = problem.weight_shapes()
    operands = Operands(
        x=x, w_in=w_in.reshape(shape_in), w_out=w_out.reshape(shape_out),
        y=make_aligned((problem.batch, problem.d_out), problem.stored), **leaf,
    )  # fmt: skip
    context = Context(
        provider=_provider(blas) if found.needs_provider else None,
        workspace=lambda size: make_aligned((size,), np.uint8),
        isa=isa,
    )
    found.prepare(problem, operands, context).forward()
    return operands.y
