"""Own whole models in torch: built, with another layer as their FF, run on their inputs."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from harness.errors import UnavailableError
from harness.nn.controls import Control
from harness.nn.layers import FF, FFF
from harness.nn.swap import Dense, Make, swap_ffn
from harness.nn.ultrafastbert import DenseFF, UltraFastBert
from harness.problem.architecture import INSTALL, Architecture
from harness.problem.transformer import DENSE, LEFT_OUT, Transformer


def _make_bert(a: Architecture, transformers: Any) -> torch.nn.Module:
    config = transformers.BertConfig(
        vocab_size=a.vocabulary, hidden_size=a.width, num_hidden_layers=a.layers,
        num_attention_heads=a.heads, intermediate_size=a.hidden,
        max_position_embeddings=a.positions, hidden_act="gelu", hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, attn_implementation="sdpa",
    )  # fmt: skip
    return transformers.BertModel(config, add_pooling_layer=False)


def _make_gpt2(a: Architecture, transformers: Any) -> torch.nn.Module:
    config = transformers.GPT2Config(
        vocab_size=a.vocabulary, n_positions=a.positions, n_embd=a.width, n_layer=a.layers,
        n_head=a.heads, n_inner=a.hidden, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=None, attn_implementation="sdpa",
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def _make_ultrafastbert(a: Architecture) -> torch.nn.Module:
    return UltraFastBert(
        vocabulary=a.vocabulary, width=a.width, hidden=a.hidden, heads=a.heads, layers=a.layers,
        positions=a.positions,
    )  # fmt: skip


def _make(architecture: Architecture) -> torch.nn.Module:
    if architecture.kind == "ultrafastbert":
        return _make_ultrafastbert(architecture)
    try:
        import transformers
    except ImportError:
        raise UnavailableError(INSTALL) from None
    make = {"bert": _make_bert, "gpt2": _make_gpt2}[architecture.kind]
    return make(architecture, transformers)


def build(
    architecture: Architecture, seed: int, *, dtype: str = "float32", device: str = "cpu"
) -> torch.nn.Module:
    """Return a model with drawn weights, in evaluation, whose attention is torch's own (SDPA).

    Dropout is 0, and BERT has no pooler behind its last layer. Raises UnavailableError where what knows the
    architecture is not installed.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = _make(architecture)
    return made.to(device=device, dtype=getattr(torch, dtype)).eval()


def share(model: torch.nn.Module) -> torch.nn.Module:
    """Return a model of its own modules on the very weights of another one."""
    weights = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(weight): weight for weight in weights})


def with_ff(model: torch.nn.Module, transformer: Transformer, seed: int) -> torch.nn.Module:
    """Return a model with what a pass says as its FF, on the weights of `model` in all other parts.

    Left out means that the input of the FF is handed on as its output, at no cost. Other layers have drawn
    weights.
    """
    if transformer.ff == DENSE:
        return model

    def make(dense: Dense) -> torch.nn.Module:
        if transformer.ff == LEFT_OUT:
            return torch.nn.Identity()
        layer = transformer.layer()
        if layer.layer == "ff":
            return FF(dense.d_in, dense.d_out, layer.hidden)
        if layer.layer == "fff":
            return FFF(dense.d_in, dense.d_out, layer.depth, layer.trees)
        return Control(layer, dense.d_in)

    return with_made(model, transformer, seed, make)


