"""Own the architectures: the shapes of whole models, known ones and those of a configuration's file."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.errors import UnknownNameError, UsageError
from harness.problem.models import split

Kind = Literal["bert", "gpt2", "ultrafastbert"]
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

    @property
    def is_decoder(self) -> bool:
        """Say whether a pass is a step of generation, a token a sequence, and not whole sequences."""
        return self.kind == "gpt2"

    @property
    def has_head(self) -> bool:
        """Say whether a pass ends with the product with the whole vocabulary."""
        return self.kind != "bert"

    def weights(self) -> int:
        """Return the weights of the model without those of its FFs; biases and norms are not counted."""
        embedded = (self.vocabulary + self.positions) * self.width
        return embedded + 4 * self.layers * self.width**2


ARCHITECTURES = {
    "bert-base": Architecture(
        name="bert-base", kind="bert", layers=12, width=768, hidden=3072, heads=12,
        vocabulary=30522, positions=512,
    ),
    "gpt2-small": Architecture(
        name="gpt2-small", kind="gpt2", layers=12, width=768, hidden=3072, heads=12,
        vocabulary=50257, positions=1024,
    ),
    "ultrafastbert": Architecture(
        name="ultrafastbert", kind="ultrafastbert", layers=16, width=768, hidden=3072, heads=12,
        vocabulary=32768, positions=128,
    ),
}  # fmt: skip

# What a configuration calls the fields of an architecture, as the package transformers writes it, and the
# activation that each kind has.
_CONFIGURED: dict[str, dict[str, str]] = {
    "bert": {
        "layers": "num_hidden_layers", "width": "hidden_size", "hidden": "intermediate_size",
        "heads": "num_attention_heads", "vocabulary": "vocab_size",
        "positions": "max_position_embeddings",
    },
    "gpt2": {
        "layers": "n_layer", "width": "n_embd", "hidden": "n_inner", "heads": "n_head",
        "vocabulary": "vocab_size", "positions": "n_positions",
    },
}  # fmt: skip
_ACTIVATIONS: dict[str, tuple[str, str]] = {
    "bert": ("hidden_act", "gelu"), "gpt2": ("activation_function", "gelu_new"),
}  # fmt: skip


# ---- words --------------------------------------------------------------------------------------


def _read_configuration(path: Path) -> Architecture:
    """Return the architecture of a configuration of transformers. Raises UsageError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read as a configuration: {error}") from None
    kind = data.get("model_type") if isinstance(data, dict) else None
    if kind not in _CONFIGURED:
        raise UsageError(f"{path}: need model_type {' or '.join(_CONFIGURED)}, got {kind!r}")
    field, usual = _ACTIVATIONS[kind]
    if (activation := data.get(field, usual)) != usual:
        raise UsageError(f"{path}: need {field} {usual!r}, got {activation!r}")
    if kind == "gpt2" and data.get("n_inner") is None and type(data.get("n_embd")) is int:
        data = {**data, "n_inner": 4 * data["n_embd"]}
    keys = _CONFIGURED[kind]
    values = {name: data.get(key) for name, key in keys.items()}
    for name, value in values.items():
        if type(value) is not int or value < 1:
            raise UsageError(f"{path}: need {keys[name]} of at least 1, got {value!r}")
    if values["width"] % values["heads"]:
        raise UsageError(
            f"{path}: {keys['width']} {values['width']} is not divided by {values['heads']} heads"
        )
    stem = path.parent.resolve().name if path.stem == "config" else path.stem
    return Architecture(name=re.sub(r"[^A-Za-z0-9.-]+", "-", stem), kind=kind, **values)


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


def parse_shapes(text: str, architecture: Architecture) -> list[tuple[int, int]]:
    """Return the (sequences, tokens) of a list such as `1x128,8x128`.

    Raises UsageError for anything else, and for sequences that are longer than a model's positions.
    """
    most, found = architecture.positions - architecture.is_decoder, []
    for part in split(text):
        match = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,6})", part)
        if not match:
            raise UsageError(f"need SEQUENCESxTOKENS such as 8x128, got {part!r}")
        shape = int(match[1]), int(match[2])
        if shape[1] > most:
            behind = " and a step behind them" if architecture.is_decoder else ""
            raise UsageError(
                f"{architecture.name} has {architecture.positions} positions, got sequences of "
                f"{shape[1]} tokens{behind}"
            )
        found.append(shape)
    if not found:
        raise UsageError(f"need at least one SEQUENCESxTOKENS, got {text!r}")
    return list(dict.fromkeys(found))
