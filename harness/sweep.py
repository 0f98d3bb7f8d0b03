"""Own the sweep: the only loop over implementations, from a plan to the records of a run."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from harness import axes, clock, machine
from harness.plan import LONG_PASS_S, Cell, Plan, SweepSpec, make_twin
from harness.process import MeasuringProcess, ProcessDiedError, RequestFailedError
from harness.records import (
    SCHEMA_VERSION,
    CellRecord,
    EndRecord,
    ProviderRecord,
    RunHead,
    SampleRecord,
    Status,
    Writer,
)

_QUICK_MIN_SAMPLE_NS = 10_000_000
_MAX_BLOCKS = 60
_PATIENCE = 50  # a request may take this many times its prediction, and at least _PATIENCE_S
_PATIENCE_S = 300.0
_SHARE_OF_BLOCK = 0.02  # a cell is sampled up to _MAX_REPEATS times a block within this share of it
_MAX_REPEATS = 5

EndReason = Literal["complete", "interrupted", "budget", "failed"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """State how a sweep ended, where its run is, and how many cells were wrong or failed."""

    folder: Path
    reason: EndReason
    wrong: int
    failed: int
    elapsed_s: float


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_folder(spec: SweepSpec) -> Path:
    """Return the folder of a new run: --out, or results/<UTC time>-<host>-<commit>[-dirty]."""
    if spec.out is not None:
        return spec.out
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return Path("results") / f"{stamp}-{machine.host()}-{machine.commit_label()}"


class _Sweep:
    """Hold the state of one sweep while it runs."""

    def __init__(self, spec: SweepSpec, plan: Plan, monitor: Monitor) -> None:
        self.spec, self.plan, self.monitor = spec, plan, monitor
        self.began = time.monotonic()
        self.cells: list[Cell] = sorted(plan.cells, key=lambda c: -c.workspace_bytes)
        self.running: dict[str, MeasuringProcess] = {}
        self.ready: set[str] = set()  # cells prepared in the processes that run now
        self.lost: dict[str, Status] = {}  # cells that are out, and why
        self.loops: dict[str, int] = {}
        self.pass_s: dict[str, float] = {}
        self.process = self.block = self.order = 0
        self.predicted_s = plan.predicted_s(spec)
        self.peak_bytes = 0
        self.writer: Writer | None = None

    # ---- measuring processes ----

    def elapsed_s(self) -> float:
        return time.monotonic() - self.began

    def start(self, provider: str) -> MeasuringProcess:
        process = MeasuringProcess(
            provider, threads=self.spec.threads, keep_blas_env=self.spec.keep_blas_env
        )
        self.running[provider] = process
        return process

    def record_provider(self, process: MeasuringProcess) -> None:
        facts = process.hello["provider"]
        if facts is not None:
            self.append(
                ProviderRecord(
                    process=self.process, pools=process.hello["pools"],
                    variables=process.hello["variables"], dropped=process.dropped, **facts,
                )
            )  # fmt: skip

    def serving(self, provider: str) -> MeasuringProcess:
        """Return the running process of a provider, a fresh one where it died."""
        process = self.running.get(provider)
        if process is None or not process.alive():
            self.ready -= {c.id for c in self.cells if c.runs_in == provider}
            if process is not None:
                process.kill()
            process = self.start(provider)
            self.record_provider(process)
        return process

    def stop_processes(self) -> None:
        alive = [p for p in self.running.values() if p.alive()]
        now = sum(p.peak_resident_bytes() for p in alive)
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.peak_bytes = max(self.peak_bytes, now + own)
        for process in alive:
            process.close()
        self.kill_processes()
        self.ready.clear()

    def kill_processes(self) -> None:
        for process in self.running.values():
            process.kill()
        self.running.clear()

    # ---- cells ----

    def append(self, line: ProviderRecord | CellRecord | SampleRecord | EndRecord) -> None:
        if self.writer is None:
            raise RuntimeError("a record before the run's folder exists")
        self.writer.append(line)

    def record_cell(self, cell: Cell, status: Status, reason: str, answer: dict[str, Any]) -> None:
        verdict = answer.get("verdict", {})
        p = cell.problem
        record = CellRecord(
            cell=cell.id, role=cell.role, implementation=cell.implementation, layer=p.layer,
            level=cell.level, model=cell.model, provider=cell.provider, threads=self.spec.threads,
            batch=p.batch, d_in=p.d_in, d_out=p.d_out, hidden=p.hidden, depth=p.depth,
            trees=p.trees, dtype=p.dtype, data=p.data, seed=p.seed, flops=p.flops(),
            bytes_moved=p.bytes_moved(), process=self.process, status=status, reason=reason,
            loops=answer.get("loops", 0), gate_ns=answer.get("gate_ns", 0),
            checked_tokens=verdict.get("tokens", 0), near_ties=verdict.get("near_ties", 0),
            worst_error=verdict.get("worst", 0.0), nodes_touched=answer.get("nodes_touched", 0),
            notes=answer.get("notes", {}),
        )  # fmt: skip
        self.append(record)
        self.monitor.cell(record)
        if status != "ok":
            self.lost[cell.id] = status

    def prepare(self, cell: Cell) -> None:
        """Take a cell through its gate in the process that runs now."""
        self.monitor.stage(f"checking {cell.id}")
        quick = self.spec.quick
        try:
            answer = self.serving(cell.runs_in).ask(
                "prepare", max(_PATIENCE_S, _PATIENCE * cell.predicted_s()),
                cell=cell.id, implementation=cell.implementation, problem=asdict(cell.problem),
                loops=self.loops.get(cell.id, 0), count_nodes=self.process == 0,
                head_only=self.gated_by_head(cell),
                min_sample_ns=_QUICK_MIN_SAMPLE_NS if quick else clock.MIN_SAMPLE_NS,
            )  # fmt: skip
        except (ProcessDiedError, RequestFailedError) as error:
            self.record_cell(cell, "failed", str(error), {})
            return
        verdict = answer["verdict"]
        self.record_cell(cell, "ok" if verdict["ok"] else "wrong", verdict["reason"], answer)
        if verdict["ok"]:
            self.ready.add(cell.id)
            self.loops.setdefault(cell.id, answer["loops"])
            self.pass_s.setdefault(cell.id, answer["gate_ns"] / 1e9)
        self.monitor.progress(self.elapsed_s(), self.predicted_s)

    def gated_by_head(self, cell: Cell) -> bool:
        """Say whether a cell that passed its gate before is too long to be run whole once more for it."""
        return self.process > 0 and self.pass_s.get(cell.id, 0.0) >= LONG_PASS_S

    def sample(self, cell: Cell) -> None:
        self.monitor.stage(f"sampling {cell.id}")
        # Asked for first: where the process died meanwhile, nothing is ready in the fresh one.
        self.serving(cell.runs_in)
        if cell.id not in self.ready:
            self.prepare(cell)
        if cell.id in self.lost:
            return
        loops = self.loops[cell.id]
        started = time.monotonic()
        try:
            answer = self.serving(cell.runs_in).ask(
                "sample", max(_PATIENCE_S, _PATIENCE * self.sample_s(cell)), cell=cell.id,
                loops=loops,
            )  # fmt: skip
        except (ProcessDiedError, RequestFailedError) as error:
            self.record_cell(cell, "failed", str(error), {})
            return
        if "verdict" in answer:  # the output that this sample left behind is wrong: no sample
            self.record_cell(cell, "wrong", answer["verdict"]["reason"], answer)
            return
        record = SampleRecord(
            cell=cell.id, process=self.process, block=self.block, order=self.order,
            started_ns=int((started - self.began) * 1e9), **answer,
        )  # fmt: skip
        self.append(record)
        self.order += 1
        self.pass_s[cell.id] = record.elapsed_ns / loops / 1e9
        self.monitor.sample(record)
        self.monitor.progress(self.elapsed_s(), self.predicted_s)

    def sample_s(self, cell: Cell) -> float:
        return self.loops[cell.id] * self.pass_s[cell.id]

    def live(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.id not in self.lost]

    def repeats(self) -> dict[str, int]:
        """Return how often each cell is sampled in a block: short ones several times, spread over it."""
        cost = {cell.id: self.sample_s(cell) for cell in self.live()}
        allowed = _SHARE_OF_BLOCK * sum(cost.values())
        return {i: int(np.clip(allowed / c, 1, _MAX_REPEATS)) for i, c in cost.items()}

    def block_s(self) -> float:
        repeats = self.repeats()
        return sum(self.sample_s(cell) * repeats[cell.id] for cell in self.live())

    def run_block(self) -> None:
        """Sample every live cell, in an order drawn for this block."""
        repeats = self.repeats()
        order = [cell for cell in self.live() for _ in range(repeats[cell.id])]
        rng = np.random.default_rng([self.spec.seed, self.block])
        for i in rng.permutation(len(order)):
            if order[i].id not in self.lost:
                self.sample(order[i])
        self.block += 1

    # ---- the whole ----

    def add_twins(self) -> None:
        """Add the fastest FF of each baseline problem a second time, as the A/A pair."""
        groups: dict[tuple[int, int], list[Cell]] = {}
        for cell in self.live():
            if cell.model == axes.BASELINE and cell.id in self.pass_s:
                groups.setdefault((cell.problem.batch, cell.problem.d_in), []).append(cell)
        for cells in groups.values():
            twin = make_twin(min(cells, key=lambda c: self.pass_s[c.id]))
            self.cells.append(twin)
            self.loops[twin.id] = self.loops[twin.id.removesuffix("/again")]
            self.prepare(twin)

    def blocks_now(self) -> int:
        """Return the blocks for the current process, so that all of them share what is left."""
        processes_left = self.spec.processes - self.process
        if self.spec.passes:
            done, each = self.block, self.spec.passes / self.spec.processes
            return max(0, round(each * (self.process + 1)) - done)
        left = self.spec.budget_s - self.elapsed_s() - (processes_left - 1) * self.gate_s()
        fit = int(left / processes_left / max(self.block_s(), 1e-3))
        return min(fit, _MAX_BLOCKS // self.spec.processes)

    def run_process(self) -> None:
        """Start fresh processes, gate every cell in them, sample this process's blocks."""
        for provider in self.plan.providers():
            self.record_provider(self.running.get(provider) or self.start(provider))
        for cell in self.live():
            self.prepare(cell)
        if self.process == 0:
            self.add_twins()
        # The first process samples whatever the budget says: a table needs one sample a cell.
        blocks = self.blocks_now()
        if self.process == 0:
            blocks = max(1, blocks)
        left = self.spec.processes - self.process
        rest = (left - 1) * (self.gate_s() + blocks * self.block_s())
        self.predicted_s = self.elapsed_s() + blocks * self.block_s() + rest
        for _ in range(blocks):
            over = self.elapsed_s() + self.block_s() > self.spec.budget_s
            if over and not self.spec.passes and self.block > 0:
                break
            self.run_block()
        self.stop_processes()

    def gate_s(self) -> float:
        """Return what starting and gating a further set of processes will take."""
        gates = [
            0.0 if self.pass_s[c.id] >= LONG_PASS_S else self.pass_s[c.id] for c in self.live()
        ]
        return sum(gates) + 0.3 * len(gates) + 2.0 * len(self.plan.providers())

    def gate_fits(self) -> bool:
        """Say whether another set of processes fits into the budget with at least one block."""
        if self.spec.passes:
            return self.block < self.spec.passes
        return self.elapsed_s() + self.gate_s() + self.block_s() <= self.spec.budget_s

    def run(self) -> EndReason:
        for cell, reason in self.plan.unavailable:
            self.record_cell(cell, "unavailable", reason, {})
        for process in range(self.spec.processes):
            self.process = process
            if not self.live():
                return "failed"
            if process and not self.gate_fits():
                return "budget"
            self.run_process()
        return "complete" if self.live() else "failed"


