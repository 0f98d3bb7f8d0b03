"""The problem: extents, counts of work, operands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness.problem.operands import make_aligned, make_operands, make_weights, make_x
from harness.problem.problem import ALIGNMENT, Problem

FF: dict[str, Any] = {"layer": "ff", "batch": 2, "d_in": 3, "d_out": 4, "hidden": 5}
FFF: dict[str, Any] = {"layer": "fff", "batch": 2, "d_in": 3, "d_out": 4, "depth": 2, "trees": 1}


@pytest.mark.parametrize(
    ("base", "change"),
    [
        (FF, {"batch": 0}), (FF, {"d_in": -1}), (FF, {"d_out": 0}), (FF, {"hidden": 0}),
        (FF, {"depth": 1}), (FF, {"trees": 1}), (FF, {"dtype": "float16"}), (FF, {"data": "ones"}),
        (FFF, {"depth": -1}), (FFF, {"depth": 21}), (FFF, {"trees": 0}), (FFF, {"hidden": 3}),
        (FFF, {"trees": (1 << 20) + 1}),
    ],
)  # fmt: skip
def test_bad_extents(base: dict[str, Any], change: dict[str, Any]) -> None:
    """An extent that no kernel could take is refused by name."""
    name = next(iter(change))
    with pytest.raises(ValueError, match=name):
        Problem(**(base | change))


def test_counts_of_the_paper() -> None:
    """UltraFastBERT-1x11 has 4095 neurons of which 12 are used, 341.25 times fewer operations."""
    paper = {"batch": 16384, "d_in": 768, "d_out": 768}
    dense = Problem(layer="ff", hidden=4095, **paper)
    tree = Problem(layer="fff", depth=11, trees=1, **paper)
    assert (tree.n_nodes, tree.neurons, tree.used_neurons) == (4095, 4095, 12)
    assert dense.flops() / tree.flops() == 341.25
    assert dense.flops() == 2 * 16384 * 4095 * 2 * 768
    assert dense.weight_bytes() == tree.weight_bytes() == 4095 * 2 * 768 * 4


def test_bytes_moved_counts_rows_that_can_be_used() -> None:
    """One token moves the rows of its own path, many tokens every row once."""
    one = Problem(**(FFF | {"batch": 1, "depth": 9}))
    assert one.bytes_moved() == 4 * (10 * 7 + 7)
    many = replace(one, batch=1000)
    assert many.bytes_moved() == many.weight_bytes() + 4 * 1000 * 7


@pytest.mark.parametrize("base", [FF, FFF])
def test_operands(base: dict[str, Any]) -> None:
    """Operands have the problem's shapes, are float32, contiguous, aligned, written and not repeated."""
    problem = Problem(**(base | {"batch": 16, "d_in": 8}))
    o = make_operands(problem)
    shape_in, shape_out = problem.weight_shapes()
    assert o.x.shape == (16, 8)
    assert o.w_in.shape == shape_in
    assert o.w_out.shape == shape_out
    assert o.y.shape == (16, 4)
    for array in (o.x, o.w_in, o.w_out, o.y):
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.ctypes.data % ALIGNMENT == 0
    for array in (o.x, o.w_in, o.w_out):
        assert np.unique(array).size > 0.99 * array.size
        assert np.isfinite(array).all()
    assert not o.y.any()


def test_streams_are_independent() -> None:
    """The parts of a problem and the layers are drawn from streams that share nothing."""
    ff = Problem(layer="ff", batch=7, d_in=8, d_out=8, hidden=7)
    fff = Problem(layer="fff", batch=7, d_in=8, d_out=8, depth=2, trees=1)
    drawn = [make_x(ff), *make_weights(ff), *make_weights(fff)]
    for i, a in enumerate(drawn):
        for b in drawn[i + 1 :]:
            assert np.intersect1d(a, b).size == 0
    np.testing.assert_array_equal(make_x(ff), make_x(fff))


def test_smaller_batch_is_the_head() -> None:
    """The input of a smaller batch is the head of a larger one's, so that cells can share the buffer."""
    problem = Problem(**(FF | {"batch": 33}))
    np.testing.assert_array_equal(make_x(replace(problem, batch=8)), make_x(problem)[:8])


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (2, 3, 7)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_make_aligned(shape: tuple[int, ...], dtype: Any) -> None:
    """An aligned array is zeroed, contiguous, writable and begins on a cache line."""
    array = make_aligned(shape, dtype)
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.size == 0 or array.ctypes.data % ALIGNMENT == 0
    assert not array.any()


def test_problems_of_one_input_key_share_their_rows() -> None:
    """Where two problems' inputs have one key, the smaller batch is the head of the larger one."""
    small = {"d_in": 1024, "d_out": 4, "seed": 3}
    problems = [
        Problem(layer="ff", batch=1100, hidden=2, **small),
        Problem(layer="fff", batch=1030, depth=1, trees=1, **small),
        Problem(layer="ceiling", batch=2100, hidden=1024, **small),
        Problem(layer="ceiling", batch=1100, hidden=1024, **small),
    ]
    drawn = [make_x(p) for p in problems]
    pairs = [
        (a, b)
        for i, a in enumerate(drawn)
        for j, b in enumerate(drawn)
        if i < j and problems[i].input_key() == problems[j].input_key()
    ]
    assert len(pairs) == 2  # the layers with each other, the ceilings with each other
    for a, b in pairs:
        rows = min(len(a), len(b))
        assert a[:rows].tobytes() == b[:rows].tobytes()
