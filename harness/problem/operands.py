"""Own the operands: what x and the weights of a problem hold, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.problem import routing
from harness.problem.problem import ALIGNMENT, Array, Problem

_STRETCH_ELEMENTS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Operands:
    """Hold the arrays of one problem: ``x (batch, d_in)``, the weights, and ``y (batch, d_out)`` to fill.

    router, router_bias, b_in, b_out: of the layers that have them (problem/leaf.py, experts.py), else None.
    rotation: further sets of weights that timed passes take in turn after the own: tuples as `weights()`.
    """

    x: Array
    w_in: Array
    w_out: Array
    y: Array
    rotation: tuple[tuple[Any, ...], ...] = ()
    router: Array | None = None
    router_bias: Array | None = None
    b_in: Array | None = None
    b_out: Array | None = None

    def weights(self) -> tuple[Array, ...]:
        """Return all that a pass reads beside x, in the order of `Problem.weights`."""
        own = (self.w_in, self.w_out, self.router, self.router_bias, self.b_in, self.b_out)
        return tuple(array for array in own if array is not None)

    def sets(self) -> tuple[tuple[Any, ...], ...]:
        """Return the sets of weights that passes take in turn, the own first."""
        return (self.weights(), *self.rotation)


def make_untouched(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
    """Return an array as `make_aligned` does, whose values are not set and whose pages nobody has touched."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def make_aligned(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
    """Return a zeroed C-contiguous array whose first byte is aligned to 64 and whose pages are touched."""
    array = make_untouched(shape, dtype)
    array.fill(0)
    return array


