"""Own the table of several runs: a row for each machine, shape and model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.analysis.analysis import Analysis, analyse
from harness.analysis.rows import Point
from harness.analysis.stats import Ratio
from harness.errors import UsageError
from harness.records.reader import Run
from harness.records.schema import RunHead

Row = dict[Any, Any]  # texts and numbers by name; ratios by (kind, level)
# What must be one in a table: a figure of one kind beside a figure of another would be read as a difference.
_ONE = ("dtype", "data", "rows", "routing", "weights")


def label(head: RunHead) -> str:
    """Return what a run's machine is called in a table of several."""
    m = head.machine
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


def _best(point: Point, model: str, level: int, provider: str) -> Ratio | None:
    for versus in point.versus:
        if (versus.model, versus.level, versus.provider) == (model, level, provider):
            return versus.ratio
    return None


def _rows(run: Analysis) -> list[Row]:
    """Return a row for each shape, provider and model; ratios stand under (kind, level)."""
    rows = []
    for point in run.points:
        for provider, entries in point.entries.items():
            for model in run.models:
                row: Row = {
                    "machine": label(run.head), "run": run.folder.name,
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
    rows = [row for run in runs for row in _rows(analyse(run))]
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
