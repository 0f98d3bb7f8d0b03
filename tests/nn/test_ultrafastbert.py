"""UltraFastBERT as a whole model: what it computes, and what of a published checkpoint is read or refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from harness import nn  # noqa: E402
from harness.errors import UsageError  # noqa: E402
from harness.nn.ultrafastbert import DenseFF  # noqa: E402

VOCABULARY, D, HEADS, LAYERS, DEPTH, TREES = 40, 24, 3, 2, 3, 1
NODES = 2 ** (DEPTH + 1) - 1


def make_state(dtype: Any = torch.float64) -> dict[str, Any]:
    """Return a checkpoint of the published layout, by its exact names."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int, around: float = 0.0) -> Any:
        return (around + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(
            dtype
        )

    words = draw(VOCABULARY, D)
    state = {
        "encoder.embedding.word_embedding.weight": words,
        "encoder.embedding.pos_embedding.scale_factor": draw(1, around=0.2),
        "encoder.embedding.norm.weight": draw(D, around=1.0),
        "encoder.embedding.norm.bias": draw(D),
        "encoder.final_norm.weight": draw(D, around=1.0),
        "encoder.final_norm.bias": draw(D),
        "decoder.weight": words.clone(),
    }
    for i in range(LAYERS):
        prefix = f"encoder.layers.{i}."
        for norm in ("norm1", "norm2"):
            state[f"{prefix}{norm}.weight"] = draw(D, around=1.0)
            state[f"{prefix}{norm}.bias"] = draw(D)
        state[f"{prefix}attn.self_attention.norm_factor"] = torch.tensor((D / HEADS) ** -0.5)
        state[f"{prefix}attn.self_attention.query_key_value.weight"] = draw(3 * D, D)
        state[f"{prefix}attn.dense.weight"] = draw(D, D)
        state[f"{prefix}ffn.linear_in.weight"] = draw(TREES * NODES, D)
        state[f"{prefix}ffn.linear_in.bias"] = draw(TREES * NODES)
        state[f"{prefix}ffn.linear_out.weight"] = draw(D, TREES * NODES)
    return state


def _normalised(x: Any, state: dict[str, Any], name: str) -> Any:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def _fff(x: Any, state: dict[str, Any], prefix: str) -> Any:
    """Return the FFF of one token, a node after the other."""
    node, y = 0, torch.zeros(D, dtype=x.dtype)
    for _ in range(DEPTH + 1):
        z = state[f"{prefix}linear_in.weight"][node] @ x + state[f"{prefix}linear_in.bias"][node]
        a = z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))
        y = y + a * state[f"{prefix}linear_out.weight"][:, node]
        node = 2 * node + 1 + int(z >= 0)
    return y


def _attend(x: Any, state: dict[str, Any], prefix: str) -> Any:
    """Return attention over one sequence, a head after the other."""
    mixed, size = x @ state[f"{prefix}self_attention.query_key_value.weight"].T, D // HEADS
    heads = []
    for head in range(HEADS):
        own = mixed[:, 3 * size * head : 3 * size * (head + 1)]
        query, key, value = own[:, :size], own[:, size : 2 * size], own[:, 2 * size :]
        scores = query @ key.T * state[f"{prefix}self_attention.norm_factor"].double()
        heads.append(torch.softmax(scores, -1) @ value)
    return torch.cat(heads, -1) @ state[f"{prefix}dense.weight"].T


def written_out(tokens: Any, state: dict[str, Any]) -> Any:
    """Return the logits of one sequence by the equations, (tokens, vocabulary)."""
    positions = torch.zeros(len(tokens), D, dtype=torch.float64)
    for p in range(len(tokens)):
        for i in range(0, D, 2):
            angle = p / 10000 ** (i / D)
            positions[p, i], positions[p, i + 1] = math.sin(angle), math.cos(angle)
    x = state["encoder.embedding.word_embedding.weight"][tokens]
    x = x + state["encoder.embedding.pos_embedding.scale_factor"] * positions
    x = _normalised(x, state, "encoder.embedding.norm")
    for i in range(LAYERS):
        prefix = f"encoder.layers.{i}."
        x = x + _attend(_normalised(x, state, f"{prefix}norm1"), state, f"{prefix}attn.")
        read = _normalised(x, state, f"{prefix}norm2")
        x = x + torch.stack([_fff(token, state, f"{prefix}ffn.") for token in read])
    return _normalised(x, state, "encoder.final_norm") @ state["decoder.weight"].T


@pytest.fixture
def tokens() -> Any:
    """Return two sequences."""
    return torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))


