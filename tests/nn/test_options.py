"""The options of the FFF: the papers' equations written out, gradients, what torch makes of them."""

from __future__ import annotations

import copy
import pickle
from itertools import product
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import written_out_fff as written  # noqa: E402

from harness import nn  # noqa: E402

D_IN, D_OUT, DEPTH, TREES, TOKENS = 6, 5, 3, 2, 9
F64 = torch.float64

# Every kind of layer: what its nodes and leaves are, and which of them contribute.
KINDS: dict[str, dict[str, Any]] = {
    "neurons": {},
    "neurons with biases": {"bias": True},
    "neurons, leaves alone": {"nodes": "leaves", "bias": True},
    "leaf networks": {"leaf_width": 4},
    "leaf networks of one neuron": {"leaf_width": 1},
    "leaf networks without biases": {"leaf_width": 3, "bias": False},
    "leaf networks and nodes": {"leaf_width": 3, "nodes": "all"},
    "always-on neurons": {"always_on": 3, "bias": True},
    "leaf networks and always-on neurons": {"leaf_width": 2, "always_on": 2},
}


def _make(**options: Any) -> nn.FFF:
    torch.manual_seed(5)
    layer = nn.FFF(D_IN, D_OUT, options.pop("depth", DEPTH), TREES, **{"dtype": F64, **options})
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("w_node") or (name == "w_in" and not layer.leaf_width):
                parameter *= 3  # turns that are neither decided nor open
        if layer.bias and not layer.leaf_width:
            layer.w_in[..., -1].uniform_(-0.5, 0.5)
    return layer


def _x(tokens: int = TOKENS) -> Any:
    return torch.randn(tokens, D_IN, dtype=F64, generator=torch.Generator().manual_seed(7))


def _array(tensor: Any) -> Any:
    return tensor.detach().double().numpy()


def _written_out(layer: nn.FFF) -> list[written.Weights]:
    """Return a layer's trees from its parameters, by their documented shapes alone."""
    inner, leaves, d_in = 2**layer.depth - 1, 2**layer.depth, layer.d_in
    p = {name: _array(value) for name, value in layer.named_parameters()}
    found = []
    for k in range(layer.trees):
        if layer.leaf_width:
            zeros = np.zeros((leaves, layer.leaf_width)), np.zeros((leaves, layer.d_out))
            b_node = p["b_node"][k] if layer.bias else np.zeros(inner)
            b_in, b_out = (p["b_in"][k], p["b_out"][k]) if layer.bias else zeros
            of_node = [(p["w_node"][k, n], float(b_node[n])) for n in range(inner)]
            network: list[Any] = [
                (p["w_node"][k, n : n + 1], b_node[n : n + 1], p["node_out"][k, n : n + 1], 0.0)
                if layer.nodes == "all" else None
                for n in range(inner)
            ]  # fmt: skip
            network += [
                (p["w_in"][k, j], b_in[j], p["w_out"][k, j], b_out[j]) for j in range(leaves)
            ]
        else:
            rows, v = p["w_in"][k], p["w_out"][k]
            b = rows[:, -1] if layer.bias else np.zeros(len(rows))
            of_node = [(rows[n, :d_in], float(b[n])) for n in range(inner)]
            first = 0 if layer.nodes == "all" else inner
            network = [
                (rows[n : n + 1, :d_in], b[n : n + 1], v[n - first : n - first + 1], 0.0)
                if n >= first else None
                for n in range(inner + leaves)
            ]  # fmt: skip
        found.append(written.Weights(depth=layer.depth, of_node=of_node, network=network))
    return found


def _always(layer: nn.FFF, x: Any) -> Any:
    if not layer.always_on:
        return 0.0
    w, v = _array(layer.always_in), _array(layer.always_out)
    z = x @ w[:, :D_IN].T + (w[:, -1] if layer.bias else 0.0)
    return np.vectorize(written.ACTIVATIONS[layer.activation])(z) @ v


