"""Own the verdict on a whole model: each of its layers by the oracle, the rest of it by the same in float64.

An FFF is not continuous, so that a whole pass in float64 may route tokens otherwise from a near-tie on, and
prove nothing behind it. So every layer is judged on the very input that it got in the checked pass, with
the oracle's own rule for near-ties, and the rest of the model by a pass in float64 in which each layer
answers with what it answered then: where each layer is right for its input, and each input is what the rest
makes of the answers before it, the whole is right.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch

from harness.nn.layers import FF, FFF
from harness.nn.transformer import Inputs, find_layers, run, share
from harness.problem import check, working_set
from harness.problem.check import Verdict
from harness.problem.operands import Operands
from harness.problem.problem import Problem
from harness.problem.transformer import CHECKED_TOKENS, Transformer
from harness.problem.working_set import Touched

# A row may be off by so many float32 roundings of its root mean square, for the embedding and each layer.
# Between two normalisations it is summed from some thousand products whose roundings are independent: some
# ten of them are one standard deviation, and the largest of a million elements is five. Right passes of
# BERT-base reach a fifteenth of it with 2 layers and a fortieth with 12, logits of 2 layers a third; a bias
# that is missing, or heads that were mixed up, are off by ten thousand times as much.
_ROUNDINGS = 64
_EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Hold the output of a checked pass, the verdict on it, and what its first swapped layer touched.

    touched: None where the model has no such layer, or it was not asked for.
    """

    output: torch.Tensor
    verdict: Verdict
    touched: Touched | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
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
    exact = want.double()
    scale = exact.square().mean(-1, keepdim=True).sqrt()
    allowed = _ROUNDINGS * _EPS * (layers + 1) * scale + float(np.finfo(np.float32).tiny)
    worst = float(((got.double() - exact).abs() / allowed).max())
    return worst if np.isfinite(worst) else float("inf")


def _operands(layer: FF | FFF, x: torch.Tensor, y: torch.Tensor) -> Operands:
    arrays = [t.detach().reshape(-1, t.shape[-1]).numpy() for t in (x, y)]
    return Operands(
        x=arrays[0], y=arrays[1], w_in=layer.w_in.detach().numpy(),
        w_out=layer.w_out.detach().numpy(),
    )  # fmt: skip


class _Replay(torch.nn.Module):
    """Answer as a layer did in the checked pass, and compare what it is asked with what that was asked."""

    def __init__(self, answer: _Answer, layers: int) -> None:
        super().__init__()
        self.answer, self.layers, self.worst = answer, layers, 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.worst = disagreement(self.answer.x, x, self.layers)
        return self.answer.y.to(x.dtype)


def _run_watched(
    model: torch.nn.Module, inputs: Inputs, problem: Problem, chosen: list[int], seed: int,
    *, touches: bool,
) -> tuple[torch.Tensor, list[_Answer], Touched | None]:  # fmt: skip
    """Run a pass whose layers are judged one by one; return its output and their answers."""
    answers: list[_Answer] = []
    touched: list[Touched] = []

    def watch(layer: FF | FFF, given: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        operands = _operands(layer, given[0], y)
        verdict = check.check(problem, operands, seed=seed + len(answers))
        if touches and not touched and problem.layer == "fff":
            touched.append(working_set.count_nodes(problem, operands))
        answers.append(_Answer(x=given[0][chosen].clone(), y=y[chosen].clone(), verdict=verdict))

    handles = [layer.register_forward_hook(watch) for layer in find_layers(model)]
    try:
        return run(model, inputs), answers, touched[0] if touched else None
    finally:
        for handle in handles:
            handle.remove()


def _exact_model(model: torch.nn.Module, replays: list[_Replay]) -> torch.nn.Module:
    """Return a model in float64 whose layers answer as they did."""
    replayed, places = share(model), iter(replays)
    for name, module in list(replayed.named_modules()):
        if isinstance(module, FF | FFF):
            holder, _, last = name.rpartition(".")
            setattr(replayed.get_submodule(holder), last, next(places))
    # The replays stay the very objects: what they find is read from them.
    return copy.deepcopy(replayed, {id(r): r for r in replays}).double()


def _judge(answers: list[_Answer], inputs: list[float], last: float, tokens: int) -> Verdict:
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
    touches: bool = False,
) -> Checked:  # fmt: skip
    """Return the verdict on a pass of a model over its inputs.

    seed: draws what is compared. touches: whether to count what the first swapped layer touches. Every
    layer is judged on all tokens (problem/check.py), the rest of the model on whole sequences of some 512
    tokens.
    """
    chosen = choose_sequences(transformer, seed)
    layers = transformer.architecture.layers
    output, answers, touched = _run_watched(
        model, inputs, transformer.problem(seed), chosen, seed, touches=touches
    )
    replays = [_Replay(answer, layers) for answer in answers]
    exact = run(_exact_model(model, replays), inputs.in_float64(chosen))
    last = disagreement(output[chosen], exact, layers)
    verdict = _judge(answers, [r.worst for r in replays], last, len(chosen) * transformer.length)
    return Checked(output=output, verdict=verdict, touched=touched)
