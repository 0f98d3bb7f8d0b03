"""Weights in published layouts: what is read, what the loaded layer computes, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
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


# ---- trees and depth ----------------------------------------------------------------------------


def test_trees_and_depth_are_derived_or_both_readings_named() -> None:
    """So many neurons are read where one reading is left; where several are, they are all named."""
    three = _published(3, 2)  # 21 neurons: 3 trees of depth 2 or 7 of depth 1
    said = r"linear_in.weight: 21 neurons may be 7 trees of depth 1 or 3 trees of depth 2: say trees or"
    with pytest.raises(ValueError, match=said):
        nn.load_published(three, trees=None)
    for given in ({"depth": 2}, {"depth": 2, "trees": 3}, {"trees": 3}):
        made = nn.load_published(three, **{"trees": None, **given})
        assert (made.trees, made.depth) == (3, 2)
    made = nn.load_published(_published(1, 4), trees=None)  # 31 neurons: nothing else divides them
    assert (made.trees, made.depth) == (1, 4)
    made = nn.load_published(_published(5, 0), trees=None)  # 5 neurons: trees of depth 0 alone
    assert (made.trees, made.depth) == (5, 0)
    with pytest.raises(ValueError, match=r"21 neurons are not trees of depth 3"):
        nn.load_published(three, trees=None, depth=3)
    with pytest.raises(ValueError, match=r"21 neurons are not 3 trees of depth 1"):
        nn.load_published(three, trees=3, depth=1)
    with pytest.raises(ValueError, match=r"4095 neurons may be .*1 tree of depth 11"):
        nn.load_published(_published(1, 11), trees=None)


# ---- the other layouts --------------------------------------------------------------------------


def _published_leaves(depth: int, width: int = 3) -> dict[str, Any]:
    torch.manual_seed(12)
    n_nodes, n_leaves = 2**depth - 1, 2**depth
    return {
        "depth": torch.tensor(depth),
        "node_weights": torch.randn(n_nodes, D_IN), "node_biases": torch.randn(n_nodes, 1),
        "w1s": torch.randn(n_leaves, D_IN, width), "b1s": torch.randn(n_leaves, width),
        "w2s": torch.randn(n_leaves, width, D_OUT), "b2s": torch.randn(n_leaves, D_OUT),
    }  # fmt: skip


def _leaf_networks(state: dict[str, Any], x: Any, *, output_bias: bool) -> Any:
    """Return the layer's result token by token: right where the score is at least 0, then one network."""
    rows = []
    for row in x:
        node = 0
        for _ in range(int(state["depth"])):
            z = row @ state["node_weights"][node] + state["node_biases"][node, 0]
            node = 2 * node + 1 + int(z >= 0)
        leaf = node - len(state["node_weights"])
        a = torch.relu(row @ state["w1s"][leaf] + state["b1s"][leaf])
        rows.append(a @ state["w2s"][leaf] + (state["b2s"][leaf] if output_bias else 0))
    return torch.stack(rows)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("output_bias", ["always", "training"])
def test_published_leaf_networks(depth: int, output_bias: Any) -> None:
    """Leaf networks give the written-out result, with the output bias or, in eval, without it."""
    state, x = _published_leaves(depth), torch.randn(40, D_IN)
    made = nn.load_published(
        {f"ffn.{k}": v for k, v in state.items()}, prefix="ffn.", output_bias=output_bias
    )
    assert (made.depth, made.leaf_width, made.activation) == (depth, 3, "relu")
    expected = _leaf_networks(state, x, output_bias=output_bias == "always")
    torch.testing.assert_close(made.eval()(x), expected, rtol=1e-4, atol=1e-4)


def test_published_rows() -> None:
    """The layout of the benchmark's class is that of linear layers, transposed and without biases."""
    state, x = _published(1, 3, bias=False), torch.randn(30, D_IN)
    rows = {"w1s": state["linear_in.weight"], "w2s": state["linear_out.weight"].T}
    assert torch.equal(nn.load_published(rows)(x), nn.load_published(state)(x))
    with pytest.raises(ValueError, match=r"w2s: need \(15, 7\), got \(14, 7\)"):
        nn.load_published({**rows, "w2s": rows["w2s"][:14]})
    with pytest.raises(ValueError, match=r"two layouts under '': linear_in.weight, .* or w1s, w2s"):
        nn.load_published({**rows, **state})


def test_foreign_leaf_networks_are_refused() -> None:
    """Shapes that do not fit, another depth than is said and several trees say so."""
    state = _published_leaves(2)
    for change, said in (
        ({"b1s": torch.zeros(4, 2)}, r"b1s: need \(4, 3\), got \(4, 2\)"),
        ({"node_biases": torch.zeros(3)}, r"node_biases: need \(3, 1\), got \(3,\)"),
        ({"w1s": torch.zeros(5, D_IN, 3)}, r"w1s: need \(4, 9, 3\), got \(5, 9, 3\)"),
        (
            {"w1s": torch.zeros(4, D_IN)},
            r"w1s, w2s: need 3 dimensions, got \(4, 9\) and \(4, 3, 7\)",
        ),
        ({"depth": torch.tensor(3)}, r"w1s: 4 leaves are of depth 2, not 3"),
    ):
        with pytest.raises(ValueError, match=said):
            nn.load_published({**state, **change})
    with pytest.raises(ValueError, match=r"trees: the layout .* has 1, got 2"):
        nn.load_published(state, trees=2)
    with pytest.raises(ValueError, match=r"fff_l1_blas computes trees of GELU neurons"):
        nn.load_published(state, implementation="fff_l1_blas")


