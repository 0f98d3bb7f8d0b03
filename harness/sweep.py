"""Own the sweep: the only loop over implementations, from a plan to the records of a run."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from harness import axes, clock, doctor, machine, resume
from harness.errors import UsageError
from harness.plan import (
    LONG_PASS_S,
    PUBLISHED_ROUNDS,
    Cell,
    Plan,
    SweepSpec,
    make_twin,
)
from harness.process import MeasuringProcess, ProcessDiedError, RequestFailedError
from harness.records import (
    SCHEMA_VERSION,
    BlocksRecord,
    CellRecord,
    EndRecord,
    Line,
    MachineRecord,
    ProviderRecord,
    ResumeRecord,
    Run,
    RunHead,
    SampleRecord,
    Status,
    WriteError,
    Writer,
    load_run,
)
from harness.resume import Progress, Tally

_QUICK_MIN_SAMPLE_NS = 10_000_000
_MAX_BLOCKS = 60
_PATIENCE = 50  # a request may take this many times its prediction, and at least _PATIENCE_S
_PATIENCE_S, _QUICK_PATIENCE_S = 30.0, 20.0
_DRAWN_PER_S = 50e6  # bytes of operands and workspace that a slow machine writes in a second
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
    """State how a sweep ended, where its run is, and how many cells were wrong or failed.

    trouble: why records could not be written, empty where all were.
    """

    folder: Path
    reason: EndReason
    wrong: int
    failed: int
    elapsed_s: float
    trouble: str = ""


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
        self.slices: dict[str, int] = {}
        self.turn: dict[str, int] = {}  # samples taken of each cell: its slices come in turn
        self.pass_s: dict[str, float] = {}
        self.untimed_s: dict[str, float] = {}  # of a sample: what stands between its timed passes
        self.process = self.block = self.order = self.elapsed_before_ns = 0
        self.rounds = self.left = (
            spec.processes
        )  # sets of fresh processes: in all, and still to come
        self.gated: set[str] = set()  # cells that passed a gate in any process
        self.recorded: set[str] = set()  # cells that the run that is taken up has a record of
        self.tally = Tally(spec.passes)
        self.predicted_s = plan.predicted_s(spec)
        self.peak_bytes = 0
        self.published_s = 0.0  # what the published protocol took in one process
        self.writer: Writer | None = None

    def take_up(self, progress: Progress) -> None:
        """Continue where a run was cut, with processes and blocks of new numbers."""
        self.process, self.block, self.order = progress.process, progress.block, progress.order
        self.rounds = self.left = progress.rounds
        self.elapsed_before_ns, self.tally = progress.elapsed_ns, progress.tally
        self.loops, self.pass_s = dict(progress.loops), dict(progress.pass_s)
        self.slices = dict(progress.slices)
        self.lost, self.gated = dict(progress.lost), set(progress.gated)
        self.cells += [make_twin(c) for c in self.plan.cells if c.id in progress.twins]
        self.append(
            ResumeRecord(
                resumed_utc=_utc(), host=machine.host(), process=self.process, block=self.block
            )
        )

    # ---- measuring processes ----

    def elapsed_s(self) -> float:
        return time.monotonic() - self.began

    def start(self, provider: str) -> MeasuringProcess:
        process = MeasuringProcess(
            provider, threads=self.spec.threads, keep_blas_env=self.spec.keep_blas_env
        )
        self.running[provider] = process
        return process

    def describe_provider(self, process: MeasuringProcess) -> ProviderRecord | None:
        facts = process.hello["provider"]
        if facts is None:
            return None
        return ProviderRecord(
            process=self.process, pools=process.hello["pools"],
            variables=process.hello["variables"], dropped=process.dropped, **facts,
        )  # fmt: skip

    def record_provider(self, process: MeasuringProcess) -> None:
        record = self.describe_provider(process)
        if record is not None:
            self.append(record)

    def serving(self, provider: str) -> MeasuringProcess:
        """Return the running process of a provider, a fresh one where it died."""
        process = self.running.get(provider)
        if process is None or not process.alive():
            self.ready -= {c.id for c in self.cells if c.runs_in == provider}
            if process is not None:
                process.kill()  # dead already: this releases what is held of it
            process = self.start(provider)
            self.record_provider(process)
        return process

    def stop_processes(self) -> None:
        alive = [p for p in self.running.values() if p.alive()]
        now = sum(p.peak_resident_bytes() for p in alive)
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.peak_bytes = max(self.peak_bytes, now + own)
        for process in self.running.values():
            if process.alive():
                process.close()
            else:
                process.kill()
        self.running.clear()
        self.ready.clear()

    def kill_processes(self) -> None:
        for process in self.running.values():
            process.kill()
        self.running.clear()

    # ---- cells ----

    def patience_s(self, cell: Cell, predicted_s: float) -> float:
        """Return how long a request may take: a hang must end while its user still waits."""
        if self.spec.timeout_s:
            return self.spec.timeout_s
        p = cell.problem
        drawn = p.weight_bytes() + 4 * p.batch * (p.d_in + p.d_out) + cell.workspace_bytes
        least = _QUICK_PATIENCE_S if self.spec.quick else _PATIENCE_S
        return max(least, _PATIENCE * predicted_s) + drawn / _DRAWN_PER_S

    def append(self, line: Line) -> None:
        if self.writer is None:
            raise RuntimeError("a record before the run's folder exists")
        self.writer.append(line)

    def record_cell(self, cell: Cell, status: Status, reason: str, answer: dict[str, Any]) -> None:
        verdict = answer.get("verdict", {})
        p = cell.problem
        flops, bytes_moved = cell.work()
        place = {"place": cell.place} if cell.place else {}
        record = CellRecord(
            cell=cell.id, role=cell.role, implementation=cell.implementation, layer=p.layer,
            level=cell.level, model=cell.model, provider=cell.provider, threads=self.spec.threads,
            batch=p.batch, d_in=p.d_in, d_out=p.d_out, hidden=p.hidden, depth=p.depth,
            trees=p.trees, dtype=p.dtype, data=p.data, rows=p.rows, routing=p.routing,
            weights=cell.weights, seed=p.seed, flops=flops,
            bytes_moved=bytes_moved, process=self.process, status=status, reason=reason,
            loops=answer.get("loops", 0), slices=answer.get("slices", 1) or 1,
            gate_ns=answer.get("gate_ns", 0),
            checked_tokens=verdict.get("tokens", 0), near_ties=verdict.get("near_ties", 0),
            worst_error=verdict.get("worst", 0.0), nodes_touched=answer.get("nodes_touched", 0),
            entropy_bits=answer.get("entropy_bits", []),
            working_set_bytes=answer.get("working_set_bytes", 0),
            notes={**answer.get("notes", {}), **place},
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
                "prepare", self.patience_s(cell, cell.predicted_s()),
                cell=cell.id, implementation=cell.implementation, problem=asdict(cell.problem),
                loops=self.loops.get(cell.id, 0), slices=self.slices.get(cell.id, 0),
                count_nodes=cell.id not in self.gated,
                head_only=self.gated_by_head(cell), weights=cell.weights, sets=cell.sets,
                min_sample_ns=_QUICK_MIN_SAMPLE_NS if quick else clock.MIN_SAMPLE_NS,
            )  # fmt: skip
        # A fresh process that refuses what an earlier one accepted costs the cells that run in it.
        except (ProcessDiedError, RequestFailedError, UsageError) as error:
            self.record_cell(cell, "failed", str(error), {})
            return
        if "unavailable" in answer:
            self.record_cell(cell, "unavailable", answer["unavailable"], {})
            return
        verdict = answer["verdict"]
        self.record_cell(cell, "ok" if verdict["ok"] else "wrong", verdict["reason"], answer)
        if verdict["ok"]:
            self.ready.add(cell.id)
            self.gated.add(cell.id)
            self.loops.setdefault(cell.id, answer["loops"])
            self.slices.setdefault(cell.id, answer["slices"])
            self.pass_s.setdefault(cell.id, answer["gate_ns"] / 1e9)
        self.monitor.progress(self.elapsed_s(), self.predicted_s)

    def gated_by_head(self, cell: Cell) -> bool:
        """Say whether a cell that passed its gate before is too long to be run whole once more for it."""
        long = self.pass_s.get(cell.id, 0.0) >= LONG_PASS_S
        return cell.id in self.gated and long and cell.weights == "hot"

    def sample(self, cell: Cell) -> None:
        self.monitor.stage(f"sampling {cell.id}")
        process = self.running.get(cell.runs_in)
        # Another cell may have taken the process with it: this one is then prepared in a fresh one and
        # sampled in the same block, so that blocks stay whole. Both stand under one process number; a
        # plugin shares its process with its own file's cells alone, so none of ours begin again with it.
        if cell.id not in self.ready or process is None or not process.alive():
            self.prepare(cell)
        if cell.id in self.lost:
            return
        loops, slices = self.loops[cell.id], self.slices[cell.id]
        turn = self.turn.get(cell.id, 0)
        started = time.monotonic()
        try:
            answer = self.serving(cell.runs_in).ask(
                "sample", self.patience_s(cell, self.sample_s(cell)), cell=cell.id, loops=loops,
                turn=turn, expected_ns=self.expected_ns(cell),
            )  # fmt: skip
        except (ProcessDiedError, RequestFailedError) as error:
            self.record_cell(cell, "failed", str(error), {})
            return
        if "verdict" in answer:  # the output that this sample left behind is wrong: no sample
            self.record_cell(cell, "wrong", answer["verdict"]["reason"], answer)
            return
        record = SampleRecord(
            cell=cell.id, process=self.process, block=self.block, order=self.order,
            started_ns=self.elapsed_before_ns + int((started - self.began) * 1e9), **answer,
        )  # fmt: skip
        self.append(record)
        self.order += 1
        self.turn[cell.id] = turn + 1
        self.tally.add(cell.id, self.block)
        self.pass_s[cell.id] = record.elapsed_ns / loops * slices / 1e9
        if cell.weights == "flushed":
            self.untimed_s[cell.id] = time.monotonic() - started - record.elapsed_ns / 1e9
        self.monitor.sample(record)
        self.monitor.progress(self.elapsed_s(), self.predicted_s)

    def expected_ns(self, cell: Cell) -> float:
        """Return about how long a pass takes; without bound where no pass may warm the caches before."""
        if cell.weights != "hot":
            return 1e18
        return 1e9 * self.pass_s[cell.id] / self.slices[cell.id]

    def run_published(self) -> None:
        """Sample the ladder's cells as the published benchmark did: cold, in fixed order, one mean."""
        began = time.monotonic()
        for round_ in range(PUBLISHED_ROUNDS):
            for cell in self.plan.published:
                if cell.id not in self.lost:
                    self.sample_published(cell, round_)
        self.published_s = time.monotonic() - began

    def sample_published(self, cell: Cell, round_: int) -> None:
        self.monitor.stage(f"published protocol: {cell.id}")
        started = time.monotonic()
        loops = self.plan.published_loops(cell)
        try:
            answer = self.serving(cell.runs_in).ask(
                "published", self.patience_s(cell, loops * cell.predicted_s()),
                kernel=cell.implementation, problem=asdict(cell.problem), loops=loops,
                unwritten=cell.unwritten, look=round_ == 0,
            )  # fmt: skip
        except (ProcessDiedError, RequestFailedError) as error:
            self.record_cell(cell, "failed", str(error), {})
            return
        verdict = answer["verdict"]
        if round_ == 0 or not verdict["ok"]:
            status: Status = "ok" if verdict["ok"] else "wrong"
            self.record_cell(cell, status, verdict["reason"], answer)
        if not verdict["ok"]:
            return
        record = SampleRecord(
            cell=cell.id, process=self.process, block=-1 - round_, order=self.order,
            started_ns=int((started - self.began) * 1e9), **answer["sample"],
        )  # fmt: skip
        self.append(record)
        self.order += 1
        self.monitor.sample(record)
        self.monitor.progress(self.elapsed_s(), self.predicted_s)

    def sample_s(self, cell: Cell) -> float:
        timed = self.loops[cell.id] * self.pass_s[cell.id] / self.slices[cell.id]
        return timed + self.untimed_s.get(cell.id, 0.0)

    def live(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.id not in self.lost]

    def repeats(self) -> dict[str, int]:
        """Return how often each cell is sampled in a block: short ones several times, spread over it.

        Ceilings once: there are many, and what counts of them is the fastest sample of the run.
        """
        cost = {cell.id: self.sample_s(cell) for cell in self.live()}
        allowed = _SHARE_OF_BLOCK * sum(cost.values())
        once = {cell.id for cell in self.live() if cell.role == "ceiling"}
        return {
            i: 1 if i in once else int(np.clip(allowed / c, 1, _MAX_REPEATS))
            for i, c in cost.items()
        }

    def block_s(self) -> float:
        repeats = self.repeats()
        return sum(self.sample_s(cell) * repeats[cell.id] for cell in self.live())

    def run_block(self) -> None:
        """Sample every live cell that still wants samples, in an order drawn for this block."""
        repeats, live = self.repeats(), [cell.id for cell in self.live()]
        wanting = [cell for cell in self.live() if self.tally.wants(cell.id, live)]
        order = [cell for cell in wanting for _ in range(repeats[cell.id])]
        rng = np.random.default_rng([self.spec.seed, self.block])
        for i in rng.permutation(len(order)):
            if order[i].id not in self.lost:
                self.sample(order[i])
        self.block += 1

    def run_blocked(self, blocks: int) -> None:
        """Sample cell after cell: all that `blocks` blocks hold of one, then the next, in a drawn order."""
        repeats, live, first = self.repeats(), self.live(), self.block
        rng = np.random.default_rng([self.spec.seed, first])
        for i in rng.permutation(len(live)):
            for self.block in range(first, first + blocks):
                for _ in range(repeats[live[i].id]):
                    if live[i].id not in self.lost:
                        self.sample(live[i])
        self.block = first + blocks

    # ---- the whole ----

    def conditions(self, cell: Cell) -> tuple[object, ...]:
        """Return what two cells must share to be compared."""
        p = cell.problem
        return (p.batch, p.d_in, p.data, p.rows, p.routing, cell.weights)

    def add_twins(self) -> None:
        """Add the fastest FF of each baseline problem a second time, as the A/A pair."""
        groups: dict[tuple[object, ...], list[Cell]] = {}
        have = {self.conditions(c) for c in self.cells if c.role == "aa"}
        for cell in self.live():
            if cell.model == axes.BASELINE and cell.id in self.pass_s:
                groups.setdefault(self.conditions(cell), []).append(cell)
        groups = {point: cells for point, cells in groups.items() if point not in have}
        for cells in groups.values():
            twin = make_twin(min(cells, key=lambda c: self.pass_s[c.id]))
            self.cells.append(twin)
            twinned = twin.id.removesuffix("/again")
            self.loops[twin.id], self.slices[twin.id] = self.loops[twinned], self.slices[twinned]
            self.prepare(twin)

    def missing(self) -> int:
        """Return the blocks that the live cells lack, where their number was decided before."""
        return self.tally.missing([cell.id for cell in self.live()])

    def blocks_now(self) -> int:
        """Return the blocks for the current process, so that all of them share what is left."""
        if self.tally.goal:
            return -(-self.missing() // self.left)
        left = self.spec.budget_s - self.elapsed_s() - (self.left - 1) * self.gate_s()
        fit = int(left / self.left / max(self.block_s(), 1e-3))
        return min(fit, _MAX_BLOCKS // self.spec.processes)

    def run_process(self) -> None:
        """Start fresh processes, gate every cell in them, sample this process's blocks."""
        needed = {cell.runs_in for cell in self.live()}
        for provider in self.plan.providers():
            # One that can't be started shows in its cells, which try again.
            with suppress(ProcessDiedError, UsageError):
                if provider in needed:
                    self.record_provider(self.running.get(provider) or self.start(provider))
        self.run_published()
        for cell in self.live():
            self.prepare(cell)
        self.add_twins()
        # The first process samples whatever the budget says: a table needs one sample a cell.
        blocks = self.blocks_now()
        least = 2 if self.plan.published else 1  # a step of the ladder needs an interval too
        if self.block == 0:
            blocks = max(least, blocks)
        total = self.tally.goal or self.block + blocks * self.left
        self.append(BlocksRecord(process=self.process, blocks=blocks, total=total))
        rest = (self.left - 1) * (self.gate_s() + blocks * self.block_s())
        self.predicted_s = self.elapsed_s() + blocks * self.block_s() + rest
        if self.spec.order == "blocked":
            self.run_blocked(blocks)
            blocks = 0
        for _ in range(blocks):
            over = self.elapsed_s() + self.block_s() > self.spec.budget_s
            if over and not self.tally.goal and self.block >= least:
                break
            self.run_block()
        self.stop_processes()

    def gate_s(self) -> float:
        """Return what starting and gating a further set of processes will take."""
        gates = [
            0.0 if self.pass_s[c.id] >= LONG_PASS_S else self.pass_s[c.id] for c in self.live()
        ]
        checks = 0.5 * sum(c.check_s() for c in self.live())
        return sum(gates) + checks + 2.0 * len(self.plan.providers()) + self.published_s

    def gate_fits(self) -> bool:
        """Say whether another set of processes fits into the budget with at least one block."""
        return self.elapsed_s() + self.gate_s() + self.block_s() <= self.spec.budget_s

    def run(self) -> EndReason:
        for cell, reason in self.plan.unavailable:
            if cell.id not in self.recorded:
                self.record_cell(cell, "unavailable", reason, {})
        first = self.process
        for process in range(first, first + self.rounds):
            self.process, self.left = process, first + self.rounds - process
            if not self.live():
                return "failed"
            if self.tally.goal and not self.missing():
                return "complete"
            if process > first and not self.tally.goal and not self.gate_fits():
                return "budget"
            self.run_process()
        return "complete" if self.live() else "failed"

    def finish(self, reason: EndReason) -> str:
        """Write the last record and release the folder; return why that failed, or an empty string."""
        trouble = ""
        if self.writer is None:
            return trouble
        try:
            self.append(self.end_record(reason))
        except WriteError as error:
            trouble = str(error)
        try:
            self.writer.close()
        except WriteError as error:
            trouble = trouble or str(error)
        return trouble

    def end_record(self, reason: EndReason) -> EndRecord:
        return EndRecord(
            ended_utc=_utc(), reason=reason, elapsed_s=self.elapsed_s(),
            peak_resident_bytes=self.peak_bytes,
        )  # fmt: skip


def _check_resumed(sweep: _Sweep, resumed: Run) -> None:
    """Refuse to mix what another machine, code or provider measured into a run."""
    resume.check_machine(resumed, machine.make_record())
    for process in sweep.running.values():
        record = sweep.describe_provider(process)
        if record is not None:
            resume.check_provider(resumed, record)


def _examine(sweep: _Sweep) -> MachineRecord:
    """Return the machine record with what is wrong for measuring; refuse what is serious, if so asked."""
    spec = sweep.spec
    examined = doctor.examine_sweep(
        machine.make_record(), [p.hello for p in sweep.running.values()],
        threads=spec.threads, keep_blas_env=spec.keep_blas_env,
    )  # fmt: skip
    if spec.strict:
        doctor.refuse_serious(examined.findings)
    return examined


def _open(sweep: _Sweep, resumed: Run | None) -> Path:
    """Open the folder for writing, a new one or that of the run to take up, and return it."""
    if resumed is None:
        head = RunHead(
            schema_version=SCHEMA_VERSION, started_utc=_utc(), machine=_examine(sweep),
            sweep=sweep.spec.record(),
        )  # fmt: skip
        folder = run_folder(sweep.spec)
        sweep.writer = Writer(folder, head)
        return folder
    _examine(sweep)
    sweep.writer = Writer(resumed.folder, None)
    return resumed.folder


def run(spec: SweepSpec, plan: Plan, monitor: Monitor, resumed: Run | None = None) -> Outcome:
    """Carry out a plan and return how it ended; Ctrl-C ends it early and keeps what is finished.

    With `resumed`, a run of this spec and plan that was cut, only what is missing in it is measured.

    Raises UsageError, before anything is written, where a provider is refused, the folder can't be
    written, `strict` is asked for and something here is serious, or the run to take up is not of this
    machine, code and provider.
    """
    sweep = _Sweep(spec, plan, monitor)
    reason: EndReason = "failed"
    try:
        monitor.stage("starting the measuring processes")
        for provider in plan.providers():
            with suppress(ProcessDiedError):  # shows in its cells, which try again
                sweep.start(provider)
        if resumed is not None:
            _check_resumed(sweep, resumed)
        folder = _open(sweep, resumed)
        trouble = ""
        try:
            if resumed is not None:
                # Read again under the lock: what another sweep wrote until then counts.
                again = load_run(folder)
                sweep.recorded = set(again.cells["cell"])
                sweep.take_up(resume.find_progress(again))
            reason = sweep.run()
        except KeyboardInterrupt:
            reason = "interrupted"
        except WriteError as error:
            trouble = str(error)
        finally:
            at_the_end = sweep.finish(reason)
            trouble = trouble or at_the_end
    finally:
        sweep.kill_processes()
    statuses: Sequence[Status] = list(sweep.lost.values())
    return Outcome(
        folder=folder, reason=reason, wrong=statuses.count("wrong"),
        failed=statuses.count("failed"), elapsed_s=sweep.elapsed_s(), trouble=trouble,
    )  # fmt: skip
