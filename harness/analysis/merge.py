"""Own the table of several runs: a row for each machine, shape and model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.analysis import gpu as analysis_gpu
from harness.analysis import points as analysis_points
from harness.analysis.analysis import Analysis, analyse
from harness.analysis.rows import Point
from harness.analysis.stats import Ratio
from harness.errors import UsageError
from harness.problem.axes import COLUMNS, Conditions, changes
from harness.records.reader import Run
from harness.records.schema import RunHead

Row = dict[Any, Any]  # texts and numbers by name; ratios by (kind, column)
SAME, BEST = "same", "best"  # kinds: over the FF in the same column, over the fastest FF
# What has a column of its own only where it differs between rows.
_WHERE_IT_DIFFERS = ("seed", "isa", "order", *COLUMNS)


def label(head: RunHead) -> str:
    """Return what a run's machine is called in a table of several."""
    m = head.machine
    device = f"{m.device.name}, " if m.device else ""
    return f"{device}{m.processor}, {m.cores} cores ({m.host})"


def _kind(run: Run) -> dict[str, str]:
    """Return what of a run must be the same in all runs of a table.

    A figure of one kind beside a figure of another would be read as a difference of the machines.
    """
    layers = run.cells[run.cells["role"] == "layer"]
    of_axes = {name: ", ".join(sorted(map(str, layers[name].unique()))) for name in COLUMNS}
    return {"device": run.head.sweep.device, "baseline": run.head.sweep.baseline, **of_axes}


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


class _Figure(NamedTuple):
    """Hold a model's ratio to the FF in the same column of the paper's table, and whose column it is."""

    provider: str
    model: str
    column: str
    implementation: str
    ratio: Ratio | None


def _figures(point: Point) -> list[_Figure]:
    """Return the figures of the paper's columns: those of a GPU, or levels under each provider."""
    levels, columns = analysis_points.COLUMNS, analysis_gpu.COLUMNS
    of_gpu = [
        _Figure("", e.model, e.column, f"fff_{columns[e.column]}", e.ratio) for e in point.gpu
    ]
    return of_gpu + [
        _Figure(provider, e.model, f"level {e.level}", f"fff_{levels[e.level]}", e.ratio)
        for provider, entries in point.entries.items()
        for e in entries
    ]


def _rows(run: Analysis) -> list[Row]:
    """Return a row for each shape, conditions, provider and model; ratios stand under (kind, column)."""
    rows: dict[tuple[object, ...], Row] = {}
    sweep = run.head.sweep
    for point in run.points:
        best = {(v.model, v.implementation, v.provider): v.ratio for v in point.versus}
        for of in _figures(point):
            row = rows.setdefault(
                (point.batch, point.width, point.conditions, of.provider, of.model),
                {
                    "machine": label(run.head), "run": run.folder.name, "started": run.head.started_utc,
                    "commit": run.head.machine.commit, "quick": sweep.quick, "provider": of.provider,
                    "batch": point.batch, "width": point.width, "threads": sweep.threads,
                    "model": of.model, "baseline": point.baseline, "seed": sweep.seed,
                    "isa": sweep.isa or "fastest", "order": sweep.order, **point.conditions._asdict(),
                },
            )  # fmt: skip
            row[(SAME, of.column)] = of.ratio
            if ratio := best.get((of.model, of.implementation, of.provider)):
                row[(BEST, of.column)] = ratio
    return list(rows.values())


def _conditions(row: Row) -> Conditions:
    return Conditions(*(row[name] for name in COLUMNS))


def differing(rows: Sequence[Row]) -> list[str]:
    """Return the columns beside those of every table that the rows need to be told apart."""
    return [name for name in _WHERE_IT_DIFFERS if len({row[name] for row in rows}) > 1]


def columns(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the columns of ratios that the rows have, (kind, column), those over the fastest FF last."""
    names = [*(f"level {level}" for level in analysis_points.COLUMNS), *analysis_gpu.COLUMNS]
    found = {key for row in rows for key in row if isinstance(key, tuple)}
    return [key for kind in (SAME, BEST) for name in names if (key := (kind, name)) in found]


def merged_rows(runs: Sequence[Run]) -> list[Row]:
    """Return the rows of all runs, by width, batch, threads, conditions and model: machines stand together.

    Raises UsageError where the runs can't stand in one table.
    """
    check_mix(runs)
    rows = [row for run in runs for row in _rows(analyse(run))]
    models = list(dict.fromkeys(row["model"] for row in rows))
    conditions = sorted(dict.fromkeys(map(_conditions, rows)), key=lambda how: len(changes(how)))
    return sorted(
        rows,
        key=lambda r: (
            -r["width"],
            -r["batch"],
            r["threads"],
            r["quick"],
            conditions.index(_conditions(r)),
            models.index(r["model"]),
        ),
    )
