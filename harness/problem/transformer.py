"""Own the transformer: the shape of a whole model, what may stand as its FF, its parts and counts of work."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.errors import UnknownNameError, UsageError
from harness.problem.models import Model, parse_model, split
from harness.problem.problem import Problem

Kind = Literal["bert"]
# What stands as the FF of a model: its own, nothing, or a layer by its name (`ultrafastbert-1x11`, `ff-12`).
DENSE, LEFT_OUT = "dense", "left-out"
# What a pass is divided into. qkv: the products that make queries, keys and values. scores: what attention
# makes of them. projection: the product behind it. ff: the feedforward layer, both products and the
# activation. norms: the normalisations. rest: embeddings, residuals, calls.
PARTS = ("qkv", "scores", "projection", "ff", "norms", "rest")
# Tokens of a pass that the rest of a model is compared on, whole sequences: some seconds of float64 work.
CHECKED_TOKENS = 512
_FLOAT_BYTES = 4
INSTALL = "the package transformers is not installed: pip install 'fff-harness[model]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """State the shape of a model.

    kind: which code it is of. layers: how many blocks of attention and FF. width: of the tokens. hidden: the
    neurons of its FF. vocabulary, positions: rows of the embeddings.
    """

    name: str
    kind: Kind
    layers: int
    width: int
    hidden: int
    heads: int
    vocabulary: int
    positions: int

    def weights(self) -> int:
        """Return the weights of the model without those of its FFs; biases and norms are not counted."""
        embedded = (self.vocabulary + self.positions) * self.width
        return embedded + 4 * self.layers * self.width**2


ARCHITECTURES = {
    "bert-base": Architecture(
        name="bert-base", kind="bert", layers=12, width=768, hidden=3072, heads=12,
        vocabulary=30522, positions=512,
    ),
}  # fmt: skip

# What a configuration calls the fields of an architecture, as the package transformers writes it.
_CONFIGURED = {
    "layers": "num_hidden_layers", "width": "hidden_size", "hidden": "intermediate_size",
    "heads": "num_attention_heads", "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """State what one pass is of: a model on a batch of sequences, and what stands as its FF.

    sequences, tokens: of the batch, and of each sequence. ff: DENSE, LEFT_OUT or the name of a layer.
    in_parts: whether the time of each part is taken within the pass.
    """

    architecture: Architecture
    sequences: int
    tokens: int
    ff: str = DENSE
    in_parts: bool = False

    @property
    def batch(self) -> int:
        """Return the tokens of a pass."""
        return self.sequences * self.tokens

    @property
    def shape(self) -> str:
        """Return the batch as it is written: sequences x tokens."""
        return f"{self.sequences}x{self.tokens}"

    def layer(self) -> Model:
        """Return what stands as its FF; where it is left out, the FF that is."""
        return parse_model(
            f"ff-{self.architecture.hidden}" if self.ff in (DENSE, LEFT_OUT) else self.ff
        )

    def problem(self, seed: int) -> Problem:
        """Return the problem of one of its FFs."""
        return self.layer().problem(batch=self.batch, width=self.architecture.width, seed=seed)

    def flops(self) -> int:
        """Return the operations of one pass; norms, activations and embeddings are not counted."""
        a = self.architecture
        products = 8 * self.batch * a.width**2
        scores = 4 * self.batch * self.tokens * a.width
        own = 0 if self.ff == LEFT_OUT else self.problem(0).flops()
        return a.layers * (products + scores + own)

    def weight_bytes(self) -> int:
        """Return the bytes of its weights in float32, those of its FFs with them."""
        a = self.architecture
        own = 0 if self.ff == LEFT_OUT else a.layers * self.problem(0).weight_bytes()
        return _FLOAT_BYTES * a.weights() + own

    def without_timers(self) -> Transformer:
        """Return the same pass without the times of its parts."""
        return replace(self, in_parts=False)


# ---- words --------------------------------------------------------------------------------------


def _read_configuration(path: Path) -> Architecture:
    """Return the architecture of a configuration of transformers. Raises UsageError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read as a configuration: {error}") from None
    kind = data.get("model_type") if isinstance(data, dict) else None
    if kind != "bert":
        raise UsageError(f"{path}: need model_type 'bert', got {kind!r}")
    if (activation := data.get("hidden_act", "gelu")) != "gelu":
        raise UsageError(f"{path}: need hidden_act 'gelu', as the layers have, got {activation!r}")
    values = {name: data.get(key) for name, key in _CONFIGURED.items()}
    for name, value in values.items():
        if type(value) is not int or value < 1:
            raise UsageError(f"{path}: need {_CONFIGURED[name]} of at least 1, got {value!r}")
    if values["width"] % values["heads"]:
        raise UsageError(
            f"{path}: hidden_size {values['width']} is not divided by {values['heads']} heads"
        )
    stem = path.parent.resolve().name if path.stem == "config" else path.stem
    return Architecture(name=re.sub(r"[^A-Za-z0-9.-]+", "-", stem), kind="bert", **values)


def find_architecture(word: str, layers: int | None = None) -> Architecture:
    """Return an architecture by name, or of the configuration in a file. layers: None for its own.

    Raises UnknownNameError listing the known ones, UsageError for a file that is none.
    """
    if word in ARCHITECTURES:
        found = ARCHITECTURES[word]
    elif Path(word).is_file():
        found = _read_configuration(Path(word))
    else:
        known = [*ARCHITECTURES, "FILE (a config.json)"]
        raise UnknownNameError("architecture", word, known=known)
    return found if layers is None else replace(found, layers=layers)


def parse_shapes(text: str, positions: int) -> list[tuple[int, int]]:
    """Return the (sequences, tokens) of a list such as `1x128,8x128`.

    positions: the most tokens of a sequence. Raises UsageError for anything else.
    """
    found = []
    for part in split(text):
        match = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,6})", part)
        if not match:
            raise UsageError(f"need SEQUENCESxTOKENS such as 8x128, got {part!r}")
        shape = int(match[1]), int(match[2])
        if shape[1] > positions:
            raise UsageError(f"the model has {positions} positions, got sequences of {shape[1]}")
        found.append(shape)
    if not found:
        raise UsageError(f"need at least one SEQUENCESxTOKENS, got {text!r}")
    return list(dict.fromkeys(found))