def _expect(layer: nn.FFF, x: Any, forward: Any, **options: Any) -> Any:
    x = _array(x)
    trees = _written_out(layer)
    rows = [sum(forward(row, t, layer.activation, **options) for t in trees) for row in x]
    return np.stack(rows) + _always(layer, x)


# ---- what is computed ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [0, 1, DEPTH])
def test_hard_and_soft_are_the_papers(kind: str, depth: int) -> None:
    """Eval follows one path, soft training mixes all of them, each as its paper's equation says."""
    layer, x = _make(depth=depth, **KINDS[kind]), _x()
    hard = _array(layer.eval()(x))
    np.testing.assert_allclose(
        hard, _expect(layer, x, written.forward_hard), rtol=1e-10, atol=1e-12
    )
    soft = _array(layer(x, routing="soft"))
    np.testing.assert_allclose(
        soft, _expect(layer, x, written.forward_soft), rtol=1e-10, atol=1e-12
    )
    layer.routing, layer.temperature = "soft", 0.5
    trained = _array(layer.train()(x))
    expected = _expect(layer, x, written.forward_soft, temperature=0.5)
    np.testing.assert_allclose(trained, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activation", list(written.ACTIVATIONS))
@pytest.mark.parametrize("kind", ["neurons with biases", "leaf networks", "always-on neurons"])
def test_activations(kind: str, activation: str) -> None:
    """Each activation is the function of its name, by either way through a tree."""
    layer, x = _make(activation=activation, **KINDS[kind]).eval(), _x()
    for routing, forward in (("hard", written.forward_hard), ("soft", written.forward_soft)):
        y = _array(layer(x, routing=routing))
        np.testing.assert_allclose(y, _expect(layer, x, forward), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_straight_through_is_hard_with_softs_gradient(kind: str) -> None:
    """Straight-through turns give the hard output; turned by hand, their gradient is the sigmoid's."""
    layer, x = _make(**KINDS[kind]), _x()
    assert torch.allclose(layer(x, routing="ste"), layer(x, routing="hard"), atol=1e-12)
    # One node: y = left + t (right - left), so that dy/dz = sigmoid'(z) (right - left) beside the rest.
    layer = _make(depth=1, nodes="leaves", bias=True)
    tree = layer.tree()
    assert tree.b_node is not None
    layer(x, routing="ste").sum().backward()
    found = layer.w_in.grad[:, 0, -1].clone()
    sides = []
    for j in (0, 1):
        z = torch.einsum("bi,ki->bk", x, tree.w_in[:, j, 0]) + tree.b_in[:, j, 0]
        sides.append(torch.nn.functional.gelu(z) * tree.w_out[:, j, 0].sum(1))
    p = torch.sigmoid(torch.einsum("bi,ki->bk", x, tree.w_node[:, 0]) + tree.b_node[:, 0])
    expected = (p * (1 - p) * (sides[1] - sides[0])).sum(0)
    torch.testing.assert_close(found, expected.detach())


def test_gumbel_turns_right_in_the_share_of_the_sigmoid() -> None:
    """Drawn turns are whole, each token takes one path, and go right as often as the sigmoid says."""
    layer = nn.FFF(1, 1, 1, nodes="leaves", bias=True, activation="identity", dtype=F64)
    with torch.no_grad():
        layer.w_in.zero_()
        layer.w_in[0, :, -1] = torch.tensor([0.7, 1.0, 1.0])  # the root's score, then the leaves'
        layer.w_out[0, :, 0] = torch.tensor([0.0, 1.0])
    torch.manual_seed(1)
    y = layer(torch.zeros(40_000, 1, dtype=F64), routing="gumbel")
    assert set(y.unique().tolist()) == {0.0, 1.0}
    assert abs(y.mean().item() - written.sigmoid(0.7)) < 0.01
    y.sum().backward()
    assert layer.w_in.grad[0, 0, -1] > 0  # more to the right raises the sum


def test_region_leak_swaps_turns_in_training_alone() -> None:
    """A leak of 1 swaps every turn of a training pass; one of a quarter a quarter of them; eval none."""
    layer = nn.FFF(1, 1, 1, nodes="leaves", bias=True, activation="identity", dtype=F64)
    with torch.no_grad():
        layer.w_in.zero_()
        layer.w_in[0, :, -1] = torch.tensor([2.0, 1.0, 1.0])
        layer.w_out[0, :, 0] = torch.tensor([0.0, 1.0])
    x = torch.zeros(40_000, 1, dtype=F64)
    layer.region_leak = 1.0
    assert not layer(x).any()
    assert torch.allclose(
        layer(x, routing="soft"), torch.tensor(1 - written.sigmoid(2.0), dtype=F64)
    )
    assert layer.eval()(x).all()
    layer.train().region_leak = 0.25
    torch.manual_seed(2)
    assert abs(layer(x).mean().item() - 0.75) < 0.01


@pytest.mark.parametrize("kind", ["neurons", "leaf networks"])
def test_dropout_keeps_the_mean_in_training_alone(kind: str) -> None:
    """Dropout zeroes activations in training, scaled to their mean, and nothing in eval."""
    layer, x = _make(dropout=0.5, **KINDS[kind]), _x(1)
    without = layer.eval()(x)
    torch.manual_seed(3)
    drawn = layer.train()(x.expand(20_000, D_IN))
    assert not torch.allclose(drawn[0], drawn[1])
    torch.testing.assert_close(drawn.mean(0), without[0], atol=0.03, rtol=0.05)


def test_output_bias_in_training_alone() -> None:
    """Where output_bias is "training", eval leaves the leaves' output biases out."""
    layer, x = _make(leaf_width=2), _x()
    with_bias = layer.eval()(x)
    layer.output_bias = "training"
    leaf = layer.leaves(x)
    bias = layer.b_out[torch.arange(TREES), leaf].sum(1)
    torch.testing.assert_close(layer(x) + bias, with_bias)
    torch.testing.assert_close(layer.train()(x), with_bias)


# ---- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "routing"), list(product(KINDS, ["hard", "soft"])))
def test_gradients_in_float64(kind: str, routing: str) -> None:
    """Gradients of x and of every parameter agree with finite differences."""
    layer, x = _make(depth=2, **KINDS[kind]), _x(4).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Any, *values: Any) -> Any:
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(layer, state, (x, routing))

    values = [parameter.detach().requires_grad_() for parameter in layer.parameters()]
    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


# ---- terms of the loss --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["neurons with biases", "leaf networks"])
def test_aux_losses_are_their_equations(kind: str) -> None:
    """Hardening is the mean entropy of the turns; balance 2**depth times sum f P, less 1."""
    layer, x = _make(routing="soft", **KINDS[kind]), _x(30)
    layer(x)
    terms = nn.aux_losses(layer)
    trees = _written_out(layer)
    assert terms["hardening"].item() == pytest.approx(
        written.hardening(_array(x), trees), rel=1e-10
    )
    p = np.stack([written.shares(_array(x), tree) for tree in trees])
    expected = (2**DEPTH * (p * p).sum(1) - 1).mean()
    assert terms["balance"].item() == pytest.approx(expected, rel=1e-9)
    layer.routing = "ste"
    layer(x)
    terms = nn.aux_losses(layer)
    leaf = layer.leaves(x)
    f = np.stack([np.bincount(leaf[:, k], minlength=2**DEPTH) / 30 for k in range(TREES)])
    assert terms["balance"].item() == pytest.approx(
        (2**DEPTH * (f * p).sum(1) - 1).mean(), rel=1e-9
    )
    (terms["hardening"] + terms["balance"]).backward()
    assert layer.tree().w_node.detach().any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


def test_aux_losses_fall_as_they_are_descended() -> None:
    """Descending a term lowers it: turns become decided, leaves come to be used alike."""
    x = _x(64)
    for name in ("hardening", "balance"):
        layer = _make(leaf_width=2, routing="ste")
        with torch.no_grad():
            layer.b_node += 1.0
        optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
        seen = []
        for _ in range(30):
            layer(x)
            term = nn.aux_losses(layer)[name]
            seen.append(term.item())
            optimiser.zero_grad()
            term.backward()
            optimiser.step()
        assert seen[-1] < 0.7 * seen[0]


def test_aux_losses_count_each_pass_once() -> None:
    """The mean is over the layers of a model; a pass counts once, and without one there is no term."""
    first, second = _make(routing="soft"), nn.FFF(D_OUT, D_OUT, 2, routing="ste", dtype=F64)
    model = torch.nn.Sequential(first, torch.nn.Tanh(), second, nn.FFF(D_OUT, 2, 1, dtype=F64))
    x = _x()
    model(x)
    both = nn.aux_losses(model)
    first(x)
    one = nn.aux_losses(first)
    second(torch.tanh(first(x)).detach())
    first.seen = None
    other = nn.aux_losses(model)
    for name in ("hardening", "balance"):
        torch.testing.assert_close(both[name], (one[name] + other[name]) / 2)
    with pytest.raises(ValueError, match="no training pass since the last call"):
        nn.aux_losses(model)
    model.eval()(x)
    with pytest.raises(ValueError, match="no training pass"):
        nn.aux_losses(model)
    with pytest.raises(ValueError, match="no FFF of the model keeps its input"):
        nn.aux_losses(model[3])


def test_a_copy_takes_no_graph_along() -> None:
    """A layer is copied and pickled after a training pass, without the input that it kept."""
    layer, x = _make(routing="soft"), _x().requires_grad_()
    layer(x * 2)
    assert layer.seen is not None
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.seen is None
        assert torch.equal(other.eval()(x), copy.deepcopy(layer).eval()(x))


# ---- torch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("routing", ["hard", "soft"])
def test_any_batch_and_strides(kind: str, routing: Any) -> None:
    """Leading dimensions, no token at all and strides of any kind change nothing."""
    layer, wide = _make(**KINDS[kind]), torch.randn(D_IN + 2, 12, dtype=F64)
    x = wide[:D_IN].t()
    assert not x.is_contiguous()
    expected = layer(x.contiguous(), routing=routing)
    torch.testing.assert_close(layer(x, routing=routing), expected)
    torch.testing.assert_close(
        layer(x.reshape(3, 1, 4, D_IN), routing=routing).reshape(12, -1), expected
    )
    torch.testing.assert_close(layer(x[0], routing=routing), expected[0])
    none = torch.zeros(3, 0, D_IN, dtype=F64, requires_grad=True)
    y = layer(none, routing=routing)
    assert y.shape == (3, 0, D_OUT)
    y.sum().backward()
    assert none.grad.shape == none.shape


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("routing", ["hard", "soft"])
def test_autocast_is_a_layer_of_its_dtype(kind: str, routing: Any) -> None:
    """Under autocast a layer gives what one of autocast's dtype gives, and gradients in its own dtypes."""
    layer = _make(dtype=torch.float32, **KINDS[kind])
    lower = copy.deepcopy(layer).bfloat16()
    x = _x().float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x, routing=routing)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, lower(x.bfloat16(), routing=routing))
    y.float().square().sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in layer.parameters())
    assert layer.w_in.grad is not None


