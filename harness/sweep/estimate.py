"""Own the predictions: what cells and processes take in seconds and bytes."""

from __future__ import annotations

from collections.abc import Sequence

from harness.backends import registry
from harness.measure.process_key import ProcessKey
from harness.problem import ceilings
from harness.problem.problem import Problem
from harness.problem.transformer import CHECKED_TOKENS, LEFT_OUT, Transformer

_START_S = 1.5  # interpreter, libraries, drawing the operands
_PROCESS_BYTES = 160 << 20


def start_s(key: ProcessKey) -> float:
    """Return a guess of what starting a measuring process takes, in seconds."""
    return _START_S + (registry.library(key.library).start_s if key.library else 0.0)


def resident_bytes(key: ProcessKey) -> int:
    """Return a guess of the memory that a measuring process takes without operands and workspace."""
    library = registry.library(key.library) if key.library else None
    return _PROCESS_BYTES + (library.resident_bytes if library else 0)


# What a core of 2020 or later reaches; for the prediction and nothing else.
_PREDICTED_FLOPS, _PREDICTED_BYTES = 90e9, 10e9


def predict_s(implementation: str, problem: Problem) -> float:
    """Return a guess of one pass's time in seconds."""
    flops, moved = ceilings.count_work(implementation, problem)
    return flops / _PREDICTED_FLOPS if flops else moved / _PREDICTED_BYTES


_TRANSFORMER_FLOPS = 60e9
_EXACT_FLOPS = 15e9  # of float64
_COMPILED_LAYER_S = 2.0
_BUILD_S = 3.0  # drawing the weights, and once a process importing what knows the architecture


def predict_transformer_s(transformer: Transformer) -> float:
    """Return a guess of one pass of a whole model, in seconds."""
    return max(
        transformer.flops() / _TRANSFORMER_FLOPS, transformer.bytes_moved() / _PREDICTED_BYTES
    )


def check_transformer_s(transformer: Transformer) -> float:
    """Return a guess of what building a whole model and checking a pass of it takes, in seconds."""
    # The gradients of a step are sums over all tokens.
    share = 1.0 if transformer.training else min(1.0, CHECKED_TOKENS / transformer.batch)
    checked = share * transformer.flops()
    return _BUILD_S + transformer.architecture.layers * GATE_S + checked / _EXACT_FLOPS


def compile_transformer_s(transformer: Transformer) -> float:
    """Return a guess of what torch.compile takes for a whole model, in seconds; 0 where it is not asked."""
    if not transformer.compiled:
        return 0.0
    layers_s = _COMPILED_LAYER_S * transformer.architecture.layers
    return (2 if transformer.training else 1) * (COMPILE_S + layers_s)


def transformer_bytes(transformers: Sequence[Transformer]) -> int:
    """Return a guess of what whole models take in one process: they share what is not their FF.

    The model as it is stands there a second time in float64 while one is checked, with some copies of what
    leaves it. The output of each checked pass is kept; of steps of training, gradients and moments of all
    weights.
    """
    found = 0
    for architecture, dtype in {(t.architecture, t.dtype) for t in transformers}:
        own = [t for t in transformers if (t.architecture, t.dtype) == (architecture, dtype)]
        of_ff = {t.ff: t.weight_bytes() for t in own}
        trained = {t.ff: t.training_bytes() for t in own if t.training}
        shared = min(of_ff.values()) if LEFT_OUT in of_ff else 4 * architecture.weights()
        largest = max(t.batch for t in own)
        leaves = architecture.vocabulary if architecture.has_head else architecture.width
        passing = 4 * largest * (4 * architecture.width + 2 * architecture.hidden + leaves)
        passing *= architecture.layers if trained else 1  # what each layer keeps for its way back
        outputs = 4 * leaves * sum(t.batch for t in {t.without_timers() for t in own})
        exact = 2 * (max(of_ff.values()) + max(trained.values(), default=0))
        exact += 4 * 8 * leaves * (largest if trained else min(largest, CHECKED_TOKENS))
        cached = sum(t.cache_bytes() for t in own)
        found += cached + shared + sum(size - shared for size in of_ff.values())
        found += sum(trained.values()) + exact + passing + outputs
    return found


# What a core of 2020 or later does, in GFLOP/s; used for the prediction and nothing else.
RATES = {
    ("ff", 1): 15.0, ("ff", 2): 26.0, ("ff", 3): 90.0, ("fff", 1): 12.0, ("fff", 2): 9.0,
    ("ff", 0): 60.0, ("fff", 0): 20.0, ("leaf", 0): 30.0, ("leaf", 1): 12.0, ("leaf", 2): 10.0,
    ("topk", 3): 80.0, ("topk", 0): 40.0, ("hash", 0): 25.0, ("peer", 3): 30.0, ("peer", 0): 25.0,
    ("moe", 3): 40.0, ("moe", 0): 30.0,
}  # fmt: skip
RATE_UNKNOWN = 20.0
# The same of a GPU of 2020 or later: one that is naive on purpose, and all others.
DEVICE_RATES = {"naive": 200.0, "": 2000.0}
GATE_S = 0.15  # the float64 oracle on its subset
CEILING_GATE_S = 0.05
SET_S = 0.08  # drawing a further set of weights and the oracle on it
COMPILE_S = 6.0
KEPT = 0.3  # of the time to compile, where the result is on disk
FLUSHES_S = 0.1  # the walks of one sample
DEVICE_BYTES_PER_S = 200e9
# In a second and later process a pass this long is not run whole before it is timed: see worker.py.
LONG_PASS_S = 0.3


def count_gate_passes(weights: str, launch: str) -> int:
    """Return how many long passes a device's cell takes before its first sample.

    One is checked and one shows that the events see it; one calibrates. A graph has one that is timed, one
    that runs as those to be captured do, and is checked itself. A cold pass is run once more for its wall
    time.
    """
    cold = 2 if weights == "flushed" else 1
    return 2 + cold + (2 + cold if launch == "graph" else 0)


def count_processes(most: int, rest_s: float, gate_s: float, block_s: float) -> int:
    """Return how many of up to `most` sets of processes get a block; the first is gated and gets one."""
    more = int((rest_s - block_s) / max(gate_s + block_s, 1e-3))
    return 1 + min(max(0, more), most - 1)
