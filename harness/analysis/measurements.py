"""Own the measurements of a run: each right cell with its time, interval and samples, for other programs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from harness.analysis import points, stability, stats
from harness.analysis.index import RunIndex, index_run
from harness.errors import UsageError
from harness.problem.axes import COLUMNS
from harness.problem.problem import Array
from harness.records.reader import Run
from harness.records.schema import CellRecord, MachineRecord, RunHead, SweepRecord

# What a checkout's commit looks like in a machine record; without one the release stands there.
_COMMIT = re.compile(r"(?P<commit>[0-9a-f]{7,40})(?P<dirty>-dirty)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Hold what was measured of one cell. All times are of a whole pass, in ns.

    record: what the cell is. mean_ns, low_ns, high_ns: the estimate and its 95 % interval, NaN where one
    block gives none; low_99_ns, high_99_ns: that of 99 %. median_ns: of all samples, as the tables have it.
    samples_ns: each sample. loops: passes in a sample, their median. block_ns, block_cpu_ns, block_loops: of
    each block, the mean time of its samples, the processor time of a pass (0 where that was not recorded) and
    the passes. unstable: what disturbed the samples.
    """

    record: CellRecord
    mean_ns: float
    low_ns: float
    high_ns: float
    low_99_ns: float
    high_99_ns: float
    median_ns: float
    samples_ns: Array
    loops: int
    block_ns: Array
    block_cpu_ns: Array
    block_loops: Array
    unstable: tuple[str, ...]

    @property
    def cell(self) -> str:
        """Return the cell's id, which is the same in every run that measures it."""
        return self.record.cell

    @property
    def has_interval(self) -> bool:
        """Say whether there is an interval."""
        return math.isfinite(self.low_ns)

    @property
    def labels(self) -> dict[str, str]:
        """Return what tells the cell from others, by name, the values on the axes among them."""
        record = self.record
        names = ("role", "implementation", "layer", "model", "provider")
        shape = {"batch": record.batch, "width": record.d_in, "threads": record.threads,
                 "seed": record.seed}  # fmt: skip
        return {
            **{name: str(getattr(record, name)) for name in names},
            **{name: str(value) for name, value in shape.items()},
            **{name: str(getattr(record.conditions, name)) for name in COLUMNS},
            **_whole_labels(record),
        }


def _whole_labels(record: CellRecord) -> dict[str, str]:
    """Return what tells the cell of a whole model from others; nothing for layers."""
    whole = record.transformer
    if whole is None:
        return {}
    return {
        "architecture": whole.architecture.name, "architecture_layers": str(whole.architecture.layers),
        "shape": whole.shape, "ff": whole.ff, "pass": "training" if whole.training else "forward",
        "compiled": str(whole.compiled).lower(), "in_parts": str(whole.in_parts).lower(),
        "device": whole.device, "checkpoint": whole.checkpoint,
    }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Hold the measurements of a run, and what it was measured on.

    found: in the order of the tables, ceilings last. left_out: cells without a right result or
    a sample, each with why. samples: all of the run's, of wrong cells too, a row each with the columns of
    its cell.
    """

    folder: Path
    head: RunHead
    found: Sequence[Measurement]
    left_out: Sequence[tuple[str, str]]
    samples: pd.DataFrame

    @property
    def machine(self) -> MachineRecord:
        """Return what it was measured on."""
        return self.head.machine

    @property
    def sweep(self) -> SweepRecord:
        """Return what was asked for."""
        return self.head.sweep

    @property
    def commit(self) -> str:
        """Return the commit of the code, empty where it is that of a release."""
        found = _COMMIT.fullmatch(self.machine.commit)
        return found["commit"] if found else ""

    @property
    def is_dirty(self) -> bool:
        """Say whether the code had changes that were not committed."""
        return self.machine.commit.endswith("-dirty")

    @property
    def started(self) -> datetime:
        """Return when the run began, with its time zone. Raises UsageError where the record tells no time."""
        try:
            found = datetime.fromisoformat(self.head.started_utc)
        except ValueError:
            raise UsageError(
                f"{self.folder}: started_utc is no time: {self.head.started_utc!r}"
            ) from None
        return found if found.tzinfo else found.replace(tzinfo=UTC)


def _measurement(run: RunIndex, record: CellRecord) -> Measurement:
    own = run.samples[record.cell]
    frame = own.frame
    # A sample times one of `slices` parts of the batch: a pass takes so many times as long.
    cpu = (frame["cpu_ns"] / frame["loops"] * frame["slices"]).groupby(
        [frame["process"], frame["block"]]
    )
    loops = frame.groupby(["process", "block"])["loops"].sum()
    mean, low, high = stats.pass_estimate_ns(run.samples, record.cell)
    _, low_99, high_99 = stats.pass_estimate_ns(run.samples, record.cell, 0.99)
    return Measurement(
        record=record, mean_ns=mean, low_ns=low, high_ns=high, low_99_ns=low_99, high_99_ns=high_99,
        median_ns=own.pass_ns, samples_ns=frame["pass_ns"].to_numpy(),
        loops=int(frame["loops"].median()),
        block_ns=pd.Series([own.blocks[block] for block in loops.index], dtype=float).to_numpy(),
        block_cpu_ns=cpu.mean().to_numpy(), block_loops=loops.to_numpy(),
        unstable=tuple(stability.reasons(run.samples, record.cell, record.threads)),
    )  # fmt: skip


def _why_not(run: RunIndex, record: CellRecord) -> str:
    """Return why a cell has no figure, empty where it has one."""
    if record.status != "ok":
        return f"{record.status}: {record.reason}" if record.reason else record.status
    return "" if record.cell in run.samples else "not sampled"


def sample_frame(run: Run) -> pd.DataFrame:
    """Return a row a sample, in the order in which they were taken, with all columns of its cell."""
    cells = run.cells.drop(columns=["process", "loops"])  # of its gate: those of the sample stand
    cells["level"] = cells["level"].astype("Int64")
    cells["notes"] = [json.dumps(notes) for notes in cells["notes"]]
    again = [name for name in run.samples.columns if name in cells.columns and name != "cell"]
    found = run.samples.drop(columns=again).merge(cells, on="cell", how="left")
    return found.sort_values("order", ignore_index=True)


def find_measurements(run: Run) -> Measurements:
    """Return the measurements of a run: of layers, their A/A twins, the ladder's steps and the ceilings."""
    index = index_run(run)
    records = sorted(
        points.ordered(index, index.cells.values()), key=lambda record: record.role == "ceiling"
    )
    reasons = {record.cell: _why_not(index, record) for record in records}
    return Measurements(
        folder=run.folder, head=run.head, samples=sample_frame(run),
        found=[_measurement(index, record) for record in records if not reasons[record.cell]],
        left_out=[(cell, why) for cell, why in reasons.items() if why],
    )  # fmt: skip
