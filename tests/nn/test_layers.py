"""The modules for torch: what they compute, their gradients, their weights, and what chooses for them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from harness import nn  # noqa: E402
from harness.backends import registry, torch_operator  # noqa: E402
from harness.errors import UnavailableError  # noqa: E402
from harness.problem import oracle  # noqa: E402

D_IN, D_OUT, DEPTH, TREES, HIDDEN = 9, 7, 3, 2, 13
ON_CPU = [i for i in registry.layers() if "cpu" in i.devices and i.layer in ("ff", "fff")]


def _make(layer: str, **options: Any) -> Any:
    torch.manual_seed(3)
    if layer == "ff":
        return nn.FF(D_IN, D_OUT, HIDDEN, **options)
    return nn.FFF(D_IN, D_OUT, DEPTH, TREES, **options)


def _truth(module: Any, x: Any) -> Any:
    """Return the oracle's output for a module without biases."""
    arrays = [t.detach().double().numpy() for t in (x, module.w_in, module.w_out)]
    if isinstance(module, nn.FFF):
        return oracle.fff_oracle(*arrays, module.depth).y
    return oracle.ff_oracle(*arrays).y


@pytest.mark.parametrize("implementation", ["", torch_operator.REFERENCE, *(i.id for i in ON_CPU)])
def test_modules_agree_with_the_oracle(implementation: str) -> None:
    """Whatever implementation is forced, or chosen, the module's output is the oracle's."""
    if implementation and (found := [i for i in ON_CPU if i.id == implementation]):
        if reason := found[0].unavailable():
            pytest.skip(reason)
        layers = [found[0].layer]
    else:
        layers = ["ff", "fff"]
    for layer in layers:
        module = _make(str(layer), implementation=implementation).eval()
        x = torch.randn(3, 5, D_IN)
        y = module(x)
        assert y.shape == (3, 5, D_OUT)
        truth = _truth(module, x.reshape(15, D_IN)).reshape(3, 5, D_OUT)
        np.testing.assert_allclose(y.detach().numpy(), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", ["ff", "fff"])
def test_bfloat16(layer: str) -> None:
    """In bfloat16 the modules agree with the oracle to bfloat16's precision."""
    module, x = _make(layer, dtype=torch.bfloat16), torch.randn(33, D_IN).bfloat16()
    y = module(x)
    assert y.dtype == torch.bfloat16
    error = np.abs(y.detach().float().numpy() - _truth(module, x))
    assert error.max() < 0.03


# ---- what comes as x ----------------------------------------------------------------------------


IMPLEMENTATIONS = ["", torch_operator.REFERENCE]


@pytest.mark.parametrize("implementation", [i.id for i in ON_CPU])
def test_every_implementation_takes_leading_dimensions(implementation: str) -> None:
    """Tokens along several dimensions, and one without any of its own, give the bytes of a list of them."""
    layer = registry.get(implementation).layer
    module = _make(layer, implementation=implementation)
    with torch.no_grad():
        for leading in ((), (2, 1, 3)):
            x = torch.randn(*leading, D_IN)
            expected = module(x.reshape(-1, D_IN)).reshape(*leading, D_OUT)
            assert torch.equal(module(x), expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layer", ["ff", "fff"])
@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (2, 1, 3)])
def test_any_leading_dimensions(layer: str, implementation: str, leading: tuple[int, ...]) -> None:
    """One token without a dimension of its own, and tokens along several, each get their output."""
    module, x = _make(layer, implementation=implementation), torch.randn(*leading, D_IN)
    y = module(x)
    assert y.shape == (*leading, D_OUT)
    truth = _truth(module, x.reshape(-1, D_IN)).reshape(y.shape)
    np.testing.assert_allclose(y.detach().numpy(), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layer", ["ff", "fff"])
@pytest.mark.parametrize("leading", [(0,), (0, 5), (3, 0)])
def test_no_token(layer: str, implementation: str, leading: tuple[int, ...]) -> None:
    """Of no token there is no output, and a gradient of zeros."""
    module = _make(layer, implementation=implementation)
    x = torch.randn(*leading, D_IN, requires_grad=True)
    y = module(x)
    assert y.shape == (*leading, D_OUT)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not module.w_in.grad.any()
    assert not module.w_out.grad.any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layer", ["ff", "fff"])
def test_strides_change_nothing(layer: str, implementation: str) -> None:
    """Transposed, sliced and repeated tokens, and transposed weights, give what contiguous ones do."""
    module = _make(layer, implementation=implementation)
    wide = torch.randn(D_IN + 2, 12)
    for x in (wide[:D_IN].t(), wide.t()[::3, 1:-1], wide[:D_IN, :1].t().expand(5, D_IN)):
        assert not x.is_contiguous()
        assert torch.equal(module(x), module(x.contiguous()))
    kept = module(wide[:D_IN].t())
    module.w_in.data = module.w_in.data.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert not module.w_in.is_contiguous()
    assert torch.equal(module(wide[:D_IN].t()), kept)


@pytest.mark.parametrize("layer", ["ff", "fff"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float16", 2e-3)])
def test_other_dtypes(layer: str, dtype: str, tolerance: float) -> None:
    """In dtypes that no kernel takes a module agrees with the oracle to that dtype's precision."""
    module = _make(layer, dtype=getattr(torch, dtype))
    x = torch.randn(33, D_IN, dtype=torch.float64).to(module.w_in.dtype)
    y = module(x)
    assert y.dtype == module.w_in.dtype
    assert np.abs(y.detach().double().numpy() - _truth(module, x)).max() < tolerance


# ---- torch.autocast -----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["ff", "fff"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
def test_autocast_is_a_module_of_its_dtype(layer: str, dtype: Any, given: Any, bias: bool) -> None:
    """Under autocast, as nn.Linear, a module gives what it gives with weights and x in autocast's dtype.

    So do its gradients, which come back in the dtypes of the weights and of x.
    """
    options = {"bias": bias} if layer == "fff" else {}
    module = _make(layer, **options)
    lower = copy.deepcopy(module).to(dtype)
    x = torch.randn(6, D_IN).to(given).requires_grad_()
    x_lower = x.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        y = module(x)
        assert y.dtype == torch.nn.Linear(D_IN, D_OUT)(x).dtype == dtype
    assert torch.equal(y, lower(x_lower))
    y.float().square().sum().backward()
    lower(x_lower).float().square().sum().backward()
    for own, other in (
        (x, x_lower), (module.w_in, lower.w_in), (module.w_out, lower.w_out),
    ):  # fmt: skip
        assert own.grad.dtype == own.dtype
        assert torch.equal(own.grad, other.grad.to(own.dtype))


def test_autocast_through_a_model() -> None:
    """A model of linear layers and ours runs and trains under autocast, x float32 or not."""
    model = torch.nn.Sequential(torch.nn.Linear(D_IN, D_IN), _make("fff"), nn.FF(D_OUT, D_OUT, 8))
    with torch.autocast("cpu", torch.bfloat16):
        y = model(torch.randn(8, D_IN))
        y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("layer", ["ff", "fff"])
def test_autocast_leaves_float64(layer: str) -> None:
    """Autocast lowers no float64, as for nn.Linear."""
    module = _make(layer, dtype=torch.float64)
    x = torch.randn(5, D_IN, dtype=torch.float64)
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), expected)


@pytest.mark.parametrize("layer", ["ff", "fff"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_autocast_lowers_nothing_inside(layer: str, implementation: str) -> None:
    """The operator computes in the precision of its operands, both ways, whatever autocast says."""
    module = _make(layer)
    x = torch.randn(6, D_IN, requires_grad=True)
    inputs = (x, module.w_in, module.w_out)

    def run() -> tuple[Any, ...]:
        y = torch_operator.layer(*inputs, implementation)
        return (y, *torch.autograd.grad(y.square().sum(), inputs))

    expected = run()
    with torch.autocast("cpu", torch.bfloat16):
        found = run()
    for own, other in zip(found, expected, strict=True):
        assert torch.equal(own, other)


def test_autocast_is_compiled_and_exported() -> None:
    """A compiled module takes part in autocast, and leaves it; an export under it keeps the operator."""
    module, x = _make("fff").eval(), torch.randn(5, D_IN)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        expected = module(x)
        assert torch.equal(compiled(x), expected)
        exported = torch.export.export(module, (x,))
    assert "harness.layer" in str(exported.graph)
    assert torch.equal(exported.module()(x), expected)
    assert torch.equal(compiled(x), module(x))


# ---- weights and gradients ----------------------------------------------------------------------


def test_initialisation_is_the_papers() -> None:
    """Weights are uniform within the paper's bounds, and reach close to them."""
    module = nn.FFF(64, 32, 7, 3)
    assert module.w_in.shape == (3, 255, 64)
    assert module.w_out.shape == (3, 255, 32)
    for weight, bound in ((module.w_in, 64**-0.5), (module.w_out, (8 * 3) ** -0.5)):
        assert 0.99 * bound < weight.abs().max().item() <= bound
        assert abs(weight.mean().item()) < 0.02 * bound
    ff = nn.FF(64, 32, 500)
    assert 0.99 * 64**-0.5 < ff.w_in.abs().max().item() <= 64**-0.5
    assert 0.99 * 500**-0.5 < ff.w_out.abs().max().item() <= 500**-0.5


@pytest.mark.parametrize("layer", ["ff", "fff"])
def test_gradients_in_float64(layer: str) -> None:
    """Gradients of x and of both weights agree with finite differences in float64."""
    module = _make(layer, dtype=torch.float64)
    x = torch.randn(6, D_IN, dtype=torch.float64, requires_grad=True)

    def run(*inputs: Any) -> Any:
        return torch_operator.layer(*inputs, "")

    assert torch.autograd.gradcheck(run, (x, module.w_in, module.w_out))


def test_gradients_keep_to_the_path() -> None:
    """Neurons off every token's path get no gradient; those on one get some, by the native kernels too."""
    module, x = _make("fff"), torch.randn(4, D_IN)
    module(x).square().sum().backward()
    truth = oracle.fff_oracle(
        *(t.detach().double().numpy() for t in (x, module.w_in, module.w_out)), DEPTH
    )
    for k in range(TREES):
        on_path = set(truth.nodes[:, k].ravel().tolist())
        for grad in (module.w_in.grad[k], module.w_out.grad[k]):
            assert set(grad.abs().sum(1).nonzero().ravel().tolist()) == on_path


def test_native_gradient_is_the_references() -> None:
    """The gradient behind a native forward is that of the same path in torch's own operations."""
    found = []
    for name in ("", torch_operator.REFERENCE):
        module = _make("fff", implementation=name)
        x = torch.linspace(-1, 1, 5 * D_IN).reshape(5, D_IN).requires_grad_()
        module(x).square().sum().backward()
        found.append([x.grad, module.w_in.grad, module.w_out.grad])
    for native, own in zip(*found, strict=True):
        torch.testing.assert_close(native, own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", ["ff", "fff"])
def test_state_dict_round_trips(layer: str, tmp_path: Path) -> None:
    """A module that loads another's saved state gives the same bytes."""
    module, x = _make(layer), torch.randn(5, D_IN)
    torch.save(module.state_dict(), tmp_path / "state.pt")
    other = _make(layer)
    with torch.no_grad():
        other.w_in.zero_()
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(module(x), other(x))


@pytest.mark.parametrize("layer", ["ff", "fff"])
def test_operator_is_well_made(layer: str) -> None:
    """The operator's schema, shapes without data and autograd registration pass torch's own check."""
    module = _make(layer)
    x = torch.randn(4, D_IN, requires_grad=True)
    torch.library.opcheck(torch_operator.layer, (x, module.w_in, module.w_out, ""))


@pytest.mark.parametrize("layer", ["ff", "fff"])
def test_export_keeps_the_operator(layer: str) -> None:
    """torch.export makes one graph with the operator in it, which gives the module's own bytes."""
    module, x = _make(layer).eval(), torch.randn(5, D_IN)
    exported = torch.export.export(module, (x,))
    assert "harness.layer" in str(exported.graph)
    assert torch.equal(exported.module()(x), module(x))


def test_compile_keeps_the_operator() -> None:
    """A model that holds the module is compiled as one graph, and trains."""
    model = torch.nn.Sequential(_make("fff"), torch.nn.ReLU())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, D_IN)
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).sum().backward()
    assert model[0].w_in.grad.abs().sum() > 0


# ---- what is refused ----------------------------------------------------------------------------


def test_unknown_implementation_lists_the_known() -> None:
    """An id that is none, or the other layer's, is refused with those that are."""
    for make in (
        lambda: nn.FFF(4, 4, 2, implementation="fff_l9"),
        lambda: nn.FFF(4, 4, 2, implementation="ff_l1_blas"),
    ):
        with pytest.raises(LookupError, match=r"known: reference, .*fff_l1_blas, .*fff_torch_bmm"):
            make()


def test_unfit_inputs_are_refused() -> None:
    """Another width, a dtype that an implementation does not take, and extents that are none."""
    with pytest.raises(ValueError, match=r"x: need d_in 9 along the last dimension, got 8"):
        _make("fff")(torch.randn(2, 8))
    with pytest.raises(ValueError, match=r"need d_in 9 along the last dimension, got no dimension"):
        _make("fff")(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"fff_l1_blas takes float32 on cpu, got float64 on cpu"):
        _make("fff", implementation="fff_l1_blas").double()(torch.randn(2, D_IN).double())
    with pytest.raises(ValueError, match=r"got depth -1, trees 1"):
        nn.FFF(4, 4, -1)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_mixed_dtypes_are_refused(implementation: str) -> None:
    """Without autocast x and the weights have one floating dtype; an error says what each has."""
    module = _make("fff", implementation=implementation)
    x = torch.randn(2, D_IN)
    for other in ("bfloat16", "float64", "int64"):
        with pytest.raises(ValueError, match=f"weights are float32, x is {other}"):
            module(x.to(getattr(torch, other)))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="x is int64"):
        module(x.long())
    module.w_out.data = module.w_out.data.bfloat16()
    with pytest.raises(ValueError, match=r"w_in is float32, w_out is bfloat16"):
        module(x)
    with pytest.raises(ValueError, match=r"need a floating dtype, got int64"):
        torch_operator.layer(*[torch.ones(2, 2, dtype=torch.int64)] * 3, implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_devices_apart_are_refused(implementation: str) -> None:
    """x on another device than the weights is refused by the names of both; a module on one works there."""
    module = _make("fff", implementation=implementation)
    with pytest.raises(ValueError, match=r"weights are on cpu, x is on meta"):
        module(torch.randn(2, D_IN, device="meta"))
    assert module.to("meta")(torch.randn(2, 3, D_IN, device="meta")).shape == (2, 3, D_OUT)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_shapes_that_are_none_are_refused(implementation: str) -> None:
    """Weights that do not fit each other or x are refused, and a number of nodes that is no tree's."""
    x, rows = torch.randn(2, 3), torch.randn
    for w_in, w_out, said in (
        (rows(5, 3), rows(4, 3), r"w_out: need the neurons of w_in, \(5,\), got \(4,\)"),
        (rows(1, 7, 3), rows(2, 7, 3), r"w_out: need the neurons of w_in, \(1, 7\), got \(2, 7\)"),
        (rows(1, 7, 4), rows(1, 7, 3), r"w_in: need the d_in of x, 3, got 4"),
        (rows(1, 6, 3), rows(1, 6, 3), r"w_in: a tree has 2\*\*\(depth \+ 1\) - 1 nodes .*, got 6"),
        (rows(7), rows(7), r"w_in: need 2 dimensions \(FF\) or 3 \(FFF\), got 1"),
    ):
        with pytest.raises(ValueError, match=said):
            torch_operator.layer(x, w_in, w_out, implementation)
    with pytest.raises(ValueError, match=r"x: need d_in .*, got no dimension"):
        torch_operator.layer(x[0, 0], rows(5, 3), rows(5, 3), implementation)


def test_unavailable_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """An implementation that can't run here says what it lacks."""
    from dataclasses import replace

    lacking = replace(registry.get("fff_l1_blas"), unavailable=lambda: "needs a package")
    monkeypatch.setitem(registry._known, "fff_l1_blas", lacking)
    with pytest.raises(UnavailableError, match="fff_l1_blas: needs a package"):
        _make("fff", implementation="fff_l1_blas")(torch.randn(2, D_IN))


def test_the_fastest_is_chosen() -> None:
    """The first preferred implementation that takes the dtype is chosen; the reference where none does."""
    assert torch_operator.choose("fff", "cpu", "float32") == "fff_cpu_auto"
    assert torch_operator.choose("ff", "cpu", "float32") == "ff_l3_tiled"
    assert torch_operator.choose("ff", "cpu", "float32", few=True) == "ff_cpu_fused"
    assert torch_operator.choose("fff", "cpu", "float32", few=True) == "fff_cpu_auto"
    assert torch_operator.choose("ff", "cpu", "bfloat16") == "ff_torch_native"
    assert torch_operator.choose("ff", "cpu", "bfloat16", few=True) == "ff_torch_native"
    assert torch_operator.choose("fff", "cpu", "float64") == torch_operator.REFERENCE
    assert torch_operator.choose("fff", "mps", "float32") == torch_operator.REFERENCE
