"""Own the loading of weights that were published in other layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from harness.nn.layers import FFF

_NAMED = 12  # names of a foreign state that an error lists


def _extents(value: object) -> str:
    """Return a tensor's shape; of anything else, as a whole checkpoint holds, its type."""
    if isinstance(value, torch.Tensor):
        return str(tuple(value.shape))
    return f"({type(value).__name__})"


def _take(state: Mapping[str, torch.Tensor], prefix: str, name: str) -> torch.Tensor:
    """Return a tensor of the published layout. Raises KeyError with the layout and the names that came."""
    if f"{prefix}{name}" in state:
        return state[f"{prefix}{name}"]
    came = [f"{key} {_extents(value)}" for key, value in list(state.items())[:_NAMED]]
    if len(state) > _NAMED:
        came.append(f"and {len(state) - _NAMED} more")
    raise KeyError(
        f"no '{prefix}{name}': what is read are '{prefix}linear_in.weight' (trees * n_nodes, d_in), "
        f"'{prefix}linear_in.bias' (trees * n_nodes) or none, and '{prefix}linear_out.weight' "
        f"(d_out, trees * n_nodes); the state " + (f"has {', '.join(came)}" if came else "is empty")
    )


def _find_depth(into: Any, bias: Any, out: Any, trees: int, prefix: str) -> int:
    """Return the depth of the trees. Raises ValueError for shapes that are no trees'."""
    if trees < 1:
        raise ValueError(f"trees: need at least 1, got {trees}")
    for name, weight in (("linear_in", into), ("linear_out", out)):
        if weight.ndim != 2:
            raise ValueError(f"{prefix}{name}.weight: need 2 dimensions, got {tuple(weight.shape)}")
    neurons = into.shape[0]
    n_nodes, rest = divmod(neurons, trees)
    depth = int(n_nodes + 1).bit_length() - 2
    if rest or 2 ** (depth + 1) - 1 != n_nodes:
        raise ValueError(
            f"{prefix}linear_in.weight: {neurons} neurons are not {trees} trees of 2**(depth + 1) - 1 nodes"
        )
    if out.shape[1] != neurons:
        raise ValueError(f"{prefix}linear_out.weight: need {neurons} columns, got {out.shape[1]}")
    if bias is not None and bias.shape != (neurons,):
        raise ValueError(f"{prefix}linear_in.bias: need ({neurons},), got {tuple(bias.shape)}")
    return depth


def load_published(
    state: Mapping[str, torch.Tensor], *, trees: int = 1, prefix: str = "", implementation: str = ""
) -> FFF:
    """Return the FFF of weights in the published model's layout.

    state: ``linear_in.weight (trees * n_nodes, d_in)``, ``linear_in.bias (trees * n_nodes)`` or none, and
    ``linear_out.weight (d_out, trees * n_nodes)``, each behind `prefix`; nodes tree after tree, children of
    node n at 2n + 1 and 2n + 2, as here. The bias counts in the turn.

    There a path turns right where the pre-activation is `> 0`, here where it is `>= 0`. No change of weights
    turns one rule into the other, and none is made: the two part on pre-activations of exactly 0 alone.
    Such a neuron adds gelu(0) = 0 itself, but the paths below it differ. A token of zeros (padding) meets
    nothing but ties where there are no biases, and gets 0 by either rule.

    Raises KeyError for a name that is missing, with the names that came; ValueError for shapes that are no
    trees'.
    """
    into, out = (_take(state, prefix, f"linear_{way}.weight") for way in ("in", "out"))
    bias = state.get(f"{prefix}linear_in.bias")
    if state.get(f"{prefix}linear_out.bias") is not None:
        raise ValueError(f"{prefix}linear_out.bias: the layer adds no bias to its output")
    depth = _find_depth(into, bias, out, trees, prefix)
    n_nodes, d_in = 2 ** (depth + 1) - 1, into.shape[1]
    made = FFF(
        d_in, out.shape[0], depth, trees, bias=bias is not None, implementation=implementation,
        device=into.device, dtype=into.dtype,
    )  # fmt: skip
    with torch.no_grad():
        made.w_in[..., :d_in] = into.reshape(trees, n_nodes, d_in)
        made.w_out.copy_(out.T.reshape(trees, n_nodes, -1))
        if bias is not None:
            made.w_in[..., -1] = bias.reshape(trees, n_nodes)
    return made
