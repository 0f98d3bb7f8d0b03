"""Own the tables of a run as LaTeX."""

from __future__ import annotations

import pandas as pd

from harness.analysis.analysis import Analysis
from harness.problem.models import title
from harness.report import escape, table
from harness.report.formats import NONE, UNCONFIRMED
from harness.report.frames import paper_frame, versus_frame
from harness.report.header import head_lines


def _shown(value: object) -> str:
    return escape.latex(str(value))


def _latex_table(frame: pd.DataFrame, caption: str) -> str:
    plain = frame.replace({UNCONFIRMED: "*", NONE: "--"}, regex=True)
    style = plain.style.hide(axis="index").format(_shown)
    style = style.format_index(_shown, axis=1)
    text: str = style.to_latex(
        hrules=True, caption=escape.latex(caption),
        column_format="l" + "r" * (len(frame.columns) - 1),
        position_float="centering",
    )  # fmt: skip
    return text


def format_latex(analysis: Analysis) -> str:
    """Return the paper's table and the best-against-best table as LaTeX (package booktabs)."""
    parts = [
        escape.latex_comment(line.removeprefix("- "))
        for line in head_lines(analysis)
        if line.startswith("-")
    ]
    parts += ["% Needs \\usepackage{booktabs}. * unconfirmed in any source that could be opened."]
    for point in analysis.points:
        at = table.format_place(point).lower()
        for provider, entries in point.entries.items():
            caption = (
                f"Speedup over {title(point.baseline)} at the same BLAS level ({provider}, {at})"
            )
            parts.append(_latex_table(paper_frame(entries, point.baseline), caption))
        if point.versus:
            parts.append(_latex_table(versus_frame(point), f"Speedup over the fastest FF ({at})"))
    return "\n".join(parts)
