"""Whole models in torch: what they share, what stands as their FF, where the time of a pass goes."""

from __future__ import annotations

import builtins
import re
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from fabricated_models import DECODER, PUBLISHED, TINY  # noqa: E402

from harness import nn  # noqa: E402
from harness.errors import UnavailableError  # noqa: E402
from harness.nn import transformer as nn_transformer  # noqa: E402
from harness.nn import transformer_check, transformer_parts  # noqa: E402
from harness.nn.transformer import Inputs  # noqa: E402
from harness.nn.transformer_parts import PartTimers  # noqa: E402
from harness.problem.architecture import Architecture  # noqa: E402
from harness.problem.transformer import DENSE, LEFT_OUT, PARTS, Transformer  # noqa: E402

FORMS = (DENSE, LEFT_OUT, "1x3", "2x2", "ff-12")


KINDS = pytest.mark.parametrize("of", [TINY, DECODER, PUBLISHED], ids=lambda of: of.kind)


def _whole(ff: str, of: Architecture = TINY) -> Transformer:
    return Transformer(architecture=of, sequences=3, tokens=16, ff=ff)


def _model(ff: str, of: Architecture = TINY) -> Any:
    return nn_transformer.with_ff(nn_transformer.build(of, 0), _whole(ff, of), 0)


def _inputs(model: Any, of: Architecture = TINY) -> Inputs:
    return nn_transformer.make_inputs(model, _whole(DENSE, of), 0)


# ---- models -------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("ff", FORMS)
def test_what_is_not_the_ff_is_shared(ff: str, of: Architecture) -> None:
    """Models of one architecture have the very same weights in all that is not their FF."""
    base = nn_transformer.build(of, 0)
    own = dict(nn_transformer.with_ff(base, _whole(ff, of), 0).named_parameters())
    for name, weight in base.named_parameters():
        if not re.search(r"\.(intermediate|mlp|ffn)\.|layer\.\d+\.output\.dense", name):
            assert own[name] is weight, name


@KINDS
@pytest.mark.parametrize("ff", FORMS)
def test_models_are_in_evaluation(ff: str, of: Architecture) -> None:
    """Nothing of a model trains, what was put into it included."""
    assert not any(module.training for module in _model(ff, of).modules())


@KINDS
def test_the_model_as_it_is_stays(of: Architecture) -> None:
    """Swapping a layer into a model leaves the model that it was made from as it was."""
    base = nn_transformer.build(of, 0)
    inputs = _inputs(base, of)
    before = nn_transformer.run(base, inputs)
    nn_transformer.with_ff(base, _whole("1x3", of), 0)
    assert torch.equal(nn_transformer.run(base, inputs), before)


def test_swapping_by_hand_gives_the_same_model() -> None:
    """An FFF that is put into each layer of a BertModel by hand computes what the swapped model does."""
    by_hand, swapped = nn_transformer.build(TINY, 0), _model("1x3")
    inputs = _inputs(by_hand)
    made = nn_transformer.find_layers(swapped)
    assert len(made) == TINY.layers
    for layer, fff in zip(by_hand.encoder.layer, made, strict=True):
        layer.intermediate = fff
        layer.output.dense = torch.nn.Identity()
    assert torch.equal(nn_transformer.run(by_hand, inputs), nn_transformer.run(swapped, inputs))


def test_left_out_hands_its_input_on() -> None:
    """Without its FF each layer normalises twice what attention left."""
    model = _model(LEFT_OUT)
    layer = model.encoder.layer[0]
    x = torch.randn(2, 5, TINY.width)
    want = layer.output.LayerNorm(2 * x)
    assert torch.equal(layer.output(layer.intermediate(x), x), want)


@KINDS
def test_the_same_seed_draws_the_same_model(of: Architecture) -> None:
    """Weights and tokens hang on the seed alone, and the caller's own generator stays where it was."""
    torch.manual_seed(5)
    state, models = torch.get_rng_state(), [_model("1x3", of) for _ in range(2)]
    first, second = (nn_transformer.run(model, _inputs(model, of)) for model in models)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_step_is_that_of_the_whole_text() -> None:
    """A step of a decoder gives the logits of the last token of all that it has read, each time anew."""
    model = _model(DENSE, DECODER)
    inputs = _inputs(model, DECODER)
    real = nn_transformer._draw_tokens
    texts = [real(_whole(DENSE, DECODER), 16, 0), real(_whole(DENSE, DECODER), 1, 1)]
    with torch.inference_mode():
        want = model(input_ids=torch.cat(texts, 1)).logits[:, -1:]
    for _ in range(3):
        got = nn_transformer.run(model, inputs)
        assert got.shape == (3, 1, DECODER.vocabulary)
        assert torch.allclose(got, want, rtol=1e-4, atol=1e-6)
        assert inputs.cache.get_seq_length() == 16


