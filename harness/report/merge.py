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
from harness.report.formats import format_limit, format_markdown_table, format_ratio

MERGED_FILES = ("merged.md", "merged.csv")
_NONE = "–"


def _plain(prefix: str, ratio: Ratio | None) -> dict[str, Any]:
    values = (ratio.value, ratio.low, ratio.high) if ratio else (math.nan,) * 3
    names = ("speedup", "low", "high")
    return {f"{prefix} {n}": v if math.isfinite(v) else None
            for n, v in zip(names, values, strict=True)}  # fmt: skip


def _columns(rows: list[Row]) -> list[tuple[str, int]]:
    found = {key for row in rows for key in row if isinstance(key, tuple)}
    return sorted(found, key=lambda key: (key[0] == "best", key[1]))


def _title(column: tuple[str, int]) -> str:
    kind, level = column
    return f"level {level}" if kind == "level" else f"level {level}, over the fastest FF"


def merged_frame(rows: list[Row]) -> pd.DataFrame:
    """Return the rows as plain numbers, for other programs."""
    plain = []
    for row in rows:
        flat = {k: v for k, v in row.items() if isinstance(k, str)}
        flat["limit"] = speedup_limit(row["model"], row["baseline"])
        for column in _columns(rows):
            flat.update(_plain(_title(column), row.get(column)))
        plain.append(flat)
    return pd.DataFrame(plain)


def _format_cell(row: Row, column: tuple[str, int]) -> str:
    ratio = row.get(column)
    if (
        column[0] == "level"
        and ratio is not None
        and speedup_limit(row["model"], row["baseline"]) == 1
    ):
        return "1"
    return format_ratio(ratio)


def _separate(rows: list[Row]) -> list[str]:
    """Say which conditions differ between rows, so that nobody reads across them."""
    notes = []
    for name in ("batch", "width", "threads", "provider", "quick", "commit"):
        values = list(dict.fromkeys(row[name] for row in rows))
        if len(values) > 1:
            notes.append(
                f"- {name} differs ({', '.join(map(str, values))}): rows of one {name} compare"
            )
    return notes


def format_merged(runs: Sequence[Run], rows: list[Row]) -> str:
    """Return the rows of several runs as Markdown."""
    frame = pd.DataFrame(
        {
            "machine": row["machine"], "provider": row["provider"], "batch": row["batch"],
            "width": row["width"], "threads": row["threads"],
            "model": title(row["model"]) + (" (quick)" if row["quick"] else ""),
            "limit": format_limit(row["model"], row["baseline"]),
            **{_title(c): _format_cell(row, c) for c in _columns(rows)},
        }
        for row in rows
    )  # fmt: skip
    lines = [
        f"# Speedups on {len({row['machine'] for row in rows})} machines",
        "",
        format_markdown_table(frame),
        "",
        "- level: over the baseline at the same BLAS level on the same machine; over the fastest FF: of "
        "that machine, under any provider. Times of different machines are not compared.",
        *_separate(rows),
        "",
        "Runs:",
        "",
    ]
    for run in runs:
        m = run.head.machine
        damaged = f"; **{len(run.warnings)} damaged lines left out**" if run.warnings else ""
        cut = "" if run.end and run.end.reason == "complete" else "; ended early"
        lines.append(f"- {run.folder.name}: {merge.label(run.head)}, {m.system}, {m.commit}, "
                     f"{run.head.started_utc}{cut}{damaged}")  # fmt: skip
    return "\n".join(lines) + "\n"


def write_merged(runs: Sequence[Run], rows: list[Row], out: Path) -> list[Path]:
    """Write the rows of several runs to a file of Markdown or CSV, or both into a folder; return them.

    Raises UsageError for a file of another kind.
    """
    markdown = format_merged(runs, rows)
    comma: str = merged_frame(rows).to_csv(index=False)
    texts = {".md": markdown, ".csv": comma}
    if out.suffix and not out.is_dir():
        if out.suffix not in texts:
            raise UsageError(f"--out: need a folder or a file ending in .md or .csv, got {out}")
        paths = {out: texts[out.suffix]}
    else:
        paths = {out / name: texts[Path(name).suffix] for name in MERGED_FILES}
    try:
        for path, text in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out: can't write to {out}: {error.strerror}") from None
    return list(paths)
