"""Own the loading of weights that were published in other layouts, of one layer or of all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from harness.errors import UnavailableError, UsageError
from harness.nn.layers import FFF, OutputBias

Source = Mapping[str, torch.Tensor] | str | Path

_NAMED = 12  # names of a foreign state that an error lists
# What the layouts are told apart by, behind their prefix.
_LINEAR = ("linear_in.weight", "linear_out.weight")
_ROWS = ("w1s", "w2s")
_LEAVES = ("node_weights", "node_biases", "w1s", "b1s", "w2s", "b2s")


# ---- where weights come from --------------------------------------------------------------------


class _Files(Mapping[str, torch.Tensor]):
    """Read tensors by name from safetensors files, each as it is asked for."""

    def __init__(self, path: Path) -> None:
        try:
            from safetensors import safe_open
        except ImportError:
            raise UnavailableError(f"{path}: needs the package safetensors") from None
        self._open = safe_open
        if path.is_dir():
            index, whole = path / "model.safetensors.index.json", path / "model.safetensors"
            path = index if index.exists() else whole
        if path.name.endswith(".index.json"):
            of_name = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
            self._file_of = {name: path.parent / file for name, file in of_name.items()}
        else:
            with safe_open(path, framework="pt") as file:
                self._file_of = dict.fromkeys(file.keys(), path)

    def __getitem__(self, name: str) -> torch.Tensor:
        with self._open(self._file_of[name], framework="pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def open_published(source: Source) -> Mapping[str, Any]:
    """Return names and tensors as they are given, or those of a file or folder, read when asked for."""
    return source if isinstance(source, Mapping) else _Files(Path(source))


# ---- which layout, and of which extents ---------------------------------------------------------


def _extents(value: object) -> str:
    """Return a tensor's shape; of anything else, as a whole checkpoint holds, its type."""
    if isinstance(value, torch.Tensor):
        return str(tuple(value.shape))
    return f"({type(value).__name__})"


def _list_names(state: Mapping[str, Any]) -> str:
    came = [f"{key} {_extents(state[key])}" for key in list(state)[:_NAMED]]
    if len(state) > _NAMED:
        came.append(f"and {len(state) - _NAMED} more")
    return f"the state has {', '.join(came)}" if came else "the state is empty"


def _take(state: Mapping[str, Any], prefix: str, name: str) -> Any:
    """Return a tensor of the published layout. Raises KeyError with the layouts and the names that came."""
    if f"{prefix}{name}" in state:
        return state[f"{prefix}{name}"]
    raise KeyError(
        f"no '{prefix}{name}': what is read are '{prefix}linear_in.weight' (trees * n_nodes, d_in), "
        f"'{prefix}linear_in.bias' (trees * n_nodes) or none, and '{prefix}linear_out.weight' "
        f"(d_out, trees * n_nodes); or '{prefix}w1s' (n_nodes, d_in) and '{prefix}w2s' (n_nodes, d_out); or "
        f"the leaf networks {', '.join(_LEAVES)}; {_list_names(state)}"
    )


def _find_layout(state: Mapping[str, Any], prefix: str) -> tuple[str, ...]:
    """Return the names of the layout that a state has. Raises UsageError where it has two."""
    there = [
        layout
        for layout in (_LINEAR, _LEAVES, _ROWS)
        if all(f"{prefix}{name}" in state for name in layout)
    ]
    if _LEAVES in there and _ROWS in there:
        there.remove(_ROWS)
    if len(there) > 1:
        names = " or ".join(", ".join(f"{prefix}{name}" for name in layout) for layout in there)
        raise UsageError(f"two layouts under {prefix!r}: {names}; leave one of them")
    return there[0] if there else _LINEAR


def _say(trees: int, depth: int) -> str:
    return f"{trees} tree{'s' * (trees > 1)} of depth {depth}"


