"""Own the transformer: one pass of a whole model, what may stand as its FF, its parts and counts of work."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.problem.architecture import Architecture
from harness.problem.models import Model, parse_model
from harness.problem.problem import Problem

# What stands as the FF of a model: its own, nothing, or a layer by its name (`ultrafastbert-1x11`, `ff-12`).
DENSE, LEFT_OUT = "dense", "left-out"
# What a pass is divided into. qkv: the products that make queries, keys and values. scores: what attention
# makes of them. projection: the product behind it. ff: the feedforward layer, both products and the
# activation. norms: the normalisations. head: the product with the whole vocabulary, of a model that has one.
# rest: embeddings, residuals, calls.
PARTS = ("qkv", "scores", "projection", "ff", "norms", "head", "rest")
# What a step of training is divided into: the way forward, the way back and the optimiser's update, each of
# the FFs and of all that is not one. forward: the loss among it.
STEP_PARTS = ("ff", "ff_backward", "ff_update", "forward", "backward", "update")
FF_PARTS = ("ff", "ff_backward", "ff_update")
ALL_PARTS = tuple(dict.fromkeys((*PARTS, *STEP_PARTS)))
# Tokens of a pass that the rest of a model is compared on, whole sequences: some seconds of float64 work.
CHECKED_TOKENS = 512
_ITEM_BYTES = {"float32": 4, "bfloat16": 2}
# A step computes each product once forward and twice back. Of each weight it reads the weight twice, writes
# its gradient and reads it again, and AdamW reads and writes the weight and its two moments.
_STEP_PRODUCTS, _STEP_WEIGHTS = 3, 10
# Beside a weight its gradient and its two moments.
_HELD_BESIDE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """State what one pass is of: a model on a batch of sequences, and what stands as its FF.

    sequences: of the batch. tokens: of each of them; of a decoder those that are in its cache as the step
    begins. ff: DENSE, LEFT_OUT or the name of a layer. in_parts: whether the time of each part is taken
    within the pass. training: whether a pass is a step of training, forward, backward and update; of a
    decoder then over whole sequences. dtype: of the weights and of what passes between modules. compiled:
    whether torch.compile made it. device: where it runs. checkpoint: whose weights it has, empty for drawn.
    """

    architecture: Architecture
    sequences: int
    tokens: int
    ff: str = DENSE
    in_parts: bool = False
    training: bool = False
    dtype: str = "float32"
    compiled: bool = False
    device: str = "cpu"
    checkpoint: str = ""

    @property
    def is_step(self) -> bool:
        """Say whether a pass is a step of generation: one token a sequence, behind those of a cache."""
        return self.architecture.is_decoder and not self.training

    @property
    def parts(self) -> tuple[str, ...]:
        """Return what a pass is divided into."""
        return STEP_PARTS if self.training else PARTS

    @property
    def length(self) -> int:
        """Return the tokens of each sequence that a pass computes."""
        return 1 if self.is_step else self.tokens

    @property
    def batch(self) -> int:
        """Return the tokens of a pass."""
        return self.sequences * self.length

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
        plain = self.layer().problem(batch=self.batch, width=self.architecture.width, seed=seed)
        return replace(plain, dtype=self.dtype)

    def flops(self) -> int:
        """Return the operations of one pass; norms, activations, embeddings and updates are not counted."""
        a = self.architecture
        products = 8 * self.batch * a.width**2
        scores = 4 * self.batch * self._seen() * a.width
        own = 0 if self.ff == LEFT_OUT else self.problem(0).flops()
        head = 2 * self.batch * a.width * a.vocabulary if a.has_head else 0
        forward = a.layers * (products + scores + own) + head
        return (_STEP_PRODUCTS if self.training else 1) * forward

    def bytes_moved(self) -> int:
        """Return the bytes of weights and of the cache that one pass reads, each once.

        Of a step of training, what it reads and writes of all weights, gradients and moments.
        """
        a = self.architecture
        if self.training:
            return _STEP_WEIGHTS * self.weight_bytes()
        own = 0 if self.ff == LEFT_OUT else self.problem(0).bytes_moved()
        head = a.width * a.vocabulary if a.has_head else 0
        item = _ITEM_BYTES[self.dtype]
        return a.layers * (4 * item * a.width**2 + own) + item * head + self.cache_bytes()

    def cache_bytes(self) -> int:
        """Return the bytes of the keys and values that a decoder remembers, 0 for an encoder."""
        a = self.architecture
        kept = 2 * a.layers * self.sequences * self.tokens * a.width if self.is_step else 0
        return _ITEM_BYTES[self.dtype] * kept

    def weight_bytes(self) -> int:
        """Return the bytes of its weights, those of its FFs with them."""
        a = self.architecture
        own = 0 if self.ff == LEFT_OUT else a.layers * self.problem(0).weight_bytes()
        return _ITEM_BYTES[self.dtype] * a.weights() + own

    def training_bytes(self) -> int:
        """Return the bytes that a step of training holds beside its weights, 0 for a pass without one."""
        return _HELD_BESIDE * self.weight_bytes() if self.training else 0

    def _seen(self) -> int:
        """Return the tokens that each token of a pass attends to."""
        return self.tokens + 1 if self.is_step else self.tokens

    def without_timers(self) -> Transformer:
        """Return the same pass without the times of its parts."""
        return replace(self, in_parts=False)

    def as_it_is(self) -> Transformer:
        """Return the same pass of the model as it is, without timers: what all others are set against."""
        return replace(self, ff=DENSE, in_parts=False)

    def ways(self) -> list[str]:
        """Return what differs from a plain pass, as it stands in the ids of cells."""
        return [
            *(["train"] if self.training else []),
            *([self.dtype] if self.dtype != "float32" else []),
            *(["compiled"] if self.compiled else []),
        ]
