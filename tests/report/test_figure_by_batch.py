"""The figure over the batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.analysis.analysis import analyse
from harness.records.reader import Run, load_run
from harness.report import figure_by_batch
from harness.report.files import write_plots


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a tiny run of two FFF implementations at three batches."""
    folder = tmp_path_factory.mktemp("by_batch") / "run"
    arguments = [
        "sweep", "--batch", "1,4,16", "--width", "24", "--models", "1x3", "--only", "ff_l?_blas,fff_l?_blas",
        "--passes", "2", "--processes", "1", "--out", str(folder),
    ]  # fmt: skip
    assert cli.run(arguments) == 0
    return load_run(folder)


def test_each_fff_is_drawn_at_each_batch(run: Run) -> None:
    """Both panels are log in both directions and hold each FFF implementation at each batch."""
    figure = figure_by_batch.draw(analyse(run))
    above, below = figure.axes
    for axes in (above, below):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    labels = above.get_legend_handles_labels()[1]
    assert labels == [
        "fff_l1_blas (UltraFastBERT-1x3, scipy)",
        "fff_l2_blas (UltraFastBERT-1x3, scipy)",
    ]
    measured = {
        (p.batch, v.implementation): v.ratio.value
        for p in analyse(run).points
        for v in p.versus
        if v.ratio is not None
    }
    for container, name in zip(above.containers, ("fff_l1_blas", "fff_l2_blas"), strict=True):
        line = container.lines[0]
        assert list(line.get_xdata()) == [1, 4, 16]
        assert list(map(float, line.get_ydata())) == [measured[b, name] for b in (1, 4, 16)]


def test_shares_are_those_of_the_table(run: Run) -> None:
    """The lower panel draws the share of floor that the table prints, in percent."""
    below = figure_by_batch.draw(analyse(run)).axes[1]
    drawn = {
        (int(x), round(float(y), 6))
        for line in below.get_lines()[:2]
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }
    expected = {
        (p.batch, round(100 * s.of_floor, 6))
        for p in analyse(run).points
        for s in p.speeds
        if s.implementation.startswith("fff_")
    }
    assert drawn == expected
    assert len(drawn) == 6


def test_file_is_written_where_there_are_several_batches(run: Run, golden_run: Path) -> None:
    """A run of several batches gets the figure as PNG and SVG; a run of one batch does not."""
    assert figure_by_batch.is_drawable(analyse(run))
    names = {p.name for p in write_plots(analyse(run))}
    assert {"by_batch.png", "by_batch.svg"} <= names
    single = load_run(golden_run)
    assert not figure_by_batch.is_drawable(analyse(single))
    assert not any(p.name.startswith("by_batch") for p in write_plots(analyse(single)))
