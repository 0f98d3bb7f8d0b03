"""Own the table of several runs of whole models: a row for each machine, model and layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.analysis import merge
from harness.analysis.analysis import Analysis
from harness.problem.transformer import DENSE
from harness.records.reader import Run
from harness.report import escape
from harness.report import transformer as report_transformer
from harness.report.formats import format_markdown_table, format_ratio
from harness.report.merge import run_lines
from harness.report.transformer import format_percent, format_whole, name_form


def merged_frame(analyses: Sequence[Analysis]) -> pd.DataFrame:
    """Return a row a run, model and form as plain numbers, for other programs; times in ns."""
    frames = []
    for analysis in analyses:
        head, numbers = analysis.head, report_transformer.csv_frame(analysis.whole_models)
        about: dict[str, Any] = {
            "machine": merge.label(head), "run": analysis.folder.name, "started": head.started_utc,
            "commit": head.machine.commit, "quick": head.sweep.quick, "threads": head.sweep.threads,
            "seed": head.sweep.seed,
        }  # fmt: skip
        frames.append(numbers.assign(**about)[[*about, *numbers.columns]])
    return pd.concat(frames, ignore_index=True)


def format_merged(runs: Sequence[Run], analyses: Sequence[Analysis]) -> str:
    """Return the models of several runs as Markdown: rows of one model stand together."""
    runs, analyses = escape.each_text((list(runs), list(analyses)), escape.markdown)
    rows = [
        {
            "model": format_whole(model), "the FF is": name_form(form),
            "machine": merge.label(analysis.head), "run": analysis.folder.name,
            "threads": analysis.head.sweep.threads,
            "model, measured": format_ratio(form.speedup), "its FF alone": format_ratio(form.layer),
            "measured limit": format_ratio(model.measured_limit),
            "of it": format_percent(form.of_limit), "A/A": format_ratio(model.aa),
        }
        for analysis in analyses
        for model in analysis.whole_models
        for form in model.forms
        if form.ff != DENSE
    ]  # fmt: skip
    order = {(row["model"], row["the FF is"]): i for i, row in reversed(list(enumerate(rows)))}
    rows.sort(key=lambda row: order[row["model"], row["the FF is"]])
    machines = {row["machine"] for row in rows}
    return "\n".join(
        [
            f"# Whole models on {len(machines)} machine{'s' if len(machines) != 1 else ''}", "",
            format_markdown_table(pd.DataFrame(rows)), "",
            "- Every ratio is over the model as it is, of the same run. Times of different machines are not "
            "compared.",
            "", "Runs:", "", *run_lines(runs),
        ]
    ) + "\n"  # fmt: skip