def _stream(problem: Problem, part: str) -> np.random.Generator:
    """Return the generator of one operand: parts and layers draw from independent streams."""
    key = [problem.seed, *part.encode()]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def _uniform(problem: Problem, part: str, shape: tuple[int, ...], bound: float) -> Array:
    """Return weights of a part's stream; drawn a few rows at a time, so that none are held twice."""
    rng, array = _stream(problem, part), make_aligned(shape, problem.stored)
    if not array.size:  # the router of a single leaf
        return array
    rows = array.reshape(-1, shape[-1])
    step = max(1, _STRETCH_ELEMENTS // shape[-1])
    for first in range(0, len(rows), step):
        drawn = rng.random(rows[first : first + step].shape, np.float32)
        drawn *= np.float32(2 * bound)
        drawn -= np.float32(bound)
        rows[first : first + step] = drawn
    return array


def make_leaves(router: Problem) -> Array:
    """Return the leaf (batch, trees) that each token of an FFF with chosen routing is to reach."""
    return routing.choose_leaves(
        router.routing, batch=router.batch, trees=router.trees, depth=router.depth,
        rng=_stream(router, "leaves"),
    )  # fmt: skip


def make_x(problem: Problem) -> Array:
    """Return the input ``(batch, d_in)``: independent standard normals, so that routing is uniform.

    Rows are drawn one after the other: the input of a smaller batch is the head of a larger one's. With
    a chosen routing each row is then corrected to reach its leaf. ``rows="same"`` repeats the first row;
    ``data="zeros"`` is all 0. Every dtype is drawn in float32 and rounded, before any correction.
    """
    if problem.data == "zeros":
        return make_aligned((problem.batch, problem.d_in), problem.stored)
    x = make_aligned((problem.batch, problem.d_in))
    drawn = x[:1] if problem.rows == "same" else x
    if problem.layer == "ceiling":
        # A stream's speed does not hang on what it reads: one drawn stretch, repeated, fills hundreds of
        # MiB in a tenth of the time.
        drawn = x[: max(1, _STRETCH_ELEMENTS // problem.d_in)]
    _stream(problem, "x").standard_normal(out=drawn, dtype=np.float32)
    for first in range(len(drawn), len(x) if problem.layer == "ceiling" else 0, len(drawn)):
        x[first : first + len(drawn)] = drawn[: len(x) - first]
    if x.dtype != problem.stored:
        exact, x = x, make_aligned(x.shape, problem.stored)
        x[...] = exact
    router = problem.router()
    if router is not None:
        _steer(x[: len(drawn)], router)
    if problem.rows == "same":
        x[1:] = x[0]
    return x


def _steer(x: Array, router: Problem) -> None:
    """Correct rows x in place, so that each token reaches the leaf of a chosen routing."""
    leaves = make_leaves(router)[: len(x)]
    if router.layer == "leaf":
        rows, bias = _make_router(router)
        routing.steer(x, rows[None], leaves, router.depth, bias[None])
    else:
        routing.steer(x, _make_w_in(router), leaves, router.depth)


def _scale(problem: Problem, tag: str, rows: Array) -> Array:
    """Return what scales the rows of a further set of weights that x is to follow its paths through as well.

    x follows them through the first set. Rows scaled by positive factors turn every token the same way, and
    still give other values; rounding them moves z by a fiftieth of the recipes' floor.
    """
    drawn = _stream(problem, tag).uniform(0.75, 1.25, (*rows.shape[:-1], 1))
    return drawn.astype(np.float32)


def _make_router(problem: Problem, turn: int = 0) -> tuple[Array, Array]:
    """Return ``router`` and ``router_bias`` of a leaf FFF; turn: as of `_make_w_in`."""
    shapes, bound = problem.weights(), problem.d_in**-0.5
    names, chosen = ("router", "router_bias"), problem.routing != "uniform" and bool(turn)
    tags = [f"leaf.{name}" + (f".{turn}" if turn and not chosen else "") for name in names]
    rows, bias = (
        _uniform(problem, tag, shapes[name], bound) for tag, name in zip(tags, names, strict=True)
    )
    if chosen:
        scale = _scale(problem, f"leaf.router.{turn}", rows)
        np.multiply(rows, scale, out=rows, casting="unsafe")
        np.multiply(bias, scale[:, 0], out=bias, casting="unsafe")
    return rows, bias


def _make_w_in(problem: Problem, turn: int = 0) -> Array:
    """Return ``w_in``; turn numbers the set of weights where several are rotated."""
    shape, _ = problem.weight_shapes()
    if problem.data == "zeros":
        return make_aligned(shape, problem.stored)
    tag = f"{problem.layer}.w_in" + (f".{turn}" if turn else "")
    if problem.layer != "fff" or problem.routing == "uniform" or not turn:
        return _uniform(problem, tag, shape, problem.d_in**-0.5)
    w_in = _make_w_in(problem)
    np.multiply(w_in, _scale(problem, tag, w_in), out=w_in, casting="unsafe")
    return w_in


def make_weights(problem: Problem, turn: int = 0) -> tuple[Array, ...]:
    """Return the weights of `Problem.weights`, uniform with the bounds of the papers' initialisation.

    The bounds are 1/sqrt(d_in) of what x meets, the biases of those sums included, and 1/sqrt(used neurons)
    of what the activations meet, so that pre-activations and outputs are of order one at every shape. turn:
    which set, where several are rotated; each has other values.
    ``data="zeros"``: all 0.
    """
    made = [_make_w_in(problem, turn)]
    steered = problem.layer == "leaf" and problem.data != "zeros"
    routes = _make_router(problem, turn) if steered else ()
    own = dict(zip(("router", "router_bias"), routes, strict=False))
    for name, shape in problem.weights().items():
        if name == "w_in":
            continue
        if problem.data == "zeros":
            made.append(make_aligned(shape, problem.stored))
            continue
        if name in own:
            made.append(own[name])
            continue
        tag = f"{problem.layer}.{name}" + (f".{turn}" if turn else "")
        meets = problem.used_neurons if name in ("w_out", "b_out") else problem.d_in
        made.append(_uniform(problem, tag, shape, meets**-0.5))
    return tuple(made)


def make_operands(problem: Problem) -> Operands:
    """Return freshly drawn operands; the same problem gives the same bytes. ``y`` is zeroed."""
    weights: dict[str, Any] = dict(zip(problem.weights(), make_weights(problem), strict=True))
    y = make_aligned((problem.batch, problem.d_out), problem.stored)
    return Operands(x=make_x(problem), y=y, **weights)
