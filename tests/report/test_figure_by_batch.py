"""The figure over the batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.analysis.analysis import analyse
from harness.records.reader import Run, load_run
from harness.report import figure_by_batch
from harness.report.files import find_figures
from harness.sweep import ceilings as sweep_ceilings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a tiny run of two FFF implementations at three batches."""
    folder = tmp_path_factory.mktemp("by_batch") / "run"
    arguments = [
        "sweep", "--batch", "1,4,16", "--width", "24", "--models", "1x3", "--only", "ff_l?_blas,fff_l?_blas",
        "--passes", "2", "--processes", "1", "--no-figures", "--out", str(folder),
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_ceilings, "_CEILING_EXTENT", 64)
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


def test_it_is_drawn_where_there_are_several_batches(run: Run, golden_run: Path) -> None:
    """The figure is one of a run of several batches, and not of a run of one batch."""
    assert "by_batch" in find_figures(analyse(run))
    assert "by_batch" not in find_figures(analyse(load_run(golden_run)))
