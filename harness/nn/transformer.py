"""Own whole models in torch: built, with another layer as their FF, timed part by part."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Any

import torch

from harness.errors import UnavailableError
from harness.nn.layers import FF, FFF
from harness.nn.swap import Dense, swap_ffn
from harness.problem.transformer import DENSE, INSTALL, LEFT_OUT, PARTS, Architecture, Transformer

# The modules that each part is the time of; what stands inside another one counts for itself alone.
_PARTS = {
    "qkv": r"layer\.\d+\.attention\.self\.(query|key|value)",
    "scores": r"layer\.\d+\.attention\.self",
    "projection": r"layer\.\d+\.attention\.output\.dense",
    "ff": r"layer\.\d+\.(intermediate|output\.dense)",
    "norms": r".*LayerNorm",
}


def build(architecture: Architecture, seed: int) -> torch.nn.Module:
    """Return a model with drawn weights in float32, in evaluation, whose attention is torch's own (SDPA).

    Dropout is 0, and there is no pooler behind the last layer. Raises UnavailableError where what knows the
    architecture is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise UnavailableError(INSTALL) from None
    a = architecture
    config = transformers.BertConfig(
        vocab_size=a.vocabulary, hidden_size=a.width, num_hidden_layers=a.layers,
        num_attention_heads=a.heads, intermediate_size=a.hidden,
        max_position_embeddings=a.positions, hidden_act="gelu", hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, attn_implementation="sdpa",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.BertModel(config, add_pooling_layer=False).eval()


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
        swap_ffn(swapped, make)
    return swapped


def find_layers(model: torch.nn.Module) -> list[FF | FFF]:
    """Return the layers of a model that stand in the place of its FFs, in the order of a pass."""
    return [module for module in model.modules() if isinstance(module, FF | FFF)]


def draw_tokens(transformer: Transformer, seed: int) -> torch.Tensor:
    """Return the tokens of a pass (sequences, tokens), drawn evenly from the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    shape = (transformer.sequences, transformer.tokens)
    return torch.randint(transformer.architecture.vocabulary, shape, generator=generator)


def run(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Return what the last layer makes of tokens, (sequences, tokens, width), by a pass without gradients."""
    with torch.inference_mode():
        hidden: torch.Tensor = model(input_ids=tokens).last_hidden_state
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
            if re.fullmatch(rf"(.*\.)?{pattern}", name)
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
