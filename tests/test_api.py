"""The door for Python callers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conformance import cases

import harness
from harness.errors import UnavailableError, UnknownNameError
from harness.problem import oracle
from harness.problem.leaf import leaf_oracle
from harness.problem.problem import ACTIVATIONS, Array

LAYERS = {
    c.implementation.id: c.implementation
    for c in cases()
    if c.implementation.layer in ("ff", "fff", "leaf")
}


def _params(*layers: str) -> list[Any]:
    return [
        pytest.param(id, marks=pytest.mark.skipif(bool(i.unavailable()), reason=i.unavailable()))
        for id, i in sorted(LAYERS.items())
        if i.layer in layers
    ]


IDS, LEAF_IDS = _params("ff", "fff"), _params("leaf")


def _weights(draw: Callable[..., Array], implementation: str) -> tuple[Array, Array]:
    rows = (2, 7) if implementation.startswith("fff_") else (13,)
    return draw(*rows, 5, seed=1), draw(*rows, 4, seed=2)


def _leaf(draw: Callable[..., Array], *, leaves: int = 4, width: int = 3) -> dict[str, Array]:
    """Return all operands of a leaf FFF, 5 in and 4 out."""
    return {
        "x": draw(9, 5), "w_in": draw(leaves, width, 5, seed=1), "w_out": draw(leaves, width, 4, seed=2),
        "router": draw(leaves - 1, 5, seed=3), "router_bias": draw(leaves - 1, seed=4),
        "b_in": draw(leaves, width, seed=5), "b_out": draw(leaves, 4, seed=6),
    }  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("leaves", "width"), [(1, 5), (2, 1), (8, 3)])
@pytest.mark.parametrize("implementation", LEAF_IDS)
def test_forward_of_a_leaf_fff(
    draw: Callable[..., Array], implementation: str, leaves: int, width: int, activation: str
) -> None:
    """Any implementation of a leaf FFF runs on the caller's own arrays, and infers depth and leaf width."""
    given = _leaf(draw, leaves=leaves, width=width)
    kept = {name: array.copy() for name, array in given.items()}
    y = harness.forward(implementation, **given, activation=activation)
    truth = leaf_oracle(**given, depth=leaves.bit_length() - 1, activation=activation)
    np.testing.assert_allclose(y, truth.y, rtol=1e-5, atol=1e-6)
    for name, before in kept.items():
        np.testing.assert_array_equal(given[name], before)


_BAD_LEAF: list[tuple[str, str, Callable[[Array], Any]]] = [
    ("router", "needs router, router_bias, b_in, b_out", lambda a: None),
    ("b_out", "needs router, router_bias, b_in, b_out", lambda a: None),
    ("router", r"need the shape \(3, 5\), got \(2, 5\)", lambda a: a[:-1]),
    ("router", "at least one element", lambda a: a[:0]),
    ("router", "need the dtype of x, float32, got bfloat16", lambda a: a.astype(ml_dtypes.bfloat16)),
    ("router_bias", "with 1 dimensions", lambda a: a[:, None]),
    ("b_in", r"need the shape \(4, 3\), got \(3, 3\)", lambda a: a[1:]),
    ("b_out", "contiguous=False", np.asfortranarray),
    ("w_in", "with 3 dimensions", lambda a: a[0]),
    ("w_out", r"neurons of w_in, \(4, 3\)", lambda a: a[:2]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "what", "spoil"), _BAD_LEAF, ids=[f"{n}-{w}" for n, w, _ in _BAD_LEAF]
)
def test_unfit_arrays_of_a_leaf_fff(
    draw: Callable[..., Array], name: str, what: str, spoil: Callable[[Array], Any]
) -> None:
    """An operand of a leaf FFF that is missing or does not fit its leaves is named in one line."""
    given: dict[str, Any] = _leaf(draw)
    given[name] = spoil(given[name])
    with pytest.raises(ValueError, match=rf"^{name}: .*{what}") as told:
        harness.forward("leaf_l1_blas", **given)
    assert "\n" not in str(told.value)


