"""Own the distillation of one layer: every student at every seed, its error on held-out text, its leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.traces.encoder import Sample, standardise
from tools.traces.students import RECIPES, choices, describe_use, relative_error

DEPTH = 11
# Whose leaves are kept, by what ends the file's name; the first are what `--routing trained` reads.
TRACED = {"fff-1x11 grown": "", "fff-1x11 drawn": "-drawn"}

Row = Mapping[str, Any]


def distil(
    layer: int, sample: Sample, *, seed: int, steps: int
) -> tuple[list[Row], dict[str, np.ndarray[Any, Any]]]:
    """Return a row for each student at one seed, and at the first the leaves of its trees by file name."""
    rows: list[Row] = []
    traces = {}
    for name, recipe in RECIPES.items():
        if recipe.layer is not None and (layer, seed) != (recipe.layer, 0):
            continue
        torch.manual_seed(seed)
        student = recipe.make(sample, steps)
        chosen = choices(student, sample.held_out)
        rows.append(
            {
                "layer": layer, "student": name, "active": recipe.active, "neurons": recipe.neurons,
                "seed": seed,
                "error": round(relative_error(student, sample.held_out, sample.held_out_y), 4),
                **describe_use(student, chosen),
            }
        )  # fmt: skip
        print(*rows[-1].values(), flush=True)
        if name in TRACED and not seed and chosen is not None:
            traces[f"layer{layer}-1x{DEPTH}{TRACED[name]}.npy"] = chosen[:, 0].numpy()
    return rows, traces


def distil_saved(path: Path, *, seed: int, steps: int) -> Any:
    """Return what `distil` does of a layer's sample in a file, on one thread."""
    torch.set_num_threads(1)
    saved = torch.load(path, weights_only=True)
    w_in, b_in, w_out, b_out = saved["weights"]

    def dense(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(x @ w_in.T + b_in) @ w_out.T + b_out

    sample = standardise(saved["train"], saved["held_out"], dense)
    return distil(saved["layer"], sample, seed=seed, steps=steps)
