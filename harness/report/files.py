"""Own which files a run's tables and figures are written to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.analysis.analysis import Analysis
from harness.records.files import write_whole
from harness.report import drawing, latex, table
from harness.report import ledger as report_ledger
from harness.report import transformer as report_transformer
from harness.report.csv import csv_frame, speeds_csv_frame
from harness.report.formats import format_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = ("speedup", "time_per_token")
ROOFLINE, BANDWIDTH = "roofline", "bandwidth"  # where a run measured ceilings
BY_BATCH = "by_batch"  # where a run has several batches
WHOLE_MODELS = "model"  # of a run of whole models, alone
CACHES = "caches"  # where a run began with a walk over working sets
_FORMATS = drawing.FORMATS
SCREEN = drawing.STYLES[0]


def find_figures(analysis: Analysis, style: str = SCREEN) -> dict[str, Callable[[], Figure]]:
    """Return the figures of a run in a style, by its name: the name of each figure, and what draws it.

    A run that was ended before its first cell has nothing to draw.
    """
    if analysis.head.sweep.architecture is not None and not any(
        math.isfinite(form.pass_ns) for model in analysis.whole_models for form in model.forms
    ):
        return {}
    if analysis.whole_models:
        with drawing.plain_matplotlib():
            from harness.report import transformer_figure
            from harness.report.figure_style import STYLES
        return {WHOLE_MODELS: partial(transformer_figure.draw, analysis, STYLES[style])}
    if not analysis.points:
        return {}
    with drawing.plain_matplotlib():
        from harness.report import (
            figure_bandwidth,
            figure_by_batch,
            figure_caches,
            figure_roofline,
            figures,
        )
        from harness.report.figure_style import STYLES

    of_each = (figures.speedup_figure, figures.time_figure)
    draws: dict[str, Callable[..., Figure]] = dict(zip(FIGURES, of_each, strict=True))
    where_drawable = {
        ROOFLINE: figure_roofline, BANDWIDTH: figure_bandwidth, BY_BATCH: figure_by_batch,
        CACHES: figure_caches,
    }  # fmt: skip
    draws |= {
        n: module.draw for n, module in where_drawable.items() if module.is_drawable(analysis)
    }
    return {name: partial(draw, analysis, STYLES[style]) for name, draw in draws.items()}


def write_plots(analysis: Analysis, style: str = SCREEN) -> list[Path]:
    """Write each figure in a style as PNG, SVG and PDF into the run's folder and return the files.

    Raises FigureError or OSError for the first that can't be drawn or written, when the others are.
    """
    return drawing.write_figures(
        analysis.folder, find_figures(analysis, style), _FORMATS, drawing.find_settings(style)
    )


MODEL_FILES = ("table.md", "model.csv")
TABLE_FILES = ("table.md", "table.csv", "speeds.csv", "table.tex", "ledger.json")


def write_tables(analysis: Analysis) -> list[Path]:
    """Write table.md, table.csv, speeds.csv, table.tex and ledger.json into the run's folder; return them.

    Of a run of whole models table.md and model.csv. Raises OSError for the first that can't be written,
    when the others are.
    """
    if analysis.head.sweep.architecture is not None:
        numbers = format_csv(report_transformer.csv_frame(analysis.whole_models))
        found = (table.format_markdown(analysis), numbers)
        return write_texts(
            dict(zip((analysis.folder / n for n in MODEL_FILES), found, strict=True))
        )
    texts = (
        table.format_markdown(analysis),
        format_csv(csv_frame(analysis)),
        format_csv(speeds_csv_frame(analysis)),
        latex.format_latex(analysis),
        report_ledger.format_json(analysis.ledger, analysis.leaf_ledger),
    )
    return write_texts(dict(zip((analysis.folder / n for n in TABLE_FILES), texts, strict=True)))


def write_texts(texts: Mapping[Path, str]) -> list[Path]:
    """Write files, each whole or not at all, and return them.

    Raises OSError for the first that can't be written, when the others are.
    """
    troubles = []
    for path, text in texts.items():
        try:
            write_whole(path, text)
        except OSError as error:
            troubles.append(error)
    if troubles:
        raise troubles[0]
    return list(texts)
