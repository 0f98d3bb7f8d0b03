"""Own the verdict on a step of training: each layer's gradients by the oracle, the rest in float64.

As the verdict on a pass (transformer_check.py) in two halves. Each layer is judged on what it got in the
checked step, forward and from behind, by the gradients in float64 along each token's path. All other
gradients are those of the model in float64, each of whose layers answers as it did, forward and backward:
where every layer is right for what it got, and what it got and all other gradients are what the rest makes
of the answers, the whole step is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from harness.nn import training, transformer_check
from harness.nn.training import TrainingStep
from harness.nn.transformer import Layer, caller, find_layers
from harness.nn.transformer_check import Checked, Watch, disagreement, exact_model, watching
from harness.nn.transformer_compiled import watching_layers
from harness.problem import gradients
from harness.problem.check import Verdict
from harness.problem.gradients import Gradients, Truth
from harness.problem.problem import Array, Problem
from harness.problem.transformer import Transformer


@dataclass(slots=True)
class _Passage:
    """Hold what went through a layer in the checked step: x, y, and the gradients of both."""

    x: Any = None
    y: Any = None
    dx: Any = None
    dy: Any = None
    handles: list[Any] = field(default_factory=list)

    def watch(self, layer: torch.nn.Module) -> None:
        """Take what goes through from the next step on, until `end`."""

        def keep(name: str, gradient: torch.Tensor) -> None:
            setattr(self, name, gradient.detach())

        def enter(_: torch.nn.Module, given: tuple[Any, ...]) -> tuple[torch.Tensor]:
            # A view of its own: the gradient of x itself has what others make of it too.
            own = given[0].view_as(given[0])
            own.register_hook(lambda gradient: keep("dx", gradient))
            self.x = own.detach()
            return (own,)

        def leave(_: torch.nn.Module, given: tuple[Any, ...], y: torch.Tensor) -> None:
            y.register_hook(lambda gradient: keep("dy", gradient))
            self.y = y.detach()

        self.handles = [
            layer.register_forward_pre_hook(enter),
            layer.register_forward_hook(leave),
        ]

    def end(self) -> None:
        """Take nothing more."""
        for handle in self.handles:
            handle.remove()


@contextmanager
def _keeping(layers: list[Layer], transformer: Transformer) -> Iterator[list[_Passage]]:
    """Keep what goes through the layers of a step: by hooks, or by their operators where it is compiled."""
    passages = [_Passage() for _ in layers]
    if transformer.compiled:
        of = {layer.w_in.data_ptr(): (layer, p) for layer, p in zip(layers, passages, strict=True)}

        def see(operator: str, given: tuple[Any, ...], answer: Any) -> None:
            if (found := of.get(given[1].data_ptr())) is None:
                return
            layer, passage = found
            # Behind x stands a one where the layer has biases: it is no part of what the layer got.
            own = slice(0, layer.d_in)
            if operator == "layer":
                passage.x, passage.y = given[0][..., own].clone(), answer.clone()
            else:
                passage.dy, passage.dx = given[3].clone(), answer[0][..., own].clone()

        with watching_layers(see):
            yield passages
        return
    try:
        for passage, layer in zip(passages, layers, strict=True):
            passage.watch(layer)
        yield passages
    finally:
        for passage in passages:
            passage.end()


class _Answer(torch.autograd.Function):
    """Answer forward and backward as a layer did, and compare what is asked with what that was asked."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, replay: _StepReplay) -> torch.Tensor:
        ctx.replay = replay
        replay.worst = disagreement(replay.passage.x, x, replay.layers)
        return replay.passage.y.cpu().to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[Any, ...]:
        replay = ctx.replay
        replay.worst_back = disagreement(replay.passage.dy, dy, replay.layers)
        return replay.passage.dx.cpu().to(dy.dtype), None


class _StepReplay(torch.nn.Module):
    def __init__(self, passage: _Passage, layers: int) -> None:
        super().__init__()
        self.passage, self.layers = passage, layers
        self.worst = self.worst_back = float("inf")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = _Answer.apply(x, self)
        return answer


# ---- layers -------------------------------------------------------------------------------------


def _find_truth(
    problem: Problem, weights: tuple[Array, Array], x: Array, dy: Array, dx: Array
) -> Truth:
    w_in, w_out = weights
    if problem.layer == "ff":
        return gradients.ff_gradients(x, w_in, w_out, dy)
    nodes = gradients.follow_paths(problem, x, w_in, w_out, dy, dx)
    return gradients.fff_gradients(x, w_in, w_out, dy, problem.depth, nodes)


def _judge_layer(problem: Problem, layer: Any, passage: _Passage) -> str:
    """Return what is wrong with the gradients that a layer left, an empty string where nothing is."""
    of, x_long = transformer_check.extended(problem, layer, passage.x)
    x, dy, dx = (transformer_check.as_rows(t, of) for t in (x_long, passage.dy, passage.dx))
    weights = layer.w_in.detach().cpu().numpy(), layer.w_out.detach().cpu().numpy()
    found = Gradients(
        dx=dx, dw_in=layer.w_in.grad.cpu().numpy(), dw_out=layer.w_out.grad.cpu().numpy()
    )
    truth = _find_truth(of, weights, x, dy, dx)
    # The gradient of the one that stands behind x for the bias is nobody's.
    own = slice(0, problem.d_in)
    truth = replace(
        truth, gradients=replace(truth.gradients, dx=truth.gradients.dx[:, own]),
        scale=replace(truth.scale, dx=truth.scale.dx[:, own]),
    )  # fmt: skip
    return gradients.find_fault(replace(found, dx=dx[:, own]), truth, problem.dtype)


