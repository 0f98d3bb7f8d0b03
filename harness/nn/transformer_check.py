"""Own the verdict on a whole model: each of its layers by the oracle, the rest of it by the same in float64.

An FFF is not continuous, so that a whole pass in float64 may route tokens otherwise from a near-tie on, and
prove nothing behind it. So every layer is judged on the very input that it got in the checked pass, with
the oracle's own rule for near-ties, and the rest of the model by a pass in float64 in which each layer
answers with what it answered then: where each layer is right for its input, and each input is what the rest
makes of the answers before it, the whole is right.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from harness.backends import torch_operands
from harness.nn.controls import Control
from harness.nn.transformer import Inputs, Layer, find_layers, run, share
from harness.nn.transformer_compiled import watching_layers
from harness.problem import check, working_set
from harness.problem.check import Verdict
from harness.problem.operands import Operands
from harness.problem.problem import Array, Problem
from harness.problem.transformer import CHECKED_TOKENS, Transformer
from harness.problem.working_set import Touched

# A row may be off by so many float32 roundings of its root mean square, for the embedding and each layer.
# Between two normalisations it is summed from some thousand products whose roundings are independent: some
# ten of them are one standard deviation, and the largest of a million elements is five. Right passes of
# BERT-base reach a fifteenth of it with 2 layers and a fortieth with 12, logits of 2 layers a third; a bias
# that is missing, or heads that were mixed up, are off by ten thousand times as much.
_ROUNDINGS = 64
# What is stored with 8 bits is rounded at every module, by so much that these roundings are all that counts;
# they are independent, so that their sum grows with the root of the layers. Right passes reach a half.
_COARSE_ROUNDINGS = 8


def allowed(layers: int, dtype: torch.dtype) -> float:
    """Return what a row may be off by, relative to its root mean square, in a model of so many layers."""
    eps: float = torch.finfo(dtype).eps
    if dtype == torch.bfloat16:
        return float(_COARSE_ROUNDINGS * eps * (layers + 1) ** 0.5)
    return _ROUNDINGS * eps * (layers + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Hold what a checked pass left, the verdict on it, and what its first swapped layer touched.

    output: of a pass the tensor itself, of a step of training its fingerprint (training.py).
    touched: None where the model has no such layer, or it was not asked for.
    """

    output: Any
    verdict: Verdict
    touched: Touched | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Hold what a layer got and answered in the checked pass, of the compared sequences, and the verdict."""

    x: torch.Tensor
    y: torch.Tensor
    verdict: Verdict


def choose_sequences(transformer: Transformer, seed: int) -> list[int]:
    """Return the sequences that the rest of a model is compared on: a random subset, the first among them."""
    most = max(1, CHECKED_TOKENS // transformer.length)
    others = np.arange(1, transformer.sequences)
    rng = np.random.default_rng([seed, transformer.sequences])
    drawn = rng.choice(others, size=min(most - 1, len(others)), replace=False)
    return [0, *sorted(map(int, drawn))]


def disagreement(got: torch.Tensor, want: torch.Tensor, layers: int) -> float:
    """Return the largest error of an output as a share of what is allowed, infinite where it is no number."""
    exact, came = want.double().cpu(), got.double().cpu()
    scale = exact.square().mean(-1, keepdim=True).sqrt()
    most = allowed(layers, got.dtype) * scale + torch.finfo(torch.float32).tiny
    worst = float(((came - exact).abs() / most).max())
    return worst if np.isfinite(worst) else float("inf")


def as_rows(tensor: torch.Tensor, problem: Problem) -> Array:
    """Return a tensor (..., width) as an array of rows in the problem's dtype, wherever it lies."""
    rows = torch_operands.flatten(tensor.detach()).cpu().contiguous()
    return torch_operands.as_array(rows, problem.stored)


def extended(problem: Problem, layer: Layer, x: torch.Tensor) -> tuple[Problem, torch.Tensor]:
    """Return the problem and the input of a layer's weights: a bias is their last column, x a one longer."""
    columns = layer.w_in.shape[-1]
    if columns == layer.d_in:
        return problem, x
    if x.shape[-1] < columns:
        x = torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)
    return replace(problem, d_in=columns), x


def _operands(problem: Problem, layer: Layer, x: torch.Tensor, y: torch.Tensor) -> Operands:
    own = layer.weights() if isinstance(layer, Control) else {
        "w_in": layer.w_in, "w_out": layer.w_out
    }  # fmt: skip
    weights: dict[str, Any] = {
        name: torch_operands.as_array(w.detach().cpu(), problem.stored) for name, w in own.items()
    }
    return Operands(x=as_rows(x, problem), y=as_rows(y, problem), **weights)


