"""Own what it takes to take up a run again: how far it came, what is missing, and what must not differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.problem.models import parse_models
from harness.records.reader import Run
from harness.records.schema import MachineRecord, ProviderRecord
from harness.sweep.cell import make_twin
from harness.sweep.plan import Plan
from harness.sweep.spec import SweepSpec
from harness.sweep.state import CellState, CellTable

_SAME_MEMORY = 0.01  # what a kernel keeps for itself changes the total a little from boot to boot

# What makes two invocations one measurement. The host's name may differ: a container gets a new one each
# time it starts, on the very same hardware.
_MACHINE = (
    "processor", "microarchitecture", "isa", "cores", "caches", "last_level_caches", "memory_bytes",
    "virtual_machine", "system",
)  # fmt: skip
_CODE = ("harness_version", "commit", "build", "python")
_PROVIDER = (
    "path", "version", "architecture", "threads", "threading_layer", "int_bits", "routines",
    "variables",
)  # fmt: skip
_PACKAGES = ("numpy",)  # draws the operands


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """State how far a run came: the next free numbers, and where each cell stands.

    rounds: sets of fresh processes that the rest is spread over. elapsed_ns: since the run began.
    recorded: the cells that the run has a record of.
    """

    process: int
    block: int
    order: int
    rounds: int
    elapsed_ns: int
    cells: CellTable
    recorded: frozenset[str]

    def missing(self) -> int | None:
        """Return the blocks that are missing, None where the run was cut before it decided on a number."""
        if not self.cells.live():
            return 0
        return self.cells.missing() if self.cells.goal else None


def find_spec(run: Run) -> SweepSpec:
    """Return the spec that a run was started with."""
    sweep = run.head.sweep
    names = {f.name for f in fields(SweepSpec)}
    values: dict[str, Any] = {k: v for k, v in sweep if k in names}
    values.update(models=parse_models(",".join(sweep.models)), out=run.folder)
    return SweepSpec(**values)


def has_ended(run: Run) -> bool:
    """Say whether a run reached its own end, with nothing left to take up."""
    return run.end is not None and run.end.reason in ("complete", "budget")


def _next(values: Iterable[int]) -> int:
    return max(values, default=-1) + 1


def _elapsed_ns(run: Run) -> int:
    """Return the wall clock since the run began; never before the end of its last sample."""
    began = datetime.fromisoformat(run.head.started_utc)
    since = int((datetime.now(UTC) - began).total_seconds() * 1e9)
    if run.samples.empty:
        return max(0, since)
    return max(since, int((run.samples["started_ns"] + run.samples["elapsed_ns"]).max()))


def _finished_processes(run: Run) -> int:
    """Return how many processes sampled all the blocks that they had set out to."""
    cells = [set(blocks) for blocks in run.samples.groupby("cell")["block"].unique()]
    whole = set.intersection(*cells) if cells else set()
    by_process = run.samples.groupby("process")["block"].unique()
    planned = {record.process: record.blocks for record in run.blocks}
    return sum(
        len(whole & set(blocks)) >= planned[process] > 0
        for process, blocks in by_process.items()
        if process in planned
    )


def _read_states(run: Run, states: Iterable[CellState]) -> None:
    """Set where cells stand by their records; what has none is left as it is."""
    gates = {gate["cell"]: gate for _, gate in run.cells.iterrows()}
    samples = dict(list(run.samples.groupby("cell")))
    for state in states:
        cell = state.cell
        if (gate := gates.get(cell.id)) is None:
            continue
        state.status, state.reason = gate["status"], gate["reason"]
        if gate["loops"] > 0 and gate["gate_ns"] > 0:
            # The recorded pass of a gate was the first of its process, and is no measure of later ones.
            state.gated = True
            state.loops, state.slices = int(gate["loops"]), int(gate["slices"])
            state.tile = gate["notes"].get("tile", "")
        if cell.role == "aa":  # one may have come in a later process
            before = run.samples["process"] < gate["process"]
            state.joined = int(run.samples.loc[before, "block"].nunique())
        if cell.id in samples:
            own = samples[cell.id]
            state.loops = int(own["loops"].iloc[-1])
            for block, pass_ns in zip(own["block"], own["pass_ns"], strict=True):
                state.add_sample(int(block), float(pass_ns) / 1e9, 0.0)


def find_progress(run: Run, plan: Plan) -> Progress:
    """Return how far a run of a plan came, from its records."""
    spec, samples, records = run.head.sweep, run.samples, run.cells
    recorded = frozenset(records["cell"])
    table = CellTable.begin(plan)
    table.goal = spec.passes or (run.blocks[-1].total if run.blocks else 0)
    twins = (make_twin(cell) for cell in plan.cells)
    table.states += [CellState(cell=twin) for twin in twins if twin.id in recorded]
    _read_states(run, table.states)
    processes = [*samples["process"], *records["process"], *(p.process for p in run.providers)]
    return Progress(
        process=_next(map(int, processes)), block=_next(map(int, samples["block"])),
        order=_next(map(int, samples["order"])),
        rounds=max(1, spec.processes - _finished_processes(run)), elapsed_ns=_elapsed_ns(run),
        cells=table, recorded=recorded,
    )  # fmt: skip


# ---- what must not differ -------------------------------------------------------------------------


def _refuse(folder: Path, what: str, name: str, then: object, now: object) -> None:
    raise UsageError(
        f"--resume: {folder} was measured with another {what}: its {name} was {then!r} and is {now!r} "
        "now; begin a run of its own"
    )


def _same(name: str, then: Any, now: Any) -> bool:
    if name == "memory_bytes":
        return bool(abs(then - now) <= _SAME_MEMORY * max(then, now))
    return bool(then == now)


def _device_of(machine: MachineRecord) -> str:
    """Return what a device's figures hang on, empty for the CPU; free memory differs from run to run."""
    d = machine.device
    if d is None:
        return ""
    return (
        f"{d.name}, {d.uuid}, sm {d.capability}, driver {d.driver}, torch {d.torch}, CUDA {d.cuda}, "
        f"NVRTC {d.nvrtc}, Triton {d.triton}"
    )


