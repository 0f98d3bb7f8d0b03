"""Which FF a sweep measures twice."""

from __future__ import annotations

from dataclasses import replace

from harness.backends import registry
from harness.problem.models import BASELINE
from harness.problem.problem import Problem
from harness.sweep import twins
from harness.sweep.cell import make_cell
from harness.sweep.state import CellState, CellTable

FF = Problem(layer="ff", batch=4, d_in=8, d_out=8, hidden=16)
IMPLEMENTATIONS = ("ff_l1_blas", "ff_l3_blas", "ff_l3_tiled")


def make_table(*passes_s: float, problem: Problem = FF) -> CellTable:
    """Return one state for each of the FFs, with the pass that its gate told."""
    return CellTable(
        states=[
            CellState(
                cell=make_cell(registry.get(name), problem, BASELINE, "scipy"), pass_s=pass_s,
                loops=3, slices=1, gated=True,
            )
            for name, pass_s in zip(IMPLEMENTATIONS, passes_s, strict=True)
        ]
    )  # fmt: skip


def twin(table: CellTable, joined: int = 0) -> str:
    """Add the twins that a table lacks and return the implementation of the one; empty for none."""
    made = twins.make_missing(table, BASELINE, joined)
    table.states += made
    return made[0].cell.implementation if made else ""


def test_the_fastest_ff_is_measured_twice() -> None:
    """The FF with the shortest pass gets a second name, sampled as it is, and gets it once."""
    table = make_table(3.0, 2.0, 1.0)
    assert twin(table) == "ff_l3_tiled"
    made = table.states[-1]
    assert made.cell.id == f"{table.states[2].cell.id}/again"
    assert (made.cell.role, made.loops, made.slices) == ("aa", 3, 1)
    assert not made.gated
    assert twin(table) == ""


def test_another_ff_that_turns_out_the_fastest_gets_a_twin_too() -> None:
    """Where the samples say other than the gate did, the next process measures that FF twice as well."""
    table = make_table(3.0, 2.0, 1.0)
    twin(table)
    for block, passes in enumerate([(3.0, 2.0, 2.1), (3.0, 1.9, 2.2), (3.0, 9.0, 2.3)]):
        for state, pass_s in zip(table.states[:3], passes, strict=True):
            state.add_sample(block, pass_s, 0.0)
    assert twin(table, joined=3) == "ff_l3_blas"
    assert table.states[-1].joined == 3
    assert twin(table, joined=3) == ""


def test_what_is_out_gets_no_twin() -> None:
    """An FF that is wrong is not the fastest, and no twin is made where no FF is left."""
    table = make_table(3.0, 2.0, 1.0)
    table.states[2].lose("wrong", "")
    assert twin(table) == "ff_l3_blas"
    table = make_table(3.0, 2.0, 1.0)
    for state in table.states:
        state.lose("failed", "")
    assert twin(table) == ""


def test_each_condition_has_its_own_twin() -> None:
    """FFs that are not compared with each other have a twin each."""
    table = make_table(3.0, 2.0, 1.0)
    table.states += make_table(1.0, 2.0, 3.0, problem=replace(FF, batch=8)).states
    made = twins.make_missing(table, BASELINE, 0)
    assert [(s.cell.implementation, s.cell.problem.batch) for s in made] == [
        ("ff_l3_tiled", 4), ("ff_l1_blas", 8),
    ]  # fmt: skip