# ---- all layers of a checkpoint -----------------------------------------------------------------


def _checkpoint() -> dict[str, Any]:
    state = {
        f"encoder.layers.{i}.ffn.{name}": value + i
        for i in (0, 2, 10)
        for name, value in _published(1, 2).items()
    }
    return {**state, "encoder.layers.1.ffn2.weight": torch.zeros(2, 2)}


def test_every_layer_of_a_checkpoint() -> None:
    """Each layer that the pattern names is loaded, by its number, and no other."""
    state, x = _checkpoint(), torch.randn(5, D_IN)
    made = nn.load_published_layers(state, "encoder.layers.{i}.ffn.")
    assert list(made) == [0, 2, 10]
    for i, layer in made.items():
        alone = nn.load_published(state, prefix=f"encoder.layers.{i}.ffn.")
        assert torch.equal(layer(x), alone(x))
    with pytest.raises(ValueError, match=r"pattern: need {i} once"):
        nn.load_published_layers(state, "encoder.layers.0.ffn.")
    with pytest.raises(KeyError, match=r"no name begins as 'layer.{i}.'; the state has encoder"):
        nn.load_published_layers(state, "layer.{i}.")
    with pytest.raises(KeyError, match=r"no 'encoder.layers.1.ffn2.linear_in.weight'"):
        nn.load_published_layers(state, "encoder.layers.{i}.ffn2.")


def test_safetensors(tmp_path: Path) -> None:
    """Files of safetensors, one, several behind an index, or their folder, load as their state does."""
    save = pytest.importorskip("safetensors.torch").save_file
    state, x = _checkpoint(), torch.randn(5, D_IN)
    expected = nn.load_published_layers(state, "encoder.layers.{i}.ffn.")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    save(state, whole / "model.safetensors")
    of_name = {}
    for i, name in enumerate(state):
        file = f"model-{i % 2}.safetensors"
        of_name[name] = file
    for file in set(of_name.values()):
        save({n: t for n, t in state.items() if of_name[n] == file}, parts / file)
    index = parts / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": of_name}))
    for source in (whole / "model.safetensors", str(whole), parts, index):
        made = nn.load_published_layers(source, "encoder.layers.{i}.ffn.")
        for i in (0, 2, 10):
            assert torch.equal(made[i](x), expected[i](x))
    one = nn.load_published(whole, prefix="encoder.layers.2.ffn.")
    assert torch.equal(one(x), expected[2](x))


def test_files_that_are_none(tmp_path: Path) -> None:
    """A path without a file says so."""
    pytest.importorskip("safetensors")
    with pytest.raises(FileNotFoundError):
        nn.load_published(tmp_path / "none.safetensors")


# ---- the published class itself -----------------------------------------------------------------


@pytest.fixture
def fastfeedforward() -> Any:
    """Return the class of arXiv 2308.14711, from its package."""
    return pytest.importorskip("fastfeedforward").FFF


@pytest.mark.parametrize(("depth", "width"), [(1, 1), (3, 4), (2, 7)])
def test_the_package_itself(fastfeedforward: Any, depth: int, width: int) -> None:
    """The package's layer and ours with its weights agree: eval, training, gradients, entropies."""
    torch.manual_seed(3)
    theirs = fastfeedforward(D_IN, width, D_OUT, depth)
    with torch.no_grad():
        theirs.node_weights *= 4
    ours = nn.load_published(theirs.state_dict(), output_bias="training")
    x = torch.randn(30, D_IN)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    ours.train()
    theirs.train()
    hard = theirs(x, use_hard_decisions=True)
    torch.testing.assert_close(ours(x, routing="hard"), hard)
    ours.aux = True
    y, entropies = theirs(x, return_entropies=True)
    mixed = ours(x, routing="soft")
    torch.testing.assert_close(mixed, y)
    terms = nn.aux_losses(ours)
    torch.testing.assert_close(terms["hardening"], entropies.mean(), rtol=1e-4, atol=1e-4)
    (y.square().sum() + entropies.mean()).backward()
    (mixed.square().sum() + terms["hardening"]).backward()
    for own, other in (
        (ours.w_node.grad[0], theirs.node_weights.grad), (ours.b_node.grad[0], theirs.node_biases.grad[:, 0]),
        (ours.w_in.grad[0], theirs.w1s.grad.transpose(1, 2)), (ours.b_in.grad[0], theirs.b1s.grad),
        (ours.w_out.grad[0], theirs.w2s.grad), (ours.b_out.grad[0], theirs.b2s.grad),
    ):  # fmt: skip
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)


def test_the_package_draws_as_ours(fastfeedforward: Any) -> None:
    """Leaf networks begin within the bounds of the package's, and with its shapes."""
    torch.manual_seed(4)
    theirs, ours = fastfeedforward(64, 16, 32, 5), nn.FFF(64, 32, 5, leaf_width=16)
    for own, other in (
        (ours.w_node, theirs.node_weights), (ours.b_node, theirs.node_biases), (ours.w_in, theirs.w1s),
        (ours.b_in, theirs.b1s), (ours.w_out, theirs.w2s), (ours.b_out, theirs.b2s),
    ):  # fmt: skip
        assert own.numel() == other.numel()
        assert own.abs().max().item() == pytest.approx(other.abs().max().item(), rel=0.15)
