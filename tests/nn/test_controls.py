"""Controls as modules in whole models: what they compute, in each dtype, and that faults are found."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fabricated_models import PUBLISHED  # noqa: E402

from harness.errors import UnavailableError  # noqa: E402
from harness.nn import controls, transformer_check  # noqa: E402
from harness.nn import transformer as nn_transformer  # noqa: E402
from harness.nn.controls import Control  # noqa: E402
from harness.problem.models import parse_model  # noqa: E402
from harness.problem.transformer import DENSE, LEFT_OUT, Transformer  # noqa: E402

NAMES = ("topk-4of15", "hash-4", "peer-4of16", "moe-8x4-k1")
EACH = pytest.mark.parametrize("name", NAMES)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def _check(model: Any, ff: str, dtype: str) -> Any:
    whole = Transformer(architecture=PUBLISHED, sequences=3, tokens=16, ff=ff, dtype=dtype)
    inputs = nn_transformer.make_inputs(model, whole, 0)
    return transformer_check.check_model(model, whole, inputs, seed=3)


def _model(ff: str, dtype: str) -> Any:
    whole = Transformer(architecture=PUBLISHED, sequences=3, tokens=16, ff=ff, dtype=dtype)
    return nn_transformer.with_ff(nn_transformer.build(PUBLISHED, 0, dtype=dtype), whole, 0)


@pytest.mark.parametrize("ff", [DENSE, LEFT_OUT, "1x3", "ff-4", *NAMES])
@DTYPES
def test_right_models_pass_in_each_dtype(ff: str, dtype: str) -> None:
    """Models with every layer are right in float32 and in bfloat16, with much of the tolerance left."""
    found = _check(_model(ff, dtype), ff, dtype)
    assert found.verdict.ok, found.verdict.reason
    assert found.verdict.worst < 0.5


@EACH
def test_a_wrong_control_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control that is off in one token is wrong, and the verdict says in which layer."""
    model, right = _model(name, "float32"), Control.forward
    wrong = nn_transformer.find_layers(model)[1]

    def forward(self: Any, x: Any) -> Any:
        y = right(self, x).clone()
        if self is wrong:
            y[0, 3] *= 1.001
        return y

    monkeypatch.setattr(Control, "forward", forward)
    verdict = _check(model, name, "float32").verdict
    assert verdict.reason.startswith("layer 1: ")


@DTYPES
def test_a_wrong_rest_is_found_in_each_dtype(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A normalisation that leaves out its weight's scale shows, coarse roundings or not."""
    real, kind = torch.nn.LayerNorm.forward, getattr(torch, dtype)

    def forward(self: Any, x: Any) -> Any:
        y = real(self, x)
        return y * 1.5 if x.dtype == kind else y

    monkeypatch.setattr(torch.nn.LayerNorm, "forward", forward)
    assert not _check(_model("1x3", dtype), "1x3", dtype).verdict.ok


@EACH
def test_other_weights_are_taken(name: str) -> None:
    """A pass is of the weights that the module has by then: moved, cast or copied ones too."""
    control = Control(parse_model(name), 16)
    x = torch.randn(5, 16)
    first = control(x).clone()
    twice = copy.deepcopy(control)
    with torch.no_grad():
        twice.w_out *= 2
    torch.testing.assert_close(twice(x), 2 * first)
    torch.testing.assert_close(control(x), first)
    half = control.to(torch.bfloat16)(x.bfloat16())
    assert half.dtype == torch.bfloat16


@EACH
def test_what_is_not_here_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no implementation takes a dtype or a device, the error names both."""
    with pytest.raises(UnavailableError, match="float64 on cpu"):
        controls.choose(parse_model(name).layer, "cpu", "float64")
