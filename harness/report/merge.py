"""Own the printed table of several runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis import merge
from harness.analysis.merge import Row
from harness.analysis.stats import Ratio
from harness.errors import UsageError
from harness.problem.models import speedup_limit, title
from harness.records.reader import Run
from harness.report import escape
from harness.report.files import write_texts
from harness.report.formats import (
    NONE,
    format_csv,
    format_limit,
    format_markdown_table,
    format_ratio,
)

MERGED_FILES = ("merged.md", "merged.csv")
# The columns of every table, in the order of the file.
_COLUMNS = (
    "machine", "run", "started", "commit", "quick", "provider", "batch", "width", "threads", "model",
    "baseline",
)  # fmt: skip


def _plain(prefix: str, ratio: Ratio | None) -> dict[str, Any]:
    values = (ratio.value, ratio.low, ratio.high) if ratio else (math.nan,) * 3
    names = ("speedup", "low", "high")
    return {f"{prefix} {n}": v if math.isfinite(v) else None
            for n, v in zip(names, values, strict=True)}  # fmt: skip


def _title(column: tuple[str, str]) -> str:
    kind, name = column
    return name if kind == merge.SAME else f"{name}, over the fastest FF"


def merged_frame(rows: list[Row]) -> pd.DataFrame:
    """Return the rows as plain numbers, for other programs."""
    plain = []
    for row in rows:
        flat = {name: row[name] for name in (*_COLUMNS, *merge.differing(rows))}
        flat["limit"] = speedup_limit(row["model"], row["baseline"])
        for column in merge.columns(rows):
            flat.update(_plain(_title(column), row.get(column)))
        plain.append(flat)
    return pd.DataFrame(plain)


def _format_cell(row: Row, column: tuple[str, str]) -> str:
    ratio = row.get(column)
    if (
        column[0] == merge.SAME
        and ratio is not None
        and speedup_limit(row["model"], row["baseline"]) == 1
    ):
        return "1"
    return format_ratio(ratio)


def _separate(rows: list[Row]) -> list[str]:
    """Say which conditions differ between rows, so that nobody reads across them."""
    notes = []
    names = ("batch", "width", "threads", "provider", "quick", "commit", *merge.differing(rows))
    for name in names:
        values = list(dict.fromkeys(row[name] for row in rows))
        if len(values) > 1:
            notes.append(
                f"- {name} differs ({', '.join(map(str, values))}): rows of one {name} compare"
            )
    return notes


def _reading_line(rows: list[Row]) -> str:
    """Say what the columns of ratios are over."""
    names = [name for kind, name in merge.columns(rows) if kind == merge.SAME]
    same, best = "level: over the baseline at the same BLAS level", "under any provider"
    if not all(name.startswith("level ") for name in names):
        same = f"{', '.join(names)}: over the baseline in the same column"
        best = "of any implementation"
    return (
        f"- {same} on the same machine; over the fastest FF: of that machine, {best}. "
        "Times of different machines are not compared."
    )


def format_merged(runs: Sequence[Run], rows: list[Row]) -> str:
    """Return the rows of several runs as Markdown."""
    runs, rows = escape.each_text((list(runs), list(rows)), escape.markdown)
    frame = pd.DataFrame(
        {
            "machine": row["machine"], "provider": row["provider"] or NONE, "batch": row["batch"],
            "width": row["width"], "threads": row["threads"],
            **{name: row[name] for name in merge.differing(rows)},
            "model": title(row["model"]) + (" (quick)" if row["quick"] else ""),
            "limit": format_limit(row["model"], row["baseline"]),
            **{_title(c): _format_cell(row, c) for c in merge.columns(rows)},
        }
        for row in rows
    )  # fmt: skip
    lines = [
        f"# Speedups on {len({row['machine'] for row in rows})} machines",
        "",
        format_markdown_table(frame),
        "",
        _reading_line(rows),
        *_separate(rows),
        "",
        "Runs:",
        "",
    ]
    return "\n".join([*lines, *run_lines(runs)]) + "\n"


def run_lines(runs: Sequence[Run]) -> list[str]:
    """Return a line on each run of a table."""
    lines = []
    for run in runs:
        m = run.head.machine
        damaged = f"; **{len(run.warnings)} damaged lines left out**" if run.warnings else ""
        cut = "" if run.end and run.end.reason == "complete" else "; ended early"
        lines.append(f"- {run.folder.name}: {merge.label(run.head)}, {m.system}, {m.commit}, "
                     f"{run.head.started_utc}{cut}{damaged}")  # fmt: skip
    return lines


def write_merged(runs: Sequence[Run], rows: list[Row], out: Path) -> list[Path]:
    """Write the rows of several runs to a file of Markdown or CSV, or both into a folder; return them.

    Raises UsageError for a file of another kind.
    """
    return write_table(format_merged(runs, rows), merged_frame(rows), out)


def write_table(markdown: str, frame: pd.DataFrame, out: Path) -> list[Path]:
    """Write a table of several runs to a file of Markdown or CSV, or both into a folder; return them.

    frame: the same as plain numbers. Raises UsageError for a file of another kind.
    """
    texts = {".md": markdown, ".csv": format_csv(frame)}
    if out.suffix and not out.is_dir():
        if out.suffix not in texts:
            raise UsageError(f"--out: need a folder or a file ending in .md or .csv, got {out}")
        paths = {out: texts[out.suffix]}
    else:
        paths = {out / name: texts[Path(name).suffix] for name in MERGED_FILES}
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        return write_texts(paths)
    except OSError as error:
        raise UsageError(f"--out: can't write to {out}: {error.strerror}") from None