@pytest.mark.parametrize(
    "kind",
    [
        "neurons, leaves alone",
        pytest.param("leaf networks and always-on neurons", marks=pytest.mark.slow),
    ],
)
def test_compile_and_export_make_one_graph(kind: str) -> None:
    """A layer with options is compiled whole, forward and backward, in training and in eval, and exported."""
    layer, x = _make(**KINDS[kind], routing="soft"), _x()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected = copy.deepcopy(layer)
    for module in (layer, expected):
        y = compiled(x) if module is layer else module(x)
        (y.square().sum() + sum(nn.aux_losses(module).values())).backward()
    for own, other in zip(layer.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)
    layer.eval()
    torch.testing.assert_close(compiled(x), layer(x))
    exported = torch.export.export(layer, (x,))
    torch.testing.assert_close(exported.module()(x), layer(x))


def test_hard_leaf_networks_train_compiled() -> None:
    """Hard training of leaf networks is one graph around the operator, with the same gradients."""
    layer, x = _make(leaf_width=3), _x()
    expected = copy.deepcopy(layer)
    torch.compile(layer, fullgraph=True, backend="aot_eager")(x).square().sum().backward()
    expected(x).square().sum().backward()
    for (name, own), other in zip(layer.named_parameters(), expected.parameters(), strict=True):
        if name in ("w_node", "b_node"):
            assert own.grad is None
            assert other.grad is None
        else:
            torch.testing.assert_close(own.grad, other.grad)


