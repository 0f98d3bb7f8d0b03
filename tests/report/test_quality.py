"""Claims on quality in reports: what was claimed and what was measured stand apart, each under its name."""

from __future__ import annotations

import pytest
from fabricated_runs import Fake

from harness.analysis.analysis import analyse
from harness.analysis.quality import find_quality, find_students
from harness.paper.published import SCORES, table1
from harness.report import table
from harness.report.quality import quality_lines

TREE = "ultrafastbert-1x11"


def test_each_score_has_its_provenance() -> None:
    """A row that is secondary up to a column has no confirmed figure behind it."""
    rows = {row.model: row for row in table1()}
    long = rows["UltraFastBERT-1x11-long"].provenance
    assert (long["RTE"], long["avg_without_cola"], long["CoLA"]) == (
        "secondary", "secondary", "unconfirmed",
    )  # fmt: skip
    assert set(rows["UltraFastBERT-1x11"].provenance.values()) == {"unconfirmed"}
    assert "CoLA" not in rows["BERT-base"].scores
    assert all(set(row.provenance) == set(SCORES) >= set(row.scores) for row in rows.values())


def test_claims_are_those_of_the_runs_models() -> None:
    """Beside a run stand its own trees and the dense models, and no claim where none of it was published."""
    names = [scores.model for scores in find_quality(["bert-base-4095", TREE]).claimed]
    assert "UltraFastBERT-1x11" in names
    assert "UltraFastBERT-1x11-long" in names
    assert not any("2x10" in name for name in names)
    assert find_quality(["bert-base-4095", "ultrafastbert-7x3"]).claimed == []


def test_students_have_the_mean_of_layers_and_an_interval_of_seeds() -> None:
    """A mean lies between its layers' least and most; one seed alone gives no interval."""
    for student in find_students():
        assert student.least <= student.error <= student.most
        assert (student.seeds > 1) == (student.half == student.half)


def test_claimed_and_measured_are_never_mixed() -> None:
    """Each table stands under its own word, and no row of the one has a figure of the other."""
    claimed, _, measured = "\n".join(quality_lines(find_quality([TREE]))).partition("**Measured**")
    assert "**Claimed**" in claimed
    assert "GLUE without CoLA" in claimed
    assert "| relative error " not in claimed
    assert "UltraFastBERT" not in measured
    for student in find_students():
        assert f"| {student.name} " in measured
        assert f"| {student.name} " not in claimed


@pytest.mark.parametrize("part", ["## Quality beside speed"])
def test_it_stands_once_and_last(part: str) -> None:
    """A report has one such section, behind all of its own figures."""
    text = table.format_markdown(analyse(Fake(processes=1, blocks=1).run()))
    assert text.count(part) == 1
    assert text.rindex("\n## ") + 1 == text.index(part)