def test_without_transformers_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the package is missing, the error names the extra."""
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UnavailableError, match=r"fff-harness\[model\]"):
        nn_transformer.build(TINY, 0)


# ---- parts --------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("ff", FORMS)
def test_parts_are_a_whole_pass(ff: str, of: Architecture) -> None:
    """The times of the parts are an interval's whole time, and each that the model has takes some."""
    model = _model(ff, of)
    inputs, timers = _inputs(model, of), PartTimers(model)
    with timers.running():
        nn_transformer.run(model, inputs)
    elapsed = 2 * sum(timers.parts_ns().values())
    parts = timers.parts_of(elapsed)
    assert tuple(parts) == PARTS
    assert sum(parts.values()) == elapsed
    assert {part for part, spent in parts.items() if not spent} == (
        set() if of.has_head else {"head"}
    )


def test_time_counts_for_the_innermost_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands inside of another part counts for itself alone; what is in none is the rest."""
    model = _model(DENSE)
    inputs, now = _inputs(model), iter(range(10**6))
    monkeypatch.setattr(transformer_parts, "perf_counter_ns", lambda: next(now))
    timers = PartTimers(model)
    with timers.running():
        nn_transformer.run(model, inputs)
    # Each entry and exit of a hooked module is one tick: attention has three products inside of it.
    layers = TINY.layers
    assert timers.parts_ns()["qkv"] == 3 * layers
    assert timers.parts_ns()["scores"] == 4 * layers
    assert timers.parts_ns()["projection"] == layers
    assert timers.parts_ns()["ff"] == 2 * layers
    assert timers.parts_ns()["norms"] == 2 * layers + 1


def test_timers_leave_no_hook() -> None:
    """After the timed passes the model has no hook, whatever happened in them."""
    model = _model(DENSE)
    timers = PartTimers(model)
    with pytest.raises(RuntimeError), timers.running():
        raise RuntimeError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# ---- verdicts -----------------------------------------------------------------------------------


def _check(model: Any, ff: str, of: Architecture = TINY) -> Any:
    inputs = _inputs(model, of)
    return transformer_check.check_model(model, _whole(ff, of), inputs, seed=3, touches=True)


@KINDS
@pytest.mark.parametrize("ff", FORMS)
def test_right_models_pass(ff: str, of: Architecture) -> None:
    """A model that computes what it should is right, with much of its tolerance left."""
    model = _model(ff, of)
    found = _check(model, ff, of)
    assert found.verdict.ok, found.verdict.reason
    assert found.verdict.worst < 0.5
    assert found.verdict.tokens == 3 * _whole(ff, of).length
    assert (found.touched is not None) == ("x" in ff)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(("ff", "kind"), [("1x3", nn.FFF), ("ff-12", nn.FF)])
def test_a_wrong_layer_is_named(ff: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer whose output is off in one token is wrong, and the verdict says which it is."""
    model = _model(ff)
    wrong, right = nn_transformer.find_layers(model)[1], kind.forward

    def forward(self: Any, x: Any) -> Any:
        y = right(self, x).clone()
        if self is wrong:
            y[0, 3] *= 1.001
        return y

    monkeypatch.setattr(kind, "forward", forward)
    verdict = _check(model, ff).verdict
    assert not verdict.ok
    assert verdict.reason.startswith("layer 1: ")


@KINDS
@pytest.mark.parametrize("ff", ["1x3", DENSE])
def test_a_wrong_rest_is_found(ff: str, of: Architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where anything but the layers is off in float32, their inputs or the output show it."""
    real = torch.nn.LayerNorm.forward

    def forward(self: Any, x: Any) -> Any:
        y = real(self, x)
        return y * 1.001 if x.dtype == torch.float32 else y

    monkeypatch.setattr(torch.nn.LayerNorm, "forward", forward)
    verdict = _check(_model(ff, of), ff, of).verdict
    assert not verdict.ok
    assert "in float64" in verdict.reason


def test_a_mixed_up_layer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose layers answer for one another is wrong."""
    exact = transformer_check.exact_model
    monkeypatch.setattr(
        transformer_check, "exact_model", lambda model, replays: exact(model, replays[::-1])
    )
    assert not _check(_model("1x3"), "1x3").verdict.ok


def test_output_that_is_no_number_is_infinitely_off() -> None:
    """NaN in an output is no agreement."""
    want = torch.ones(1, 2, 4)
    got = want.clone()
    got[0, 1, 2] = float("nan")
    assert transformer_check.disagreement(got, want, 2) == float("inf")
    assert transformer_check.disagreement(want, want, 2) == 0.0


def test_chosen_sequences() -> None:
    """Whole sequences are compared, the first always, no more than the tokens allow."""
    many = Transformer(architecture=TINY, sequences=40, tokens=64)
    chosen = transformer_check.choose_sequences(many, 7)
    assert chosen[0] == 0
    assert len(chosen) == len(set(chosen)) == 8
    assert max(chosen) < 40
