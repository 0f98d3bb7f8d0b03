"""Cells that differ in one axis alone stay two in all that is made of a run, for each axis of the table."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from fabricated_runs import DEVICE, Fake

from harness.analysis import compare, merge
from harness.analysis.analysis import Analysis, analyse
from harness.problem import axes
from harness.problem.axes import AXES, DEFAULTS, Axis
from harness.records.reader import Run, load_run
from harness.report import compare as report_compare
from harness.report import csv as report_csv
from harness.report import (
    figure_by_batch,
    figures,
    frames,
    header,
    latex,
    table,
)
from harness.report import gpu as report_gpu
from harness.report import merge as report_merge

LAYERS: dict[str, dict[str, object]] = {
    "cpu": {
        "times": {"ff_l1_blas/bert-base-4095": 8e8, "fff_l1_blas/ultrafastbert-1x11": 4e6},
        "twin_of": "ff_l1_blas/bert-base-4095",
    },
    "cuda": {
        "times": {"ff_torch_bmm/bert-base-4095": 2e7, "fff_torch_bmm/ultrafastbert-1x11": 4e6},
        "twin_of": "ff_torch_bmm/bert-base-4095", "device": "cuda", "provider": "", "ceiling": False,
        "machine": {"device": DEVICE},
    },
}  # fmt: skip


def other(axis: Axis) -> str:
    """Return a value of an axis that is not its default."""
    return list(axis.values)[1]


def make(axis: Axis, device: str, **changes: object) -> Fake:
    """Return a run whose layers are measured under the defaults, and with another value on one axis."""
    several = (DEFAULTS, DEFAULTS._replace(**{axis.name: other(axis)}))
    quiet = {"noise": 0.003, "process_noise": 0.001, "blocks": 2, "conditions": several}
    return Fake(**{**quiet, **LAYERS[device], **changes})  # type: ignore[arg-type]


@cache
def make_run(name: str, device: str, more_batches: tuple[int, ...] = ()) -> Run:
    """Return the run of `make` for an axis by its name."""
    return make(axes.find(name), device, more_batches=more_batches).run()


@cache
def analyse_run(name: str, device: str, more_batches: tuple[int, ...]) -> Analysis:
    """Return what the run of `make` for an axis says."""
    return analyse(make_run(name, device, more_batches))


def analysed(axis: Axis, device: str = "cpu", more_batches: tuple[int, ...] = ()) -> Analysis:
    """Return what the run of `make` for an axis says."""
    return analyse_run(axis.name, device, more_batches)


@pytest.fixture(params=AXES, ids=lambda axis: axis.name)
def axis(request: pytest.FixtureRequest) -> Axis:
    """Return each axis of the table."""
    found: Axis = request.param
    return found


@pytest.fixture(params=("cpu", "cuda"))
def device(request: pytest.FixtureRequest) -> str:
    """Return each device."""
    return str(request.param)


def headings(text: str, mark: str = "## Batch") -> list[str]:
    """Return the headings of a report that begin so."""
    return [line for line in text.splitlines() if line.startswith(mark)]


def test_records_hold_two(axis: Axis) -> None:
    """Ids of cells differ, and the column of the axis holds both values."""
    run = make_run(axis.name, "cpu")
    layers = run.cells[run.cells["role"] == "layer"]
    assert layers["cell"].is_unique
    assert layers.groupby(axis.name).size().to_dict() == {axis.default: 2, other(axis): 2}
    assert run.head.sweep.axes[axis.name] == [axis.default, other(axis)]


def test_sections_and_captions_are_two(axis: Axis) -> None:
    """The report has a section and a LaTeX caption for each value, and names what is not the default."""
    differs = f"{axis.name} {other(axis)}"
    assert headings(table.format_markdown(analysed(axis))) == [
        f"## Batch 64, width 32{how}" for how in ("", f", {differs}")
    ]
    captions = [
        x for x in latex.format_latex(analysed(axis)).splitlines() if x.startswith(r"\caption")
    ]
    assert len(captions) == len(set(captions)) == 4


def test_csv_rows_are_two(axis: Axis) -> None:
    """The rows of table.csv and speeds.csv are told apart, and table.csv has the axis's column."""
    run = make_run(axis.name, "cpu")
    speedups, speeds = (
        report_csv.csv_frame(analysed(axis)),
        report_csv.speeds_csv_frame(analysed(axis)),
    )
    names = ["batch", "width", "provider", "model", "column", *axes.COLUMNS]
    assert not speedups.duplicated(names).any()
    assert speedups.groupby(axis.name).size().nunique() == 1
    assert set(speedups[axis.name]) == {axis.default, other(axis)}
    assert speeds["cell"].is_unique
    assert set(speeds["cell"]) == set(run.cells.loc[run.cells["role"] != "aa", "cell"])


