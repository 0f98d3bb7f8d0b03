"""Own the problem: the shape of a layer, its operands from a seeded recipe, its counts of work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isqrt, prod
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from harness.problem import recipes
from harness.problem.axes import AXES, DEFAULTS, Conditions

Array = npt.NDArray[Any]
Layer = Literal["ff", "fff", "leaf", "topk", "hash", "peer", "moe", "ceiling"]
LAYERS = ("ff", "fff", "leaf", "topk", "hash", "peer", "moe")
# Those that choose some of their experts for each token (problem/experts.py).
EXPERTS = ("topk", "peer", "moe")
# Those whose nodes x can be steered through.
ROUTERS = ("fff", "leaf")
CONTROLS = ("topk", "hash", "peer", "moe")
# Those whose neurons stand along a path in a tree.
TREES = ("fff", "hash")
# What the neurons of a leaf network make of their sums: as all others here, or as its paper's.
ACTIVATIONS = ("gelu", "relu")

# What x, the weights and y are stored in; products of either are accumulated in float32.
_STORED: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
DTYPES = tuple(_STORED)
ITEM_BYTES = {name: int(stored.itemsize) for name, stored in _STORED.items()}
ALIGNMENT = 64
MAX_DEPTH = 20
MAX_TREES = 1 << 20
MAX_ACTIVE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """State one point of the axes: layer, shape, dtype, data recipes and seed.

    FF: ``y = gelu(x w_in^T) w_out`` with ``hidden`` neurons. FFF: ``trees`` binary trees whose root is at
    depth 0 and whose leaves are at ``depth``; ``depth + 1`` neurons of each tree are computed per token.
    Leaf: the original FFF (arXiv 2308.14711), a router of ``depth`` turns that leads each token to one of
    ``2**depth`` leaf networks of ``hidden`` neurons (leaf.py); ``trees`` is 1. Its neurons' activation is the
    GELU of the other layers, or the paper's `relu`.
    The controls (experts.py) are what an FFF is compared with at equal work. Topk, peer, moe: of `experts`
    experts of `hidden` neurons each token uses `active`. Hash: one tree of an FFF, whose paths a hash picks.
    A ceiling is a bare product ``y = x w_out`` of extent ``hidden``.

    math: how products of float32 operands are computed: `ieee`, or `tf32`, rounded to 10 bits for them.
    dtype: what x, the weights and y are stored in. With bfloat16 a pass multiplies what is stored and adds
    in float32, decides each turn by that sum before any rounding, and rounds to bfloat16 what it stores.

    data, rows, routing: what the operands hold (recipes.py). routed_trees, routed_depth and routed_layer
    name, for an FF or a control whose routing is not uniform, the FFF or leaf FFF that x is steered through:
    both layers then get the same x.

    Raises ValueError where an extent is not positive or the layer's own extents are missing.
    """

    layer: Layer
    batch: int
    d_in: int
    d_out: int
    hidden: int = 0
    depth: int = 0
    trees: int = 0
    experts: int = 0
    active: int = 0
    activation: str = "gelu"
    dtype: str = "float32"
    math: str = "ieee"
    data: str = "random"
    rows: str = "distinct"
    routing: str = "uniform"
    routed_trees: int = 0
    routed_depth: int = 0
    routed_layer: Layer = "fff"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse extents that no kernel could take."""
        for name in ("batch", "d_in", "d_out"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for axis in AXES:
            if axis.of == "problem" and not axis.takes(value := getattr(self, axis.name)):
                raise ValueError(f"{axis.name} must be one of {axis.known}, got {value!r}")
        if self.math != "ieee" and self.dtype != "float32":
            raise ValueError(f"math {self.math} is of float32 operands, got dtype {self.dtype}")
        self._check_shape()
        self._check_activation()
        self._check_recipes()

    def _check_shape(self) -> None:
        if (self.experts or self.active) and self.layer not in EXPERTS:
            raise ValueError(f"experts and active belong to {', '.join(EXPERTS)}; both must be 0")
        if self.layer in TREES:
            self._check_tree()
        elif self.layer == "leaf":
            self._check_leaves()
        elif self.layer in EXPERTS:
            self._check_experts()
        elif self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {self.hidden}")
        elif self.depth or self.trees:
            raise ValueError("depth and trees belong to an FFF; both must be 0")

    def _check_activation(self) -> None:
        if self.activation != "gelu" and (
            self.layer != "leaf" or self.activation not in ACTIVATIONS
        ):
            raise ValueError(
                f"activation must be gelu, or relu for a leaf FFF, got {self.activation!r}"
            )

    def _check_leaves(self) -> None:
        if self.hidden < 1 or not 0 <= self.depth <= MAX_DEPTH or self.trees != 1:
            raise ValueError(
                f"a leaf FFF has 1 tree of depth 0 to {MAX_DEPTH} and at least 1 hidden neuron a leaf, "
                f"got trees {self.trees}, depth {self.depth}, hidden {self.hidden}"
            )
        if self.routing == recipes.TRAINED:
            raise ValueError(
                "routing trained: the traces here are of trees of single neurons; a leaf FFF takes trace:FILE"
            )

    def _check_experts(self) -> None:
        if self.depth or self.trees:
            raise ValueError("depth and trees belong to an FFF; both must be 0")
        if not 1 <= self.active <= min(self.experts, MAX_ACTIVE):
            raise ValueError(
                f"active must be 1 to the {self.experts} experts, and at most {MAX_ACTIVE}, got {self.active}"
            )
        if self.hidden < 1 or (self.hidden > 1 and self.layer != "moe"):
            raise ValueError(f"an expert of {self.layer} has 1 neuron, got hidden {self.hidden}")
        if self.layer == "peer" and self.side**2 != self.experts:
            raise ValueError(
                f"product keys need a square number of experts, such as {self.side**2}, got {self.experts}"
            )

    def _check_tree(self) -> None:
        if not 0 <= self.depth <= MAX_DEPTH:
            raise ValueError(f"depth must be 0 to {MAX_DEPTH}, got {self.depth}")
        if not 1 <= self.trees <= MAX_TREES:
            raise ValueError(f"trees must be 1 to {MAX_TREES}, got {self.trees}")
        if self.hidden:
            raise ValueError("an FFF has depth and trees; hidden must be 0")
        if self.layer == "hash" and self.trees != 1:
            raise ValueError(f"a hash picks a path in 1 tree, got trees {self.trees}")

    def _check_recipes(self) -> None:
        if self.routed_layer not in ROUTERS:
            raise ValueError(f"routed_layer must be one of {ROUTERS}, got {self.routed_layer!r}")
        names_fff = self.layer not in ROUTERS and self.routing != "uniform"
        if bool(self.routed_trees) != names_fff or (self.routed_depth and not names_fff):
            raise ValueError(
                "routed_trees and routed_depth belong to a layer beside an FFF whose routing is not uniform"
            )
        if self.layer == "ceiling" and (self.data, self.routing) != ("random", "uniform"):
            raise ValueError("a ceiling is measured on random data")
        router = self.router()
        reason = recipes.conflict(self.data, self.rows, self.routing)
        if router is not None and not reason:
            reason = recipes.shortage(self.routing, self.d_in, router.trees, router.depth)
        if reason:
            raise ValueError(reason)

    def conditions(self, **protocol: str) -> Conditions:
        """Return the conditions of a cell on this problem; of the protocol the default where not given."""
        own = {axis.name: getattr(self, axis.name) for axis in AXES if axis.of == "problem"}
        return DEFAULTS._replace(**own, **protocol)

    def router(self) -> Problem | None:
        """Return the FFF, or the leaf FFF, whose paths x is made for; None where routing is uniform."""
        if self.routing == "uniform":
            return None
        if self.layer in ROUTERS:
            return self
        # The router of a leaf FFF is the same whatever the width of its leaves.
        return replace(
            self, layer=self.routed_layer, hidden=int(self.routed_layer == "leaf"),
            trees=self.routed_trees, depth=self.routed_depth,
            experts=0, active=0, activation="gelu", routed_trees=0, routed_depth=0,
        )  # fmt: skip

    def input_key(self) -> tuple[Any, ...]:
        """Return what x depends on beside the batch: problems of one key share it."""
        router = self.router()
        shape = (router.layer, router.trees, router.depth) if router is not None else ()
        repeats = self.layer == "ceiling"  # a stretch of it
        # On every axis of the problem, but for how products of what was drawn are computed.
        recipe = (
            value for name, value in self.conditions().of("problem").items() if name != "math"
        )
        return (repeats, self.d_in, *recipe, *shape, self.seed)

    @property
    def stored(self) -> np.dtype[Any]:
        """Return the dtype of the arrays: x, the weights and y share it."""
        return _STORED[self.dtype]

    @property
    def item_bytes(self) -> int:
        """Return the bytes of one element of any operand."""
        return ITEM_BYTES[self.dtype]

    @property
    def n_nodes(self) -> int:
        """Return the neurons of one tree, ``2**(depth + 1) - 1`` (0 where there is none)."""
        return 2 ** (self.depth + 1) - 1 if self.layer in TREES else 0

    @property
    def neurons(self) -> int:
        """Return the neurons that the layer has; a leaf FFF's nodes, which only route, are not counted."""
        if self.layer == "leaf":
            return self.n_leaves * self.hidden
        if self.layer in EXPERTS:
            return self.experts * self.hidden
        return self.trees * self.n_nodes if self.layer in TREES else self.hidden

    @property
    def used_neurons(self) -> int:
        """Return the neurons that make one token's output, of a leaf FFF those of its leaf."""
        if self.layer in EXPERTS:
            return self.active * self.hidden
        return self.trees * (self.depth + 1) if self.layer in TREES else self.hidden

    @property
    def n_leaves(self) -> int:
        """Return the leaf networks of a leaf FFF."""
        return int(2**self.depth)

    @property
    def side(self) -> int:
        """Return the keys of each half of product keys, the root of their number of experts."""
        return isqrt(self.experts)

    @property
    def routers(self) -> int:
        """Return the rows of weights that only route: a leaf FFF's nodes, product keys, a gate's logits."""
        if self.layer == "leaf":
            return self.n_leaves - 1
        return {"peer": 2 * self.side, "moe": self.experts}.get(self.layer, 0)

    def routing_flops(self) -> int:
        """Return the operations of one pass that only route.

        A leaf FFF's turns; of a control the scores that choose, but for those that are of chosen neurons. An
        FFF's turns are decided by sums that its output needs: 0.
        """
        if self.layer == "leaf":
            scores = self.depth
        elif self.layer == "topk":
            scores = self.experts - self.active
        else:
            scores = self.routers
        return 2 * self.batch * scores * self.d_in

    def flops(self) -> int:
        """Return the operations of one pass; a multiply-add counts 2, bias and activation are not counted."""
        widths = self.d_out if self.layer == "ceiling" else self.d_in + self.d_out
        return 2 * self.batch * self.used_neurons * widths + self.routing_flops()

    def weight_bytes(self) -> int:
        """Return the bytes of all weights and biases together."""
        return sum(prod(shape) for shape in self.weights().values()) * self.item_bytes

    def bytes_moved(self) -> int:
        """Return the compulsory traffic of one pass: x and y once, each weight row that can be used once."""
        rows = min(self.neurons, self.batch * self.used_neurons)
        moved = (rows + self.batch) * (self.d_in + self.d_out)
        if self.layer in EXPERTS:  # whatever is chosen, all scores are computed
            moved += (self.neurons - rows if self.layer == "topk" else self.routers) * self.d_in
        if self.layer == "leaf":
            leaves = min(self.n_leaves, self.batch)
            moved += leaves * (self.hidden + self.d_out)
            moved += min(self.routers, self.batch * self.depth) * (self.d_in + 1)
        return moved * self.item_bytes

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all that a pass reads beside x, by its name among the operands."""
        shape_in, shape_out = self.weight_shapes()
        found = {"w_in": shape_in, "w_out": shape_out}
        if self.layer == "leaf":
            found |= {
                "router": (self.routers, self.d_in),
                "router_bias": (self.routers,),
                "b_in": (self.n_leaves, self.hidden),
                "b_out": (self.n_leaves, self.d_out),
            }
        elif self.routers:
            found["router"] = (self.routers, self.d_in)
        return found

    def weight_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of w_in and w_out."""
        if self.layer == "leaf":
            rows: tuple[int, ...] = (self.n_leaves, self.hidden)
        elif self.layer in EXPERTS:
            rows = (self.experts, self.hidden)
        elif self.layer in TREES:
            rows = (self.trees, self.n_nodes)
        else:
            rows = (self.hidden,)
        return (*rows, self.d_in), (*rows, self.d_out)
