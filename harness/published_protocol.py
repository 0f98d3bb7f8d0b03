"""Own the published protocol: cells sampled as its benchmark did, cold, in fixed order, one mean each."""

from __future__ import annotations

import time
from dataclasses import asdict

from harness.cell import Cell
from harness.crew import Crew
from harness.journal import Journal
from harness.plan import Plan
from harness.process import ProcessDiedError, RequestFailedError

_BLOCK = -1  # below all interleaved blocks


def run_published(plan: Plan, journal: Journal, crew: Crew) -> None:
    """Sample the ladder's cells once each in the processes that run now, in the plan's order."""
    for cell in plan.published:
        if cell.id not in journal.lost:
            _sample(cell, plan.published_loops(cell), journal, crew)


def _sample(cell: Cell, loops: int, journal: Journal, crew: Crew) -> None:
    """Check a kernel against its own definition, take one sample of it, and look at what it left behind."""
    journal.monitor.stage(f"published protocol: {cell.id}")
    started = time.monotonic()
    try:
        answer = crew.ask(
            "published", cell, loops * cell.predicted_s(),
            kernel=cell.implementation, problem=asdict(cell.problem), loops=loops,
            unwritten=cell.unwritten,
        )  # fmt: skip
    except (ProcessDiedError, RequestFailedError) as error:
        journal.record_cell(cell, "failed", str(error), {})
        return
    verdict = answer["verdict"]
    journal.record_cell(cell, "ok" if verdict["ok"] else "wrong", verdict["reason"], answer)
    if verdict["ok"]:
        journal.show_sample(journal.record_sample(cell, started, _BLOCK, answer["sample"]))
