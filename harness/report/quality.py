"""Own the words about quality: what the paper claims of its models, what students of a layer miss here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from harness.analysis.quality import Quality, Student
from harness.paper.published import PublishedScores
from harness.report.formats import NONE, UNCONFIRMED, format_markdown_table, format_share

_SHOWN = {"avg_without_cola": "GLUE without CoLA", "CoLA": "CoLA", "avg": "GLUE"}


def _format_score(scores: PublishedScores, column: str) -> str:
    if column not in scores.scores:
        return NONE
    mark = UNCONFIRMED if scores.provenance[column] == "unconfirmed" else ""
    return f"{scores.scores[column]:.1f}{mark}"


def claimed_frame(claimed: Sequence[PublishedScores]) -> pd.DataFrame:
    """Return the published scores, each marked where no source that could be opened confirms it."""
    return pd.DataFrame(
        {
            "model": scores.model,
            "neurons": scores.neurons,
            "used for a token": f"{100 * scores.share_used:.3g} %",
            **{title: _format_score(scores, column) for column, title in _SHOWN.items()},
        }
        for scores in claimed
    )


def _format_error(student: Student) -> str:
    if not math.isfinite(student.half):
        return f"~{student.error:.2f}"
    return f"{student.error:.3f} ± {student.half:.3f}"


def measured_frame(measured: Sequence[Student]) -> pd.DataFrame:
    """Return the students' errors: the mean over layers and seeds, its interval, and the layers' range."""
    return pd.DataFrame(
        {
            "student": s.name,
            "active": s.active,
            "neurons": s.neurons,
            "relative error": _format_error(s),
            "by layer": f"{s.least:.2f} to {s.most:.2f}",
            "leaves or experts used": format_share(s.used),
        }
        for s in measured
    )


def claimed_line() -> str:
    """Return what the published scores are, before their table."""
    return (
        "**Claimed**, by the paper's Table 1, of whole models that were trained as such; in points, "
        f"{UNCONFIRMED} in no source that could be opened. Nothing of it was measured here:"
    )


def measured_line(quality: Quality) -> str:
    """Return what the students' errors are, before their table."""
    layers = max((s.layers for s in quality.measured), default=0)
    seeds = max((s.seeds for s in quality.measured), default=0)
    return (
        f"**Measured**, by this project and not in this run: students of the {layers} feedforward layers "
        "of a small encoder, which say nothing of GLUE. Relative error on held-out text: 0 is the layer "
        f"itself, 1 its mean output; mean over layers and {seeds} seed{'s' if seeds > 1 else ''} with its "
        "95 % interval, `~` without. None was trained to convergence (docs/trained-routing.md):"
    )


def quality_lines(quality: Quality) -> list[str]:
    """Return the section of what is known of quality: claims and measurements apart, each under its name."""
    lines = ["", "## Quality beside speed", ""]
    if quality.claimed:
        table = format_markdown_table(claimed_frame(quality.claimed))
        lines += [claimed_line(), "", table, ""]
    table = format_markdown_table(measured_frame(quality.measured))
    return [*lines, measured_line(quality), "", table]
