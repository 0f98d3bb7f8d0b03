"""Own the ladder: the steps from the published protocol to a strict one, and the plan that measures them."""

from __future__ import annotations

import time
from dataclasses import replace

from harness import native
from harness.errors import UsageError
from harness.machine.facts import Machine
from harness.measure.process import ProcessError
from harness.measure.process_key import ProcessKey
from harness.measure.protocol import PublishedRequest
from harness.paper.ladder import FFF_MODEL, LEVELS, STEPS, Source
from harness.problem.models import BASELINE, parse_model
from harness.problem.problem import Problem
from harness.sweep.cell import Cell
from harness.sweep.journal import Journal
from harness.sweep.plan import PUBLISHED_SAMPLE_S, Plan, describe_available, make_plan
from harness.sweep.processes import Processes, patience_s
from harness.sweep.spec import SweepSpec
from harness.sweep.state import CellState, CellTable

_QUICK_SAMPLE_S = 0.1
# Level 1 computes the FF a hundred times slower than level 3: a few tokens show what erfc costs it.
_ERFC_BATCH = 64
# Against the fastest FF the first two are out of the question; a pass of them takes many seconds. The ladder
# is of one BLAS: torch has its own.
_SKIP = ("ff_l1_*", "ff_l2_*", "*_torch_*")
_EXTRA_BYTES_PER_INTERMEDIATE = 2 * 4


def _published_cell(source: Source, problem: Problem, model: str, spec: SweepSpec) -> Cell:
    provider = spec.blas[0]
    kernel = native.LADDER.get(source.kernel) or native.KERNELS[source.kernel]
    how = "unwritten" if source.unwritten else "written"
    label = provider.rsplit("/", 1)[-1]
    return Cell(
        id=f"{source.kernel}/{model}/b{problem.batch}/w{problem.d_in}/{label}/published/{how}",
        role="ladder", implementation=source.kernel, level=kernel.level, model=model,
        provider=label, runs_in=ProcessKey(provider=provider), problem=problem,
        workspace_bytes=native.workspace_bytes(source.kernel, problem), unwritten=source.unwritten,
    )  # fmt: skip


def _published_cells(spec: SweepSpec) -> list[Cell]:
    """Return the cells of the published protocol in its order: the FF first, then the FFF."""
    batch, width = spec.batches[0], spec.widths[0]
    base, tree = parse_model(BASELINE), parse_model(FFF_MODEL)
    ff = base.problem(batch=batch, width=width, seed=spec.seed)
    fff = tree.problem(batch=batch, width=width, seed=spec.seed)
    few = replace(ff, batch=min(batch, _ERFC_BATCH))
    cells = [_published_cell(s.ff, ff, base.name, spec) for s in STEPS if s.ff]
    cells += [
        _published_cell(source, fff, tree.name, spec)
        for level in LEVELS
        for s in STEPS
        if s.fff
        for source in [s.fff[level]]
    ]
    cells += [
        _published_cell(Source(kernel=kernel), few, base.name, spec)
        for kernel in ("ff_l1_erfc", "ff_l1_blas")
    ]
    return list({cell.id: cell for cell in cells}.values())


def ask(spec: SweepSpec) -> SweepSpec:
    """Return the sweep that measures the interleaved part of the ladder.

    Raises UsageError where more than one batch or width was asked for.
    """
    for option, values in (("--batch", spec.batches), ("--width", spec.widths)):
        if len(values) != 1:
            raise UsageError(f"{option}: the ladder stands at one value, got {len(values)}")
    models = [parse_model(name) for name in (BASELINE, FFF_MODEL)]
    return replace(spec, models=models, skip=_SKIP, only=())


def make_ladder(spec: SweepSpec, machine: Machine) -> Plan:
    """Return the plan of the ladder on a machine: the published protocol's cells beside the interleaved ones.

    Raises UsageError where the operands would not fit into memory.
    """
    sample_s = _QUICK_SAMPLE_S if spec.quick else PUBLISHED_SAMPLE_S
    plan = replace(
        make_plan(spec, machine), published=_published_cells(spec), published_sample_s=sample_s
    )
    hidden = parse_model(BASELINE).hidden
    extra = _EXTRA_BYTES_PER_INTERMEDIATE * spec.batches[0] * hidden
    needed = plan.memory_bytes() + extra
    if needed > 0.9 * machine.available_bytes:
        raise UsageError(
            f"the ladder needs {needed / 2**30:.1f} GiB and {describe_available(machine)}; "
            "take a smaller --batch"
        )
    return plan


_BLOCK = -1  # below all interleaved blocks


def run_published(plan: Plan, cells: CellTable, journal: Journal, processes: Processes) -> None:
    """Sample the ladder's cells once each in the processes that run now, in the plan's order."""
    for state in cells.published():
        _sample(state, plan.published_loops(state.cell), journal, processes)


def _sample(state: CellState, loops: int, journal: Journal, processes: Processes) -> None:
    """Check a kernel against its own definition, take one sample of it, and look at what it left behind."""
    cell = state.cell
    journal.monitor.stage(f"published protocol: {cell.id}")
    started = time.monotonic()
    try:
        request = PublishedRequest(
            kernel=cell.implementation, problem=cell.problem, loops=loops, unwritten=cell.unwritten
        )
        patience = patience_s(journal.spec, cell, loops * cell.predicted_s())
        answer = processes.serving(cell.runs_in).ask(request, patience)
    except ProcessError as error:
        state.lose("failed", str(error))
        journal.record_cell(state)
        return
    if not answer.verdict.ok:
        state.lose("wrong", answer.verdict.reason)
    journal.record_cell(state, verdict=answer.verdict, loops=loops, notes=answer.notes)
    if answer.verdict.ok and answer.sample is not None:
        journal.show_sample(journal.record_sample(cell, started, _BLOCK, answer.sample))
