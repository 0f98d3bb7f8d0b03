"""Train FF and FFF classifiers of handwritten digits, and write the table of docs/soft-training.md.

    pip install -e '.[training]'
    python benchmarks/soft_training.py [--seeds N] [--epochs N] [--output FILE]

What arXiv 2308.14711 reports in its Table 1, in kind, on the digits that scikit-learn carries: ten
minutes on one core, no network.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from harness import nn
from harness.records.files import write_whole

WIDTH = 64  # neurons that are trained in every layer but the small dense ones
BATCH = 256
RATE = 0.2
HARDENING = 1.0
PAGE = Path(__file__).resolve().parent.parent / "docs" / "soft-training.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Describe one layer of the table. leaf_width: 0 for a dense layer, of `trained` neurons."""

    trained: int
    leaf_width: int = 0
    routing: Any = "soft"
    hardening: float = 0.0

    @property
    def name(self) -> str:
        """Return what the table calls it."""
        return "FFF" if self.leaf_width else "FF"

    @property
    def used(self) -> int:
        """Return the neurons of leaves that one input computes in eval."""
        return self.leaf_width or self.trained

    def make(self) -> torch.nn.Module:
        """Return the model: 64 pixels to 10 classes through one layer."""
        if not self.leaf_width:
            hidden = torch.nn.Linear(64, self.trained)
            return torch.nn.Sequential(hidden, torch.nn.ReLU(), torch.nn.Linear(self.trained, 10))
        depth = (self.trained // self.leaf_width).bit_length() - 1
        return nn.FFF(
            64, 10, depth, leaf_width=self.leaf_width, activation="relu", routing=self.routing,
            aux=True,
        )  # fmt: skip


LEAVES = (8, 4, 2, 1)
CONTENDERS = (
    Contender(trained=WIDTH),
    *(Contender(trained=leaf) for leaf in LEAVES),
    *(Contender(trained=WIDTH, leaf_width=leaf, hardening=HARDENING) for leaf in LEAVES),
    Contender(trained=WIDTH, leaf_width=4),
    *(Contender(trained=WIDTH, leaf_width=4, routing=way) for way in ("hard", "ste", "gumbel")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Hold what one training reached: accuracies in percent, and the mean entropy of turns in nats."""

    memorised: float
    soft: float
    hard: float
    entropy: float


def read_digits(seed: int) -> tuple[torch.Tensor, ...]:
    """Return training and test images (n, 64) in 0 to 1, and their classes: a fifth is for the test."""
    images, classes = load_digits(return_X_y=True)
    parts = train_test_split(
        images / 16, classes, test_size=0.2, random_state=seed, stratify=classes
    )
    x, x_test, c, c_test = (torch.from_numpy(part) for part in parts)
    return x.float(), x_test.float(), c, c_test


def measure_accuracy(logits: torch.Tensor, classes: torch.Tensor) -> float:
    """Return the share of right classes in percent."""
    return 100 * float((logits.argmax(1) == classes).double().mean())


def train(contender: Contender, seed: int, epochs: int) -> Outcome:
    """Train by plain stochastic gradient descent and return what eval says."""
    x, x_test, classes, classes_test = read_digits(seed)
    torch.manual_seed(seed)
    model = contender.make()
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = torch.nn.functional.cross_entropy(model(x[rows]), classes[rows])
            if contender.hardening:
                loss = loss + contender.hardening * nn.aux_losses(model)["hardening"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    entropy = float("nan")
    if contender.leaf_width:
        model(x_test)
        entropy = float(nn.aux_losses(model)["hardening"].detach())
    model.eval()
    with torch.no_grad():
        hard = model(x_test)
        soft = model(x_test, routing="soft") if contender.leaf_width else hard
        return Outcome(
            memorised=measure_accuracy(model(x), classes), soft=measure_accuracy(soft, classes_test),
            hard=measure_accuracy(hard, classes_test), entropy=entropy,
        )  # fmt: skip


def format_interval(values: list[float], digits: int) -> str:
    """Return a mean with the half width of its 95 % interval (Student's t over the seeds)."""
    if np.isnan(values).all():
        return "–"
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.{digits}f} ± {half:.{digits}f}"


def format_row(contender: Contender, outcomes: list[Outcome]) -> str:
    """Return one row of the table."""
    cells = [
        contender.name, str(contender.trained), str(contender.used),
        contender.routing if contender.leaf_width else "–",
        f"{contender.hardening:g}" if contender.leaf_width else "–",
        *(format_interval([getattr(o, n) for o in outcomes], 1) for n in ("memorised", "hard", "soft")),
        format_interval([o.entropy for o in outcomes], 3),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def format_page(rows: list[str], seeds: int, epochs: int) -> str:
    """Return the whole page."""
    table = "\n".join(
        [
            "| layer | trained | used | routing | hardening | training set, hard | test set, hard | "
            "test set, soft | entropy |",
            "|---|---:|---:|---|---:|---:|---:|---:|---:|",
            *rows,
        ]
    )
    return f"""# Soft training on a real task

Written by `benchmarks/soft_training.py`; do not edit. One layer from the 64 pixels of scikit-learn's
digits (1797 images) to 10 classes, as in Table 1 of arXiv 2308.14711: leaf networks with ReLU, plain
SGD at a rate of {RATE:g}, batches of {BATCH}, {epochs} epochs, a fifth of the images held back.

*trained* is the neurons of the dense layer or of all leaves, *used* those that one image computes in
eval. Accuracies are in percent; *hard* follows one path, *soft* mixes all of them with the same weights.
*hardening* is the weight of `aux_losses(model)["hardening"]`, *entropy* its value on the test set in nats
(log 2 = 0.693 where nothing is decided). Means over {seeds} seeds, each with its own split and weights,
with 95 % intervals (Student's t). torch {torch.__version__}, {platform.machine()}.

{table}
"""


def main() -> None:
    """Train every contender with every seed and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=250)
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for contender in CONTENDERS:
        outcomes = [train(contender, seed, options.epochs) for seed in range(options.seeds)]
        rows.append(format_row(contender, outcomes))
        print(rows[-1], flush=True)
    write_whole(options.output, format_page(rows, options.seeds, options.epochs))


if __name__ == "__main__":
    main()