def check_code(run: Run, asked: SweepSpec) -> None:
    """Refuse to run code because a run folder names it, and plugins that are not those of the run.

    Raises UsageError where a plugin, or a BLAS library by its path, is not named again by who resumes, or
    where a plugin's files were changed.
    """
    sweep = run.head.sweep
    paths = [("--plugin", name) for name in sweep.plugins if name not in asked.plugins]
    paths += [("--blas", name) for name in sweep.blas if "/" in name and name not in asked.blas]
    for option, name in paths:
        raise UsageError(
            f"--resume: {run.folder} was begun with {option} {name}; give it again, since its code would run"
        )
    for source, then in sweep.plugin_digests.items():
        if (now := asked.plugin_digests.get(source, "")) != then:
            _refuse(run.folder, "plugin", f"{source} sha256", then, now)


def check_machine(run: Run, now: MachineRecord) -> None:
    """Refuse with a UsageError that names what differs where the machine or the code is not the run's."""
    then = run.head.machine
    for what, names in (("machine", _MACHINE), ("code", _CODE)):
        for name in names:
            before, here = getattr(then, name), getattr(now, name)
            if not _same(name, before, here):
                _refuse(run.folder, what, name, before, here)
    if (before := _device_of(then)) != (here := _device_of(now)):
        _refuse(run.folder, "machine", "device", before, here)
    for name in _PACKAGES:
        before, here = then.packages.get(name), now.packages.get(name)
        if before != here:
            _refuse(run.folder, "code", name, before, here)


def check_provider(run: Run, now: ProviderRecord) -> None:
    """Refuse with a UsageError that names what differs where a provider is not the one of the run."""
    for then in run.providers:
        if then.name != now.name:
            continue
        for name in _PROVIDER:
            before, here = getattr(then, name), getattr(now, name)
            if before != here:
                _refuse(run.folder, f"BLAS provider {now.name}", name, before, here)
        return


def _option(spec: SweepSpec, name: str) -> Any:
    """Return what a sweep was asked for on an axis or in another field."""
    return spec.axes[name] if name in spec.axes else getattr(spec, name)


def check_options(run: Run, given: dict[str, tuple[str, Any]], asked: SweepSpec) -> None:
    """Refuse options of the command line that say other than the run. given: field -> option name."""
    spec = find_spec(run)
    for name, (option, text) in given.items():
        then, now = _option(spec, name), _option(asked, name)
        if list(then) != list(now) if isinstance(then, list) else then != now:
            shown = [m.name for m in then] if name == "models" else then
            raise UsageError(
                f"{option}: {run.folder} was begun with {shown!r}, got {text!r}; a resumed sweep takes its "
                "options from the run"
            )
