"""An FFF made from a dense layer: what the split and the fit reach, what refining adds, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from harness import nn  # noqa: E402

D_IN, D_OUT = 8, 6


def _sample(tokens: int = 1200) -> tuple[Any, Any]:
    torch.manual_seed(2)
    dense = torch.nn.Sequential(
        torch.nn.Linear(D_IN, 24),
        torch.nn.GELU(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(24, D_OUT),
    )
    return dense, torch.randn(tokens, D_IN)


def _error(layer: Any, dense: Any, x: Any) -> float:
    """Return the mean square error relative to that of no layer at all."""
    with torch.no_grad():
        y = dense.eval()(x)
        return float((layer.eval()(x) - y).square().mean() / y.square().mean())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"trees": 2},
        {"nodes": "leaves", "activation": "relu"},
        {"leaf_width": 4},
        {"leaf_width": 4, "nodes": "all", "routing": "ste", "balance": 0.01},
        {"always_on": 4},
    ],
)
def test_distilled_layers_do_what_the_dense_one_does(options: dict[str, Any]) -> None:
    """The split and the fit explain part of a dense layer's outputs, refining explains more."""
    dense, x = _sample()
    torch.manual_seed(0)
    begun = nn.FFF.from_dense(dense, x, 3, steps=0, **options)
    refined = nn.FFF.from_dense(dense, x, 3, steps=60, rate=3e-3, **options)
    assert dense.training
    errors = [_error(layer, dense, x) for layer in (begun, refined)]
    assert errors[0] < 1
    assert errors[1] < 0.95 * errors[0]


def test_each_node_splits_its_tokens_in_halves() -> None:
    """Where neurons have biases, the sample comes to all leaves alike."""
    dense, x = _sample()
    layer = nn.FFF.from_dense(dense, x.reshape(3, 400, D_IN), 3, leaf_width=2, steps=0)
    with layer.usage() as seen:
        layer(x)
    leaves = seen.visits[0, 7:]
    assert leaves.max() - leaves.min() <= 8
    assert seen.tokens == 1200


def test_a_function_of_one_leaf_is_found() -> None:
    """A function that is one of the layer's own, of one neuron, is distilled to rounding."""
    torch.manual_seed(1)
    x, w, v = torch.randn(400, D_IN), torch.randn(D_IN), torch.randn(D_OUT)
    layer = nn.FFF.from_dense(
        lambda x: (x @ w)[:, None] * v, x, 0, activation="identity", bias=False, steps=300, rate=0.1
    )
    assert (layer(x) - (x @ w)[:, None] * v).abs().max() < 1e-2


def test_few_tokens_leave_nodes_that_add_nothing() -> None:
    """Nodes that hardly a token of the sample comes to stay as they were drawn, and add nothing."""
    dense, x = _sample(20)
    layer = nn.FFF.from_dense(dense, x, 5, steps=0)
    assert (layer.w_out[0] == 0).all(1).sum() > 20
    assert layer(torch.randn(50, D_IN)).isfinite().all()


def test_unfit_samples_are_refused() -> None:
    """A sample of hardly a token and a function that is no layer say so."""
    dense, x = _sample(3)
    with pytest.raises(ValueError, match="sample_x: need 4 tokens at least, got 3"):
        nn.FFF.from_dense(dense, x, 2)
    with pytest.raises(ValueError, match=r"the dense layer returns \(50,\) for \(50, 8\)"):
        nn.FFF.from_dense(lambda x: x.sum(1), torch.randn(50, D_IN), 2)
