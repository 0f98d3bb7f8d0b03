"""The equations of both papers, written out token by token and node by node, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any

ACTIVATIONS: dict[str, Callable[[float], float]] = {
    "gelu": lambda z: z * 0.5 * (1 + math.erf(z / math.sqrt(2))),
    "gelu_tanh": lambda z: (
        z * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    ),
    "relu": lambda z: max(z, 0.0),
    "relu2": lambda z: max(z, 0.0) ** 2,
    "silu": lambda z: z / (1 + math.exp(-z)),
    "identity": lambda z: z,
}


def sigmoid(z: float) -> float:
    """Return 1 / (1 + exp(-z))."""
    return 1 / (1 + math.exp(-z))


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Hold one tree as nodes 0 to 2**(depth + 1) - 2, leaves last, each a network of its own.

    of_node[n]: (w (d_in,), b) of a node that decides; network[n]: (w (width, d_in), b (width,), v (width,
    d_out), c (d_out,)) of what a node or leaf contributes, None for nothing.
    """

    depth: int
    of_node: list[tuple[Array, float]]
    network: list[tuple[Array, Array, Array, Array] | None]


def _evaluate(network: Any, x: Array, activation: str) -> Array:
    w, b, v, c = network
    a = [ACTIVATIONS[activation](float(x @ w[i] + b[i])) for i in range(len(b))]
    return np.asarray(a) @ v + c


def forward_hard(x: Array, tree: Weights, activation: str) -> Array:
    """FORWARD_I: follow one path, right where the score is at least 0 (a probability of one half)."""
    node, y = 0, 0.0
    while True:
        if tree.network[node] is not None:
            y = y + _evaluate(tree.network[node], x, activation)
        if node >= 2**tree.depth - 1:
            return y
        w, b = tree.of_node[node]
        node = 2 * node + (2 if sigmoid(float(x @ w + b)) >= 0.5 else 1)


def forward_soft(
    x: Array, tree: Weights, activation: str, node: int = 0, temperature: float = 1.0
) -> Array:
    """FORWARD_T: a node passes on (1 - p) of its left subtree and p of its right one."""
    own = tree.network[node]
    y = 0.0 if own is None else _evaluate(own, x, activation)
    if node >= 2**tree.depth - 1:
        return y
    w, b = tree.of_node[node]
    p = sigmoid(float(x @ w + b) / temperature)
    left = forward_soft(x, tree, activation, 2 * node + 1, temperature)
    right = forward_soft(x, tree, activation, 2 * node + 2, temperature)
    return y + (1 - p) * left + p * right


def hardening(x: Array, trees: list[Weights]) -> float:
    """Return the mean entropy of the turns, in nats, over tokens, trees and nodes."""
    found = []
    for row in x:
        for tree in trees:
            for w, b in tree.of_node:
                p = sigmoid(float(row @ w + b))
                found.append(-p * math.log(p) - (1 - p) * math.log(1 - p))
    return float(np.mean(found))


def shares(x: Array, tree: Weights) -> Array:
    """Return the mean over tokens of the share of each leaf, (2**depth,)."""
    found = np.zeros(2**tree.depth)
    for row in x:
        for leaf in range(2**tree.depth):
            node, share = 0, 1.0
            for d in reversed(range(tree.depth)):
                w, b = tree.of_node[node]
                p = sigmoid(float(row @ w + b))
                right = leaf >> d & 1
                share *= p if right else 1 - p
                node = 2 * node + 1 + right
            found[leaf] += share / len(x)
    return found
