"""Steps of training of whole models: what they leave, and that wrong gradients are found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from fabricated_models import DECODER, PUBLISHED, TINY  # noqa: E402

from harness.backends import torch_operator, torch_passes  # noqa: E402
from harness.nn import transformer as nn_transformer  # noqa: E402
from harness.nn import transformer_check, transformer_gradients  # noqa: E402
from harness.nn.training import (  # noqa: E402
    TrainingStep,
    disagreement,
    find_ff_weights,
    find_other_weights,
    fingerprint,
    make_optimiser,
)
from harness.nn.transformer_parts import StepTimers  # noqa: E402
from harness.problem.architecture import Architecture  # noqa: E402
from harness.problem.transformer import DENSE, LEFT_OUT, STEP_PARTS, Transformer  # noqa: E402

KINDS = pytest.mark.parametrize("of", [TINY, DECODER, PUBLISHED], ids=lambda of: of.kind)
FORMS = pytest.mark.parametrize("ff", [DENSE, LEFT_OUT, "1x3", "2x2", "ff-12"])


def _whole(ff: str, of: Architecture = TINY, *, compiled: bool = False) -> Transformer:
    return Transformer(
        architecture=of, sequences=3, tokens=16, ff=ff, training=True, compiled=compiled
    )


def _step(ff: str, of: Architecture = TINY) -> TrainingStep:
    whole = _whole(ff, of)
    model = nn_transformer.with_ff(nn_transformer.build(of, 0), whole, 0)
    others = make_optimiser(find_other_weights(model))
    assert others is not None
    return TrainingStep(
        model=model, call=nn_transformer.caller(model),
        inputs=nn_transformer.make_inputs(model, whole, 0),
        own=make_optimiser(find_ff_weights(model)), others=others,
    )  # fmt: skip


def _check(step: TrainingStep, ff: str, of: Architecture = TINY) -> Any:
    return transformer_gradients.check_step(step, _whole(ff, of), seed=3, touches=True)


@KINDS
@FORMS
def test_right_steps_pass(ff: str, of: Architecture) -> None:
    """A step that computes what it should is right, with much of its tolerance left."""
    step = _step(ff, of)
    found = _check(step, ff, of)
    assert found.verdict.ok, found.verdict.reason
    assert found.verdict.worst < 0.5
    assert found.verdict.tokens == 48
    assert (found.touched is not None) == ("x" in ff)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in step.model.modules())


@KINDS
@FORMS
def test_steps_are_alike(ff: str, of: Architecture) -> None:
    """A step leaves the weights as they were, so that the next one leaves the same gradients."""
    step = _step(ff, of)
    before = [weight.detach().clone() for weight in step.model.parameters()]
    first = fingerprint(step.model, step.run())
    second = fingerprint(step.model, step.run())
    assert all(map(torch.equal, before, step.model.parameters()))
    assert disagreement(second, first, 1e-6) <= 1
    assert all(weight.grad is not None for weight in step.model.parameters())


@FORMS
def test_every_weight_has_one_optimiser(ff: str) -> None:
    """The weights of the FFs and all others are every weight, each once."""
    model = _step(ff).model
    own, others = find_ff_weights(model), find_other_weights(model)
    assert {*map(id, own)} | {*map(id, others)} == {*map(id, model.parameters())}
    assert len(own) + len(others) == len(list(model.parameters()))
    assert bool(own) == (ff != LEFT_OUT)


@FORMS
def test_parts_are_a_whole_step(ff: str) -> None:
    """The times of the parts are an interval's whole time; each takes some, but what is left out."""
    step = _step(ff)
    timers = StepTimers(step.model)
    with timers.running():
        step.run(timers)
    elapsed = 2 * sum(timers.parts_ns().values())
    parts = timers.parts_of(elapsed)
    assert tuple(parts) == STEP_PARTS
    assert sum(parts.values()) == elapsed
    none = {part for part, spent in parts.items() if not spent}
    assert none == ({"ff_backward"} if ff == LEFT_OUT else set())
    modules = list(step.model.modules())
    assert not any(m._backward_hooks or m._backward_pre_hooks for m in modules)


