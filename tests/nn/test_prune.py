"""Dead paths that are cut: what the living ones compute stays, and what is left is smaller or 0."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from harness import nn  # noqa: E402

D, TREES = 6, 2
KINDS: list[dict[str, Any]] = [
    {},
    {"bias": True, "always_on": 2},
    {"nodes": "leaves", "bias": True, "activation": "relu"},
    {"leaf_width": 3},
    {"leaf_width": 3, "nodes": "all", "always_on": 1},
    {"leaf_width": 2, "bias": False},
]


def _make(depth: int, sides: list[list[int]], **options: Any) -> nn.FFF:
    """Return a layer whose first turns of each tree are the same for every token: 0 left, 1 right."""
    torch.manual_seed(8)
    layer = nn.FFF(D, D, depth, TREES, dtype=torch.float64, **options)
    tree = layer.tree()
    with torch.no_grad():
        tree.w_node[..., 0] = 0
        for k, turns in enumerate(sides):
            node = 0
            for right in turns:
                tree.w_node[k, node] = 0
                tree.w_node[k, node, 0] = 10.0 if right else -10.0  # tokens have a 1 there
                node = 2 * node + 1 + right
    return layer


def _tokens(n: int = 40) -> Any:
    x = torch.randn(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 4
    x[:, 0] = 1.0
    return x


def _use(layer: nn.FFF, x: Any) -> nn.Usage:
    with layer.usage() as seen:
        layer(x)
    return seen


@pytest.mark.parametrize("options", KINDS)
def test_the_output_stays_and_the_depth_falls(options: dict[str, Any]) -> None:
    """Where one half of every tree is dead it is cut, twice if it can be; the output stays."""
    layer, x = _make(4, [[1, 0], [0, 0]], **options).eval(), _tokens()
    before, seen = layer(x), _use(layer, x)
    assert layer.prune_dead(seen) == int((seen.visits == 0).sum())
    assert layer.depth == 2
    torch.testing.assert_close(layer(x), before)
    assert layer.always_on == options.get("always_on", 0) + (4 if layer.nodes == "all" else 0)
    fresh = nn.FFF(D, D, 2, TREES, dtype=torch.float64, **{**options, "always_on": layer.always_on})
    fresh.load_state_dict(layer.state_dict())
    torch.testing.assert_close(fresh.eval()(x), before)


@pytest.mark.parametrize("options", KINDS)
def test_dead_rows_become_zero(options: dict[str, Any]) -> None:
    """Where one tree uses both halves nothing is cut, but what no token came to is 0."""
    layer, x = _make(3, [[1], []], **options).eval(), _tokens(200)
    before, seen = layer(x), _use(layer, x)
    assert (seen.visits[1, 1:3] > 0).all()
    layer.prune_dead(seen)
    assert layer.depth == 3
    torch.testing.assert_close(layer(x), before)
    tree, inner = layer.tree(), 7
    for weights, visits in (
        (tree.w_node, seen.visits[:, :inner]), (tree.w_in, seen.visits[:, inner:]),
        (tree.w_out, seen.visits[:, inner:]),
    ):  # fmt: skip
        zero = (weights == 0).flatten(2).all(2)
        assert torch.equal(zero, visits == 0)
    assert layer.prune_dead(_use(layer, x)) == int((seen.visits == 0).sum())  # and nothing more


def test_a_kernel_runs_what_is_left() -> None:
    """A cut tree of GELU neurons runs on the implementation that it ran on."""
    layer = _make(3, [[1], [0]], implementation="fff_l1_blas").float().eval()
    x = _tokens().float()
    before = layer(x)
    layer.prune_dead(_use(layer, x))
    assert (layer.depth, layer.always_on) == (2, 2)
    torch.testing.assert_close(layer(x), before, rtol=1e-4, atol=1e-5)


def test_a_path_without_turns_is_a_leaf() -> None:
    """Where every tree has one living path, no turn is left."""
    layer, x = _make(2, [[1, 1], [0, 1]], leaf_width=2).eval(), _tokens()
    before = layer(x)
    layer.prune_dead(_use(layer, x))
    assert layer.depth == 0
    torch.testing.assert_close(layer(x), before)


def test_no_token_and_another_shape_are_refused() -> None:
    """Without a token every path would be dead; another layer's usage says nothing of this one."""
    layer = _make(2, [])
    with pytest.raises(ValueError, match="no token was seen"):
        layer.prune_dead(_use(layer, _tokens(0)))
    with pytest.raises(ValueError, match="usage of 2 trees of depth 3, the layer has 2 of depth 2"):
        layer.prune_dead(_use(_make(3, []), _tokens()))
