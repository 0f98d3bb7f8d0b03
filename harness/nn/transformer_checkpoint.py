"""Own whole models with the weights of a checkpoint, or drawn ones where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness.errors import UnavailableError, UsageError
from harness.nn import transformer as nn_transformer
from harness.nn.published import load_published_layers
from harness.nn.swap import Dense
from harness.nn.ultrafastbert import DenseFF, load_published_model
from harness.problem.architecture import INSTALL
from harness.problem.checkpoint import Checkpoint, read_checkpoint
from harness.problem.transformer import Transformer

_FFF = "encoder.layers.{i}.ffn."


def _load_transformers(found: Checkpoint) -> torch.nn.Module:
    """Return BERT without its pooler, or GPT-2 with its head, from a folder. Raises UsageError for gaps."""
    try:
        import transformers
    except ImportError:
        raise UnavailableError(INSTALL) from None
    architecture = found.architecture
    options: dict[str, Any] = {
        "attn_implementation": "sdpa", "local_files_only": True, "output_loading_info": True,
    }  # fmt: skip
    transformers.logging.set_verbosity_error()
    if architecture.kind == "bert":
        model, told = transformers.BertModel.from_pretrained(
            found.path, add_pooling_layer=False, num_hidden_layers=architecture.layers,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **options,
        )  # fmt: skip
    else:
        model, told = transformers.GPT2LMHeadModel.from_pretrained(
            found.path, n_layer=architecture.layers, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, **options,
        )  # fmt: skip
    # The head is the embedding: where both are one, the file has it once.
    missing = sorted(set(told["missing_keys"]) - {"lm_head.weight"})
    if missing:
        raise UsageError(f"{found.path} lacks {len(missing)} weights, {missing[0]} among them")
    loaded: torch.nn.Module = model
    return loaded


def _load_ultrafastbert(found: Checkpoint, seed: int) -> torch.nn.Module:
    """Return UltraFastBERT with a drawn dense FF in the place of each FFF of the checkpoint."""
    architecture = found.architecture
    model = load_published_model(found.path, positions=architecture.positions)
    model.encoder.layers = model.encoder.layers[: architecture.layers]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in model.encoder.layers:
            if not isinstance(layer.ffn, DenseFF):
                layer.ffn = DenseFF(architecture.width, architecture.hidden)
                for weight in layer.ffn.parameters():
                    torch.nn.init.normal_(weight, std=0.02)
    return model


def build(transformer: Transformer, seed: int, path: str = "") -> torch.nn.Module:
    """Return the model as it is. path: of the checkpoint, empty for drawn weights."""
    kind = {"dtype": transformer.dtype, "device": transformer.device}
    if not path:
        return nn_transformer.build(transformer.architecture, seed, **kind)
    found = _read(transformer, path)
    is_published = found.architecture.kind == "ultrafastbert"
    made = _load_ultrafastbert(found, seed) if is_published else _load_transformers(found)
    return made.to(device=transformer.device, dtype=getattr(torch, transformer.dtype)).eval()


def with_ff(
    model: torch.nn.Module, transformer: Transformer, seed: int, path: str = ""
) -> torch.nn.Module:
    """Return a model with what a pass says as its FF: those of the checkpoint where it has them."""
    if not path or transformer.ff != _read(transformer, path).fff:
        return nn_transformer.with_ff(model, transformer, seed)
    published = load_published_layers(Path(path), _FFF, trees=1)

    def take(dense: Dense) -> torch.nn.Module:
        number = int(dense.name.split(".")[2])  # encoder.layers.N.ffn
        return published[number]

    return nn_transformer.with_made(model, transformer, seed, take)


def _read(transformer: Transformer, path: str) -> Checkpoint:
    """Return what a checkpoint is of. Raises UsageError where it is another than was planned with."""
    found = read_checkpoint(path, transformer.architecture.layers)
    if found.label != transformer.checkpoint:
        raise UsageError(f"{path} is {found.label}, the plan has {transformer.checkpoint}")
    return found
