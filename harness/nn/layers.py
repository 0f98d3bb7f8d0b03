"""Own the layers as modules of torch, on the fastest implementation that is here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch

from harness.backends import (
    registry,
    torch_operands,
    torch_operator,
    torch_reference,
    torch_tree,
)
from harness.backends.torch_activations import ACTIVATIONS
from harness.backends.torch_tree import ROUTINGS, Routing, Tree
from harness.errors import UnknownNameError, UsageError
from harness.nn.prune import prune_dead
from harness.nn.usage import Usage, record_trace, watch_usage

Nodes = Literal["all", "leaves"]
OutputBias = Literal["always", "training"]


def _check(layer: str, implementation: str) -> str:
    """Return the id as it is. Raises UnknownNameError listing those of the layer where it is none."""
    known = [torch_operator.REFERENCE, *(i.id for i in registry.layers() if i.layer == layer)]
    if implementation and implementation not in known:
        raise UnknownNameError(f"implementation of {layer.upper()}", implementation, known=known)
    return implementation


def _uniform(shape: tuple[int, ...], bound: float, **options: Any) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.empty(shape, **options).uniform_(-bound, bound))


class _Layer(torch.nn.Module):
    """Hold a layer's weights and its implementation, and take any leading dimensions."""

    def __init__(
        self, w_in: torch.nn.Parameter, w_out: torch.nn.Parameter, *, d_in: int, implementation: str
    ) -> None:  # fmt: skip
        super().__init__()
        self.w_in, self.w_out = w_in, w_out
        self.implementation = implementation
        self.d_in, self.d_out = d_in, w_out.shape[-1]

    def _check_width(self, x: torch.Tensor) -> None:
        """Raise ValueError for an x of another width."""
        shape = x.shape
        if not shape or shape[-1] != self.d_in:
            came = x.shape[-1] if x.ndim else "no dimension"
            raise ValueError(f"x: need d_in {self.d_in} along the last dimension, got {came}")


def _extend(x: torch.Tensor, bias: bool) -> torch.Tensor:
    """Return x with a column of ones behind it where weights end in their biases."""
    if not bias:
        return x
    # torch.autocast refuses to join tensors of a dtype that it does not lower to.
    (x,) = torch_reference.lower(x)
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)