def test_contrasts_hold_two(axis: Axis) -> None:
    """Each cell stands in the contrasts once under each value, against the default's."""
    frame = frames.contrast_frame(analysed(axis).contrasts)
    assert frame["conditions"].tolist() == ["default", f"{axis.name} {other(axis)}"] * 2
    assert not frame.duplicated(["implementation", "model", "provider", "conditions"]).any()
    ratios = [c.ratio.value for c in analysed(axis).contrasts if c.ratio is not None]
    assert ratios == pytest.approx([1.5, 1.5], rel=0.01)


def test_legends_name_two(axis: Axis) -> None:
    """The figures over the batch have a line for each cell, and their labels tell the lines apart."""
    run = analysed(axis, more_batches=(128,))
    differs = f"; {axis.name} {other(axis)}"
    (panel,) = figures.time_figure(run).axes
    labels = [text.get_text() for text in panel.figure.legends[0].get_texts()]
    assert len(panel.get_lines()) == len(labels) == len(set(labels)) == 4
    assert sum(differs in label for label in labels) == 2
    (legend,) = figure_by_batch.draw(run).legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == 2
    assert [differs in label for label in labels] == [False, True]


def test_bars_name_two(axis: Axis) -> None:
    """The bars of a run with one batch are as many as its cells, and their labels tell them apart."""
    (panel,) = figures.time_figure(analysed(axis)).axes
    labels = [text.get_text() for text in panel.get_yticklabels()]
    assert len(panel.patches) == len(labels) == len(set(labels)) == 4


def test_single_figures_say_what_they_are_of(axis: Axis) -> None:
    """A figure that shows one section names its conditions where they are not the default."""
    several = (DEFAULTS._replace(**{axis.name: other(axis)}),)
    run = analyse(make(axis, "cpu", conditions=several).run())
    assert f"{axis.name} {other(axis)}" in figures.speedup_figure(run).get_suptitle()


