"""Own UltraFastBERT as a whole model in plain torch, its weights called as its authors published them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.errors import UsageError
from harness.nn.published import load_published, open_published

# Of the published configuration (UltraFastBERT, training/cramming/config/arch/crammed-bert-fff.yaml); its
# base is the encoder of Geiping and Goldstein 2022, arXiv 2212.14034.
POSITIONS, NORM_EPS = 128, 1e-12


class _Positions(torch.nn.Module):
    """Return the scaled sinusoids of the positions, (tokens, width).

    ``scale * sin(p / 10000**(2 i / width))`` in the even columns, the cosine in the odd ones. They are no
    weights: they are made anew, and only their scale is learnt.
    """

    def __init__(self, width: int, positions: int) -> None:
        super().__init__()
        turns = torch.arange(positions)[:, None] * torch.exp(
            torch.arange(0, width, 2) * (-math.log(10000.0) / width)
        )
        table = torch.stack([turns.sin(), turns.cos()], -1).flatten(1)[:, :width]
        self.register_buffer("pe", table, persistent=False)
        self.scale_factor = torch.nn.Parameter(torch.tensor([width**-0.5]))

    def forward(self, tokens: int) -> torch.Tensor:
        return self.scale_factor * self.pe[:tokens]


class _Embedding(torch.nn.Module):
    def __init__(self, vocabulary: int, width: int, positions: int) -> None:
        super().__init__()
        self.word_embedding = torch.nn.Embedding(vocabulary, width, padding_idx=0)
        self.pos_embedding = _Positions(width, positions)
        self.norm = torch.nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm(self.word_embedding(tokens) + self.pos_embedding(tokens.shape[1]))


class _SelfAttention(torch.nn.Module):
    """Attend over all tokens; the rows of the one product are query, key and value of each head in turn."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = torch.nn.Linear(width, 3 * width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sequences, tokens, width = x.shape
        mixed = self.query_key_value(x).view(sequences, tokens, self.heads, -1)
        query, key, value = mixed.transpose(1, 2).chunk(3, -1)
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return found.transpose(1, 2).reshape(sequences, tokens, width)


class _Attention(torch.nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attention = _SelfAttention(width, heads)
        self.dense = torch.nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.self_attention(x))


class DenseFF(torch.nn.Module):
    """The FF that the model has where it has no FFF: two products without biases and the GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        """Draw the weights."""
        super().__init__()
        self.dense_in = torch.nn.Linear(width, hidden, bias=False)
        self.dense_out = torch.nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``y (..., width)`` of ``x (..., width)``."""
        return self.dense_out(torch.nn.functional.gelu(self.dense_in(x)))


class _Layer(torch.nn.Module):
    """Add attention, then the FF, to what both read through a normalisation of their own."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(width, eps=NORM_EPS)
        self.norm2 = torch.nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = _Attention(width, heads)
        self.ffn: torch.nn.Module = DenseFF(width, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class _Encoder(torch.nn.Module):
    def __init__(
        self, vocabulary: int, width: int, hidden: int, heads: int, layers: int, positions: int
    ) -> None:
        super().__init__()
        self.embedding = _Embedding(vocabulary, width, positions)
        self.layers = torch.nn.ModuleList(_Layer(width, hidden, heads) for _ in range(layers))
        self.final_norm = torch.nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.final_norm(x)


class UltraFastBert(torch.nn.Module):
    """UltraFastBERT's encoder with its head: the logits of every token over the vocabulary.

    Pre-norm, without biases outside of norms and FFFs, sinusoidal positions, one product for queries, keys
    and values head by head; the head is the embedding (tied). Each layer's `ffn` is a dense FF until it is
    swapped. Weights are normal of standard deviation 0.02.
    """

    def __init__(
        self, *, vocabulary: int, width: int, hidden: int, heads: int, layers: int,
        positions: int = POSITIONS,
    ) -> None:  # fmt: skip
        """Draw the weights."""
        super().__init__()
        self.encoder = _Encoder(vocabulary, width, hidden, heads, layers, positions)
        self.decoder = torch.nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                torch.nn.init.normal_(module.weight, std=0.02)
        self.decoder.weight = self.encoder.embedding.word_embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits (sequences, tokens, vocabulary) of tokens (sequences, tokens)."""
        return self.decoder(self.encoder(tokens))


# ---- published weights --------------------------------------------------------------------------

_WORDS, _HEAD = "encoder.embedding.word_embedding.weight", "decoder.weight"
_LAYER = "encoder.layers.{}."
_FACTOR = "attn.self_attention.norm_factor"
_FFF_NAMES = ("linear_in.weight", "linear_in.bias", "linear_out.weight")


