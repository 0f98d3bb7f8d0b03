"""Own the table of several runs: a row for each machine, shape and model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness import view
from harness.errors import UsageError
from harness.frames import format_limit
from harness.notation import format_markdown_table, format_ratio
from harness.reader import Run
from harness.rows import Point
from harness.stats import Ratio

Row = dict[Any, Any]  # texts and numbers by name; ratios by (kind, level)
MERGED_FILES = ("merged.md", "merged.csv")
_NONE = "–"
# What must be one in a table: a figure of one kind beside a figure of another would be read as a difference.
_ONE = ("dtype", "data", "rows", "routing", "weights")


def _label(run: Run) -> str:
    m = run.head.machine
    return f"{m.processor}, {m.cores} cores ({m.host})"


def _kind(run: Run) -> dict[str, str]:
    """Return what of a run must be the same in all runs of a table."""
    layers = run.cells[run.cells["role"] == "layer"]
    kind = {"device": run.head.sweep.device, "baseline": run.head.sweep.baseline}
    for name in _ONE:
        if name in layers:
            kind[name] = ", ".join(sorted(map(str, layers[name].unique())))
    return kind


def check_mix(runs: Sequence[Run]) -> None:
    """Refuse with a UsageError, naming the two runs, what can't stand in one table."""
    seen: dict[Path, Run] = {}
    for run in runs:
        place = run.folder.resolve()
        if place in seen:
            raise UsageError(f"{run.folder} was given twice")
        seen[place] = run
        if run.samples.empty:
            raise UsageError(f"{run.folder} has no samples: there is nothing to merge")
    first = runs[0]
    for run in runs[1:]:
        same_start = run.head.started_utc == first.head.started_utc
        if same_start and run.samples.equals(first.samples):
            raise UsageError(f"{run.folder} is a copy of {first.folder}")
        then, now = _kind(first), _kind(run)
        for name in then:
            if then[name] != now.get(name):
                raise UsageError(
                    f"{first.folder} and {run.folder} can't stand in one table: {name} is "
                    f"{then[name]!r} in the one and {now.get(name)!r} in the other"
                )


def _plain(prefix: str, ratio: Ratio | None) -> dict[str, Any]:
    values = (ratio.value, ratio.low, ratio.high) if ratio else (math.nan,) * 3
    names = ("speedup", "low", "high")
    return {f"{prefix} {n}": v if math.isfinite(v) else None
            for n, v in zip(names, values, strict=True)}  # fmt: skip


def _best(point: Point, model: str, level: int, provider: str) -> Ratio | None:
    for versus in point.versus:
        if (versus.model, versus.level, versus.provider) == (model, level, provider):
            return versus.ratio
    return None


def _rows(run: Run) -> list[Row]:
    """Return a row for each shape, provider and model; ratios stand under (kind, level)."""
    rows = []
    for point in view.points(run):
        for provider, entries in point.entries.items():
            for model in view.models(run):
                row: Row = {
                    "machine": _label(run), "run": run.folder.name,
                    "started": run.head.started_utc, "commit": run.head.machine.commit,
                    "quick": run.head.sweep.quick, "provider": provider, "batch": point.batch,
                    "width": point.width, "threads": run.head.sweep.threads, "model": model,
                    "baseline": point.baseline,
                }  # fmt: skip
                for e in entries:
                    if e.model == model:
                        row[("level", e.level)] = e.ratio
                        best = _best(point, model, e.level, provider)
                        if best:
                            row[("best", e.level)] = best
                rows.append(row)
    return rows


def merged_rows(runs: Sequence[Run]) -> list[Row]:
    """Return the rows of all runs, by width, batch, threads and model, so that machines stand together.

    Raises UsageError where the runs can't stand in one table.
    """
    check_mix(runs)
    rows = [row for run in runs for row in _rows(run)]
    models = list(dict.fromkeys(row["model"] for row in rows))
    return sorted(
        rows,
        key=lambda r: (
            -r["width"],
            -r["batch"],
            r["threads"],
            r["quick"],
            models.index(r["model"]),
        ),
    )


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
        flat["limit"] = view.limit(row["model"], row["baseline"])
        for column in _columns(rows):
            flat.update(_plain(_title(column), row.get(column)))
        plain.append(flat)
    return pd.DataFrame(plain)


def _format_cell(row: Row, column: tuple[str, int]) -> str:
    ratio = row.get(column)
    if (
        column[0] == "level"
        and ratio is not None
        and view.limit(row["model"], row["baseline"]) == 1
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
            "model": view.title(row["model"]) + (" (quick)" if row["quick"] else ""),
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
        lines.append(f"- {run.folder.name}: {_label(run)}, {m.system}, {m.commit}, "
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