def run(spec: SweepSpec, plan: Plan, monitor: Monitor) -> Outcome:
    """Carry out a plan and return how it ended; Ctrl-C ends it early and keeps what is finished.

    Raises UsageError, before a run exists, where a provider is refused or the folder can't be written.
    """
    sweep = _Sweep(spec, plan, monitor)
    reason: EndReason = "failed"
    try:
        monitor.stage("starting the measuring processes")
        for provider in plan.providers():
            sweep.start(provider)
        head = RunHead(
            schema_version=SCHEMA_VERSION, started_utc=_utc(), machine=machine.make_record(),
            sweep=spec.record(),
        )  # fmt: skip
        folder = run_folder(spec)
        sweep.writer = Writer(folder, head)
        try:
            reason = sweep.run()
        except KeyboardInterrupt:
            reason = "interrupted"
        finally:
            sweep.append(
                EndRecord(
                    ended_utc=_utc(), reason=reason, elapsed_s=sweep.elapsed_s(),
                    peak_resident_bytes=sweep.peak_bytes,
                )
            )  # fmt: skip
            sweep.writer.close()
    finally:
        sweep.kill_processes()
    statuses: Sequence[Status] = list(sweep.lost.values())
    return Outcome(
        folder=folder, reason=reason, wrong=statuses.count("wrong"),
        failed=statuses.count("failed"), elapsed_s=sweep.elapsed_s(),
    )  # fmt: skip
