"""Own the published protocol: cells sampled as its benchmark did, cold, in fixed order, one mean each."""

from __future__ import annotations

import time
from dataclasses import asdict

from harness.cell import Cell
from harness.crew import Crew
from harness.journal import Journal
from harness.plan import PUBLISHED_ROUNDS, Plan
from harness.process import ProcessDiedError, RequestFailedError
from harness.records import Status


def run_published(plan: Plan, journal: Journal, crew: Crew) -> float:
    """Sample the ladder's cells in the processes that run now, and return the seconds that it took."""
    began = time.monotonic()
    for round_ in range(PUBLISHED_ROUNDS):
        for cell in plan.published:
            if cell.id not in journal.lost:
                _sample(cell, plan.published_loops(cell), round_, journal, crew)
    return time.monotonic() - began


def _sample(cell: Cell, loops: int, round_: int, journal: Journal, crew: Crew) -> None:
    """Check a kernel against its own definition in the first round, and take one sample of it."""
    journal.monitor.stage(f"published protocol: {cell.id}")
    started = time.monotonic()
    try:
        answer = crew.ask(
            "published", cell, loops * cell.predicted_s(),
            kernel=cell.implementation, problem=asdict(cell.problem), loops=loops,
            unwritten=cell.unwritten, look=round_ == 0,
        )  # fmt: skip
    except (ProcessDiedError, RequestFailedError) as error:
        journal.record_cell(cell, "failed", str(error), {})
        return
    verdict = answer["verdict"]
    if round_ == 0 or not verdict["ok"]:
        status: Status = "ok" if verdict["ok"] else "wrong"
        journal.record_cell(cell, status, verdict["reason"], answer)
    if verdict["ok"]:
        journal.show_sample(journal.record_sample(cell, started, -1 - round_, answer["sample"]))
