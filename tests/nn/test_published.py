"""Weights in published layouts: what is read, what the loaded layer computes, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from harness import nn  # noqa: E402
from harness.backends import torch_operator  # noqa: E402

D_IN, D_OUT = 9, 7


def _published(trees: int, depth: int, *, bias: bool = True) -> dict[str, Any]:
    torch.manual_seed(11)
    neurons = trees * (2 ** (depth + 1) - 1)
    into, out = torch.nn.Linear(D_IN, neurons, bias=bias), torch.nn.Linear(neurons, D_OUT, False)
    named = {"linear_in": into, "linear_out": out}
    return {
        f"{n}.{k}": v.detach() for n, layer in named.items() for k, v in layer.state_dict().items()
    }


def _masked_dense(state: dict[str, Any], x: Any, trees: int, depth: int) -> Any:
    """Return the published layer's result: all neurons, those off the path masked; right where z > 0."""
    z = torch.nn.functional.linear(x, state["linear_in.weight"], state.get("linear_in.bias"))
    z = z.view(len(x), trees, -1)
    mask, node = torch.zeros_like(z), torch.zeros(len(x), trees, 1, dtype=torch.int64)
    for _ in range(depth + 1):
        mask.scatter_(2, node, 1.0)
        node = 2 * node + 1 + (z.gather(2, node.clamp(max=z.shape[2] - 1)) > 0)
    activations = (torch.nn.functional.gelu(z) * mask).view(len(x), -1)
    return torch.nn.functional.linear(activations, state["linear_out.weight"])


@pytest.mark.parametrize(("trees", "depth"), [(1, 0), (1, 4), (3, 2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("implementation", ["", torch_operator.REFERENCE, "fff_torch_bmm"])
def test_published_weights(trees: int, depth: int, bias: bool, implementation: str) -> None:
    """Weights in the published layout give the masked-dense result, the bias in the turn."""
    state, x = _published(trees, depth, bias=bias), torch.randn(200, D_IN)
    made = nn.load_published(
        {f"ffn.{k}": v for k, v in state.items()}, trees=trees, prefix="ffn.",
        implementation=implementation,
    )  # fmt: skip
    assert (made.trees, made.depth, made.bias) == (trees, depth, bias)
    torch.testing.assert_close(made(x), _masked_dense(state, x, trees, depth), rtol=1e-4, atol=1e-5)


def test_published_weights_of_any_strides() -> None:
    """Weights that are views of others, not contiguous, load as their copies do."""
    state, x = _published(3, 2), torch.randn(20, D_IN)
    strided = {k: torch.stack([v, v], -1)[..., 0] for k, v in state.items()}
    assert not any(v.is_contiguous() for v in strided.values())
    expected = nn.load_published(state, trees=3)(x)
    assert torch.equal(nn.load_published(strided, trees=3)(x), expected)


def test_published_bias_turns_paths() -> None:
    """The biases decide turns: without them other neurons are on the path."""
    state, x = _published(1, 4), torch.randn(200, D_IN)
    state["linear_in.bias"] *= 5
    made = nn.load_published(state)
    torch.testing.assert_close(made(x), _masked_dense(state, x, 1, 4), rtol=1e-4, atol=1e-5)
    del state["linear_in.bias"]
    assert not torch.allclose(nn.load_published(state)(x), made(x), atol=1e-2)


def test_published_ties() -> None:
    """The two rules part on exact ties alone; a token of zeros without biases gets 0 by either."""
    state = _published(1, 2, bias=False)
    x = torch.zeros(3, D_IN)
    x[1, 0], x[2] = 1.0, torch.randn(D_IN)
    state["linear_in.weight"][0, 0] = 0.0  # token 1 meets a tie at the root, and no other
    ours, theirs = nn.load_published(state)(x), _masked_dense(state, x, 1, 2)
    assert torch.equal(ours[0], torch.zeros(D_OUT))
    assert torch.equal(theirs[0], torch.zeros(D_OUT))
    assert not torch.allclose(ours[1], theirs[1])
    torch.testing.assert_close(ours[2], theirs[2])


def test_foreign_layouts_are_refused() -> None:
    """Neurons that are no trees', outputs of another count, an output bias and a missing name say so."""
    state = _published(1, 2)
    with pytest.raises(ValueError, match=r"linear_in.weight: 7 neurons are not 2 trees"):
        nn.load_published(state, trees=2)
    with pytest.raises(ValueError, match=r"trees: need at least 1, got 0"):
        nn.load_published(state, trees=0)
    with pytest.raises(ValueError, match=r"linear_in.weight: need 2 dimensions, got \(7, 3, 3\)"):
        nn.load_published({**state, "linear_in.weight": torch.zeros(7, 3, 3)})
    with pytest.raises(ValueError, match=r"linear_in.bias: need \(7,\), got \(6,\)"):
        nn.load_published({**state, "linear_in.bias": torch.zeros(6)})
    with pytest.raises(ValueError, match=r"linear_out.weight: need 7 columns, got 6"):
        nn.load_published({**state, "linear_out.weight": torch.zeros(D_OUT, 6)})
    with pytest.raises(ValueError, match=r"adds no bias to its output"):
        nn.load_published({**state, "linear_out.bias": torch.zeros(D_OUT)})


@pytest.mark.parametrize("prefix", ["", "ffn."])
def test_a_missing_name_says_what_is_read_and_what_came(prefix: str) -> None:
    """Weights in another layout are refused with the layout that is read and the names that came."""
    weight = torch.zeros(7, D_IN)
    foreign = {"node_weights": weight, "node_biases": weight[:, 0], "w1s": weight}
    said = (
        rf"no '{prefix}linear_in.weight'.*"
        rf"'{prefix}linear_in.weight' \(trees \* n_nodes, d_in\).*"
        rf"'{prefix}linear_out.weight' \(d_out, trees \* n_nodes\).*"
        r"the state has node_weights \(7, 9\), node_biases \(7,\), w1s \(7, 9\)"
    )
    with pytest.raises(KeyError, match=said):
        nn.load_published(foreign, prefix=prefix)
    with pytest.raises(KeyError, match=r"the state has model \(dict\), epoch \(int\)"):
        nn.load_published({"model": {}, "epoch": 3}, prefix=prefix)  # a checkpoint, not its weights
    with pytest.raises(KeyError, match="the state is empty"):
        nn.load_published({}, prefix=prefix)
    state = {f"{prefix}{k}": v for k, v in _published(1, 2).items()}
    del state[f"{prefix}linear_out.weight"]
    with pytest.raises(KeyError, match=rf"no '{prefix}linear_out.weight'"):
        nn.load_published(state, prefix=prefix)


def test_a_prefix_that_is_wrong_is_seen_in_the_names() -> None:
    """Where the names stand behind another prefix the error shows them, a few of many, in one line."""
    state = {f"layer.{i}.{k}": v for i in range(12) for k, v in _published(1, 2).items()}
    with pytest.raises(KeyError, match=r"layer\.0\.linear_in\.weight .*and 24 more") as caught:
        nn.load_published(state, prefix="layer.")
    assert len(str(caught.value).splitlines()) == 1
