"""Own the step of training of a whole model: forward, backward and the optimiser's update."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from harness.nn import transformer_parts
from harness.nn.transformer import Inputs
from harness.nn.transformer_parts import StepTimers

# At a rate of 0 AdamW does all of its work, with moments and decay, and leaves every weight as it was: each
# step is of the same weights on the same paths, and can be told from none before it.
_RATE = 0.0
_LEAST, _TINY = 1e-2, float(torch.finfo(torch.float32).tiny)


def make_optimiser(weights: Iterable[torch.nn.Parameter]) -> torch.optim.AdamW | None:
    """Return AdamW over weights, one pass over memory for each (fused); None where there are none."""
    found = list(weights)
    return torch.optim.AdamW(found, lr=_RATE, fused=True) if found else None


def find_ff_weights(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the weights of what stands as the FFs of a model."""
    modules = transformer_parts.find_modules(model, "ff")
    return list(dict.fromkeys(w for module in modules for w in module.parameters()))


def find_other_weights(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return all other weights of a model."""
    own = {id(weight) for weight in find_ff_weights(model)}
    return [weight for weight in model.parameters() if id(weight) not in own]


def loss_of(model: Callable[..., torch.Tensor], inputs: Inputs) -> torch.Tensor:
    """Return the loss of a pass: the cross-entropy of its logits against drawn tokens.

    Of BERT, which has no head here, the mean over its tokens of the products of what leaves its last layer
    with drawn numbers: a gradient that is handed in from behind.
    """
    y, targets = model(inputs.tokens), inputs.targets
    assert targets is not None
    if targets.is_floating_point():
        return (y * targets).sum() / inputs.tokens.numel()
    return torch.nn.functional.cross_entropy(y.flatten(0, -2), targets.flatten())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """Hold what a step of training is of.

    own: the optimiser of the FFs' weights, None where there are none. others: that of all other weights,
    which models of one architecture share as they share these. call: runs the model, compiled or not.
    """

    model: torch.nn.Module
    call: Callable[..., torch.Tensor]
    inputs: Inputs
    own: torch.optim.Optimizer | None
    others: torch.optim.Optimizer

    def forget(self) -> None:
        """Drop all gradients."""
        self.model.zero_grad(set_to_none=True)

    def run(self, timers: StepTimers | None = None) -> torch.Tensor:
        """Run one step and return its loss; the gradients stay until the next."""
        begin = timers.begin if timers else _begin_nothing
        begin("forward")
        self.forget()
        loss = loss_of(self.call, self.inputs)
        begin("backward")
        loss.backward()
        begin("ff_update")
        if self.own is not None:
            self.own.step()
        begin("update")
        self.others.step()
        begin("")
        return loss.detach()


def _begin_nothing(part: str) -> None:
    pass


# ---- what a step left ---------------------------------------------------------------------------


def fingerprint(model: torch.nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    """Return what tells a step's gradients from others: the loss, and of each row its sum and its norm.

    A weight without a gradient is no number.
    """
    found = [loss.double().reshape(1, 1)]
    for weight in model.parameters():
        if weight.grad is None:
            found.append(torch.full((1, 1), torch.nan, dtype=torch.float64))
            continue
        rows = weight.grad.reshape(-1, weight.shape[-1])
        kinds = (
            rows.sum(1, dtype=torch.float64),
            torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64),
        )
        found.append(torch.stack(kinds))
    return found


def disagreement(got: list[torch.Tensor], want: list[torch.Tensor], allowed: float) -> float:
    """Return by how much fingerprints differ, as a share of what is allowed of each tensor's largest row.

    A gradient that is 0 but for rounding, as that of a key's bias, may differ by as much as a hundredth of
    the largest of all.
    """
    largest = max(float(exact.abs().max()) for exact in want)
    worst = 0.0
    for mine, exact in zip(got, want, strict=True):
        scale = allowed * max(float(exact.abs().max()), _LEAST * largest, _TINY)
        off = float((mine - exact).abs().max() / scale)
        worst = max(worst, off if off == off else float("inf"))
    return worst