@pytest.mark.parametrize("bias", [True, False])
def test_leaf_operator_is_well_made(bias: bool) -> None:
    """The operator's schema, shapes without data and autograd registration pass torch's own check."""
    from harness.backends import torch_leaves

    layer, x = _make(leaf_width=2, bias=bias), _x().requires_grad_()
    operands = (x, layer.leaves(x), layer.w_in, layer.b_in, layer.w_out, layer.b_out, "gelu")
    torch.library.opcheck(torch_leaves.leaves, operands)


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_round_trips(kind: str) -> None:
    """A layer that loads another's state gives the same bytes; of a plain one it is w_in and w_out."""
    layer, x = _make(**KINDS[kind]).eval(), _x()
    other = _make(**KINDS[kind]).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    if kind == "neurons":
        assert list(layer.state_dict()) == ["w_in", "w_out"]


def test_meta_device() -> None:
    """A layer of leaf networks has the shape of its output on a device without data."""
    layer = nn.FFF(D_IN, D_OUT, 2, leaf_width=3, device="meta")
    assert layer(torch.empty(4, D_IN, device="meta")).shape == (4, D_OUT)


# ---- what is refused ----------------------------------------------------------------------------


def test_implementations_say_what_they_do_not_compute() -> None:
    """An implementation of another layer than what is asked is refused; `reference` computes everything."""
    said = r"fff_l1_blas computes trees of GELU neurons that all contribute, not .*{}.*reference"
    for options, part in (
        ({"activation": "relu"}, "activation='relu'"),
        ({"leaf_width": 4}, "leaf_width=4"),
        ({"nodes": "leaves"}, "nodes='leaves'"),
    ):
        with pytest.raises(ValueError, match=said.format(part)):
            nn.FFF(4, 4, 2, implementation="fff_l1_blas", **options)
        nn.FFF(4, 4, 2, implementation="reference", **options)
    nn.FFF(4, 4, 2, implementation="fff_l1_blas", routing="soft", always_on=2, bias=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"activation": "tanh"}, r"unknown activation 'tanh'; known: gelu, .*identity"),
        ({"routing": "top"}, r"unknown routing 'top'; known: hard, soft, ste, gumbel"),
        ({"nodes": "some"}, r"unknown nodes 'some'; known: all, leaves"),
        ({"output_bias": "no"}, r"unknown output_bias 'no'; known: always, training"),
        ({"region_leak": 1.5}, r"region_leak: need a probability from 0 to 1, got 1.5"),
        ({"dropout": -1}, r"dropout: need a probability from 0 to 1, got -1"),
        ({"leaf_width": -1}, r"need leaf_width >= 0"),
        ({"temperature": 0.0}, r"temperature: need more than 0, got 0.0"),
    ],
)
def test_unfit_options_are_refused(options: dict[str, Any], said: str) -> None:
    """An option that is none says which there are."""
    with pytest.raises(ValueError, match=said):
        nn.FFF(4, 4, 2, **options)
    with pytest.raises(LookupError, match="unknown routing 'top'"):
        nn.FFF(4, 4, 2)(torch.zeros(1, 4), routing="top")  # type: ignore[arg-type]
