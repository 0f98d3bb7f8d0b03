"""Own what a running sweep writes down: its records in their order, and who watches them come in."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from harness.machine import record as machine_record
from harness.measure.clock import Sample
from harness.problem.check import Verdict
from harness.problem.working_set import Touched
from harness.records.schema import CellRecord, Line, ResumeRecord, SampleRecord
from harness.sweep import repro
from harness.sweep.cell import Cell
from harness.sweep.resume import Progress
from harness.sweep.spec import SweepSpec
from harness.sweep.state import CellState

_NO_VERDICT = Verdict(ok=False, reason="", worst=0.0, tokens=0, near_ties=0, unwritten=0)
_NOT_COUNTED = Touched(nodes=0, entropy_bits=[], working_set_bytes=0)


def _draw_seed() -> int:
    return 1 + secrets.randbelow(2**31 - 1)


class Sink(Protocol):
    """Take the records of a sweep, as records/writer.py's Writer does."""

    def append(self, line: Line) -> None:
        """Take a record. Raises WriteError where it can't be kept."""

    def close(self) -> None:
        """Release what is held. Raises WriteError."""


class Monitor(Protocol):
    """Watch a sweep. Times are in seconds since it began."""

    def stage(self, text: str) -> None:
        """Hear what is being done."""

    def progress(self, elapsed_s: float, predicted_s: float) -> None:
        """Hear how far the sweep is."""

    def cell(self, record: CellRecord) -> None:
        """Hear the outcome of a cell's gate."""

    def sample(self, record: SampleRecord) -> None:
        """Hear a sample."""


@dataclass(slots=True, kw_only=True)
class Journal:
    """Hold where a sweep stands, and write each of its records as it is made.

    process, block, order: the numbers that the next record bears. check_seed: draws the tokens that the
    measuring processes of now compare with the oracle; anew for each set of them, so that no kernel can know
    them. elapsed_before_ns: of the run that was
    taken up.
    """

    spec: SweepSpec
    monitor: Monitor
    predicted_s: float
    began: float = field(default_factory=time.monotonic)
    writer: Sink | None = None
    check_seed: int = field(default_factory=_draw_seed)
    process: int = 0
    block: int = 0
    order: int = 0
    elapsed_before_ns: int = 0

    def begin_processes(self) -> None:
        """Go on to the next set of fresh measuring processes."""
        self.process += 1
        self.check_seed = _draw_seed()

    def take_up(self, progress: Progress) -> None:
        """Go on in a run that was cut: after its last numbers and its time."""
        self.process, self.block, self.order = progress.process, progress.block, progress.order
        self.elapsed_before_ns = progress.elapsed_ns
        self.append(
            ResumeRecord(
                resumed_utc=datetime.now(UTC).isoformat(timespec="seconds"),
                host=machine_record.host(), process=self.process, block=self.block,
            )
        )  # fmt: skip

    def elapsed_s(self) -> float:
        """Return the seconds since the sweep began."""
        return time.monotonic() - self.began

    def progress(self) -> None:
        """Tell the monitor how far the sweep is."""
        self.monitor.progress(self.elapsed_s(), self.predicted_s)

    def append(self, line: Line) -> None:
        """Write a record. Raises WriteError."""
        if self.writer is None:
            raise RuntimeError("a record before the run's folder exists")
        self.writer.append(line)

    def record_cell(
        self, state: CellState, *, verdict: Verdict | None = None, loops: int = 0, slices: int = 1,
        gate_ns: int = 0, touched: Touched | None = None, notes: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Write how a cell stands after its gate or after what put it out, as far as that is known."""
        verdict = verdict or _NO_VERDICT
        touched = touched or _NOT_COUNTED
        cell, p = state.cell, state.cell.problem
        flops, bytes_moved = cell.work()
        place = {"place": cell.place} if cell.place else {}
        bad = state.status in ("wrong", "failed")
        record = CellRecord(
            cell=cell.id, role=cell.role, implementation=cell.implementation, layer=p.layer,
            level=cell.level, model=cell.model, provider=cell.provider, threads=self.spec.threads,
            batch=p.batch, d_in=p.d_in, d_out=p.d_out, hidden=p.hidden, depth=p.depth,
            trees=p.trees, conditions=cell.conditions, seed=p.seed, flops=flops,
            bytes_moved=bytes_moved, process=self.process, status=state.status, reason=state.reason,
            loops=loops, slices=slices, gate_ns=gate_ns,
            checked_tokens=verdict.tokens, near_ties=verdict.near_ties, worst_error=verdict.worst,
            nodes_touched=touched.nodes, entropy_bits=touched.entropy_bits,
            working_set_bytes=touched.working_set_bytes, notes={**(notes or {}), **place},
            transformer=cell.transformer, check_seed=self.check_seed if verdict.tokens or bad else 0,
            repro=repro.command(self.spec, cell, self.check_seed) if bad else "",
        )  # fmt: skip
        self.append(record)
        self.monitor.cell(record)

    def record_sample(self, cell: Cell, started: float, block: int, sample: Sample) -> SampleRecord:
        """Write a sample that was begun at `started` of the monotonic clock, and return its record."""
        record = SampleRecord(
            cell=cell.id, process=self.process, block=block, order=self.order,
            started_ns=self.elapsed_before_ns + int((started - self.began) * 1e9),
            **asdict(sample),
        )  # fmt: skip
        self.append(record)
        self.order += 1
        return record

    def show_sample(self, record: SampleRecord) -> None:
        """Tell the monitor of a sample, and how far the sweep is."""
        self.monitor.sample(record)
        self.progress()
