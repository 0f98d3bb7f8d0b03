"""Claims on published figures in reports: beside what was measured as the paper did, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fabricated_runs import DEVICE, Fake

from harness.analysis.analysis import Analysis, analyse
from harness.problem import axes
from harness.problem.axes import AXES, DEFAULTS
from harness.records.reader import load_run
from harness.records.schema import HEAD
from harness.report import figures, table
from harness.report.csv import csv_frame
from harness.report.latex import format_latex

# Of every axis a value that is not the paper's.
OTHERS = [DEFAULTS._replace(**{axis.name: [*axis.values][1]}) for axis in AXES]
GPU_TIMES = {
    "ff_torch_native/bert-base-4095": 3e7, "ff_torch_bmm/bert-base-4095": 9e7,
    "fff_torch_bmm/ultrafastbert-1x11": 3e7,
}  # fmt: skip


def make_analysis(folder: Path, *, asked: dict[str, Any] | None = None, **changes: Any) -> Analysis:
    """Return the analysis of a run that is made up. asked: what its head says beside."""
    run = Fake(**changes).write(folder)
    head = json.loads((run / HEAD).read_text(encoding="utf-8"))
    (run / HEAD).write_text(json.dumps(head | {"sweep": head["sweep"] | (asked or {})}))
    return analyse(load_run(run))


def shows_paper(analysis: Analysis) -> set[bool]:
    """Return what each report says to whether a published figure stands in it."""
    (legend,) = figures.speedup_figure(analysis).legends
    return {
        "| paper" in table.format_markdown(analysis),
        "- paper: Table 2" in table.format_markdown(analysis),
        "paper" in format_latex(analysis),
        bool(csv_frame(analysis)["published"].notna().any()),
        any("published" in text.get_text() for text in legend.get_texts()),
    }


def test_published_figures_stand_beside_those_of_the_papers_conditions(tmp_path: Path) -> None:
    """A run under the paper's conditions has the published figures in every report."""
    assert shows_paper(make_analysis(tmp_path / "run")) == {True}


@pytest.mark.parametrize("conditions", OTHERS, ids=axes.title)
def test_no_published_figure_under_other_conditions(
    tmp_path: Path, conditions: axes.Conditions
) -> None:
    """Under another value on any axis no report has a column, a line or a bar of the paper's."""
    assert shows_paper(make_analysis(tmp_path / "run", conditions=(conditions,))) == {False}


@pytest.mark.parametrize(
    "asked",
    [
        {"threads": 2}, {"order": "blocked"}, {"isa": "generic"}, {"keep_blas_env": True},
        {"baseline": "bert-base-3072"},
    ],
    ids=str,
)  # fmt: skip
def test_no_published_figure_in_a_run_of_another_protocol(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    """Nor has any where the run itself was of several threads, another order, kernels or baseline."""
    assert shows_paper(make_analysis(tmp_path / "run", asked=asked)) == {False}


def test_only_the_papers_section_has_its_figures(tmp_path: Path) -> None:
    """Of a run with several sections that of the paper's conditions alone has its columns."""
    analysis = make_analysis(tmp_path / "run", conditions=(DEFAULTS, *OTHERS))
    beside = [point.conditions for point in analysis.points if point.is_beside_paper]
    assert len(analysis.points) == 1 + len(OTHERS)
    assert beside == [DEFAULTS]
    assert table.format_markdown(analysis).count("| paper, level 1") == 1


@pytest.mark.parametrize("baseline", ["bert-base-4095", "bert-base-3072"])
def test_papers_gpu_figures_are_over_its_own_baseline(tmp_path: Path, baseline: str) -> None:
    """On a device, too, figures over another baseline stand beside none of the paper's."""
    analysis = make_analysis(
        tmp_path / "run", asked={"baseline": baseline}, device="cuda", provider="", times=GPU_TIMES,
        ceiling=False, twin_of="ff_torch_native/bert-base-4095",
        machine={"device": DEVICE},
    )  # fmt: skip
    expected = baseline == "bert-base-4095"
    assert ("paper, pytorch bmm" in table.format_markdown(analysis)) == expected
    assert ("RTX A6000" in table.format_markdown(analysis)) == expected
