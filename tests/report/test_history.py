"""The words, numbers and figures of a history."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from fabricated_runs import Fake
from hostile import AFTER_LINE, spoil

from harness.analysis.history import make_history
from harness.analysis.history_rows import History, LeftOut
from harness.records.reader import load_run
from harness.report import figure_history
from harness.report import history as report_history
from harness.report.drawing import plain_matplotlib


def make_runs(count: int, **changes: object) -> list:
    """Return runs, of which a kernel is 20 % slower from the fifth on, each on a day of its own."""
    return [
        Fake(seed=day, started=f"2026-01-{day:02d}T00:00:00+00:00", noise=0.004, process_noise=0.002,
             factors={"fff_l1": 1.2} if day >= 5 else {}, machine={"commit": f"c{day:02d}"}, **changes)
        .run()._replace(folder=Path(f"run{day:02d}"))
        for day in range(1, count + 1)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def history() -> History:
    """Return the history of twelve runs, and of a folder that holds none."""
    out = [LeftOut(folder=Path("odd"), reason="it is of whole models")]
    return make_history(make_runs(12), left_out=out)


def test_the_table_has_a_row_a_cell_and_a_column_a_run(history):
    """The newest runs and the base have columns, the first run of a new level is marked, and says how far."""
    text = report_history.format_history(history)
    lines = text.splitlines()
    head = next(line for line in lines if line.startswith("| cell") and "run 1 " in line)
    assert [n for n in range(1, 13) if f"run {n} " in head] == [1, *range(4, 13)]
    assert "- 2 older runs without a column" in text
    row = next(line for line in lines if line.startswith("| fff_l1_blas"))
    assert row.count("»") == 1
    assert "» +2" in row
    assert "from run 5 on" in row
    assert "**left out**: odd: it is of whole models" in text
    assert lines[-1].startswith("6 cells: 1 slower")


def test_formats_hold_the_same_values(history):
    """JSON and CSV have a row for each value, of all runs, with the same numbers."""
    document = json.loads(report_history.format_history_json(history))
    rows = list(csv.DictReader(io.StringIO(report_history.format_history_csv(history))))
    assert len(rows) == len(document["values"]) == (6 + 2) * 12
    assert [float(row["value"]) for row in rows] == [v["value"] for v in document["values"]]
    moved = [(v["kind"], v["run"]) for v in document["values"] if v["level_change"] is not None]
    assert moved == [("time", 5), ("speedup", 5)]
    assert (document["judged"]["baseline"], document["judged"]["newest"]) == (1, 12)


def test_lines_have_names():
    """More lines than letters have names of two."""
    assert [report_history.name_line(n) for n in (0, 25, 26, 27, 52)] == [
        "A",
        "Z",
        "AA",
        "AB",
        "BA",
    ]


def test_a_wrong_cell_is_written_in_every_format():
    """What has no number is no number in JSON either, and is said in the table."""
    made = make_runs(3)
    made[1] = make_runs(2, wrong=("fff_l2_blas/ultrafastbert-1x11",))[1]
    history = make_history(made)
    assert "| BROKEN" in report_history.format_history(history)
    values = json.loads(report_history.format_history_json(history))["values"]
    assert [v["value"] for v in values if v["verdict"] == "broken"] == [None]


@pytest.mark.parametrize("kind", ["time", "speedup"])
def test_the_figure_has_a_panel_a_cell_with_its_change_point(history, kind):
    """Each cell has a panel; the one that moved has a dashed line between the two runs."""
    with plain_matplotlib():
        figure = figure_history.draw(history, kind)
    panels = [panel for panel in figure.axes if panel.axison]
    assert len(panels) == {"time": 6, "speedup": 2}[kind]
    dashed = {
        panel.get_title(loc="left").split("\n")[0]: [line.get_xdata()[0] for line in panel.lines
                                                     if line.get_linestyle() == "--"]
        for panel in panels
    }  # fmt: skip
    assert {name: places for name, places in dashed.items() if places} == {"fff_l1_blas": [4.5]}


def test_texts_of_runs_are_shown_as_they_stand(tmp_path):
    """No text of a stranger's run is markup in the tables, nor a formula in a figure or a spreadsheet."""
    runs = []
    for day in (1, 2):
        folder = Fake(seed=day, processes=2, blocks=2, started=f"2026-01-0{day}").write(
            tmp_path / f"{day}"
        )
        spoil(folder, AFTER_LINE)
        runs.append(load_run(folder))
    history = make_history(runs)
    text = report_history.format_history(history)
    assert "<script>" not in text
    assert "\\immediate" not in text.replace("\\\\", "")
    with plain_matplotlib():
        figure_history.draw(history, "time").canvas.draw()
