"""Own which files a run's tables and figures are written to."""

from __future__ import annotations

from pathlib import Path

from harness.analysis.analysis import Analysis
from harness.records.files import write_whole
from harness.report import latex, table
from harness.report import ledger as report_ledger
from harness.report.csv import csv_frame, speeds_csv_frame

FIGURES = ("speedup", "time_per_token", "ceilings")
BY_BATCH = "by_batch"  # where a run has several batches
CACHES = "caches"  # where a run began with a walk over working sets
_FORMATS = ("png", "svg")


def write_plots(analysis: Analysis) -> list[Path]:
    """Write each figure as PNG and SVG into the run's folder and return the files.

    A run that was ended before its first cell has nothing to draw and gets no files.
    """
    import matplotlib as mpl  # tables go without it, which takes longer to load than they to print

    from harness.report import figure_by_batch, figure_caches, figures

    written: list[Path] = []
    if not analysis.points:
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
        if figure_by_batch.is_drawable(analysis):
            draws[BY_BATCH] = figure_by_batch.draw
        if figure_caches.is_drawable(analysis):
            draws[CACHES] = figure_caches.draw
        for name, draw in draws.items():
            figure = draw(analysis)
            for extension in _FORMATS:
                path = analysis.folder / f"{name}.{extension}"
                metadata = {"Date": None} if extension == "svg" else {}
                figure.savefig(path, dpi=150, metadata=metadata)
                written.append(path)
    return written


TABLE_FILES = ("table.md", "table.csv", "speeds.csv", "table.tex", "ledger.json")


def write_tables(analysis: Analysis) -> list[Path]:
    """Write table.md, table.csv, speeds.csv, table.tex and ledger.json into the run's folder; return them."""
    texts = (
        table.format_markdown(analysis),
        csv_frame(analysis).to_csv(index=False),
        speeds_csv_frame(analysis).to_csv(index=False),
        latex.format_latex(analysis),
        report_ledger.format_json(analysis.ledger),
    )
    paths = [analysis.folder / name for name in TABLE_FILES]
    for path, text in zip(paths, texts, strict=True):
        write_whole(path, text)
    return paths
