"""The ceilings in tables and figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated_ceilings import (
    FF_FLOOR_NS,
    ceiling_records,
    cell_record,
    make_run,
)

from harness.analysis.analysis import analyse
from harness.report import csv as report_csv
from harness.report import figures, table


def test_share_of_floor_is_printed_beside_the_share_of_the_ceiling(tmp_path: Path) -> None:
    """Table and speeds.csv hold both shares, and the floor's is never the smaller one."""
    run = make_run(tmp_path / "run", [*ceiling_records(), (cell_record("ff"), 2 * FF_FLOOR_NS)])
    text = table.format_markdown(analyse(run))
    assert "| of its ceiling   | share of floor   |" in text
    assert "- share of floor: the same with the sum" in text
    frame = report_csv.speeds_csv_frame(analyse(run)).set_index("cell")
    assert frame.loc["ff", "of_floor"] > frame.loc["ff", "of_ceiling"] == pytest.approx(0.5)


def test_the_ceilings_stand_in_the_table_with_their_units(tmp_path: Path) -> None:
    """The table shows GFLOP/s for the FMA loop and GB/s by place for the streams."""
    text = table.format_markdown(
        analyse(make_run(tmp_path / "run", [*ceiling_records(), (cell_record("ff"), 1e9)]))
    )
    rows = [line for line in text.splitlines() if line.startswith(("| fma", "| read"))]
    assert len(rows) == 5
    assert "100 GFLOP/s" in rows[0]
    assert [r.split("|")[2].strip() for r in rows[1:]] == ["L1", "L2", "L3", "memory"]
    assert "50 GB/s" in rows[3]


@pytest.mark.parametrize("measured", [True, False])
def test_the_figure_draws_with_and_without_ceilings(tmp_path: Path, measured: bool) -> None:
    """The figure of the ceilings has a bar for each stream and layer, none where nothing was measured."""
    cells = [*(ceiling_records() if measured else []), (cell_record("ff"), 1e9)]
    left, right = figures.ceilings_figure(analyse(make_run(tmp_path / "run", cells))).axes
    assert (len(left.patches), len(right.patches)) == ((4, 1) if measured else (0, 0))
