"""What a report says of the caches, from made-up walks."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated_runs import Fake
from made_curves import L2, L3, TOLD, VIRTUAL, analyse_walk, make_curve
from made_machines import MIB

from harness.analysis.analysis import analyse
from harness.records.reader import load_run
from harness.report import figure_caches, files, table


def test_the_head_names_caches_that_differ(tmp_path: Path) -> None:
    """Where a core gets another last level than the system tells, the head says both, and what shows it."""
    text = table.format_markdown(analyse_walk(tmp_path / "run", VIRTUAL))
    assert (
        "- **Caches: the system tells L3 480 MiB, a core gets L3 32 MiB** (a thread read 30 GB/s from 32 MiB "
        "and 14 GB/s from 1024 MiB)"
    ) in text
    hidden = {name: size for name, size in TOLD.items() if name != "L3"}
    assert "the system tells no L3, a core gets L3" in table.format_markdown(
        analyse_walk(tmp_path / "hidden", hidden)
    )


def test_the_head_is_silent_where_they_agree(tmp_path: Path) -> None:
    """Where the curve agrees with the system, or nobody looked, the head says nothing of it."""
    assert "Caches:" not in table.format_markdown(analyse_walk(tmp_path / "agrees", TOLD))
    older = analyse(load_run(Fake().write(tmp_path / "older")))
    assert older.cache_curve is None
    assert "Caches:" not in table.format_markdown(older)


def test_capacities_are_those_that_a_core_gets(tmp_path: Path) -> None:
    """Shares of ceilings count with the last level that was seen, an older run's with the one told."""
    found = analyse_walk(tmp_path / "run", VIRTUAL, threads=2)
    assert found.ceilings.capacity["L3"] < 64 * MIB
    assert found.cache_curve is not None
    assert found.cache_curve.told["L3"] == 480 * MIB
    assert found.cache_curve.told["L2"] == 2 * MIB


@pytest.mark.parametrize("threads", [1, 2])
def test_the_figure_draws_the_curve_and_both_sizes(tmp_path: Path, threads: int) -> None:
    """The figure has a point a set, a line at each size that is told, and a mark at each that a core gets."""
    analysis = analyse_walk(tmp_path / "run", VIRTUAL, threads)
    (axes,) = figure_caches.draw(analysis).axes
    curve, *told, marks = axes.lines
    assert axes.get_xscale() == "log"
    assert len(curve.get_xdata()) == len(make_curve([L2, L3]))
    assert [line.get_xdata()[0] for line in told] == [*analysis.cache_curve.told.values()]
    assert len(marks.get_xdata()) == 2
    assert ("one thread" in axes.get_ylabel()) == (threads == 1)


def test_a_run_gets_the_figure_where_it_has_a_walk(tmp_path: Path) -> None:
    """The figure is one of the run's, and not of a run without a walk."""
    assert "caches" in files.find_figures(analyse_walk(tmp_path / "run", TOLD))
    older = analyse(load_run(Fake().write(tmp_path / "older")))
    assert "caches" not in files.find_figures(older)
