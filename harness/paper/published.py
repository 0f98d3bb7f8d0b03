"""Own the paper's figures: each with where it comes from."""

from __future__ import annotations

import csv
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


PAPER_BATCH, PAPER_WIDTH = 16384, 768
