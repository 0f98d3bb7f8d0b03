"""Own the paper's figures: each with where it comes from."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from harness.problem.models import BASELINE

FASTEST_FF = "fastest FF"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCell:
    """Hold one cell of the paper's Table 2.

    baseline: the model or, for the comparison with the best, FASTEST_FF. provenance: `abstract`,
    `arithmetic`, `secondary` (quoted by others) or `unconfirmed` (in no source that could be opened).
    """

    model: str
    implementation: str
    device: str
    speedup: float
    text: str
    baseline: str
    provenance: str

    @property
    def confirmed(self) -> bool:
        """Say whether the figure stands in a source that could be opened, or follows by arithmetic."""
        return self.provenance != "unconfirmed"


@cache
def table2() -> tuple[PublishedCell, ...]:
    """Return the cells of Table 2 in the order of the file."""
    with resources.files("harness.paper").joinpath("table2.csv").open(encoding="utf-8") as file:
        return tuple(
            PublishedCell(
                model=row["model"].lower(), implementation=row["implementation"],
                device=row["device"], speedup=float(row["speedup"]), text=row["speedup"],
                baseline=FASTEST_FF if row["baseline"].startswith(FASTEST_FF) else BASELINE,
                provenance=row["provenance"],
            )
            for row in csv.DictReader(file)
        )  # fmt: skip


def find(model: str, implementation: str, *, baseline: str = BASELINE) -> PublishedCell | None:
    """Return the cell of a model's name in lower case and a column such as `level 1`, if published."""
    for cell in table2():
        if (cell.model, cell.implementation, cell.baseline) == (model, implementation, baseline):
            return cell
    return None


# The columns of Table 1 in the order of the file; a row's provenance may hold up to one of them alone.
SCORES = (
    "RTE", "MRPC", "STSB", "SST-2", "MNLI", "QNLI", "QQP", "avg_without_cola", "CoLA", "avg",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedScores:
    """Hold one row of the paper's Table 1: what a model scores on GLUE, in points of 100.

    share_used: of its neurons, for a token. scores, provenance: by column of SCORES; a score that was not
    published is left out. provenance is `secondary` or `unconfirmed`, as in Table 2.
    """

    model: str
    neurons: int
    share_used: float
    scores: Mapping[str, float]
    provenance: Mapping[str, str]


def _provenance(told: str) -> dict[str, str]:
    """Return the provenance of each column from that of a row: `secondary up to avg_without_cola`."""
    kind, _, last = told.partition(" up to ")
    known = SCORES[: SCORES.index(last) + 1] if last else SCORES
    return {column: kind if column in known else "unconfirmed" for column in SCORES}


@cache
def table1() -> tuple[PublishedScores, ...]:
    """Return the rows of Table 1 in the order of the file."""
    with resources.files("harness.paper").joinpath("table1.csv").open(encoding="utf-8") as file:
        return tuple(
            PublishedScores(
                model=row["model"], neurons=int(row["neurons"]), share_used=float(row["share_used"]),
                scores={column: float(row[column]) for column in SCORES if row[column]},
                provenance=_provenance(row["provenance"]),
            )
            for row in csv.DictReader(file)
        )  # fmt: skip


PAPER_BATCH, PAPER_WIDTH = 16384, 768
