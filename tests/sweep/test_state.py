"""Where the cells of a sweep stand: which blocks are missing, and who is sampled in the next one."""

from __future__ import annotations

import random

import pytest

from harness.backends import registry
from harness.problem.problem import Problem
from harness.sweep.cell import make_cell
from harness.sweep.state import CellState, CellTable

PROBLEM = Problem(layer="fff", batch=4, d_in=8, d_out=8, depth=1, trees=1)


def make_table(goal: int, *blocks: set[int], joined: int = 0) -> CellTable:
    """Return cells that were sampled in these blocks. joined: of the last one."""
    cell = make_cell(registry.get("fff_l1_blas"), PROBLEM, "ultrafastbert-1x1", "scipy")
    states = [CellState(cell=cell, gated=True, blocks=set(own)) for own in blocks]
    states[-1].joined = joined
    return CellTable(states=states, goal=goal)


@pytest.mark.parametrize(
    ("goal", "a", "b", "missing"),
    [
        (4, set(), set(), 4), (4, {0, 1, 2}, {0, 1}, 2), (4, {0, 1, 2, 3}, {0, 1, 2, 3}, 0),
        (1, {0}, set(), 1), (2, {0, 1}, {0}, 1), (3, {0, 1, 2}, {0, 1}, 1), (0, {0}, set(), 0),
    ],
)  # fmt: skip
def test_missing_blocks(goal: int, a: set[int], b: set[int], missing: int) -> None:
    """As many blocks are missing as the cell with the fewest lacks."""
    assert make_table(goal, a, b).missing() == missing


def test_finished_cells_rest() -> None:
    """A cell with all its samples is not sampled again; one that lacks some is."""
    table = make_table(3, {0, 1, 2}, {0, 1})
    assert table.wanting() == [table.states[1]]


def test_cells_do_not_rest_where_no_pair_would_be_left() -> None:
    """With fewer than two whole blocks every cell is sampled: a ratio needs pairs of one block."""
    table = make_table(1, {0}, set())
    assert table.wanting() == table.states
    for state in table.states:
        state.add_sample(1, 1.0, 0.0)
    assert table.missing() == 0


def test_a_cell_that_came_later_makes_no_block_more() -> None:
    """A cell that joined after four of six blocks is due two, whole blocks are counted without it, and it is
    sampled in those that the others are."""
    table = make_table(6, {0, 1, 2, 3}, set(), joined=4)
    assert table.missing() == 2
    for block in (4, 5):
        assert table.wanting() == table.states
        for state in table.states:
            state.add_sample(block, 1.0, 0.0)
    assert table.missing() == 0
    assert table.wanting() == []
    assert make_table(2, {0}, set(), joined=1).missing() == 1


@pytest.mark.parametrize("seed", range(20))
def test_any_series_of_cuts_ends(seed: int) -> None:
    """However often blocks are cut short, the count reaches the goal and then asks for nothing."""
    rng = random.Random(seed)
    table = make_table(rng.randint(1, 5), set(), set(), set())
    for block in range(100):
        if not table.missing():
            break
        wanting = table.wanting()
        assert wanting
        for state in wanting[: rng.choice([1, 2, 3, 3])]:
            state.add_sample(block, 1.0, 0.0)
    assert table.missing() == 0
    assert all(len(state.blocks) >= table.goal for state in table.states)


def test_what_is_out_is_missed_by_nobody() -> None:
    """A cell that is out lacks nothing and is sampled no more, but still counts by its status."""
    table = make_table(3, {0, 1, 2}, {0})
    table.states[1].lose("failed", "RuntimeError: no")
    assert table.missing() == 0
    assert table.live() == [table.states[0]]
    assert (table.count("failed"), table.count("wrong")) == (1, 0)
    assert CellTable(states=[], goal=3).missing() == 0


def test_the_pass_of_a_cell_is_that_of_its_samples() -> None:
    """Before a sample the gate tells how long a pass is; then the last one does, the median for a choice."""
    (state,) = make_table(0, set()).states
    state.pass_s = 9.0
    assert state.typical_pass_s() == 9.0
    for block, pass_s in enumerate((3.0, 1.0, 2.5)):
        state.add_sample(block, pass_s, 0.1)
    assert (state.pass_s, state.typical_pass_s()) == (2.5, 2.5)
    state.add_sample(3, 1.0, 0.1)
    assert (state.pass_s, state.typical_pass_s()) == (1.0, 1.75)
