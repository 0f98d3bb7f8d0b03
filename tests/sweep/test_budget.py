"""How a sweep spends its seconds."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import scripted
from kill import Silent
from made_machines import SMALL

from harness.backends import registry
from harness.sweep.budget import Budget
from harness.sweep.estimate import count_processes
from harness.sweep.journal import Journal
from harness.sweep.plan import make_plan
from harness.sweep.state import CellState, CellTable


def make_budget(out: Path, spent_s: float, passes: int = 0) -> Budget:
    """Return the budget of a sweep of 100 s of which so many are spent."""
    spec = replace(
        scripted.make_spec(out), passes=passes, budget_s=100.0, processes=5, skip=["*torch*"]
    )
    journal = Journal(
        spec=spec, monitor=Silent(), predicted_s=0.0, began=time.monotonic() - spent_s
    )
    return Budget(journal=journal, cells=CellTable.begin(make_plan(spec, SMALL)))


def gate_all(budget: Budget, pass_s: float) -> None:
    """Let every cell have passed its gate with passes that take so long."""
    for state in budget.cells.states:
        state.loops, state.slices, state.pass_s, state.gated = 1, 1, pass_s, True


def own_layers(budget: Budget) -> list[CellState]:
    """Return the layers that stand on no BLAS."""
    return [s for s in budget.cells.states if s.cell.role == "layer" and not s.cell.provider]


@pytest.mark.parametrize(
    ("rest_s", "gate_s", "block_s", "processes"),
    [(100, 1, 1, 5), (5, 3, 1, 2), (9, 3, 1, 3), (0.5, 3, 1, 1), (-7, 3, 1, 1)],
)
def test_processes_that_get_a_block(
    rest_s: float, gate_s: float, block_s: float, processes: int
) -> None:
    """There are as many sets of processes as can be gated and sample a block, one at least, five at most."""
    assert count_processes(5, rest_s, gate_s, block_s) == processes


def test_slow_gates_leave_fewer_processes(tmp_path: Path) -> None:
    """Gates of 30 s leave room for three sets of processes in 100 s, of which they take most."""
    budget = make_budget(tmp_path, 30.0)
    gate_all(budget, 0.01)
    budget.note_gates(30.0, [], 0.0)
    assert budget.gate_s == 30.0
    assert budget.processes(5) == 3
    assert budget.blocks(3) * budget.block_s() * 3 <= 100.0 - 30.0 - 2 * 30.0


def test_a_long_pass_is_not_run_again_for_a_gate(tmp_path: Path) -> None:
    """What the first gates took of long passes is not expected of the later ones, their start is."""
    budget = make_budget(tmp_path, 50.0)
    gate_all(budget, 1.0)
    states = budget.cells.states
    # Each was run whole twice: checked, and calibrated, since it is in one slice.
    budget.note_gates(len(states) * 2.0 + 4.0, states, 2.0)
    assert budget.gate_s == pytest.approx(4.0 + 2.0)


def test_what_no_table_needs_is_left_out_late(tmp_path: Path) -> None:
    """Half-way through the budget the first of each layer and what stands on BLAS are gated, no others."""
    budget = make_budget(tmp_path, 51.0)
    own = own_layers(budget)
    assert own
    assert budget.leave_out(own[0]) == ""  # nothing of its layer was gated before
    gate_all(budget, 0.01)
    assert not any(budget.leave_out(state) for state in budget.cells.states)
    for state in budget.cells.states:
        state.gated = state not in own and state.cell.implementation != "fff_l1_blas"
    assert [s.cell.id for s in budget.cells.states if s.cell.provider and budget.leave_out(s)] == []
    reason = budget.leave_out(own[0])
    assert reason.startswith("left out: 51 of 100 s were spent")
    assert "--budget" in reason
    early = replace(budget, journal=make_budget(tmp_path, 49.0).journal)
    assert early.leave_out(own[0]) == ""


def test_a_number_of_blocks_leaves_nothing_out(tmp_path: Path) -> None:
    """With --passes the seconds decide nothing."""
    budget = make_budget(tmp_path, 1000.0, passes=6)
    gate_all(budget, 0.01)
    for state in (own := own_layers(budget)):
        state.gated = False
    assert not any(budget.leave_out(state) for state in own)
    assert budget.processes(4) == 4
    assert not budget.is_over()


def test_quick_leaves_out_what_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick sweep has no time for an implementation that compiles, unless it was asked for by name."""
    costly = replace(registry.get("fff_cpu_fused"), costly_prepare=True)
    monkeypatch.setitem(registry._known, costly.id, costly)
    spec = replace(scripted.make_spec(tmp_path), passes=0, budget_s=46.0, quick=True)
    reasons = {c.implementation: why for c, why in make_plan(spec, SMALL).unavailable}
    assert "compiles, which --quick has no time for" in reasons["fff_cpu_fused"]
    for other in (replace(spec, quick=False), replace(spec, only=["ff_l3_*", "fff_cpu_fused"])):
        made = make_plan(other, SMALL)
        assert "fff_cpu_fused" in {c.implementation for c in made.cells}
