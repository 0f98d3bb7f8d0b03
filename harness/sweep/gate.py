"""Own the gate of a sweep's cells: none is sampled in a process before its output passed there."""

from __future__ import annotations

from harness.errors import UsageError
from harness.measure import clock
from harness.measure.process import ProcessError
from harness.measure.protocol import GateRequest, TransformerRequest, Unavailable
from harness.sweep.estimate import LONG_PASS_S
from harness.sweep.journal import Journal
from harness.sweep.processes import Processes, patience_s
from harness.sweep.state import CellState

_QUICK_MIN_SAMPLE_NS = 10_000_000


def _request(
    state: CellState, journal: Journal, processes: Processes
) -> GateRequest | TransformerRequest:
    """Return what a measuring process is asked for a cell's gate."""
    cell, spec = state.cell, journal.spec
    min_sample_ns = _QUICK_MIN_SAMPLE_NS if spec.quick else clock.MIN_SAMPLE_NS
    if cell.transformer:
        return TransformerRequest(
            cell=cell.id, transformer=cell.transformer, seed=spec.seed, loops=state.loops,
            min_sample_ns=min_sample_ns, threads=spec.threads, check_seed=journal.check_seed,
            count_nodes=not state.gated, checkpoint=spec.checkpoint,
        )  # fmt: skip
    return GateRequest(
        cell=cell.id, implementation=cell.implementation, problem=cell.problem,
        loops=state.loops, slices=state.slices, count_nodes=not state.gated,
        head_only=state.gated and is_by_head(state), sets=cell.sets, min_sample_ns=min_sample_ns,
        isa=spec.isa, threads=spec.threads, tile=state.tile, check_seed=journal.check_seed,
        caches=dict(processes.machine.caches), **cell.conditions.of("protocol"),
    )  # fmt: skip


def prepare(state: CellState, journal: Journal, processes: Processes) -> None:
    """Take a cell through its gate in the process that runs now, and record the outcome."""
    cell, spec = state.cell, journal.spec
    journal.monitor.stage(f"checking {cell.id}")
    predicted_s = cell.predicted_s() + cell.compile_s()
    if cell.transformer:
        predicted_s += cell.check_s()
    try:
        process = processes.serving(cell.runs_in)
        request = _request(state, journal, processes)
        answer = process.ask(request, patience_s(spec, cell, predicted_s))
    # A fresh process that refuses what an earlier one accepted costs the cells that run in it.
    except (ProcessError, UsageError) as error:
        state.lose("failed", str(error))
        journal.record_cell(state)
        return
    if isinstance(answer, Unavailable):
        state.lose("unavailable", answer.reason)
        journal.record_cell(state)
        return
    verdict = answer.verdict
    if verdict.ok:
        state.process, state.gated, state.unproved = process, True, False
        state.loops, state.slices = answer.loops, answer.slices
        state.tile = answer.notes.get("tile", "")
        if answer.pass_ns and not state.passes_s:
            state.pass_s = answer.pass_ns / 1e9
    else:
        state.lose("wrong", verdict.reason)
    journal.record_cell(
        state, verdict=verdict, loops=answer.loops, slices=answer.slices or 1,
        gate_ns=answer.gate_ns, touched=answer.touched, notes=answer.notes,
    )  # fmt: skip
    journal.progress()


def is_by_head(state: CellState) -> bool:
    """Say whether a cell's pass is too long to be run whole once more for the gate of a later process."""
    return (
        not state.cell.transformer and not state.cell.is_run_whole() and state.pass_s >= LONG_PASS_S
    )
