"""Own what is known of how good the layers are, beside how fast: claims of the paper, errors measured here.

The two are of different things, and no figure of the one stands beside one of the other: the paper's are
scores of whole models on GLUE, ours the errors of single layers that were distilled from a small encoder's.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev

from harness.analysis import stats
from harness.paper.published import PublishedScores, table1
from harness.problem import trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """Hold what one kind of student missed of a dense layer's output on held-out text.

    active, neurons: computed for a token, and held. error: the root of the squared error over that of the
    mean output, the mean over the layers and seeds. half: of its 95 % interval, Student's with the seeds as
    units, NaN for one. least, most: the mean errors of the layers' best and worst. used: the share of its
    leaves or experts that the text comes to, NaN for a dense one.
    """

    name: str
    active: int
    neurons: int
    error: float
    half: float
    least: float
    most: float
    layers: int
    seeds: int
    used: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Hold the published scores that concern a run's models, and the students' errors."""

    claimed: Sequence[PublishedScores]
    measured: Sequence[Student]


def _student(name: str, rows: Sequence[dict[str, str]]) -> Student:
    by_seed: dict[str, list[float]] = {}
    by_layer: dict[str, list[float]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append(float(row["error"]))
        by_layer.setdefault(row["layer"], []).append(float(row["error"]))
    means = [fmean(errors) for errors in by_seed.values()]
    half = math.nan
    if len(means) > 1:
        half = stats.student(len(means) - 1) * stdev(means) / math.sqrt(len(means))
    layers = [fmean(errors) for errors in by_layer.values()]
    shares = [int(row["used"]) / int(row["units"]) for row in rows if int(row["units"])]
    return Student(
        name=name, active=int(rows[0]["active"]), neurons=int(rows[0]["neurons"]), error=fmean(means),
        half=half, least=min(layers), most=max(layers), layers=len(by_layer), seeds=len(by_seed),
        used=fmean(shares) if shares else math.nan,
    )  # fmt: skip


@cache
def find_students() -> tuple[Student, ...]:
    """Return the students that are shipped, in the order of their file: those of all layers.

    One that was fitted to a single layer has no mean that could stand beside theirs.
    """
    with trained.STUDENTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = dict.fromkeys(row["student"] for row in rows)
    found = [_student(name, [row for row in rows if row["student"] == name]) for name in names]
    return tuple(s for s in found if s.layers == max(other.layers for other in found))


def _concerns(scores: PublishedScores, models: Sequence[str]) -> bool:
    """Say whether scores are of one of a run's FFF, longer training included, or of a dense model."""
    name = scores.model.lower()
    return not name.startswith("ultrafastbert") or name.removesuffix("-long") in models


def find_quality(models: Sequence[str]) -> Quality:
    """Return what concerns a run's models. Claims are left out where the paper has none of its FFF."""
    claimed = [scores for scores in table1() if _concerns(scores, models)]
    published = any(scores.model.lower() in models for scores in claimed)
    return Quality(claimed=claimed if published else [], measured=find_students())
