"""Whole models with loaded weights: what of a checkpoint stands where, and what is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from harness import nn  # noqa: E402
from harness.errors import UsageError  # noqa: E402
from harness.nn import transformer as nn_transformer  # noqa: E402
from harness.nn import transformer_check, transformer_checkpoint  # noqa: E402
from harness.nn.training import (  # noqa: E402
    TrainingStep,
    find_ff_weights,
    find_other_weights,
    make_optimiser,
)
from harness.nn.transformer_gradients import check_step  # noqa: E402
from harness.problem.checkpoint import read_checkpoint  # noqa: E402
from harness.problem.transformer import DENSE, LEFT_OUT, Transformer  # noqa: E402

FFF = "ultrafastbert-1x3"


def _whole(path: Path, ff: str, **options: Any) -> Transformer:
    found = read_checkpoint(str(path), options.pop("layers", None))
    return Transformer(
        architecture=found.architecture, sequences=2, tokens=8, ff=ff, checkpoint=found.label,
        **options,
    )  # fmt: skip


def _models(path: Path, **options: Any) -> dict[str, Any]:
    dense = transformer_checkpoint.build(_whole(path, DENSE, **options), 0, str(path))
    return {
        ff: transformer_checkpoint.with_ff(dense, _whole(path, ff, **options), 0, str(path))
        for ff in (DENSE, LEFT_OUT, FFF, "ultrafastbert-1x2")
    }


def _step(model: Any, inputs: Any) -> TrainingStep:
    others = make_optimiser(find_other_weights(model))
    assert others is not None
    return TrainingStep(
        model=model, call=nn_transformer.caller(model), inputs=inputs,
        own=make_optimiser(find_ff_weights(model)), others=others,
    )  # fmt: skip


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Return a checkpoint of two layers in the published layout, of weights that were drawn."""
    torch.manual_seed(2)
    model = nn.UltraFastBert(vocabulary=40, width=24, hidden=96, heads=3, layers=2)
    kept = {n: w for n, w in model.state_dict().items() if "ffn" not in n and n != "decoder.weight"}
    state = {name: weight.clone() for name, weight in kept.items()}
    for i in range(2):
        prefix = f"encoder.layers.{i}."
        state[f"{prefix}attn.self_attention.norm_factor"] = torch.tensor((24 / 3) ** -0.5)
        state[f"{prefix}ffn.linear_in.weight"] = torch.randn(15, 24)
        state[f"{prefix}ffn.linear_in.bias"] = torch.randn(15)
        state[f"{prefix}ffn.linear_out.weight"] = torch.randn(24, 15)
    path = tmp_path / "own.safetensors"
    safetensors.save_file(state, str(path))
    return path


def test_the_published_fffs_stand_in_their_model(published: Path) -> None:
    """With the FFFs of the checkpoint the model is the one that `load_published_model` returns."""
    model = _models(published)[FFF]
    want = nn.load_published_model(published)
    tokens = torch.randint(40, (2, 8), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens), want(tokens))


def test_what_is_not_the_ff_is_shared(published: Path) -> None:
    """All forms have the checkpoint's weights in all else; another FFF's are drawn."""
    models = _models(published)
    loaded = nn.load_published_model(published)
    for model in models.values():
        own = dict(model.named_parameters())
        for name, weight in loaded.named_parameters():
            if ".ffn." not in name:
                assert own[name] is dict(models[DENSE].named_parameters())[name]
                assert torch.equal(own[name], weight)
    assert models["ultrafastbert-1x2"].encoder.layers[0].ffn.depth == 2


@pytest.mark.parametrize("training", [False, True])
def test_fffs_with_biases_are_judged(published: Path, training: bool) -> None:
    """The checkpoint's FFFs, whose biases count in the turns, pass the gate forward and backward."""
    whole = _whole(published, FFF, training=training)
    model = _models(published)[FFF]
    inputs = nn_transformer.make_inputs(model, whole, 0)
    if training:
        verdict = check_step(_step(model, inputs), whole, seed=1).verdict
    else:
        verdict = transformer_check.check_model(model, whole, inputs, seed=1).verdict
    assert verdict.ok, verdict.reason
    assert verdict.worst < 0.5


def test_fewer_layers_are_the_first(published: Path) -> None:
    """A model of fewer layers has the first of the checkpoint."""
    model = _models(published, layers=1)[FFF]
    assert len(model.encoder.layers) == 1
    want = nn.load_published_model(published).encoder.layers[0].ffn
    assert torch.equal(model.encoder.layers[0].ffn.w_in, want.w_in)


def test_another_file_is_not_taken(published: Path) -> None:
    """A file that changed since the plan was made is refused by both labels."""
    whole = _whole(published, DENSE)
    state = safetensors.load_file(str(published))
    state["encoder.final_norm.bias"] += 1
    safetensors.save_file(state, str(published))
    with pytest.raises(UsageError, match="the plan has own"):
        transformer_checkpoint.build(whole, 0, str(published))


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_folders_of_transformers(kind: str, tmp_path: Path) -> None:
    """A folder of transformers gives the model that it holds, its head or its last layer's output."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    if kind == "bert":
        saved = transformers.BertModel(
            transformers.BertConfig(
                vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                intermediate_size=64, max_position_embeddings=16,
            )
        )  # fmt: skip
    else:
        saved = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=16, bos_token_id=None,
                eos_token_id=None,
            )
        )  # fmt: skip
    saved.save_pretrained(tmp_path)
    model = transformer_checkpoint.build(_whole(tmp_path, DENSE), 0, str(tmp_path))
    tokens = torch.randint(50, (2, 8))
    with torch.inference_mode():
        want = saved.eval()(input_ids=tokens)
        got = nn_transformer.caller(model)(tokens)
    torch.testing.assert_close(got, want.logits if kind == "gpt2" else want.last_hidden_state)


@pytest.mark.slow
def test_compiled_fffs_with_biases_are_judged(published: Path) -> None:
    """In a compiled step the column of ones that biases are read by is no part of what a layer got."""
    from harness.nn.transformer_compiled import compile_model

    whole = _whole(published, FFF, training=True, compiled=True, layers=1)
    model = _models(published, layers=1)[FFF]
    call = nn_transformer.caller(model, compile_model(model))
    step = replace(_step(model, nn_transformer.make_inputs(model, whole, 0)), call=call)
    verdict = check_step(step, whole, seed=1).verdict
    assert verdict.ok, verdict.reason
