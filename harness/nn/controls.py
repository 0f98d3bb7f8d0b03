"""Own the controls of an FFF as a module: as many neurons, chosen in another way, without gradients."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from harness import native
from harness.backends import blas, registry, torch_library, torch_operands
from harness.backends.registry import Context, Implementation, Prepared
from harness.errors import UnavailableError
from harness.machine import resources
from harness.problem.models import Model
from harness.problem.operands import Operands, make_aligned
from harness.problem.problem import Problem

# The fastest first, of 1, 128 and 1024 tokens: our own code by a factor of 2 to 60. But of all logits at 128
# tokens, a large product, where torch's takes three quarters as long.
_PREFERRED = {
    "topk": ("topk_cpu_fused", "topk_torch_gather"),
    "hash": ("hash_cpu_grouped", "hash_torch_gather"),
    "peer": ("peer_cpu_fused", "peer_torch_gather"),
    "moe": ("moe_cpu_grouped", "moe_torch_grouped"),
}


def choose(layer: str, device: str, dtype: str) -> Implementation:
    """Return the implementation that a control takes. Raises UnavailableError where none is here."""
    known = {i.id: i for i in registry.layers()}
    for name in _PREFERRED[layer]:
        found = known.get(name)
        if found and device in found.devices and dtype in found.dtypes and not found.unavailable():
            return found
    raise UnavailableError(f"no implementation of {layer} is here for {dtype} on {device}")


class Control(torch.nn.Module):
    """A control (problem/experts.py) by its name: `topk-K`, `hash-K`, `peer-K` or `moe-NxWIDTH-kK`.

    Weights by the names of `Problem.weights`, uniform within 1/sqrt(d_in) of what x meets and 1/sqrt(used
    neurons) of what activations meet. A pass is prepared over memory of its own for each batch, so that x is
    copied there, and y is valid until the next pass. No gradient: choosing has none, and the
    implementations write their output in place.
    """

    def __init__(self, model: Model, width: int) -> None:
        """Draw the weights."""
        super().__init__()
        self.model, self.d_in, self.d_out = model, width, width
        problem = self.problem(1)
        for name, shape in problem.weights().items():
            bound = (problem.used_neurons if name == "w_out" else width) ** -0.5
            drawn = torch.empty(shape).uniform_(-bound, bound)
            self.register_parameter(name, torch.nn.Parameter(drawn, requires_grad=False))
        self._kept: dict[Any, tuple[torch.Tensor, torch.Tensor, Prepared]] = {}

    def problem(self, batch: int, dtype: str = "float32") -> Problem:
        """Return the problem of a pass over so many tokens."""
        return replace(self.model.problem(batch=batch, width=self.d_in, seed=0), dtype=dtype)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights by name."""
        return {name: weight.detach() for name, weight in self.named_parameters()}

    def implementation(self) -> str:
        """Return the id of what computes it."""
        weight = self.get_parameter("w_in")
        return choose(
            self.model.layer, weight.device.type, torch_operands.name_dtype(weight.dtype)
        ).id

    def _prepare(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Prepared]:
        device, dtype = x.device.type, torch_operands.name_dtype(x.dtype)
        problem, found = self.problem(len(x), dtype), choose(self.model.layer, device, dtype)
        if device == "cpu":
            placed: list[Any] = [
                make_aligned((len(x), width), problem.stored) for width in (self.d_in, self.d_out)
            ]
            weights: dict[str, Any] = {
                name: torch_operands.as_array(weight, problem.stored)
                for name, weight in self.weights().items()
            }
        else:
            placed = [torch.empty_like(x), torch.empty_like(x)]
            weights = self.weights()

        def take(size: int) -> Any:
            if device == "cpu":
                return make_aligned((size,), "uint8")
            return torch.empty(size, dtype=torch.uint8, device=device)

        threads = torch.get_num_threads() if device == "cpu" else 1
        context = Context(
            provider=blas.load() if found.needs_provider else None, workspace=take, threads=threads,
            caches=resources.caches(), device=device, far_weights=True,
            team=partial(native.make_team, threads) if threads > 1 else None,
        )  # fmt: skip
        made = found.prepare(problem, Operands(x=placed[0], y=placed[1], **weights), context)
        own_x, own_y = (torch_library.as_tensor(array) for array in placed)
        return own_x, own_y, made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``y (..., d_out)`` of ``x (..., d_in)``."""
        flat = torch_operands.flatten(x)
        key = (flat.shape[0], x.dtype, x.device)
        if key not in self._kept:
            self._kept[key] = self._prepare(flat)
        own_x, own_y, made = self._kept[key]
        own_x.copy_(flat)
        made.forward()
        return own_y.view(*x.shape[:-1], self.d_out)

    def _apply(self, fn: Any, recurse: bool = True) -> Control:
        """Move or cast the weights; what was prepared holds the addresses of those that were."""
        self._kept = {}
        super()._apply(fn, recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes along: passes over this one's memory stay here."""
        return {**self.__dict__, "_kept": {}}

    def extra_repr(self) -> str:
        """Return what stands between the brackets of its name."""
        return f"{self.model.name}, {self.d_in}"
