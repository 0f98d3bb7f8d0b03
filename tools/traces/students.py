"""Own the students: layers of few active neurons, fitted to a dense layer's outputs.

All learn from the same tokens by the mean square error, with Adam, the same number of batches and a rate that
falls to 0; each is asked on text that none has seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from harness.nn import FFF, aux_losses
from tools.traces.encoder import Sample, ask
from tools.traces.leaves import entropy_bits

STEPS, BATCH, RATE = 1000, 512, 3e-3
# A grown tree stands near an optimum already: at the rate of the others it is thrown out of it, and learns
# the text by heart where it is refined for long.
REFINE_RATE, REFINE_STEPS = 2e-5, 300
BALANCE = 0.1  # weight of the balance terms in the loss


class Dense(torch.nn.Module):
    """A dense layer, the price that routing has to beat."""

    units = 0

    def __init__(self, width: int, hidden: int) -> None:
        """Draw the weights."""
        super().__init__()
        self.into, self.out = torch.nn.Linear(width, hidden), torch.nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``y (tokens, width)``."""
        found: torch.Tensor = self.out(functional.gelu(self.into(x)))
        return found


class Moe(torch.nn.Module):
    """A mixture of experts: a linear router takes one a token (Fedus et al. 2022, arXiv 2101.03961)."""

    def __init__(self, width: int, experts: int, hidden: int) -> None:
        """Draw the weights."""
        super().__init__()
        self.units, self.hidden = experts, hidden
        self.router = torch.nn.Linear(width, experts, bias=False)
        self.w_in = torch.nn.Parameter(torch.randn(experts, hidden * width) / width**0.5)
        self.b_in = torch.nn.Parameter(torch.zeros(experts, hidden))
        self.w_out = torch.nn.Parameter(torch.randn(experts, hidden * width) / hidden)
        self.balance = torch.zeros(())

    def choose(self, x: torch.Tensor) -> torch.Tensor:
        """Return the expert of each token, (tokens, 1)."""
        return torch.as_tensor(self.router(x).argmax(-1, keepdim=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``y (tokens, width)``: the expert's output times its probability."""
        share = torch.softmax(self.router(x), -1)
        gate, chosen = share.max(-1)
        sent = torch.bincount(chosen, minlength=self.units) / len(x)
        self.balance = self.units * (sent * share.mean(0)).sum() - 1
        w_in, w_out = (functional.embedding(chosen, w).view(len(x), self.hidden, -1)
                       for w in (self.w_in, self.w_out))  # fmt: skip
        z = torch.bmm(w_in, x[:, :, None])[:, :, 0] + functional.embedding(chosen, self.b_in)
        return gate[:, None] * torch.bmm(functional.gelu(z)[:, None], w_out)[:, 0]


class Peer(torch.nn.Module):
    """Experts of one neuron found by product keys (He 2024, arXiv 2407.04153), one head.

    The query's halves meet `side` keys each; of the sums of both scores the best `active` are taken.
    """

    def __init__(self, width: int, side: int, active: int, query: int = 128) -> None:
        """Draw the weights."""
        super().__init__()
        self.side, self.active, self.units = side, active, side * side
        self.query = torch.nn.Sequential(torch.nn.Linear(width, query), torch.nn.BatchNorm1d(query))
        self.keys = torch.nn.Parameter(torch.randn(2, side, query // 2) / (query // 2) ** 0.5)
        self.w_in = torch.nn.Parameter(torch.randn(self.units, width) / width**0.5)
        self.b_in = torch.nn.Parameter(torch.zeros(self.units, 1))
        self.w_out = torch.nn.Parameter(torch.randn(self.units, width) / active**0.5)

    def _best(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scores and the numbers (tokens, active) of the best experts."""
        halves = self.query(x).view(len(x), 2, -1)
        tops = [(halves[:, i] @ self.keys[i].T).topk(self.active) for i in range(2)]
        sums = (tops[0].values[:, :, None] + tops[1].values[:, None]).flatten(1)
        score, place = sums.topk(self.active)
        first = tops[0].indices.gather(1, place // self.active)
        return score, first * self.side + tops[1].indices.gather(1, place % self.active)

    def choose(self, x: torch.Tensor) -> torch.Tensor:
        """Return the experts of each token, (tokens, active)."""
        return self._best(x)[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``y (tokens, width)``: the experts' outputs, weighted by the softmax of their scores."""
        score, chosen = self._best(x)
        gate = torch.softmax(score, -1) * self.active**0.5
        w_in, w_out = (
            functional.embedding(chosen, self.w_in),
            functional.embedding(chosen, self.w_out),
        )
        z = torch.bmm(w_in, x[:, :, None]) + functional.embedding(chosen, self.b_in)
        return torch.bmm((gate * functional.gelu(z[:, :, 0]))[:, None], w_out)[:, 0]


# ---- training -----------------------------------------------------------------------------------


def train(
    student: torch.nn.Module, sample: Sample, *, steps: int,
    balance: Callable[[], torch.Tensor] | None = None,
) -> None:  # fmt: skip
    """Fit a student to a layer's sample. balance: a term that the loss has beside the error."""
    x, y = sample.train, sample.train_y
    optimiser = torch.optim.Adam(student.parameters(), lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    student.train()
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,))
        loss = functional.mse_loss(student(x[rows]), y[rows])
        if balance is not None:
            loss = loss + BALANCE * balance()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    student.eval()


def relative_error(student: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the root of a student's squared error over that of answering 0, the training text's mean.

    y (tokens, width): the layer's own. So 1 is what a constant makes, 0 the layer itself.
    """
    missed = ask(student, x) - y
    return math.sqrt(float(missed.square().sum() / y.square().sum()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Describe a student. active, neurons: computed for a token, and held.

    layer: the only one that it is fitted to, at the first seed alone; None for all layers and seeds.
    """

    active: int
    neurons: int
    make: Callable[[Sample, int], torch.nn.Module]
    layer: int | None = None


def _fitted(make: Callable[[int], torch.nn.Module]) -> Callable[..., torch.nn.Module]:
    """Return a maker of students whose weights are drawn, and then trained by the error alone."""

    def fit(sample: Sample, steps: int) -> torch.nn.Module:
        student = make(sample.train.shape[1])
        train(student, sample, steps=steps)
        return student

    return fit


def _fit_moe(experts: int, hidden: int) -> Callable[..., torch.nn.Module]:
    def fit(sample: Sample, steps: int) -> torch.nn.Module:
        student = Moe(sample.train.shape[1], experts, hidden)
        train(student, sample, steps=steps, balance=lambda: student.balance)
        return student

    return fit


def _grow(depth: int) -> Callable[..., torch.nn.Module]:
    def fit(sample: Sample, steps: int) -> torch.nn.Module:
        return FFF.from_dense(
            sample.dense,
            sample.train,
            depth,
            steps=min(steps, REFINE_STEPS),
            batch=BATCH,
            rate=REFINE_RATE,
        ).eval()

    return fit


def _fit_balanced(depth: int) -> Callable[..., torch.nn.Module]:
    def fit(sample: Sample, steps: int) -> torch.nn.Module:
        width = sample.train.shape[1]
        student = FFF(width, width, depth, bias=True, aux=True)
        train(student, sample, steps=steps, balance=lambda: aux_losses(student)["balance"])
        return student

    return fit


# The balanced tree takes as long as all others together: each step scores all nodes for all tokens.
# At 12 active neurons, of about as many held as the paper's tree has; a wider dense one to compare with.
RECIPES: Mapping[str, Recipe] = {
    "ff-12": Recipe(active=12, neurons=12, make=_fitted(lambda d: Dense(d, 12))),
    "ff-48": Recipe(active=48, neurons=48, make=_fitted(lambda d: Dense(d, 48))),
    "fff-1x11 grown": Recipe(active=12, neurons=4095, make=_grow(11)),
    "fff-1x11 drawn": Recipe(
        active=12, neurons=4095, make=_fitted(lambda d: FFF(d, d, 11, bias=True))
    ),
    "fff-1x11 drawn, balanced": Recipe(
        active=12, neurons=4095, make=_fit_balanced(11), layer=2
    ),
    "peer-12": Recipe(active=12, neurons=4096, make=_fitted(lambda d: Peer(d, 64, 12))),
    "moe-341x12-k1": Recipe(active=12, neurons=4092, make=_fit_moe(341, 12)),
}  # fmt: skip


def choices(student: torch.nn.Module, x: torch.Tensor) -> torch.Tensor | None:
    """Return which leaves or experts each token takes, (tokens, taken); None for a dense student."""
    if isinstance(student, Dense):
        return None
    return ask(student.leaves if isinstance(student, FFF) else student.choose, x)


def describe_use(student: torch.nn.Module, chosen: torch.Tensor | None) -> dict[str, float | int]:
    """Return how many leaves or experts there are and are used, and the entropy over them in bits."""
    if chosen is None:
        return {"units": 0, "used": 0, "bits": 0.0}
    units = 2**student.depth if isinstance(student, FFF) else int(student.units)
    counts = torch.bincount(chosen.flatten(), minlength=units).numpy()
    return {"units": units, "used": int((counts > 0).sum()), "bits": round(entropy_bits(counts), 3)}
