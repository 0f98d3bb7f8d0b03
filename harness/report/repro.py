"""Own the command that measures a cell of a finished run again, beside the FF that its speedup is over."""

from __future__ import annotations

import shlex
from collections.abc import Collection

from harness.problem import axes
from harness.problem.axes import AXES
from harness.problem.models import BASELINE
from harness.records.schema import CellRecord, SweepRecord


def command(sweep: SweepRecord, cell: CellRecord, opponent: CellRecord | None) -> str:
    """Return the command line of a small sweep that measures a layer's cell and its opponent again.

    opponent: None where the cell stands alone, as the fastest FF does.
    """
    cells = [cell] if opponent is None or opponent.cell == cell.cell else [cell, opponent]
    words = ["--only", ",".join(dict.fromkeys(c.implementation for c in cells))]
    words += ["--batch", str(cell.batch), "--width", str(cell.d_in)]
    # An FF's input is steered through the FFF that is measured beside it, so all that were are named.
    steered = cell.conditions.routing != axes.DEFAULTS.routing
    models = sweep.models if steered else dict.fromkeys(c.model for c in cells)
    words += ["--models", ",".join(models)]
    for axis, value in zip(AXES, cell.conditions, strict=True):
        if value != axis.default or len(axis.usual.get(sweep.device, ())) > 1:
            words += [f"--{axis.name}", value]
    words += _shared_words(sweep, {c.provider for c in cells})
    return shlex.join(["python", "-m", "harness", "sweep", *words])


def _shared_words(sweep: SweepRecord, providers: Collection[str]) -> list[str]:
    """Return what a sweep was asked for that is not of one cell alone. providers: those that are needed."""
    usual = {"--baseline": BASELINE, "--device": "cpu", "--seed": 0, "--threads": 1, "--isa": ""}
    words = []
    for option, default in usual.items():
        if (value := getattr(sweep, option[2:])) != default:
            words += [option, str(value)]
    for provider in sweep.blas:
        if provider.rpartition("/")[2] in providers:
            words += ["--blas", provider]
    if sweep.keep_blas_env:
        words += ["--keep-blas-env"]
    for path in sweep.plugins:
        words += ["--plugin", path]
    return words
