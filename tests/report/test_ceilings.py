"""The ceilings in tables and figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated_ceilings import (
    FF_FLOOR_NS,
    ceiling_records,
    cell_record,
    fff_record,
    make_run,
)

from harness.analysis import bandwidth, roofline
from harness.analysis.analysis import analyse
from harness.records.reader import load_run
from harness.report import csv as report_csv
from harness.report import figure_bandwidth, figure_roofline, files, table


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


def test_a_ceiling_is_of_what_computes_it(tmp_path: Path) -> None:
    """The row of a product of torch names torch, that of a loop of ours own code."""
    matmul = cell_record(
        "matmul", role="ceiling", layer="ceiling", implementation="ceiling_torch_matmul", provider="",
        model="", level=None, flops=10**8,
    )  # fmt: skip
    run = make_run(tmp_path / "run", [*ceiling_records(), (matmul, 1e6), (cell_record("ff"), 1e9)])
    rows = [line.split("|") for line in table.format_markdown(analyse(run)).splitlines()]
    sources = {row[1].strip(): row[4].strip() for row in rows if len(row) > 8}
    assert (sources["torch_matmul"], sources["fma"]) == ("torch", "own code")


@pytest.mark.parametrize("measured", [True, False])
def test_the_figures_are_drawn_where_there_are_ceilings(tmp_path: Path, measured: bool) -> None:
    """Roofline and bandwidths are a run's figures where it measured ceilings, and only there."""
    cells = [*(ceiling_records() if measured else []), (cell_record("ff"), 1e9)]
    drawn = files.find_figures(analyse(make_run(tmp_path / "run", cells)))
    assert ({files.ROOFLINE, files.BANDWIDTH} <= set(drawn)) == measured
    assert ({files.ROOFLINE, files.BANDWIDTH} & set(drawn) == set()) != measured


def test_the_roofline_has_every_cell_below_its_roofs(tmp_path: Path) -> None:
    """Each cell is a point at its operations a byte; a roof ends where its bandwidth reaches the peak."""
    cells = [*ceiling_records(), (cell_record("ff"), 1e9), (fff_record("fff"), 1e7)]
    analysis = analyse(make_run(tmp_path / "run", cells))
    (axes,) = figure_roofline.draw(analysis).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    points = [line for line in axes.get_lines() if line.get_linestyle() == "None"]
    drawn = {(x, y) for line in points for x, y in zip(*line.get_data(), strict=True)}
    speeds = [s for point in analysis.points for s in point.speeds]
    assert drawn == {(roofline.intensity(analysis.cells[s.cell]), s.gflops) for s in speeds}
    *slanted, flat = [line for line in axes.get_lines() if line not in points]
    assert list(flat.get_ydata()) == [analysis.ceilings.flops] * 2
    assert len(slanted) == len(analysis.ceilings.bandwidth)
    for line, gbs in zip(slanted, analysis.ceilings.bandwidth.values(), strict=True):
        assert list(line.get_ydata()) == pytest.approx([gbs * x for x in line.get_xdata()])
        assert line.get_ydata()[1] == pytest.approx(analysis.ceilings.flops)


def test_roofs_that_lie_on_each_other_share_a_label(data_folder: Path) -> None:
    """Where two places or precisions have one rate, one label names both."""
    (axes,) = figure_roofline.draw(analyse(load_run(data_folder / "run-gpu"))).axes
    assert [text.get_text() for text in axes.texts if text.get_text()] == [
        "L2 210, memory 210 GB/s", "float32 26.2, tf32 26.2, bfloat16 26.2 GFLOP/s",
    ]  # fmt: skip


def test_the_bandwidths_are_those_of_the_table_over_their_sets(tmp_path: Path) -> None:
    """Each stream is a point at the bytes of its set, each cache a line at its size."""
    analysis = analyse(make_run(tmp_path / "run", ceiling_records()))
    found = bandwidth.find_bandwidths(analysis)
    assert found is not None
    assert [s.speed.gbs for s in found.streams] == [
        s.gbs for s in analysis.ceiling_speeds if s.gbs > 0
    ]
    (axes,) = figure_bandwidth.draw(analyse(make_run(tmp_path / "more", [
        *ceiling_records(), (cell_record("ff"), 1e9)]))).axes  # fmt: skip
    data = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.get_lines()}
    drawn = {pair for name, pairs in data.items() if name in found.shapes for pair in pairs}
    assert drawn == {(s.set_bytes, s.speed.gbs) for s in found.streams}
    assert len(axes.texts) == len(analysis.ceilings.capacity)
