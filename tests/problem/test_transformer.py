"""Whole models as shapes: their words, their work, what stands as their FF."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UnknownNameError, UsageError
from harness.problem.architecture import ARCHITECTURES, find_architecture, parse_shapes
from harness.problem.transformer import DENSE, LEFT_OUT, Transformer

BERT = ARCHITECTURES["bert-base"]
CONFIGURATION = {
    "model_type": "bert", "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 32,
}  # fmt: skip


def _whole(ff: str = DENSE) -> Transformer:
    return Transformer(architecture=BERT, sequences=8, tokens=128, ff=ff)


def test_operations_of_bert_base() -> None:
    """A token of BERT-base's layer takes 24 d^2 operations in its products and 4 t d in its scores."""
    d, tokens = 768, 8 * 128
    assert _whole().flops() == 12 * tokens * (24 * d**2 + 4 * 128 * d)
    assert _whole(LEFT_OUT).flops() == 12 * tokens * (8 * d**2 + 4 * 128 * d)


def test_an_fff_takes_the_operations_of_its_paths() -> None:
    """With a 1x11 as its FF a model does those of 12 neurons a token more than without any."""
    more = _whole("ultrafastbert-1x11").flops() - _whole(LEFT_OUT).flops()
    assert more == 12 * (8 * 128) * 12 * 4 * 768


@pytest.mark.parametrize(
    ("ff", "neurons"), [(DENSE, 3072), (LEFT_OUT, 3072), ("ff-12", 12), ("1x3", 15)]
)
def test_the_layer_of_a_form(ff: str, neurons: int) -> None:
    """What stands as the FF is a layer of the model's width; left out is the layer that is."""
    problem = _whole(ff).problem(0)
    assert (problem.neurons, problem.d_in, problem.batch) == (neurons, 768, 1024)


def test_layers_are_told_apart_from_the_architecture() -> None:
    """A number of layers that is asked for stands in place of the architecture's own."""
    assert find_architecture("bert-base", 2) == replace(BERT, layers=2)
    assert find_architecture("bert-base") == BERT


def _write(folder: Path, **changes: object) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps({**CONFIGURATION, **changes}), encoding="utf-8")
    return str(path)


def test_a_configuration_is_read(tmp_path: Path) -> None:
    """A config.json of transformers' BERT is an architecture, called by its folder."""
    folder = tmp_path / "my model"
    folder.mkdir()
    found = find_architecture(_write(folder))
    assert (found.name, found.layers, found.width, found.hidden) == ("my-model", 3, 64, 256)
    assert (found.heads, found.vocabulary, found.positions) == (4, 100, 32)


def test_a_decoder_is_read_by_its_own_words(tmp_path: Path) -> None:
    """A config.json of GPT-2 is read too, its FF four times as wide as its tokens where it says nothing."""
    words = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
             "vocab_size": 90, "n_inner": None}  # fmt: skip
    (tmp_path / "small.json").write_text(json.dumps(words), encoding="utf-8")
    found = find_architecture(str(tmp_path / "small.json"))
    assert (found.name, found.kind, found.layers, found.hidden) == ("small", "gpt2", 2, 128)
    assert found.is_decoder


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "t5"}, "model_type bert or gpt2, got 't5'"),
        ({"hidden_act": "relu"}, "hidden_act 'gelu'"),
        ({"hidden_size": None}, "hidden_size of at least 1, got None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers of at least 1, got 0"),
        ({"num_attention_heads": 3}, "64 is not divided by 3 heads"),
    ],
)
def test_a_configuration_that_would_be_misread_is_refused(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    """What is no BERT with this activation, or lacks an extent, is refused by the field's name."""
    with pytest.raises(UsageError, match=says):
        find_architecture(_write(tmp_path, **changes))


def test_unknown_architectures_and_broken_files(tmp_path: Path) -> None:
    """A name that is none lists those that are; a file that is no JSON is refused in one line."""
    with pytest.raises(UnknownNameError, match="bert-base"):
        find_architecture("bert-huge")
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match="can't be read as a configuration"):
        find_architecture(str(tmp_path / "config.json"))