def _find_extents(name: str, neurons: int, trees: int | None, depth: int | None) -> tuple[int, int]:
    """Return the trees and the depth of so many neurons, where what is given leaves one reading.

    Trees of depth 0 are a dense layer: they are read as such where nothing else is possible, or it is said.
    """
    if trees is not None and trees < 1:
        raise ValueError(f"trees: need at least 1, got {trees}")
    readings = [
        (neurons // n_nodes, d)
        for d in range(neurons.bit_length())
        if neurons % (n_nodes := 2 ** (d + 1) - 1) == 0 and neurons
    ]
    fit = [(t, d) for t, d in readings if trees in (None, t) and depth in (None, d)]
    if not fit:
        asked = f"{trees} trees of 2**(depth + 1) - 1 nodes" if depth is None else (
            f"{'trees' if trees is None else f'{trees} trees'} of depth {depth}"
        )  # fmt: skip
        raise ValueError(f"{name}: {neurons} neurons are not {asked}")
    likely = [(t, d) for t, d in fit if d] if trees is None and depth is None else fit
    if len(likely) > 1:
        said = " or ".join(_say(t, d) for t, d in likely)
        raise UsageError(f"{name}: {neurons} neurons may be {said}: say trees or depth")
    return (likely or fit)[0]


def _check_matrix(name: str, weight: Any) -> None:
    if weight.ndim != 2:
        raise ValueError(f"{name}: need 2 dimensions, got {tuple(weight.shape)}")


def _check_shapes(prefix: str, shapes: Mapping[str, tuple[Any, tuple[int, ...]]]) -> None:
    for name, (tensor, shape) in shapes.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{prefix}{name}: need {shape}, got {tuple(tensor.shape)}")


# ---- the layouts --------------------------------------------------------------------------------


def _load_neurons(into: Any, bias: Any, out: Any, trees: int, depth: int, **options: Any) -> FFF:
    """Return an FFF of neurons. into (trees * n_nodes, d_in), bias (trees * n_nodes) or None, out as into."""
    n_nodes, d_in = 2 ** (depth + 1) - 1, into.shape[1]
    made = FFF(
        d_in, out.shape[1], depth, trees, bias=bias is not None, device=into.device,
        dtype=into.dtype, **options,
    )  # fmt: skip
    with torch.no_grad():
        made.w_in[..., :d_in] = into.reshape(trees, n_nodes, d_in)
        made.w_out.copy_(out.reshape(trees, n_nodes, -1))
        if bias is not None:
            made.w_in[..., -1] = bias.reshape(trees, n_nodes)
    return made


def _load_linear(
    state: Mapping[str, Any], prefix: str, trees: int | None, depth: int | None, **options: Any
) -> FFF:
    into, out = (_take(state, prefix, name) for name in _LINEAR)
    bias = state.get(f"{prefix}linear_in.bias")
    if state.get(f"{prefix}linear_out.bias") is not None:
        raise ValueError(f"{prefix}linear_out.bias: the layer adds no bias to its output")
    for name, weight in zip(_LINEAR, (into, out), strict=True):
        _check_matrix(f"{prefix}{name}", weight)
    neurons = into.shape[0]
    trees, depth = _find_extents(f"{prefix}{_LINEAR[0]}", neurons, trees, depth)
    if out.shape[1] != neurons:
        raise ValueError(f"{prefix}linear_out.weight: need {neurons} columns, got {out.shape[1]}")
    if bias is not None:
        _check_shapes(prefix, {"linear_in.bias": (bias, (neurons,))})
    return _load_neurons(into, bias, out.T, trees, depth, **options)


def _load_rows(
    state: Mapping[str, Any], prefix: str, trees: int | None, depth: int | None, **options: Any
) -> FFF:
    into, out = (_take(state, prefix, name) for name in _ROWS)
    for name, weight in zip(_ROWS, (into, out), strict=True):
        _check_matrix(f"{prefix}{name}", weight)
    trees, depth = _find_extents(f"{prefix}w1s", into.shape[0], trees, depth)
    _check_shapes(prefix, {"w2s": (out, (into.shape[0], out.shape[1]))})
    return _load_neurons(into, None, out, trees, depth, **options)


def _load_leaves(
    state: Mapping[str, Any], prefix: str, trees: int | None, depth: int | None, **options: Any
) -> FFF:
    w_node, b_node, w_in, b_in, w_out, b_out = (_take(state, prefix, name) for name in _LEAVES)
    if trees not in (None, 1):
        raise ValueError(f"trees: the layout {', '.join(_LEAVES)} has 1, got {trees}")
    if w_in.ndim != 3 or w_out.ndim != 3:
        shapes = f"{tuple(w_in.shape)} and {tuple(w_out.shape)}"
        raise ValueError(f"{prefix}w1s, {prefix}w2s: need 3 dimensions, got {shapes}")
    n_leaves, d_in, width = w_in.shape
    found, d_out = n_leaves.bit_length() - 1, w_out.shape[2]
    _check_shapes(prefix, {
        "node_weights": (w_node, (2**found - 1, d_in)), "node_biases": (b_node, (2**found - 1, 1)),
        "w1s": (w_in, (2**found, d_in, width)), "b1s": (b_in, (2**found, width)),
        "w2s": (w_out, (2**found, width, d_out)), "b2s": (b_out, (2**found, d_out)),
    })  # fmt: skip
    for said in (depth, state.get(f"{prefix}depth")):
        if said is not None and int(said) != found:
            raise ValueError(
                f"{prefix}w1s: {n_leaves} leaves are of depth {found}, not {int(said)}"
            )
    made = FFF(
        d_in, d_out, found, leaf_width=width, device=w_in.device, dtype=w_in.dtype, **options
    )
    with torch.no_grad():
        for parameter, value in (
            (made.w_node, w_node), (made.b_node, b_node[:, 0]), (made.w_in, w_in.transpose(1, 2)),
            (made.b_in, b_in), (made.w_out, w_out), (made.b_out, b_out),
        ):  # fmt: skip
            parameter.copy_(value[None])
    return made


# ---- the door -----------------------------------------------------------------------------------


def load_published(
    state: Source, *, trees: int | None = 1, depth: int | None = None, prefix: str = "",
    activation: str = "", output_bias: OutputBias = "always", implementation: str = "",
) -> FFF:  # fmt: skip
    """Return the FFF of weights in a published layout.

    state: names and tensors; or the path of a .safetensors file, of the index of several, or of the folder
    that holds them as `model.safetensors`. What is read, each behind `prefix`, is one of

    - trees of neurons (arXiv 2311.10770): ``linear_in.weight (trees * n_nodes, d_in)``, ``linear_in.bias
      (trees * n_nodes)`` or none, ``linear_out.weight (d_out, trees * n_nodes)``, nodes tree after tree,
      children of node n at 2n + 1 and 2n + 2, as here. The bias counts in the turn.
    - the same as its benchmark keeps it: ``w1s (n_nodes, d_in)``, ``w2s (n_nodes, d_out)``.
    - leaf networks (arXiv 2308.14711, the package `fastfeedforward`): ``node_weights (2**depth - 1, d_in)``,
      ``node_biases (2**depth - 1, 1)``, ``w1s (2**depth, d_in, width)``, ``b1s (2**depth, width)``, ``w2s
      (2**depth, width, d_out)``, ``b2s (2**depth, d_out)``.

    trees, depth: of trees of neurons; None for what the number of neurons says, where that has one reading.
    activation: empty for the published one, gelu for trees of neurons and relu for leaf networks.
    output_bias: "training" leaves the leaves' output biases out in eval, as the package does and its paper's
    equation does not.

    The first layout's class turns right where the pre-activation is `> 0`, this one, as the others, where
    it is `>= 0`. No change of weights turns one rule into the other, and none is made: the two part on
    pre-activations of exactly 0 alone. Such a neuron adds gelu(0) = 0 itself, but the paths below it differ.
    A token of zeros (padding) meets nothing but ties where there are no biases, and gets 0 by either rule.

    Raises KeyError for a name that is missing, with the names that came; ValueError for shapes that are no
    trees', and for several readings, with all of them.
    """
    given = open_published(state)
    layout = _find_layout(given, prefix)
    if layout == _LEAVES:
        return _load_leaves(
            given, prefix, trees, depth, activation=activation or "relu", output_bias=output_bias,
            implementation=implementation,
        )  # fmt: skip
    load = _load_rows if layout == _ROWS else _load_linear
    return load(
        given, prefix, trees, depth, activation=activation or "gelu", implementation=implementation
    )


def load_published_layers(
    source: Source, pattern: str, *, trees: int | None = None, depth: int | None = None,
    activation: str = "", output_bias: OutputBias = "always", implementation: str = "",
) -> dict[int, FFF]:  # fmt: skip
    """Return every FFF of a checkpoint, by its number.

    pattern: the prefix of a layer's names with {i} for its number, such as "encoder.layers.{i}.ffn.". The
    rest is as for `load_published`, but the trees are derived unless they are said.

    Raises UsageError for a pattern without {i}, KeyError where no name matches it, with those that came.
    """
    if pattern.count("{i}") != 1:
        raise UsageError(f"pattern: need {{i}} once, for the number of the layer, got {pattern!r}")
    given = open_published(source)
    before, after = map(re.escape, pattern.split("{i}"))
    matches = (re.match(f"{before}([0-9]+){after}", name) for name in given)
    numbers = sorted({int(match[1]) for match in matches if match})
    if not numbers:
        raise KeyError(f"no name begins as {pattern!r}; {_list_names(given)}")
    return {
        i: load_published(
            given, trees=trees, depth=depth, prefix=pattern.replace("{i}", str(i)),
            activation=activation, output_bias=output_bias, implementation=implementation,
        )
        for i in numbers
    }  # fmt: skip
