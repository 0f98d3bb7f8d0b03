"""Own the rows that only a run on a device has: the paper's GPU columns, best against best by precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis import points as analysis_points
from harness.analysis import stats
from harness.analysis.ceilings import precision
from harness.analysis.rows import Point
from harness.analysis.stats import Ratio
from harness.paper.published import PublishedCell, find
from harness.problem import axes
from harness.records.reader import Run

# The implementation behind each GPU column of the paper's table.
COLUMNS = {"native fused": "torch_native", "pytorch bmm": "torch_bmm", "naive cuda": "cuda_naive"}
PRECISIONS = {
    "float32": "float32, TF32 off", "tf32": "TF32 on tensor cores", "bfloat16": "bfloat16",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuEntry:
    """Hold one cell of the paper's GPU columns, measured and published. status as in `rows.Entry`."""

    model: str
    column: str
    ratio: Ratio | None
    status: str
    published: PublishedCell | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Hold the fastest FF of one precision, of any implementation and launch; cell is empty for none."""

    precision: str
    cell: str = ""
    implementation: str = ""
    launch: str = ""
    pass_ns: float = np.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Hold one FFF, in one precision and launch, against the fastest FF of each precision."""

    implementation: str
    model: str
    precision: str
    launch: str
    ratios: dict[str, Ratio | None]  # by the rival's precision


def is_device(run: Run) -> bool:
    """Say whether a run was measured on a device."""
    return run.head.sweep.device != "cpu"


def _own(run: Run, point: Point) -> pd.DataFrame:
    """Return the layers' cells at a point's batch and width."""
    cells = run.cells[run.cells["role"] == "layer"]
    return cells[(cells["batch"] == point.batch) & (cells["d_in"] == point.width)]


def gpu_entries(run: Run, point: Point) -> list[GpuEntry]:
    """Return the paper's GPU columns at a point, each against the FF of the same column."""
    at = _own(run, point)
    here = at[(at[list(axes.COLUMNS)] == list(point.conditions)).all(axis=1)]
    by_name = {(c["model"], c["implementation"]): c for _, c in here.iterrows()}
    found = []
    for model in analysis_points.models(run):
        for column, suffix in COLUMNS.items():
            layers = {"ff", "fff"}
            cell = next((by_name[k] for layer in layers if (k := (model, f"{layer}_{suffix}")) in by_name),
                        None)  # fmt: skip
            base = by_name.get((point.baseline, f"ff_{suffix}"))
            ratio, status = None, "none" if cell is None else str(cell["status"])
            if cell is not None and status == "ok":
                status = "no baseline"
                if base is not None and base["status"] == "ok":
                    ratio = stats.ratio(run.samples, base["cell"], cell["cell"])
                    status = "ok" if ratio else "not sampled"
            found.append(
                GpuEntry(
                    model=model, column=column, ratio=ratio, status=status,
                    published=find(model, column),
                )
            )  # fmt: skip
    return found


def _alike(cells: pd.DataFrame, point: Point) -> pd.DataFrame:
    """Return the cells of a point's data and weights, whatever their precision and launch.

    These are ways to compute the same; where the weights stand as a pass begins is another question, and
    hot is never set against cold.
    """
    names = [c for c in axes.COLUMNS if c not in axes.WAYS]
    wanted = [getattr(point.conditions, name) for name in names]
    return cells[(cells[names] == wanted).all(axis=1) & (cells["status"] == "ok")]


def rivals(run: Run, point: Point) -> list[Rival]:
    """Return the fastest FF of the baseline's shape in each precision that was measured."""
    cells = _alike(_own(run, point), point)
    ff = cells[cells["model"] == point.baseline]
    found = []
    for name in PRECISIONS:
        own = [
            (stats.pass_ns(run.samples, c["cell"]), c)
            for _, c in ff.iterrows()
            if precision(c) == name
        ]
        own = [(time, c) for time, c in own if np.isfinite(time)]
        if not own:
            found.append(Rival(precision=name))
            continue
        time, cell = min(own, key=lambda pair: pair[0])
        found.append(
            Rival(
                precision=name, cell=cell["cell"], implementation=cell["implementation"],
                launch=cell["launch"], pass_ns=time,
            )
        )  # fmt: skip
    return found


def contests(run: Run, point: Point, against: list[Rival]) -> list[Contest]:
    """Return every FFF of a point's data and weights against each rival, in the tables' order."""
    cells = _alike(_own(run, point), point)
    return [
        Contest(
            implementation=c["implementation"], model=c["model"], precision=precision(c),
            launch=c["launch"],
            ratios={
                r.precision: stats.ratio(run.samples, r.cell, c["cell"]) if r.cell else None
                for r in against
            },
        )
        for _, c in cells[cells["layer"] == "fff"]
        .sort_values(["model", "implementation", *axes.WAYS])
        .iterrows()
    ]  # fmt: skip


def places(run: Run) -> list[Point]:
    """Return one point for each batch, width, data and place of the weights: a table of contests each."""
    seen: dict[tuple[object, ...], Point] = {}
    for point in analysis_points.points(run):
        key = (point.batch, point.width, axes.without_ways(point.conditions))
        seen.setdefault(key, point)
    return list(seen.values())