def test_a_count_that_is_no_routers(draw: Callable[..., Array]) -> None:
    """Leaves that are no power of 2 are refused."""
    with pytest.raises(ValueError, match=r"^w_in: a router leads to 2\*\*depth leaves.*got 3$"):
        harness.forward("leaf_l1_blas", **_leaf(draw, leaves=3))


@pytest.mark.parametrize("name", ["router", "router_bias", "b_in", "b_out"])
def test_an_ff_takes_no_router(draw: Callable[..., Array], name: str) -> None:
    """What belongs to a leaf FFF is refused by name for other layers, and so is its activation."""
    x, w_in, w_out = draw(9, 5), draw(13, 5), draw(13, 4)
    with pytest.raises(ValueError, match=rf"^{name}: belongs to a leaf FFF, and ff_l1_blas"):
        harness.forward("ff_l1_blas", x, w_in, w_out, **{name: draw(3, 5)})
    with pytest.raises(ValueError, match=r"^activation must be gelu, or relu for a leaf FFF"):
        harness.forward("ff_l1_blas", x, w_in, w_out, activation="relu")


@pytest.mark.parametrize("implementation", IDS)
def test_forward(draw: Callable[..., Array], implementation: str) -> None:
    """Any implementation runs on the caller's own arrays, which stay as they are."""
    x = draw(9, 5)
    w_in, w_out = _weights(draw, implementation)
    kept = [a.copy() for a in (x, w_in, w_out)]
    y = harness.forward(implementation, x, w_in, w_out)
    assert y.dtype == np.float32
    if implementation.startswith("fff_"):
        truth = oracle.fff_oracle(x, w_in, w_out, 2)
    else:
        truth = oracle.ff_oracle(x, w_in, w_out)
    np.testing.assert_allclose(y, truth.y, rtol=1e-5, atol=1e-6)
    for array, before in zip((x, w_in, w_out), kept, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("implementation", [p for p in IDS if str(p.values[0]).startswith("fff_")])
def test_one_tree_needs_no_axis_of_trees(draw: Callable[..., Array], implementation: str) -> None:
    """Weights (n_nodes, ...) are those of one tree, and the depth is inferred from their count."""
    x = draw(9, 5)
    for depth in range(4):
        nodes = 2 ** (depth + 1) - 1
        w_in, w_out = draw(nodes, 5, seed=1), draw(nodes, 4, seed=2)
        flat = harness.forward(implementation, x, w_in, w_out)
        np.testing.assert_array_equal(
            flat, harness.forward(implementation, x, w_in[None], w_out[None])
        )
        truth = oracle.fff_oracle(x, w_in[None], w_out[None], depth)
        np.testing.assert_allclose(flat, truth.y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nodes", [2, 4, 6, 8, 4094])
def test_a_count_that_is_no_trees(draw: Callable[..., Array], nodes: int) -> None:
    """A node count that is not 2**(depth + 1) - 1 is an error that says so."""
    with pytest.raises(
        ValueError, match=rf"^w_in: a tree has 2\*\*\(depth \+ 1\) - 1 nodes.*got {nodes}$"
    ):
        harness.forward("fff_l1_blas", draw(3, 5), draw(nodes, 5), draw(nodes, 4))


_BAD: list[tuple[str, str, Callable[[Array], Any]]] = [
    ("x", "float64", lambda a: a.astype(np.float64)),
    ("x", r"\(9, 5, 1\)", lambda a: a[:, :, None]),
    ("x", "contiguous=False", np.asfortranarray),
    ("x", "list", lambda a: a.tolist()),
    ("x", r"at least one element.*\(0, 5\)", lambda a: a[:0]),
    ("w_in", "float16", lambda a: a.astype(np.float16)),
    ("w_in", r"\(5,\)", lambda a: np.ascontiguousarray(a[0])),
    ("w_in", "contiguous=False", lambda a: np.repeat(a, 2, axis=1)[:, ::2]),
    ("w_in", "need the d_in of x, 5, got 4", lambda a: np.ascontiguousarray(a[:, :-1])),
    ("w_out", "int32", lambda a: a.astype(np.int32)),
    ("w_out", r"neurons of w_in, \(13,\), got \(12,\)", lambda a: a[:-1]),
    ("w_out", "contiguous=False", np.asfortranarray),
    ("w_out", "NoneType", lambda a: None),
]


@pytest.mark.parametrize(("name", "what", "spoil"), _BAD, ids=[f"{n}-{w}" for n, w, _ in _BAD])
def test_unfit_arrays(
    draw: Callable[..., Array], name: str, what: str, spoil: Callable[[Array], Any]
) -> None:
    """An array of wrong dtype, shape, order or kind is a ValueError that names it and what came."""
    w_in, w_out = _weights(draw, "ff_l1_blas")
    arrays: dict[str, Any] = {"x": draw(9, 5), "w_in": w_in, "w_out": w_out}
    arrays[name] = spoil(arrays[name])
    with pytest.raises(ValueError, match=rf"^{name}: .*{what}"):
        harness.forward("ff_l1_blas", **arrays)


def test_an_ff_takes_no_trees(draw: Callable[..., Array]) -> None:
    """An FF's weights have two dimensions."""
    with pytest.raises(ValueError, match=r"^w_in: .*with 2 dimensions"):
        harness.forward("ff_l1_blas", draw(3, 5), draw(1, 7, 5), draw(1, 7, 4))


def test_unknown_names(draw: Callable[..., Array]) -> None:
    """Unknown implementations, providers and instruction sets are LookupErrors that list the known ones."""
    x, w = draw(3, 5), draw(7, 5)
    with pytest.raises(
        LookupError, match=r"unknown implementation 'ff_l9'; known: .*\bff_l1_blas, "
    ):
        harness.forward("ff_l9", x, w, w)
    with pytest.raises(
        UnknownNameError, match=r"unknown BLAS provider 'abacus'; known: scipy, mkl, "
    ):
        harness.forward("ff_l1_blas", x, w, w, blas="abacus")
    with pytest.raises(LookupError, match=r"'vax'; known: .*generic"):
        harness.forward("ff_l1_blas", x, w, w, isa="vax")


def test_a_library_that_is_not_there(draw: Callable[..., Array]) -> None:
    """A path to no file is unavailable, by name."""
    with pytest.raises(UnavailableError, match=r"there is no file '/nowhere/libblas\.so'"):
        harness.forward(
            "ff_l1_blas", draw(3, 5), draw(7, 5), draw(7, 5), blas="/nowhere/libblas.so"
        )


def test_a_ceiling_is_no_layer(draw: Callable[..., Array]) -> None:
    """A ceiling can't be called as a layer; the error is the caller's, not a crash."""
    with pytest.raises(
        UnknownNameError, match=r"unknown implementation of an FF, FFF or leaf FFF 'ceiling_sgemm'"
    ):
        harness.forward("ceiling_sgemm", draw(3, 5), draw(5, 5), draw(5, 4))


def test_implementations() -> None:
    """The list holds each implementation that runs here once, and no ceiling, at the first call and later."""
    code = (
        "import harness; first = harness.implementations(); import harness.backends.registry\n"
        "assert [i.id for i in harness.implementations()] == [i.id for i in first]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    found = harness.implementations()
    assert len({i.id for i in found}) == len(found)
    assert {i.layer for i in found} == {"ff", "fff", "leaf"}
    assert {
        "ff_l1_blas",
        "ff_l2_blas",
        "ff_l3_blas",
        "ff_l3_tiled",
        "fff_l1_blas",
        "fff_l2_blas",
        "leaf_l1_blas",
    } <= {i.id for i in found}


def test_unknown_attribute() -> None:
    """A name that the package does not have is an AttributeError."""
    with pytest.raises(AttributeError, match="no attribute 'backward'"):
        _ = harness.backward


def test_import_is_light() -> None:
    """`import harness` alone loads neither NumPy nor pandas nor the compiled part."""
    code = "import sys, harness; print(sorted({'numpy', 'pandas', 'harness._native'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