# ---- the rest -----------------------------------------------------------------------------------


def _pair_up(model: torch.nn.Module, names: list[str]) -> dict[str, list[torch.Tensor]]:
    """Return the gradients of each module that has weights of these names, as rows of its outputs."""
    found: dict[str, list[torch.Tensor]] = {}
    weights = dict(model.named_parameters())
    for name in names:
        gradient = weights[name].grad
        if gradient is None:
            gradient = torch.full_like(weights[name], torch.nan)
        holder = name.rpartition(".")[0]
        rows = gradient.double().cpu()
        of = model.get_submodule(holder)
        if type(of).__name__ == "Conv1D" and rows.ndim == 2:  # of GPT-2: (inputs, outputs)
            rows = rows.T
        found.setdefault(holder, []).append(rows)
    return found


def _as_rows(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Return a module's gradients as one matrix: a bias stands behind its row of the weight.

    The gradient of a key's bias is 0 but for rounding: what it may be off by is told by its row alone.
    """
    first = tensors[0]
    if first.ndim < 2:
        return (
            torch.stack(tensors) if len({t.shape for t in tensors}) == 1 else first.reshape(1, -1)
        )
    return torch.cat([first, *(bias[:, None] for bias in tensors[1:])], 1)


def _compare_rest(model: torch.nn.Module, exact: torch.nn.Module, most: float) -> tuple[float, str]:
    """Return the largest error of a gradient's row as a share of what is allowed, and of which module."""
    names = [name for name, weight in exact.named_parameters() if weight.requires_grad]
    worst, where = 0.0, ""
    got, want = _pair_up(model, names), _pair_up(exact, names)
    for holder, rows in want.items():
        truth, came = _as_rows(rows), _as_rows(got[holder])
        norms = torch.linalg.vector_norm(truth, dim=1)
        scale = torch.maximum(norms, norms.square().mean().sqrt())
        off = torch.linalg.vector_norm(came - truth, dim=1)
        share = float((off / (most * scale + torch.finfo(torch.float32).tiny)).max())
        if not share <= worst:
            worst, where = share if share == share else float("inf"), holder
    return worst, where


# ---- the verdict --------------------------------------------------------------------------------


def _judge(
    forward: list[Verdict], faults: list[str], replays: list[_StepReplay], rest: tuple[float, str],
    loss: float,
) -> tuple[str, float]:  # fmt: skip
    """Return what is wrong, empty for nothing, and the largest error as a share of its tolerance."""
    offs = [max(r.worst, r.worst_back) for r in replays]
    worst = max([loss, rest[0], *offs, *(v.worst for v in forward)])
    for i, (verdict, fault, replay) in enumerate(zip(forward, faults, replays, strict=True)):
        for off, what in ((replay.worst, "gets"), (replay.worst_back, "gets from behind")):
            if not off <= 1:
                told = f"{off:.3g} times the tolerance from the same in float64"
                return f"what layer {i} {what} is off by {told}", worst
        if not verdict.ok:
            return f"layer {i}: {verdict.reason}", worst
        if fault:
            return f"layer {i}: {fault}", worst
    if not loss <= 1:
        return f"the loss is off by {loss:.3g} times the tolerance from the same in float64", worst
    if not rest[0] <= 1:
        told = f"{rest[0]:.3g} times the tolerance from the same in float64"
        return f"the gradients of {rest[1]} are off by {told}", worst
    return "", worst


def check_step(
    step: TrainingStep, transformer: Transformer, *, seed: int, touches: bool = False
) -> Checked:
    """Return the verdict on a step of training over its inputs; its output is the step's fingerprint.

    All tokens are compared, since a gradient is a sum over all of them. seed, touches: as of `check_model`.
    """
    model, inputs, problem = step.model, step.inputs, transformer.problem(seed)
    layers, chosen = transformer.architecture.layers, list(range(transformer.sequences))
    found = find_layers(model)
    watch = Watch(problem, chosen, seed, touches=touches)
    with _keeping(found, transformer) as passages, watching(model, transformer, watch):
        loss = step.run()
    faults = [_judge_layer(problem, of, p) for of, p in zip(found, passages, strict=True)]
    most = transformer_check.allowed(layers, torch.float32)
    left = training.fingerprint(model, loss)
    replays = [_StepReplay(passage, layers) for passage in passages]
    exact = exact_model(model, replays)
    exact_loss = training.loss_of(caller(exact), inputs.in_float64(chosen))
    exact_loss.backward()
    size = exact_loss.detach().abs().clamp(min=1.0)
    off = float((loss.double().cpu() - exact_loss.detach()).abs() / (most * size))
    reason, worst = _judge(
        [a.verdict for a in watch.answers], faults, replays, _compare_rest(model, exact, most), off
    )
    verdict = Verdict(
        ok=not reason, reason=reason, worst=worst, tokens=transformer.batch,
        near_ties=max((a.verdict.near_ties for a in watch.answers), default=0),
        unwritten=sum(a.verdict.unwritten for a in watch.answers),
    )  # fmt: skip
    return Checked(output=left, verdict=verdict, touched=watch.touched)