def test_the_published_model_computes_its_equations(tokens: Any) -> None:
    """A checkpoint's model gives the logits that its architecture says, to rounding of float64."""
    state = make_state()
    model = nn.load_published_model(state)
    want = torch.stack([written_out(sequence, state) for sequence in tokens])
    with torch.inference_mode():
        got = model(tokens)
    # The table of sinusoids is of float32, as the authors' is.
    assert torch.allclose(got, want, rtol=0, atol=2e-5)


def test_every_tensor_counts(tokens: Any) -> None:
    """Each tensor of the checkpoint but the buffer and the head's copy changes what the model computes."""
    state = make_state()
    with torch.inference_mode():
        before = nn.load_published_model(state)(tokens)
        for name in state:
            if name.endswith("norm_factor") or name == "decoder.weight":
                continue
            changed = {**state, name: state[name] * 1.5 + 0.1}
            changed["decoder.weight"] = changed["encoder.embedding.word_embedding.weight"]
            assert not torch.equal(nn.load_published_model(changed)(tokens), before), name


def test_extents_are_those_of_the_tensors() -> None:
    """No configuration is asked: heads, layers and trees are read from what is there."""
    model = nn.load_published_model(make_state(torch.float32))
    attention = model.encoder.layers[0].attn.self_attention
    assert (len(model.encoder.layers), attention.heads) == (LAYERS, HEADS)
    fff = model.encoder.layers[1].ffn
    assert (fff.depth, fff.trees, fff.bias) == (DEPTH, TREES, True)
    assert not any(module.training for module in model.modules())
    assert model.decoder.weight is model.encoder.embedding.word_embedding.weight
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_file_is_read(tmp_path: Path, tokens: Any) -> None:
    """A folder with a safetensors file is read as its tensors are."""
    safetensors = pytest.importorskip("safetensors.torch")
    state = make_state(torch.float32)
    safetensors.save_file(state, str(tmp_path / "model.safetensors"))
    with torch.inference_mode():
        want, got = (nn.load_published_model(of)(tokens) for of in (state, tmp_path))
    assert torch.equal(got, want)


def test_positions_of_a_file_are_made_anew(tokens: Any) -> None:
    """Where a checkpoint holds the sinusoids, they are not taken from it."""
    state = make_state(torch.float32)
    with_table = {**state, "encoder.embedding.pos_embedding.pe": torch.zeros(1, 128, D)}
    with torch.inference_mode():
        want, got = (nn.load_published_model(of)(tokens) for of in (state, with_table))
    assert torch.equal(got, want)


def test_a_dense_model_is_read(tokens: Any) -> None:
    """A layer without a gate that is dense stands as one."""
    state = make_state(torch.float32)
    for name in [n for n in state if ".ffn." in n]:
        del state[name]
    for i in range(LAYERS):
        state[f"encoder.layers.{i}.ffn.dense_in.weight"] = torch.ones(5, D)
        state[f"encoder.layers.{i}.ffn.dense_out.weight"] = torch.ones(D, 5)
    model = nn.load_published_model(state)
    assert isinstance(model.encoder.layers[0].ffn, DenseFF)
    assert model.encoder.layers[0].ffn.dense_in.weight.shape == (5, D)
    assert torch.isfinite(model(tokens)).all()


def _gated(state: dict[str, Any]) -> None:
    for name in [n for n in state if ".ffn." in n]:
        del state[name]
    for i in range(LAYERS):
        state[f"encoder.layers.{i}.ffn.dense_in.weight"] = torch.ones(10, D)
        state[f"encoder.layers.{i}.ffn.dense_out.weight"] = torch.ones(D, 5)


def _untied(state: dict[str, Any]) -> None:
    state["decoder.weight"] = state["decoder.weight"] + 1


def _factor(state: dict[str, Any]) -> None:
    state["encoder.layers.0.attn.self_attention.norm_factor"] = torch.tensor(0.9)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_gated, "gated layer"),
        (_untied, "one matrix for both"),
        (_factor, "no heads of a width of 24"),
        (lambda s: s.pop("encoder.final_norm.bias"), "encoder.final_norm.bias"),
        (lambda s: s.pop("encoder.embedding.word_embedding.weight"), "no whole model"),
        (lambda s: s.update({"pooler.dense.weight": torch.ones(2)}), "pooler.dense.weight"),
        (lambda s: s.update({"encoder.layers.5.norm1.bias": torch.ones(D)}), "without a gap"),
        (
            lambda s: s.update({"encoder.final_norm.bias": torch.ones(2)}),
            r"need \(24,\), got \(2,\)",
        ),
    ],
)
def test_what_would_be_misread_is_refused(change: Any, says: str) -> None:
    """A gated layer, an untied head, missing and foreign names and shapes are refused in one line."""
    state = make_state(torch.float32)
    change(state)
    with pytest.raises(UsageError, match=says) as caught:
        nn.load_published_model(state)
    assert "\n" not in str(caught.value)
