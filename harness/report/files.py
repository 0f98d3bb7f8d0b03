"""Own which files a run's tables and figures are written to."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from harness.analysis import points as analysis_points
from harness.records.files import write_whole
from harness.records.reader import Run
from harness.report import figure_by_batch, figures, latex, table
from harness.report import ledger as report_ledger
from harness.report.csv import csv_frame, speeds_csv_frame

FIGURES = ("speedup", "time_per_token", "ceilings")
BY_BATCH = "by_batch"  # where a run has several batches
_FORMATS = ("png", "svg")


def write_plots(run: Run) -> list[Path]:
    """Write each figure as PNG and SVG into the run's folder and return the files.

    A run that was ended before its first cell has nothing to draw and gets no files.
    """
    written: list[Path] = []
    if not analysis_points.points(run):
        return written
    # Fixed ids and no date: the same samples give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "fff-harness", "font.family": "DejaVu Sans"}):
        draws = dict(
            zip(
                FIGURES,
                (figures.speedup_figure, figures.time_figure, figures.ceilings_figure),
                strict=True,
            )
        )
        if figure_by_batch.is_drawable(run):
            draws[BY_BATCH] = figure_by_batch.draw
        for name, draw in draws.items():
            figure = draw(run)
            for extension in _FORMATS:
                path = run.folder / f"{name}.{extension}"
                metadata = {"Date": None} if extension == "svg" else {}
                figure.savefig(path, dpi=150, metadata=metadata)
                written.append(path)
    return written


TABLE_FILES = ("table.md", "table.csv", "speeds.csv", "table.tex", "ledger.json")


def write_tables(run: Run) -> list[Path]:
    """Write table.md, table.csv, speeds.csv and table.tex into the run's folder and return them."""
    texts = (
        table.format_markdown(run),
        csv_frame(run).to_csv(index=False),
        speeds_csv_frame(run).to_csv(index=False),
        latex.format_latex(run),
        report_ledger.format_json(run),
    )
    paths = [run.folder / name for name in TABLE_FILES]
    for path, text in zip(paths, texts, strict=True):
        write_whole(path, text)
    return paths