def _require(state: Mapping[str, Any], name: str) -> Any:
    if name not in state:
        raise UsageError(f"no {name!r}: this is no whole model in UltraFastBERT's layout")
    return state[name]


def _count_layers(state: Mapping[str, Any]) -> int:
    start = _LAYER.partition("{}")[0]
    numbers = {
        name.removeprefix(start).partition(".")[0] for name in state if name.startswith(start)
    }
    found = sorted(map(int, numbers))
    if found != list(range(len(found))) or not found:
        raise UsageError(f"layers: need them from 0 on without a gap, got {found}")
    return len(found)


def _dense_hidden(state: Mapping[str, Any], prefix: str) -> int:
    """Return the neurons of a layer's dense FF, 0 where it has an FFF. Raises UsageError for a gated one."""
    if f"{prefix}ffn.dense_in.weight" not in state:
        return 0
    rows = _require(state, f"{prefix}ffn.dense_in.weight").shape[0]
    hidden = _require(state, f"{prefix}ffn.dense_out.weight").shape[1]
    if rows == 2 * hidden:
        raise UsageError(
            f"{prefix}ffn is a gated layer, as crammedBERT's own are: {rows} rows in, {hidden} columns out; "
            "what is read are FFFs and dense layers without a gate"
        )
    if rows != hidden:
        raise UsageError(f"{prefix}ffn: {rows} rows in and {hidden} columns out are no layer's")
    return int(hidden)


def load_published_model(
    source: str | Path | Mapping[str, Any], *, trees: int | None = 1, positions: int = POSITIONS,
    implementation: str = "",
) -> UltraFastBert:  # fmt: skip
    """Return UltraFastBERT with the weights of a checkpoint of its authors, its FFFs as `nn.FFF`.

    source: a .safetensors file, a folder with one, or names and tensors. trees, implementation: as for
    `load_published`. positions: of the longest sequence; they are made anew, and are in no checkpoint.

    All extents are read from the tensors and none from a configuration: the published one nests them under
    `arch`, and the one that a repository trains by may say otherwise. The number of heads is that of the
    buffer norm_factor, 1 / sqrt(width of a head). The head is the embedding: where the file holds it a
    second time, the two must agree.

    Raises UsageError for a gated layer, for a missing name and for one that would be left unread.
    """
    state = open_published(source)
    words, layers = _require(state, _WORDS), _count_layers(state)
    factor = float(_require(state, _LAYER.format(0) + _FACTOR))
    vocabulary, width = words.shape
    heads = round(width * factor**2)
    if not heads or width % heads or abs((width / heads) ** -0.5 - factor) > 1e-3 * factor:
        raise UsageError(f"{_FACTOR}: {factor:g} is that of no heads of a width of {width}")
    if _HEAD in state and not torch.equal(state[_HEAD], words):
        raise UsageError(f"{_HEAD} is not {_WORDS}: the model has one matrix for both")
    hidden = [_dense_hidden(state, _LAYER.format(i)) for i in range(layers)]
    model = UltraFastBert(
        vocabulary=vocabulary, width=width, hidden=max(*hidden, 1), heads=heads, layers=layers,
        positions=positions,
    )  # fmt: skip
    read = {_HEAD, "encoder.embedding.pos_embedding.pe"}
    for i, (layer, neurons) in enumerate(zip(model.encoder.layers, hidden, strict=True)):
        prefix = _LAYER.format(i)
        read.add(prefix + _FACTOR)
        layer.ffn = (
            DenseFF(width, neurons)
            if neurons
            else load_published(
                state, trees=trees, prefix=f"{prefix}ffn.", implementation=implementation
            )
        )
        if not neurons:
            read |= {f"{prefix}ffn.{name}" for name in _FFF_NAMES}
    _fill(model, state, read)
    model.to(words.dtype).eval()
    return model


def _fill(model: UltraFastBert, state: Mapping[str, Any], read: set[str]) -> None:
    """Copy all weights but those of FFFs. read: names that were read, or hold nothing of their own."""
    fffs = {
        id(weight)
        for layer in model.encoder.layers
        if not isinstance(layer.ffn, DenseFF)
        for weight in layer.ffn.parameters()
    }
    own = {name: weight for name, weight in model.named_parameters() if id(weight) not in fffs}
    if unread := sorted({*state} - own.keys() - read):
        raise UsageError(
            f"{unread[0]} is no weight of UltraFastBERT's, nor are {len(unread) - 1} more"
        )
    with torch.no_grad():
        for name, weight in own.items():
            value = _require(state, name)
            if value.shape != weight.shape:
                raise UsageError(f"{name}: need {tuple(weight.shape)}, got {tuple(value.shape)}")
            weight.copy_(value)
