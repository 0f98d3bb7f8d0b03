"""Own the problem: the shape of a layer, its operands from a seeded recipe, its counts of work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Layer = Literal["ff", "fff", "ceiling"]

DTYPES = ("float32",)
RECIPES = ("random",)
ALIGNMENT = 64
MAX_DEPTH = 20
MAX_TREES = 1 << 20
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """State one point of the axes: layer, shape, dtype, data recipe and seed.

    FF: ``y = gelu(x w_in^T) w_out`` with ``hidden`` neurons. FFF: ``trees`` binary trees whose root is at
    depth 0 and whose leaves are at ``depth``; ``depth + 1`` neurons of each tree are computed per token.
    A ceiling is a bare product ``y = x w_out`` of extent ``hidden``.

    Raises ValueError where an extent is not positive or the layer's own extents are missing.
    """

    layer: Layer
    batch: int
    d_in: int
    d_out: int
    hidden: int = 0
    depth: int = 0
    trees: int = 0
    dtype: str = "float32"
    data: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse extents that no kernel could take."""
        for name in ("batch", "d_in", "d_out"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, known in (("dtype", DTYPES), ("data", RECIPES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.layer == "fff":
            self._check_tree()
        elif self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {self.hidden}")
        elif self.depth or self.trees:
            raise ValueError("depth and trees belong to an FFF; both must be 0")

    def _check_tree(self) -> None:
        if not 0 <= self.depth <= MAX_DEPTH:
            raise ValueError(f"depth must be 0 to {MAX_DEPTH}, got {self.depth}")
        if not 1 <= self.trees <= MAX_TREES:
            raise ValueError(f"trees must be 1 to {MAX_TREES}, got {self.trees}")
        if self.hidden:
            raise ValueError("an FFF has depth and trees; hidden must be 0")

    @property
    def n_nodes(self) -> int:
        """Return the neurons of one tree, ``2**(depth + 1) - 1`` (0 for an FF)."""
        return 2 ** (self.depth + 1) - 1 if self.layer == "fff" else 0

    @property
    def neurons(self) -> int:
        """Return the neurons that the layer has."""
        return self.trees * self.n_nodes if self.layer == "fff" else self.hidden

    @property
    def used_neurons(self) -> int:
        """Return the neurons that are computed for one token."""
        return self.trees * (self.depth + 1) if self.layer == "fff" else self.hidden

    def flops(self) -> int:
        """Return the operations of one pass; a multiply-add counts 2, the activation is not counted."""
        widths = self.d_out if self.layer == "ceiling" else self.d_in + self.d_out
        return 2 * self.batch * self.used_neurons * widths

    def weight_bytes(self) -> int:
        """Return the bytes of w_in and w_out together."""
        return self.neurons * (self.d_in + self.d_out) * _FLOAT_BYTES

    def bytes_moved(self) -> int:
        """Return the compulsory traffic of one pass: x and y once, each weight row that can be used once."""
        rows = min(self.neurons, self.batch * self.used_neurons)
        weights = rows * (self.d_in + self.d_out) * _FLOAT_BYTES
        return weights + self.batch * (self.d_in + self.d_out) * _FLOAT_BYTES

    def weight_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of w_in and w_out."""
        if self.layer == "fff":
            rows: tuple[int, ...] = (self.trees, self.n_nodes)
        else:
            rows = (self.hidden,)
        return (*rows, self.d_in), (*rows, self.d_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operands:
    """Hold the arrays of one problem: ``x (batch, d_in)``, the weights, and ``y (batch, d_out)`` to fill."""

    x: Array
    w_in: Array
    w_out: Array
    y: Array


def make_aligned(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
    """Return a zeroed C-contiguous array whose first byte is aligned to 64 and whose pages are touched."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    array = raw[start : start + size].view(dtype).reshape(shape)
    array.fill(0)
    return array


def _stream(problem: Problem, part: str) -> np.random.Generator:
    """Return the generator of one operand: parts and layers draw from independent streams."""
    key = [problem.seed, *part.encode()]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float) -> Array:
    array = make_aligned(shape)
    rng.random(out=array, dtype=np.float32)
    array *= np.float32(2 * bound)
    array -= np.float32(bound)
    return array


def make_x(problem: Problem) -> Array:
    """Return the input ``(batch, d_in)``: independent standard normals, so that routing is uniform.

    Rows are drawn one after the other: the input of a smaller batch is the head of a larger one's.
    """
    x = make_aligned((problem.batch, problem.d_in))
    _stream(problem, "x").standard_normal(out=x, dtype=np.float32)
    return x


def make_weights(problem: Problem) -> tuple[Array, Array]:
    """Return ``w_in`` and ``w_out``, uniform with the bounds of the paper's initialisation.

    The bounds are 1/sqrt(d_in) and 1/sqrt(used neurons), so that pre-activations and outputs are of
    order one at every shape.
    """
    shape_in, shape_out = problem.weight_shapes()
    tag = problem.layer
    w_in = _uniform(_stream(problem, f"{tag}.w_in"), shape_in, problem.d_in**-0.5)
    w_out = _uniform(_stream(problem, f"{tag}.w_out"), shape_out, problem.used_neurons**-0.5)
    return w_in, w_out


def make_operands(problem: Problem) -> Operands:
    """Return freshly drawn operands; the same problem gives the same bytes. ``y`` is zeroed."""
    w_in, w_out = make_weights(problem)
    return Operands(
        x=make_x(problem), w_in=w_in, w_out=w_out, y=make_aligned((problem.batch, problem.d_out))
    )
