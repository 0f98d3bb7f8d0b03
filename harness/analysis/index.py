"""Own the index of a run: its cells by id, and the samples of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.analysis import samples as analysis_samples
from harness.analysis.samples import Samples
from harness.problem.axes import COLUMNS, Conditions
from harness.problem.transformer import Transformer
from harness.records.reader import Run
from harness.records.schema import CellRecord, Role, RunHead


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIndex:
    """Hold what a run measured by cell. cells: in the order of their records."""

    head: RunHead
    cells: Mapping[str, CellRecord]
    samples: Samples

    def of_role(self, role: Role) -> list[CellRecord]:
        """Return the cells of a role, right ones and others."""
        return [cell for cell in self.cells.values() if cell.role == role]

    def right(self, role: Role) -> list[CellRecord]:
        """Return the cells of a role that passed their gates in every process."""
        return [cell for cell in self.of_role(role) if cell.status == "ok"]


def _record(row: Mapping[Any, Any]) -> CellRecord:
    """Return the record behind a row of a run's cells, in whose frame no level is NaN."""
    level = None if pd.isna(row["level"]) else int(row["level"])
    conditions = Conditions(*(row[column] for column in COLUMNS))
    whole = row.get("transformer")
    return CellRecord.model_construct(
        **{
            **row, "level": level, "conditions": conditions,
            "transformer": whole if isinstance(whole, Transformer) else None,
        }
    )  # fmt: skip


def index_run(run: Run) -> RunIndex:
    """Return the index of a run."""
    rows: list[Mapping[Any, Any]] = [*run.cells.to_dict("records")]
    return RunIndex(
        head=run.head, cells={row["cell"]: _record(row) for row in rows},
        samples=analysis_samples.by_cell(run.samples),
    )  # fmt: skip
