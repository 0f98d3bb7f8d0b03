"""Own the check: the gate of every cell that a sweep would measure, and nothing of it timed for a table."""

from __future__ import annotations

from fnmatch import fnmatchcase

from harness.records.schema import Line
from harness.sweep import gate, sampling
from harness.sweep.journal import Journal, Monitor
from harness.sweep.plan import Plan
from harness.sweep.processes import Processes
from harness.sweep.state import CellState, CellTable


class _Nowhere:
    """Take records that belong to no run."""

    def append(self, line: Line) -> None:
        """Drop a record: the monitor has heard of it."""

    def close(self) -> None:
        """Hold nothing that could be released."""


def chosen(plan: Plan) -> list[CellState]:
    """Return the cells to check; a ceiling, which is in every plan, only where `only` names it."""
    states = CellTable.begin(plan).live()
    states += [CellState(cell=c, status="unavailable", reason=why) for c, why in plan.unavailable]
    only = plan.spec.only
    return [
        state
        for state in states
        if not only or any(fnmatchcase(state.cell.implementation, pattern) for pattern in only)
    ]


def check(plan: Plan, monitor: Monitor, check_seed: int = 0) -> CellTable:
    """Take every cell of a plan through its gate, then judge what one sample leaves behind.

    The monitor hears of each cell as its record would be written; no folder is. check_seed: draws the tokens
    that are compared, 0 to draw it too. Returns the cells as they then stand.
    """
    journal = Journal(
        spec=plan.spec, monitor=monitor, predicted_s=plan.predicted_s(), writer=_Nowhere()
    )
    if check_seed:
        journal.check_seed = check_seed
    processes = Processes(journal=journal, machine=plan.machine)
    cells = CellTable(states=chosen(plan))
    try:
        for state in cells.states:
            if not state.is_live():
                journal.record_cell(state)
                continue
            gate.prepare(state, journal, processes)
            if state.is_live():
                sampling.ask_for_sample(state, journal, check=True)
    finally:
        processes.kill()
    return cells