def test_batches_are_sequences_of_tokens() -> None:
    """A list of batches is read in its order, each once."""
    assert parse_shapes("1x128, 8x128,1x128", BERT) == [(1, 128), (8, 128)]


@pytest.mark.parametrize("text", ["", "8", "0x4", "8x", "x8", "8x128x2", "-1x4", "8x513", "axb"])
def test_bad_batches_are_refused(text: str) -> None:
    """Anything but SEQUENCESxTOKENS, and sequences longer than the model's positions, are refused."""
    with pytest.raises(UsageError):
        parse_shapes(text, BERT)


def test_a_decoder_makes_a_step() -> None:
    """A pass of GPT-2 is of one token a sequence, which attends to all before it and reads the head."""
    a, d = ARCHITECTURES["gpt2-small"], 768
    step = Transformer(architecture=a, sequences=4, tokens=100, ff=LEFT_OUT)
    assert (step.batch, step.length, step.shape) == (4, 1, "4x100")
    assert step.flops() == 4 * (12 * (8 * d**2 + 4 * 101 * d) + 2 * d * 50257)
    cached = 2 * 12 * 4 * 100 * d
    assert step.cache_bytes() == 4 * cached
    assert step.bytes_moved() == 4 * (12 * 4 * d**2 + d * 50257 + cached)


def test_a_step_has_its_own_position() -> None:
    """What a decoder has read and the step behind it fit into its positions together."""
    a = ARCHITECTURES["gpt2-small"]
    assert parse_shapes("1x1023", a) == [(1, 1023)]
    with pytest.raises(UsageError, match="1024 tokens and a step behind them"):
        parse_shapes("1x1024", a)


def test_the_published_model_has_a_head() -> None:
    """UltraFastBERT has 16 layers, and makes logits of every token of whole sequences."""
    a = ARCHITECTURES["ultrafastbert"]
    whole = Transformer(architecture=a, sequences=2, tokens=64, ff=LEFT_OUT)
    d, batch = 768, 2 * 64
    assert whole.batch == batch
    assert whole.flops() == batch * (16 * (8 * d**2 + 4 * 64 * d) + 2 * d * 32768)
    assert whole.cache_bytes() == 0


def test_a_step_of_training() -> None:
    """A step computes each product three times, over whole sequences, and moves its optimiser's memory."""
    plain, step = _whole(), replace(_whole(), training=True)
    assert step.flops() == 3 * plain.flops()
    assert step.bytes_moved() > 3 * plain.bytes_moved()
    assert step.training_bytes() == 3 * step.weight_bytes()
    assert plain.training_bytes() == 0
    decoder = replace(plain, architecture=ARCHITECTURES["gpt2-small"])
    assert decoder.is_step
    assert decoder.length == 1
    trained = replace(decoder, training=True)
    assert not trained.is_step
    assert (trained.length, trained.cache_bytes()) == (128, 0)


def test_bfloat16_is_half_the_bytes() -> None:
    """Weights, and what a pass reads of them, are half as many bytes; operations are as many."""
    plain, half = _whole(), replace(_whole(), dtype="bfloat16")
    assert half.weight_bytes() * 2 == plain.weight_bytes()
    assert half.flops() == plain.flops()
    assert half.problem(0).dtype == "bfloat16"


def test_ways_are_told_apart() -> None:
    """What differs from a plain pass has a word of its own, and none where nothing does."""
    assert _whole().ways() == []
    ways = replace(_whole(), training=True, dtype="bfloat16", compiled=True).ways()
    assert ways == ["train", "bfloat16", "compiled"]
    form = replace(_whole("ff-12"), in_parts=True, compiled=True)
    assert form.as_it_is() == replace(_whole(), compiled=True)