def test_impossible_figures_say_where(axis: Axis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of two sections on figures that can't be are told apart."""
    judge = "harness.analysis.above_limit.judge_speedup"
    monkeypatch.setattr(judge, lambda *_: ("too fast", True))
    lines = table.impossible(analyse(make_run(axis.name, "cpu")).points)
    assert len(lines) == len(set(lines)) > 2


def test_two_files_of_one_name_stay_two(tmp_path: Path) -> None:
    """Two traces whose files have one name in different folders are two lines and bars, and two rows."""
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokens.txt").write_text(f"{name == 'a':d}\n", encoding="utf-8")
        texts.append(f"trace:{tmp_path / name / 'tokens.txt'}")
    axis = axes.find("routing")
    several = tuple(DEFAULTS._replace(routing=text) for text in texts)
    run = make(axis, "cpu", conditions=several, more_batches=(128,)).run()
    assert run.cells["cell"].is_unique
    assert len(figures.time_figure(analyse(run)).axes[0].get_lines()) == 4
    (legend,) = figure_by_batch.draw(analyse(run)).legends
    assert len(legend.get_texts()) == 2
    assert len(compare.compare(run, run).changes) == 8
    rows = merge.merged_rows([run])
    assert set(report_merge.merged_frame(rows)["routing"]) == set(texts)


def test_compare_keeps_two(axis: Axis, device: str) -> None:
    """Every cell is compared by itself, so a cell that is slower under one value alone is found."""
    a = make(axis, device, seed=1)
    slow = next(c.cell for c in a.cells() if c.layer == "fff" and c.conditions != DEFAULTS)
    b = make(axis, device, seed=2, factors={slow: 2.0})
    for first, second, verdict in ((a, b, "slower"), (b, a, "faster")):
        comparison = compare.compare(first.run(), second.run())
        names = [c.cell for c in comparison.changes]
        assert len(names) == len(set(names)) == 2 * len(a.times)
        assert comparison.unmatched == []
        changed = [c.cell for c in comparison.changes if c.verdict == verdict]
        assert changed == [f"{slow.rpartition('/')[0]} ({axis.name} {other(axis)})"]
    frame = pd.DataFrame(report_compare.comparison_rows(comparison))
    assert frame["cell"].is_unique


def test_compare_names_what_one_run_lacks(axis: Axis, device: str) -> None:
    """Cells of one value that the other run was not asked for are listed with their conditions."""
    a, b = make(axis, device, seed=1), make(axis, device, seed=2, conditions=(DEFAULTS,))
    comparison = compare.compare(a.run(), b.run())
    assert len(comparison.changes) == len(comparison.unmatched) == len(a.times)
    for text in comparison.unmatched:
        assert text.startswith("only in A: ")
        assert f"{axis.name}={other(axis)}" in text
    found = compare.compare(b.run(), a.run()).unmatched
    assert [text.replace("in B", "in A") for text in found] == comparison.unmatched


def test_merge_tells_two_apart(axis: Axis, device: str) -> None:
    """Merged rows have the axis's column, in Markdown and CSV, and the figures stand in the rows."""
    loaded = [make(axis, device, seed=i).run() for i in (1, 2)]
    loaded = [run._replace(folder=Path(str(i))) for i, run in enumerate(loaded)]
    rows = merge.merged_rows(loaded)
    frame = report_merge.merged_frame(rows)
    assert len(frame) == 2 * 2 * len(analyse(loaded[0]).models)
    assert not frame.duplicated(["run", "provider", "batch", "width", "model", axis.name]).any()
    assert frame[axis.name].tolist() == sorted(frame[axis.name], key=lambda v: v != axis.default)
    text = report_merge.format_merged(loaded, rows)
    assert f"- {axis.name} differs ({axis.default}, {other(axis)})" in text
    lines = [line for line in text.splitlines() if "Example" in line and line.startswith("|")]
    column = [c.strip() for c in text.splitlines()[2].split("|")].index(axis.name)
    assert [line.split("|")[column].strip() for line in lines] == frame[axis.name].tolist()
    figures_of_fff = frame.loc[frame["model"] == "ultrafastbert-1x11"].filter(like="speedup")
    assert figures_of_fff.notna().any(axis=1).all()


def test_merge_has_no_column_for_what_is_one(device: str) -> None:
    """Where all rows have one value of an axis there is no column for it."""
    run = make(AXES[0], device, conditions=(DEFAULTS,)).run()
    rows = merge.merged_rows([run])
    assert not {*axes.COLUMNS, "seed", "isa", "order"} & set(report_merge.merged_frame(rows))
    assert "differs" not in report_merge.format_merged([run], rows)


def test_merge_refuses_other_values(axis: Axis) -> None:
    """Runs that measured different values of an axis can't stand in one table; both are named."""
    a = make(axis, "cpu", conditions=(DEFAULTS,)).run()._replace(folder=Path("a"))
    b = make(axis, "cpu", seed=1).run()._replace(folder=Path("b"))
    both = ", ".join(sorted((axis.default, other(axis))))
    with pytest.raises(
        ValueError, match=f"{axis.name} is '{axis.default}' in the one and '{both}'"
    ):
        merge.check_mix([a, b])


def test_best_against_best_on_a_device_keeps_two(axis: Axis) -> None:
    """On a device cells that differ in a way to compute the same share a table; others have one each."""
    text = "\n".join(report_gpu.contest_lines(analysed(axis, "cuda")))
    found = headings(text, "### Batch")
    assert len(found) == len(set(found)) == (1 if axis.is_way else 2)
    rows = [line for line in text.splitlines() if line.startswith("| fff_")]
    names = {tuple(line.split("|")[1:5]) for line in rows}
    assert len(rows) == 2
    assert len(names) == (2 if axis.is_way else 1)


def test_old_records_read_as_the_default(axis: Axis, tmp_path: Path) -> None:
    """Records that were written before there was an axis read as its default, and so does the head."""
    folder = make(axis, "cpu", conditions=(DEFAULTS,)).write(tmp_path / "run")
    whole = load_run(folder)
    for name in ("run.json", "records.jsonl"):
        text = (folder / name).read_text(encoding="utf-8")
        for old in (
            f'"{axis.name}":"{axis.default}",',
            f'"{axis.name}": [\n   "{axis.default}"\n  ],',
        ):
            text = text.replace(old, "")
        assert f'"{axis.name}"' not in text
        (folder / name).write_text(text, encoding="utf-8")
    old = load_run(folder)
    assert old.warnings == []
    assert old.head == whole.head
    assert old.cells.equals(whole.cells)
    assert header.head_lines(analyse(old)) == header.head_lines(analyse(whole))