class FF(_Layer):
    """A feedforward layer without biases, ``y = gelu(x w_in^T) w_out``.

    w_in (hidden, d_in), w_out (hidden, d_out), uniform within 1/sqrt(d_in) and 1/sqrt(hidden).
    implementation: an id of `python -m harness list`, `reference`, or empty for the fastest here.

    Raises UnknownNameError (a LookupError) for an implementation that is not the layer's.
    """

    def __init__(
        self, d_in: int, d_out: int, hidden: int, *, implementation: str = "", device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        """Draw the weights."""
        options = {"device": device, "dtype": dtype}
        super().__init__(
            _uniform((hidden, d_in), d_in**-0.5, **options),
            _uniform((hidden, d_out), hidden**-0.5, **options),
            d_in=d_in, implementation=_check("ff", implementation),
        )  # fmt: skip
        self.hidden = hidden

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``y (..., d_out)`` of ``x (..., d_in)``, in x's dtype; under torch.autocast in its.

        Raises ValueError for another width, and where x and the weights differ in dtype or device.
        """
        self._check_width(x)
        return torch_operator.apply(x, self.w_in, self.w_out, self.implementation)

    def extra_repr(self) -> str:
        """Return what stands between the brackets of its name."""
        return f"{self.d_in}, {self.d_out}, hidden={self.hidden}"


def _check_choices(**choices: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, known) in choices.items():
        if value not in known:
            raise UnknownNameError(name, value, known=known)


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise UsageError(f"{name}: need a probability from 0 to 1, got {value}")


def _zero_last_column(weights: torch.nn.Parameter) -> None:
    with torch.no_grad():
        weights[..., -1] = 0


class FFF(_Layer):
    """A fast feedforward layer: trees of which one path from the root to a leaf is computed per token.

    Both published layers are special cases. With leaf_width 0, *trees of neurons* (Belcak and Wattenhofer
    2023, arXiv 2311.10770): ``y = sum over trees, and over the nodes n on the path, of act(z[n]) w_out[n]``,
    ``z[n] = <x, w_in[n]>``, the path turning right where ``z >= 0``. w_in (trees, n_nodes, d_in) and w_out
    (trees, n_nodes, d_out), uniform within 1/sqrt(d_in) and 1/sqrt((depth + 1) trees); a tree has n_nodes =
    2**(depth + 1) - 1, the children of n are 2n + 1 and 2n + 2.

    With leaf_width l > 0, *trees of leaf networks* (arXiv 2308.14711): nodes of one neuron, w_node (trees,
    2**depth - 1, d_in) and b_node, only route, right where ``<x, w_node[n]> + b_node[n] >= 0``; the leaf j
    that is reached is a network, ``y = sum over trees of act(w_in[j] x + b_in[j]) w_out[j] + b_out[j]``; w_in
    (trees, 2**depth, l, d_in), b_in (trees, 2**depth, l), w_out (trees, 2**depth, l, d_out), b_out (trees,
    2**depth, d_out). Those that read x are uniform within 1/sqrt(d_in), the others within 1/sqrt(l trees).

    nodes: which neurons contribute to the output: "all" those on the path, or its "leaves"; empty for the
    layer's own, "all" for neurons and "leaves" for leaf networks. Neurons of which the leaves alone
    contribute have a w_out (trees, 2**depth, d_out); nodes of leaf networks that contribute have a node_out
    (trees, 2**depth - 1, d_out).
    bias: whether there are any; None for the layer's own, False for neurons and True for leaf networks. A
    neuron's counts in its turn and is the last column of a w_in of d_in + 1; it begins at 0.
    activation: gelu, gelu_tanh, relu, relu2, silu or identity.
    routing: how tokens turn in training; in eval it is hard, unless the call asks. hard: as above, turns
    without a gradient. soft: every node computed, a token goes right in the share sigmoid(z / temperature).
    ste: hard, with soft's gradients. gumbel: a turn is drawn, right with probability sigmoid(z), with the
    gradient of sigmoid((z + g) / temperature): `harness.backends.torch_tree` has the equations.
    region_leak: the probability with which, in training, a turn is replaced by one minus it.
    dropout: the probability with which, in training, a neuron's activation is 0.
    always_on: this many neurons that every token computes beside its paths, always_in (always_on, d_in) and
    always_out (always_on, d_out), with biases as the last column of always_in where the layer has some.
    output_bias: "always", or "training" where eval leaves b_out out, as the class `fastfeedforward` does.
    aux: whether the input of a training pass is kept for `aux_losses`; None where routing is not hard.
    implementation: as for FF. Those of the registry compute trees of GELU neurons that all contribute, by
    hard turns; `reference` everything; empty takes the fastest that computes what is asked.

    Raises UnknownNameError (a LookupError) for an implementation that is not the layer's and for options
    that are none, UsageError (a ValueError) for an implementation that does not compute what is asked.
    """

    def __init__(
        self, d_in: int, d_out: int, depth: int, trees: int = 1, *, leaf_width: int = 0,
        nodes: Nodes | Literal[""] = "", bias: bool | None = None, activation: str = "gelu",
        routing: Routing = "hard", temperature: float = 1.0, region_leak: float = 0.0,
        dropout: float = 0.0, always_on: int = 0, output_bias: OutputBias = "always",
        aux: bool | None = None, implementation: str = "", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        """Draw the weights."""
        if depth < 0 or trees < 1:
            raise ValueError(f"need depth >= 0 and trees >= 1, got depth {depth}, trees {trees}")
        if leaf_width < 0 or always_on < 0:
            raise UsageError(
                f"need leaf_width >= 0 and always_on >= 0, got {leaf_width}, {always_on}"
            )
        nodes = nodes or ("leaves" if leaf_width else "all")
        bias = leaf_width > 0 if bias is None else bias
        _check_choices(
            nodes=(nodes, ("all", "leaves")), activation=(activation, tuple(ACTIVATIONS)),
            routing=(routing, ROUTINGS), output_bias=(output_bias, ("always", "training")),
        )  # fmt: skip
        _check_shares(region_leak=region_leak, dropout=dropout)
        if temperature <= 0:
            raise UsageError(f"temperature: need more than 0, got {temperature}")
        options = {"device": device, "dtype": dtype}
        n_leaves, columns = 2**depth, d_in + bias
        near, far = d_in**-0.5, ((leaf_width or depth + 1) * trees) ** -0.5
        if leaf_width:
            shape_in: tuple[int, ...] = (trees, n_leaves, leaf_width, d_in)
            shape_out: tuple[int, ...] = (trees, n_leaves, leaf_width, d_out)
        else:
            n_nodes = 2 * n_leaves - 1
            shape_in = (trees, n_nodes, columns)
            shape_out = (trees, n_nodes if nodes == "all" else n_leaves, d_out)
        super().__init__(
            _uniform(shape_in, near, **options), _uniform(shape_out, far, **options),
            d_in=d_in, implementation=_check("fff", implementation),
        )  # fmt: skip
        self.depth, self.trees, self.leaf_width = depth, trees, leaf_width
        self.nodes, self.bias, self.activation = nodes, bias, activation
        self.routing: Routing = routing
        self.temperature, self.region_leak = temperature, region_leak
        self.dropout, self.always_on, self.output_bias = dropout, always_on, output_bias
        self.aux = routing != "hard" if aux is None else aux
        self.seen: torch.Tensor | None = None  # x of the last training pass, for aux_losses
        if leaf_width:
            self._draw_beside_leaves(near, far, **options)
        elif bias:
            _zero_last_column(self.w_in)
        if always_on:
            self.always_in = _uniform((always_on, columns), near, **options)
            self.always_out = _uniform((always_on, d_out), always_on**-0.5, **options)
            if bias:
                _zero_last_column(self.always_in)
        if implementation not in ("", torch_operator.REFERENCE) and not self._is_operators:
            raise UsageError(
                f"{implementation} computes trees of GELU neurons that all contribute, not "
                f"{self.extra_repr()}: leave implementation empty, or say {torch_operator.REFERENCE}"
            )

    def _draw_beside_leaves(self, near: float, far: float, **options: Any) -> None:
        """Draw what leaf networks have beside their weights: the nodes, and the biases of all."""
        trees, n_leaves = self.w_in.shape[:2]
        self.w_node = _uniform((trees, n_leaves - 1, self.d_in), near, **options)
        for name, shape, bound in (
            ("b_node", (trees, n_leaves - 1), near),
            ("b_in", (trees, n_leaves, self.leaf_width), near),
            ("b_out", (trees, n_leaves, self.d_out), far),
        ):
            self.register_parameter(name, _uniform(shape, bound, **options) if self.bias else None)
        shape = (trees, n_leaves - 1, self.d_out)
        contribute = self.nodes == "all"
        self.register_parameter("node_out", _uniform(shape, far, **options) if contribute else None)

    @property
    def _is_operators(self) -> bool:
        """Return whether the trees are those that the implementations of the registry compute."""
        return not self.leaf_width and self.nodes == "all" and self.activation == "gelu"

    def tree(self) -> Tree:
        """Return the weights by the names of the layer's equation: views of the parameters."""
        if self.leaf_width:
            return Tree(
                self.w_node, self.b_node, self.w_in, self.b_in, self.w_out, self.b_out,
                self.node_out,
            )  # fmt: skip
        inner, d_in, bias = 2**self.depth - 1, self.d_in, self.bias
        first = inner if self.nodes == "all" else 0
        return Tree(
            w_node=self.w_in[:, :inner, :d_in],
            b_node=self.w_in[:, :inner, -1] if bias else None,
            w_in=self.w_in[:, inner:, None, :d_in],
            b_in=self.w_in[:, inner:, None, -1] if bias else None,
            w_out=self.w_out[:, first:, None],
            b_out=None,
            node_out=self.w_out[:, :inner] if self.nodes == "all" else None,
        )

    def forward(self, x: torch.Tensor, routing: Routing | Literal[""] = "") -> torch.Tensor:
        """Return ``y (..., d_out)`` of ``x (..., d_in)``, in x's dtype; under torch.autocast in its.

        routing: how tokens turn in this call; empty for the module's in training, and for hard in eval.

        Raises ValueError for another width, and where x and the weights differ in dtype or device.
        """
        self._check_width(x)
        if not routing:
            routing = self.routing if self.training else "hard"
        elif routing not in ROUTINGS:
            raise UnknownNameError("routing", routing, known=ROUTINGS)
        if self.training and self.aux and torch.is_grad_enabled():
            self.seen = torch_operands.flatten(x)
        drawn = self.training and (self.region_leak > 0 or self.dropout > 0)
        if routing != "hard" or drawn or not self._is_operators:
            y = self._compute_tree(torch_operands.flatten(x), routing, drawn)
            y = y.reshape(*x.shape[:-1], self.d_out)
        else:
            y = torch_operator.apply(
                _extend(x, self.bias), self.w_in, self.w_out, self.implementation
            )
        return y + self._compute_always(x) if self.always_on else y

    def _compute_tree(self, x: torch.Tensor, routing: Routing, drawn: bool) -> torch.Tensor:
        """Return the trees' y (tokens, d_out) in torch's operations; drawn: whether chance takes part."""
        tree = self.tree()
        if self.output_bias == "training" and not self.training:
            tree = tree._replace(b_out=None)
        x, *weights = torch_reference.lower(x, *tree)
        tree = Tree(*weights)
        torch_operands.check_kinds(x, tree.w_in, tree.w_out)
        if routing == "hard" and not drawn:
            return torch_tree.walk(x, tree, self.activation)
        return torch_tree.mix(
            x, tree, routing, self.activation, temperature=self.temperature,
            region_leak=self.region_leak if drawn else 0.0,
            dropout=self.dropout if drawn else 0.0,
        )  # fmt: skip

    def _compute_always(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the neurons add that every token computes."""
        x = _extend(x, self.bias)
        if self.activation == "gelu":
            return torch_operator.apply(x, self.always_in, self.always_out, "")
        x, w_in, w_out = torch_reference.lower(x, self.always_in, self.always_out)
        wide = torch_reference.wide
        with torch_reference.without_autocast(x.device.type):
            a = ACTIVATIONS[self.activation](wide(x) @ wide(w_in).T)
            return (a @ wide(w_out)).to(x.dtype)

    def leaves(self, x: torch.Tensor) -> torch.Tensor:
        """Return the leaf that each token reaches by hard turns, (..., trees), counted from the left, from 0.

        Scores are summed in float32 at least, in torch: a token within rounding of a turn may have gone the
        other way in a kernel.
        """
        self._check_width(x)
        low, *weights = torch_reference.lower(torch_operands.flatten(x), *self.tree())
        tree = Tree(*weights)
        torch_operands.check_kinds(low, tree.w_in, tree.w_out)
        return torch_tree.descend(low, tree).reshape(*x.shape[:-1], self.trees)

    def take_seen(self) -> torch.Tensor | None:
        """Return the input (tokens, d_in) of the last training pass where it was kept, and forget it."""
        kept, self.seen = self.seen, None
        return kept

    def usage(self) -> AbstractContextManager[Usage]:
        """Return a context whose block is watched: it yields the visits of nodes, counted up with each pass.

        Nothing is collected outside of one. A compiled model is watched where it is compiled anew.
        """
        return watch_usage(self)

    def prune_dead(self, seen: Usage) -> int:
        """Cut the paths that no token took, in place; return how many nodes and leaves were dead.

        Where one half of every tree is dead the other takes its place and depth falls by one (a root that
        contributes becomes an always-on neuron); what else no token came to is set to 0. The output of tokens
        on living paths stays. Parameters that lose rows are new ones: make the optimiser anew.

        Raises UsageError where no token was seen, and for the usage of a layer of another shape.
        """
        return prune_dead(self, seen)

    def record(self, path: str | Path) -> AbstractContextManager[None]:
        """Return a context that writes its tokens' leaves, as `--routing trace:FILE` takes them.

        An .npy file of integers (tokens, trees), written whole as the block ends. Raises UsageError where no
        token passed.
        """
        return record_trace(self, path)

    @classmethod
    def from_dense(
        cls, dense: Callable[[torch.Tensor], Any], sample_x: torch.Tensor, depth: int,
        trees: int = 1, *, steps: int = 1000, batch: int = 256, rate: float = 1e-3,
        hardening: float = 0.0, balance: float = 0.0, **options: Any,
    ) -> FFF:  # fmt: skip
        """Return an FFF that does what a dense layer does on a sample of its inputs.

        dense: a module or a function that maps (tokens, d_in) to (tokens, d_out), asked as in eval.
        sample_x (..., d_in): its inputs. options: as for FFF, but bias is True where nothing is said.
        Each node splits its tokens in halves along the direction of their inputs that covaries most with
        what is left of the outputs; what contributes is fitted to that by least squares; then `steps` of
        Adam with `batch` tokens and a rate that falls to 0 refine all weights with the layer's own routing
        on the mean square error, plus hardening and balance times the terms of `aux_losses`.
        `harness.nn.distil` states the method. Chance takes part in the batches alone: torch.manual_seed.

        Raises UsageError for a sample that is too small, and a dense layer of another shape.
        """
        from harness.nn.distil import distil  # which builds on this module

        return distil(
            cls, dense, sample_x, depth, trees, steps=steps, batch=batch, rate=rate,
            hardening=hardening, balance=balance, **options,
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes along: all but the input that was kept, which belongs to a graph."""
        return {**self.__dict__, "seen": None}

    def extra_repr(self) -> str:
        """Return what stands between the brackets of its name, without options that are the usual ones."""
        said = [
            f"{self.d_in}, {self.d_out}, depth={self.depth}, trees={self.trees}, bias={self.bias}"
        ]
        usual = {
            "leaf_width": 0, "nodes": "leaves" if self.leaf_width else "all", "activation": "gelu",
            "routing": "hard", "temperature": 1.0, "region_leak": 0.0, "dropout": 0.0,
            "always_on": 0, "output_bias": "always",
        }  # fmt: skip
        said += [f"{k}={getattr(self, k)!r}" for k, v in usual.items() if getattr(self, k) != v]
        return ", ".join(said)