class _Replay(torch.nn.Module):
    """Answer as a layer did in the checked pass, and compare what it is asked with what that was asked."""

    def __init__(self, answer: Answer, layers: int) -> None:
        super().__init__()
        self.answer, self.layers, self.worst = answer, layers, 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.worst = disagreement(self.answer.x, x, self.layers)
        return self.answer.y.to(x.dtype)


class Watch:
    """Judge each layer of a pass as it answers: a forward hook. answers: in the order of the pass.

    chosen: the sequences whose inputs and answers are kept. touches: whether to count what the first FFF
    touches.
    """

    def __init__(self, problem: Problem, chosen: list[int], seed: int, *, touches: bool) -> None:
        """Begin with no answer."""
        self.answers: list[Answer] = []
        self.touched: Touched | None = None
        self._problem, self._chosen, self._seed = problem, chosen, seed
        self._touches = touches and problem.layer == "fff"

    def __call__(self, layer: Layer, given: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        """Judge one answer."""
        problem, x = extended(self._problem, layer, given[0].detach())
        operands = _operands(problem, layer, x, y)
        verdict = check.check(problem, operands, seed=self._seed + len(self.answers))
        if self._touches and self.touched is None:
            self.touched = working_set.count_nodes(problem, operands)
        x, kept = (tensor.detach()[self._chosen].cpu() for tensor in (x[..., : layer.d_in], y))
        self.answers.append(Answer(x=x, y=kept, verdict=verdict))


@contextmanager
def watching(model: torch.nn.Module, transformer: Transformer, watch: Watch) -> Iterator[None]:
    """Have the layers of a model judged as they answer: by hooks, or in a compiled one by their operators."""
    if transformer.compiled:
        of = {layer.w_in.data_ptr(): layer for layer in find_layers(model)}

        def see(operator: str, given: tuple[Any, ...], y: Any) -> None:
            if operator == "layer" and (layer := of.get(given[1].data_ptr())) is not None:
                watch(layer, (given[0],), y)

        with watching_layers(see):
            yield
        return
    handles = [layer.register_forward_hook(watch) for layer in find_layers(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def exact_model(model: torch.nn.Module, replays: Sequence[torch.nn.Module]) -> torch.nn.Module:
    """Return a model in float64 on the CPU whose layers are replaced by others, in their order."""
    replayed, places = share(model), iter(replays)
    for name, module in list(replayed.named_modules()):
        if isinstance(module, Layer):
            holder, _, last = name.rpartition(".")
            setattr(replayed.get_submodule(holder), last, next(places))
    # The replays stay the very objects: what they find is read from them.
    return copy.deepcopy(replayed, {id(r): r for r in replays}).to("cpu", torch.float64)


def _judge(answers: list[Answer], inputs: list[float], last: float, tokens: int) -> Verdict:
    """Return the verdict on a model. inputs, last: what its layers' inputs and its output are off by."""
    verdicts = [answer.verdict for answer in answers]
    found = Verdict(
        ok=True, reason="", worst=max([last, *inputs, *(v.worst for v in verdicts)]), tokens=tokens,
        near_ties=max((v.near_ties for v in verdicts), default=0),
        unwritten=sum(v.unwritten for v in verdicts),
    )  # fmt: skip
    for i, (verdict, off) in enumerate(zip(verdicts, inputs, strict=True)):
        if off > 1:
            reason = f"what layer {i} gets is off by {off:.3g} times the tolerance from the same in float64"
            return replace(found, ok=False, reason=reason)
        if not verdict.ok:
            return replace(found, ok=False, reason=f"layer {i}: {verdict.reason}")
    if last > 1:
        reason = f"the output is off by {last:.3g} times the tolerance from the same in float64"
        return replace(found, ok=False, reason=reason)
    return found


def check_model(
    model: torch.nn.Module, transformer: Transformer, inputs: Inputs, *, seed: int,
    touches: bool = False, call: Callable[..., torch.Tensor] | None = None,
) -> Checked:  # fmt: skip
    """Return the verdict on a pass of a model over its inputs.

    seed: draws what is compared. call: runs the model, compiled or not
    (transformer.caller). touches: whether to count what the first swapped layer touches. Every layer is
    judged on all tokens (problem/check.py), the rest of the model on whole sequences of some 512 tokens.
    """
    chosen = choose_sequences(transformer, seed)
    layers = transformer.architecture.layers
    watch = Watch(transformer.problem(seed), chosen, seed, touches=touches)
    with watching(model, transformer, watch):
        output = run(model, inputs, call)
    replays = [_Replay(answer, layers) for answer in watch.answers]
    exact = run(exact_model(model, replays), inputs.in_float64(chosen))
    last = disagreement(output[chosen], exact, layers)
    verdict = _judge(
        watch.answers, [r.worst for r in replays], last, len(chosen) * transformer.length
    )
    return Checked(output=output, verdict=verdict, touched=watch.touched)
