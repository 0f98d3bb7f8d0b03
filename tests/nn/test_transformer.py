"""Whole models in torch: what they share, what stands as their FF, where the time of a pass goes."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from fabricated_models import TINY  # noqa: E402

from harness import nn  # noqa: E402
from harness.errors import UnavailableError  # noqa: E402
from harness.nn import transformer as nn_transformer  # noqa: E402
from harness.nn import transformer_check  # noqa: E402
from harness.nn.transformer import PartTimers  # noqa: E402
from harness.problem.transformer import DENSE, LEFT_OUT, PARTS, Transformer  # noqa: E402

FORMS = (DENSE, LEFT_OUT, "1x3", "2x2", "ff-12")


def _whole(ff: str) -> Transformer:
    return Transformer(architecture=TINY, sequences=3, tokens=16, ff=ff)


def _model(ff: str) -> Any:
    return nn_transformer.with_ff(nn_transformer.build(TINY, 0), _whole(ff), 0)


def _tokens() -> Any:
    return nn_transformer.draw_tokens(_whole(DENSE), 0)


# ---- models -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ff", FORMS)
def test_what_is_not_the_ff_is_shared(ff: str) -> None:
    """Models of one architecture have the very same weights in all that is not their FF."""
    base = nn_transformer.build(TINY, 0)
    swapped = nn_transformer.with_ff(base, _whole(ff), 0)
    own = dict(swapped.named_parameters())
    ffs = (".intermediate.", ".layer.0.output.dense", ".layer.1.output.dense")
    for name, weight in base.named_parameters():
        if not any(part in f".{name}" for part in ffs):
            assert own[name] is weight, name


def test_the_model_as_it_is_stays() -> None:
    """Swapping a layer into a model leaves the model that it was made from as it was."""
    base, tokens = nn_transformer.build(TINY, 0), _tokens()
    before = nn_transformer.run(base, tokens)
    nn_transformer.with_ff(base, _whole("1x3"), 0)
    assert torch.equal(nn_transformer.run(base, tokens), before)


def test_swapping_by_hand_gives_the_same_model() -> None:
    """An FFF that is put into each layer of a BertModel by hand computes what the swapped model does."""
    tokens, by_hand = _tokens(), nn_transformer.build(TINY, 0)
    swapped = _model("1x3")
    made = nn_transformer.find_layers(swapped)
    assert len(made) == TINY.layers
    for layer, fff in zip(by_hand.encoder.layer, made, strict=True):
        layer.intermediate = fff
        layer.output.dense = torch.nn.Identity()
    assert torch.equal(nn_transformer.run(by_hand, tokens), nn_transformer.run(swapped, tokens))


def test_left_out_hands_its_input_on() -> None:
    """Without its FF each layer normalises twice what attention left."""
    model = _model(LEFT_OUT)
    layer = model.encoder.layer[0]
    x = torch.randn(2, 5, TINY.width)
    want = layer.output.LayerNorm(2 * x)
    assert torch.equal(layer.output(layer.intermediate(x), x), want)


def test_the_same_seed_draws_the_same_model() -> None:
    """Weights and tokens hang on the seed alone, and the caller's own generator stays where it was."""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = (nn_transformer.run(_model("1x3"), _tokens()) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


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


@pytest.mark.parametrize("ff", FORMS)
def test_parts_are_a_whole_pass(ff: str) -> None:
    """The times of the parts are an interval's whole time, and each that the model has takes some."""
    model, tokens = _model(ff), _tokens()
    timers = PartTimers(model)
    with timers.running():
        nn_transformer.run(model, tokens)
    elapsed = 2 * sum(timers.parts_ns.values())
    parts = timers.parts_of(elapsed)
    assert tuple(parts) == PARTS
    assert sum(parts.values()) == elapsed
    assert all(spent > 0 for spent in parts.values())


def test_time_counts_for_the_innermost_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands inside of another part counts for itself alone; what is in none is the rest."""
    model, tokens = _model(DENSE), _tokens()
    now = iter(range(10**6))
    monkeypatch.setattr(nn_transformer, "perf_counter_ns", lambda: next(now))
    timers = PartTimers(model)
    with timers.running():
        nn_transformer.run(model, tokens)
    # Each entry and exit of a hooked module is one tick: attention has three products inside of it.
    layers = TINY.layers
    assert timers.parts_ns["qkv"] == 3 * layers
    assert timers.parts_ns["scores"] == 4 * layers
    assert timers.parts_ns["projection"] == layers
    assert timers.parts_ns["ff"] == 2 * layers
    assert timers.parts_ns["norms"] == 2 * layers + 1


def test_timers_leave_no_hook() -> None:
    """After the timed passes the model has no hook, whatever happened in them."""
    model = _model(DENSE)
    timers = PartTimers(model)
    with pytest.raises(RuntimeError), timers.running():
        raise RuntimeError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# ---- verdicts -----------------------------------------------------------------------------------


def _check(model: Any, ff: str, seed: int = 3) -> Any:
    return transformer_check.check_model(model, _whole(ff), _tokens(), seed=seed, touches=True)


@pytest.mark.parametrize("ff", FORMS)
def test_right_models_pass(ff: str) -> None:
    """A model that computes what it should is right, with much of its tolerance left."""
    found = _check(_model(ff), ff)
    assert found.verdict.ok, found.verdict.reason
    assert found.verdict.worst < 0.5
    assert found.verdict.tokens == 3 * 16
    assert (found.touched is not None) == ("x" in ff)
    assert not any(m._forward_hooks for m in _model(ff).modules())


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


@pytest.mark.parametrize("ff", ["1x3", DENSE])
def test_a_wrong_rest_is_found(ff: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where anything but the layers is off in float32, their inputs or the output show it."""
    real = torch.nn.LayerNorm.forward

    def forward(self: Any, x: Any) -> Any:
        y = real(self, x)
        return y * 1.001 if x.dtype == torch.float32 else y

    monkeypatch.setattr(torch.nn.LayerNorm, "forward", forward)
    verdict = _check(_model(ff), ff).verdict
    assert not verdict.ok
    assert "in float64" in verdict.reason


def test_a_mixed_up_layer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose layers answer for one another is wrong."""
    exact = transformer_check._exact_model
    monkeypatch.setattr(
        transformer_check, "_exact_model", lambda model, replays: exact(model, replays[::-1])
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
