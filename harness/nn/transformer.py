"""Own whole models in torch: built, with another layer as their FF, timed part by part."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import torch

from harness.errors import UnavailableError
from harness.nn.layers import FF, FFF
from harness.nn.swap import Dense, Make, swap_ffn
from harness.nn.ultrafastbert import DenseFF, UltraFastBert
from harness.problem.transformer import DENSE, INSTALL, LEFT_OUT, PARTS, Architecture, Transformer

# The modules that each part is the time of, in BERT, GPT-2 and UltraFastBERT; what stands inside another
# one counts for itself alone.
_PARTS = {
    "qkv": r"layer\.\d+\.attention\.self\.(query|key|value)|h\.\d+\.attn\.c_attn|query_key_value",
    "scores": r"layer\.\d+\.attention\.self|h\.\d+\.attn|self_attention",
    "projection": r"layer\.\d+\.attention\.output\.dense|h\.\d+\.attn\.c_proj|attn\.dense",
    "ff": r"layer\.\d+\.(intermediate|output\.dense)|h\.\d+\.mlp|ffn",
    "norms": r"LayerNorm|h\.\d+\.ln_[12]|ln_f|norm[12]?|final_norm",
    "head": r"lm_head|decoder",
}


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


def build(architecture: Architecture, seed: int) -> torch.nn.Module:
    """Return a model with drawn weights in float32, in evaluation, whose attention is torch's own (SDPA).

    Dropout is 0, and BERT has no pooler behind its last layer. Raises UnavailableError where what knows the
    architecture is not installed.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _make(architecture).eval()


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
        return FFF(dense.d_in, dense.d_out, layer.depth, layer.trees)

    swapped = share(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if transformer.architecture.is_decoder:
            _swap_decoder(swapped, transformer.architecture, make)
        else:
            swap_ffn(swapped, make, names=_find_ffs(swapped))
    return swapped.eval()


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


def find_layers(model: torch.nn.Module) -> list[FF | FFF]:
    """Return the layers of a model that stand in the place of its FFs, in the order of a pass."""
    return [module for module in model.modules() if isinstance(module, FF | FFF)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Hold what a pass is run on: tokens (sequences, length), and what a decoder remembers of those before.

    cache: of the keys and values, None for an encoder.
    """

    tokens: torch.Tensor
    cache: Any = None

    def in_float64(self, sequences: list[int]) -> Inputs:
        """Return the inputs of some of the sequences, for a model in float64."""
        cache = copy.deepcopy(self.cache)
        for layer in cache.layers if cache is not None else ():
            layer.keys = layer.keys[sequences].double()
            layer.values = layer.values[sequences].double()
        return Inputs(tokens=self.tokens[sequences], cache=cache)


def _draw_tokens(transformer: Transformer, length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (transformer.sequences, length)
    return torch.randint(transformer.architecture.vocabulary, shape, generator=generator)


def make_inputs(model: torch.nn.Module, transformer: Transformer, seed: int) -> Inputs:
    """Return what a model's passes are run on, tokens drawn evenly from the vocabulary.

    A decoder has read the tokens of each sequence, by itself, and is given one more.
    """
    drawn = _draw_tokens(transformer, transformer.tokens, seed)
    if not transformer.architecture.is_decoder:
        return Inputs(tokens=drawn)
    from transformers import DynamicCache

    cache = DynamicCache()
    _call_decoder(model, drawn, cache)
    return Inputs(tokens=_draw_tokens(transformer, 1, seed + 1), cache=cache)


def _call_decoder(model: torch.nn.Module, tokens: torch.Tensor, cache: Any) -> torch.Tensor:
    with torch.inference_mode():
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


def run(model: torch.nn.Module, inputs: Inputs) -> torch.Tensor:
    """Return what a pass without gradients makes of its inputs, (sequences, length, ...).

    Of BERT what leaves its last layer, of all others the logits; a decoder's cache is then what it was.
    """
    if inputs.cache is not None:
        logits = _call_decoder(model, inputs.tokens, inputs.cache)
        inputs.cache.crop(-inputs.tokens.shape[1])
        return logits
    with torch.inference_mode():
        if isinstance(model, UltraFastBert):
            logits = model(inputs.tokens)
            return logits
        hidden: torch.Tensor = model(input_ids=inputs.tokens).last_hidden_state
        return hidden


class PartTimers:
    """Take the time of each part of a model's passes, by hooks around its modules.

    Time counts for the innermost module that has a part, so that no time counts twice; what is left of a pass
    is the rest. Hooks cost some microseconds a module.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Find the modules that have a part; nothing is timed before `running`."""
        # A module named as a part's pattern ends, whatever stands around the layers.
        self._modules = [
            (module, part)
            for name, module in model.named_modules()
            for part, pattern in _PARTS.items()
            if re.fullmatch(rf"(.*\.)?({pattern})", name)
        ]
        self._open: list[str] = []
        self._since = 0
        self.parts_ns = dict.fromkeys(PARTS, 0)

    def _count(self) -> None:
        now = perf_counter_ns()
        if self._open:
            self.parts_ns[self._open[-1]] += now - self._since
        self._since = now

    def _enter(self, part: str) -> None:
        self._count()
        self._open.append(part)

    def _leave(self) -> None:
        self._count()
        self._open.pop()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Begin at 0 and take the times of what runs inside."""
        self.parts_ns, self._open = dict.fromkeys(PARTS, 0), []
        handles: list[Any] = []
        try:
            for module, part in self._modules:
                handles += [
                    module.register_forward_pre_hook(lambda *_, part=part: self._enter(part)),
                    module.register_forward_hook(lambda *_: self._leave()),
                ]
            yield
        finally:
            for handle in handles:
                handle.remove()

    def parts_of(self, elapsed_ns: int) -> dict[str, int]:
        """Return the time of each part of an interval, the rest among them."""
        found = dict(self.parts_ns)
        found["rest"] = elapsed_ns - sum(found.values())
        return found