def with_made(
    model: torch.nn.Module, transformer: Transformer, seed: int, make: Make
) -> torch.nn.Module:
    """Return a model with what `make` returns as each FF, on the weights of `model` in all other parts."""
    swapped = share(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if transformer.architecture.is_decoder:
            _swap_decoder(swapped, transformer.architecture, make)
        else:
            swap_ffn(swapped, make, names=_find_ffs(swapped))
    # A replacement takes over the dense layer's dtype and device, in a decoder too.
    weight = next(model.parameters())
    return swapped.to(device=weight.device, dtype=weight.dtype).eval()


def _find_ffs(model: torch.nn.Module) -> list[str] | None:
    """Return the names of UltraFastBERT's FFs; None for a model of whose blocks `swap_ffn` knows."""
    return [n for n, m in model.named_modules() if isinstance(m, DenseFF)] or None


def _swap_decoder(model: torch.nn.Module, a: Architecture, make: Make) -> None:
    """Replace the FF of each block of GPT-2, whose products are no `torch.nn.Linear`."""
    for i, block in enumerate(model.transformer.h):
        block.mlp = make(
            Dense(
                name=f"transformer.h.{i}.mlp", d_in=a.width, hidden=a.hidden, d_out=a.width,
                module=block.mlp,
            )
        )  # fmt: skip


Layer = FF | FFF | Control


def find_layers(model: torch.nn.Module) -> list[Layer]:
    """Return the layers of a model that stand in the place of its FFs, in the order of a pass."""
    return [module for module in model.modules() if isinstance(module, Layer)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Hold what a pass is run on: tokens (sequences, length), and what a decoder remembers of those before.

    cache: of the keys and values, None for a pass without one. targets: what a step of training is judged by
    (training.loss_of), None for a pass without gradients.
    """

    tokens: torch.Tensor
    cache: Any = None
    targets: torch.Tensor | None = None

    def in_float64(self, sequences: list[int]) -> Inputs:
        """Return the inputs of some of the sequences on the CPU, for a model in float64."""
        cache = copy.deepcopy(self.cache)
        for layer in cache.layers if cache is not None else ():
            layer.keys = layer.keys[sequences].double().cpu()
            layer.values = layer.values[sequences].double().cpu()
        targets = self.targets
        if targets is not None:
            targets = targets[sequences].cpu()
            targets = targets.double() if targets.is_floating_point() else targets
        return Inputs(tokens=self.tokens[sequences].cpu(), cache=cache, targets=targets)


def _draw_tokens(transformer: Transformer, length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (transformer.sequences, length)
    drawn = torch.randint(transformer.architecture.vocabulary, shape, generator=generator)
    return drawn.to(transformer.device)


def _draw_targets(transformer: Transformer, seed: int) -> torch.Tensor:
    """Return a token for each token; numbers for what leaves the last layer where there is no head."""
    architecture = transformer.architecture
    if architecture.has_head:
        return _draw_tokens(transformer, transformer.length, seed)
    generator = torch.Generator().manual_seed(seed)
    shape = (transformer.sequences, transformer.length, architecture.width)
    return torch.randn(shape, generator=generator).to(transformer.device)


def make_inputs(model: torch.nn.Module, transformer: Transformer, seed: int) -> Inputs:
    """Return what a model's passes are run on, tokens drawn evenly from the vocabulary.

    In a step of generation a decoder has read the tokens of each sequence, by itself, and is given one more.
    """
    drawn = _draw_tokens(transformer, transformer.tokens, seed)
    if transformer.training:
        return Inputs(tokens=drawn, targets=_draw_targets(transformer, seed + 1))
    if not transformer.is_step:
        return Inputs(tokens=drawn)
    from transformers import DynamicCache

    cache = DynamicCache()
    with torch.inference_mode():
        _call_decoder(model, drawn, cache)
    return Inputs(tokens=_draw_tokens(transformer, 1, seed + 1), cache=cache)


def _call_decoder(model: torch.nn.Module, tokens: torch.Tensor, cache: Any) -> torch.Tensor:
    logits: torch.Tensor = model(
        input_ids=tokens, use_cache=True, **{_cache_argument(): cache}
    ).logits
    return logits


@functools.cache
def _cache_argument() -> str:
    """Return how a decoder's cache is called: what a newer release says `cache` for was `past_key_values`."""
    from transformers import GPT2LMHeadModel

    known = inspect.signature(GPT2LMHeadModel.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def caller(model: torch.nn.Module, run: Any = None) -> Callable[..., torch.Tensor]:
    """Return what runs a model on tokens and returns what leaves it, (sequences, length, ...).

    Of BERT what leaves its last layer, of all others the logits. run: what torch.compile made of the model,
    None for the model itself.
    """
    forward = model if run is None else run
    if isinstance(model, UltraFastBert):
        return lambda tokens: forward(tokens)
    if hasattr(model, "lm_head"):
        return lambda tokens: forward(input_ids=tokens, use_cache=False).logits
    return lambda tokens: forward(input_ids=tokens).last_hidden_state


def run(
    model: torch.nn.Module, inputs: Inputs, call: Callable[..., torch.Tensor] | None = None
) -> torch.Tensor:
    """Return what a pass without gradients makes of its inputs, (sequences, length, ...).

    call: runs the model, `caller` of it if None. A decoder's cache is what it was when the pass has ended.
    """
    with torch.inference_mode():
        if inputs.cache is None:
            return (call or caller(model))(inputs.tokens)
        logits = _call_decoder(model, inputs.tokens, inputs.cache)
        inputs.cache.crop(-inputs.tokens.shape[1])
        return logits