# ---- planted faults -----------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1, 2], ids=["dx", "dw_in", "dw_out"])
def test_a_wrong_gradient_of_a_layer_is_named(which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a layer's backward pass is off in one row the verdict says which layer and gradient."""
    step, real = _step("1x3"), torch_operator.layer_backward
    first = nn_transformer.find_layers(step.model)[0].w_in.data_ptr()

    def backward(x: Any, w_in: Any, w_out: Any, dy: Any, wanted: Any, how: str) -> Any:
        found = [g.clone() for g in real(x, w_in, w_out, dy, wanted, how)]
        if w_in.data_ptr() == first:
            rows = found[which].reshape(-1, found[which].shape[-1])
            rows[rows.abs().sum(1).argmax()] *= 1.001
        return found

    monkeypatch.setattr(torch_operator, "layer_backward", backward)
    verdict = _check(step, "1x3").verdict
    assert not verdict.ok
    assert verdict.reason.startswith(f"layer 0: {('dx', 'dw_in', 'dw_out')[which]}")


@KINDS
@pytest.mark.parametrize("ff", ["1x3", DENSE])
def test_a_wrong_gradient_of_the_rest_is_found(
    ff: str, of: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a normalisation's way back is off in float32, gradients before it show it."""

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, dy: Any) -> Any:
            return dy * 1.001

    real = torch.nn.LayerNorm.forward

    def forward(self: Any, x: Any) -> Any:
        y = real(self, x)
        return Wrong.apply(y) if x.dtype == torch.float32 else y

    monkeypatch.setattr(torch.nn.LayerNorm, "forward", forward)
    verdict = _check(_step(ff, of), ff, of).verdict
    assert not verdict.ok
    assert "in float64" in verdict.reason


def test_a_gradient_that_is_missing_is_infinitely_off() -> None:
    """A step that left a weight without a gradient is not taken for one that did."""
    step = _step("1x3")
    left = fingerprint(step.model, step.run())
    next(iter(step.model.parameters())).grad = None
    loss = torch.tensor(float(left[0]))
    assert disagreement(fingerprint(step.model, loss), left, 1e-3) == float("inf")


def test_another_gradient_is_told_from_the_checked_one() -> None:
    """One row of one gradient that is off by a thousandth is seen behind a sample."""
    step = _step("1x3")
    loss = step.run()
    left = fingerprint(step.model, loss)
    weight = find_ff_weights(step.model)[0]
    rows = weight.grad.reshape(-1, weight.shape[-1])
    rows[rows.abs().sum(1).argmax()] *= 1.001
    most = transformer_check.allowed(TINY.layers, torch.float32)
    assert disagreement(fingerprint(step.model, loss), left, most) > 1


@pytest.mark.slow
def test_compiled_models_are_checked_by_their_operators() -> None:
    """A compiled pass and a compiled step are right, layer by layer, and a wrong layer in them is named."""
    from harness.nn import transformer_compiled

    ff = "1x3"
    eager = _step(ff, PUBLISHED)
    model = eager.model
    call = nn_transformer.caller(model, transformer_compiled.compile_model(model))
    whole = _whole(ff, PUBLISHED, compiled=True)
    found = transformer_gradients.check_step(replace(eager, call=call), whole, seed=3, touches=True)
    assert found.verdict.ok, found.verdict.reason
    assert found.verdict.worst < 0.5
    forward = replace(whole, training=False)
    inputs = nn_transformer.make_inputs(model, forward, 0)
    passed = transformer_check.check_model(model, forward, inputs, seed=3, call=call)
    assert passed.verdict.ok, passed.verdict.reason
    layers = nn_transformer.find_layers(model)
    real = torch_passes.bind

    def bind(*given: Any) -> Any:
        run = real(*given)

        def wrong(x: Any, w_in: Any, w_out: Any) -> Any:
            y = run(x, w_in, w_out)
            if w_in.data_ptr() == layers[1].w_in.data_ptr():
                y.flatten(0, -2)[3] *= 1.001
            return y

        return wrong

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_passes, "find", lambda *given: None)
        patch.setattr(torch_passes, "bind", bind)
        wrong = transformer_check.check_model(model, forward, inputs, seed=3, call=call)
    assert wrong.verdict.reason.startswith("layer 1: ")
