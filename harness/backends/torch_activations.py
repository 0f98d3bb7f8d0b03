"""Own the activations that an FFF in torch may have, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

Activation = Callable[[torch.Tensor], torch.Tensor]


def _identity(z: torch.Tensor) -> torch.Tensor:
    return z


def _relu2(z: torch.Tensor) -> torch.Tensor:
    return torch.relu(z).square()


# gelu is z Phi(z); gelu_tanh its approximation by tanh; relu2 the square of relu; silu is z sigmoid(z).
ACTIVATIONS: dict[str, Activation] = {
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": partial(torch.nn.functional.gelu, approximate="tanh"),
    "relu": torch.relu,
    "relu2": _relu2,
    "silu": torch.nn.functional.silu,
    "identity": _identity,
}
