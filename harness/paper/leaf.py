"""Own the published figures of the original FFF, that of leaf networks: each with where it comes from."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

# How its Table 1 was timed: passes of this batch on one A100, compiled by PyTorch 2.0.1.
LEAF_PAPER_BATCH, LEAF_PAPER_DEVICE = 2048, "gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafCell:
    """Hold one speedup of Table 1 of arXiv 2308.14711: a leaf FFF over the FF of its training width.

    ff_ms, leaf_ms: the mean time of a pass of each, from its Table 4. provenance: `paper`, read in a public
    copy of the paper's text (v2, 18 September 2023). d_in, d_out: those of the data set's flattened images
    and its classes, by the data sets' own documentation: the paper does not print them.
    """

    dataset: str
    d_in: int
    d_out: int
    training_width: int
    leaf_width: int
    depth: int
    speedup: float
    ff_ms: float
    leaf_ms: float
    provenance: str
    shape_provenance: str

    @property
    def model(self) -> str:
        """Return the name by which `--models` takes its leaf FFF."""
        return f"leaf-{self.leaf_width}x{self.depth}"

    @property
    def baseline(self) -> str:
        """Return the name by which `--models` takes the FF that it is over."""
        return f"ff-{self.training_width}"


@cache
def leaf_table1() -> tuple[LeafCell, ...]:
    """Return the cells of Table 1 in the order of the file."""
    path = resources.files("harness.paper").joinpath("leaf_table1.csv")
    with path.open(encoding="utf-8") as file:
        return tuple(
            LeafCell(
                dataset=row["dataset"], d_in=int(row["d_in"]), d_out=int(row["d_out"]),
                training_width=int(row["training_width"]), leaf_width=int(row["leaf_width"]),
                depth=int(row["depth"]), speedup=float(row["speedup"]), ff_ms=float(row["ff_ms"]),
                leaf_ms=float(row["leaf_ms"]), provenance=row["provenance"],
                shape_provenance=row["shape_provenance"],
            )
            for row in csv.DictReader(file)
        )  # fmt: skip
