"""The published figures of the leaf FFF."""

from __future__ import annotations

from harness.paper.leaf import leaf_table1
from harness.problem.models import LEAF_TABLE1


def test_every_published_cell_can_be_measured() -> None:
    """Table 1 has 48 cells, of shapes that `--models ffp-table1` measures: all of them and no other."""
    cells = leaf_table1()
    assert len(cells) == 48
    assert {c.model for c in cells} | {c.baseline for c in cells} == set(LEAF_TABLE1)
    assert all(c.leaf_width * 2**c.depth == c.training_width for c in cells)


def test_speedups_are_those_of_the_printed_times() -> None:
    """Each speedup is the ratio of the times that Table 4 prints, within their two digits."""
    for cell in leaf_table1():
        low = (cell.ff_ms - 0.005) / (cell.leaf_ms + 0.005)
        high = (cell.ff_ms + 0.005) / (cell.leaf_ms - 0.005)
        assert low - 0.005 <= cell.speedup <= high + 0.005, cell
