"""Own what a run says: its cells and samples arranged into the rows that tables and figures show."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis import above_limit, contrasts, roofline, stability, stats
from harness.analysis import ceilings as analysis_ceilings
from harness.analysis.rows import Entry, Point, Speed, Versus
from harness.analysis.stats import Ratio
from harness.paper.published import FASTEST_FF, find
from harness.problem import axes
from harness.problem.axes import Conditions
from harness.problem.models import BASELINE, parse_model, speedup_limit
from harness.records.reader import Run

# The implementation behind each column of the paper's table: the level's plain form.
COLUMNS = {1: "l1_blas", 2: "l2_blas", 3: "l3_blas"}
# What the paper's column over the fastest FF is called, of what is not built on BLAS.
_PUBLISHED_AS = {"fff_torch_bmm": "pytorch bmm"}
_CEILING_ORDER = {
    f"ceiling_{name}": i
    for i, name in enumerate(
        ("sgemm", "cuda_matmul", "fma", "read", "write", "copy", "stream", "cuda_copy", "gather")
    )
}


def models(run: Run) -> list[str]:
    """Return the run's models, the baseline first."""
    found = [m for m in run.cells["model"].unique() if m]
    return sorted(found, key=lambda m: (m != run.head.sweep.baseline, found.index(m)))


def _is_papers(run: Run) -> bool:
    """Say whether the ratios are over the paper's own baseline, so that published ones stand beside them."""
    return run.head.sweep.baseline == BASELINE


def _one(cells: pd.DataFrame, **want: object) -> pd.Series | None:
    for name, value in want.items():
        cells = cells[cells[name] == value]
    return cells.iloc[0] if len(cells) else None


def _entry(run: Run, cells: pd.DataFrame, model: str, level: int) -> Entry:
    layer = parse_model(model).layer
    cell = _one(cells, model=model, implementation=f"{layer}_{COLUMNS[level]}")
    baseline = run.head.sweep.baseline
    base = _one(cells, model=baseline, implementation=f"ff_{COLUMNS[level]}")
    found = find(model, f"level {level}") if _is_papers(run) else None
    ratio, status = None, "none"
    if cell is not None:
        status = str(cell["status"])
        if status == "ok":
            if base is None or base["status"] != "ok":
                status = "no baseline"
            else:
                ratio = stats.ratio(run.samples, base["cell"], cell["cell"])
                status = "ok" if ratio else "not sampled"
    return Entry(model=model, level=level, ratio=ratio, status=status, published=found)


def _fastest(run: Run, cells: pd.DataFrame) -> str:
    """Return the cell of the fastest FF of the baseline's shape, of any implementation and provider."""
    ff = cells[(cells["model"] == run.head.sweep.baseline) & (cells["status"] == "ok")]
    times = {c: stats.pass_ns(run.samples, c) for c in ff["cell"]}
    times = {c: t for c, t in times.items() if np.isfinite(t)}
    return min(times, key=lambda c: times[c]) if times else ""


def _versus(run: Run, cells: pd.DataFrame, fastest: str) -> list[Versus]:
    rows = []
    cells = _ordered(run, cells)
    for _, cell in cells[(cells["layer"] == "fff") & (cells["status"] == "ok")].iterrows():
        level = int(cell["level"]) if pd.notna(cell["level"]) else None
        column = f"level {level}" if level else _PUBLISHED_AS.get(cell["implementation"], "")
        rows.append(
            Versus(
                cell=cell["cell"], implementation=cell["implementation"], model=cell["model"],
                provider=cell["provider"], level=level,
                ratio=stats.ratio(run.samples, fastest, cell["cell"]) if fastest else None,
                published=find(cell["model"], column, baseline=FASTEST_FF)
                if _is_papers(run) and (level is not None) == (run.head.sweep.device == "cpu")
                else None,
            )
        )  # fmt: skip
    return rows


def _ordered(run: Run, cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells by model, level, implementation and provider: the order of the tables."""
    place = {model: i for i, model in enumerate(["", *models(run)])}
    keys = pd.DataFrame(
        {
            "model": cells["model"].map(place),
            "level": cells["level"].fillna(9),
            "implementation": cells["implementation"],
            "provider": cells["provider"],
        }
    )
    return cells.loc[keys.sort_values(list(keys.columns)).index]


def _note(cell: pd.Series) -> str:
    notes = dict(cell["notes"])
    loops = [name.removeprefix("batched_") for name, how in notes.items() if how == "loop"]
    parts = [f"batched={'loop' if loops else 'routine'}"] if "batched_gemv" in notes else []
    if cell["layer"] == "fff" and cell["nodes_touched"]:
        neurons = cell["trees"] * (2 ** (cell["depth"] + 1) - 1)
        parts.append(f"{cell['nodes_touched']} of {neurons} nodes touched")
    if notes.get("timed_by", "").startswith("Python"):
        parts.append("timed by a loop in Python")
    parts += [notes[name] for name in ("weights", "launch") if name in notes]
    return ", ".join(parts)


def _speeds(run: Run, cells: pd.DataFrame) -> list[Speed]:
    ceilings = run.cells[(run.cells["role"] == "ceiling") & (run.cells["status"] == "ok")]
    sgemm = {
        c["provider"]: c["flops"] / stats.pass_ns(run.samples, c["cell"])
        for _, c in ceilings[ceilings["implementation"] == "ceiling_sgemm"].iterrows()
    }
    rows = []
    for _, cell in _ordered(run, cells).iterrows():
        time = stats.pass_ns(run.samples, cell["cell"])
        rate = cell["flops"] / time
        share = rate / sgemm.get(cell["provider"], np.nan) if cell["level"] == 3 else np.nan
        rows.append(
            Speed(
                cell=cell["cell"], implementation=cell["implementation"], model=cell["model"],
                provider=cell["provider"], status=cell["status"], reason=cell["reason"],
                pass_ns=time, token_ns=time / cell["batch"], gflops=rate, share=share,
                samples=int((run.samples["cell"] == cell["cell"]).sum()), note=_note(cell),
                wall_ns=stats.wall_ns(run.samples, cell["cell"]),
                unstable=tuple(stability.reasons(run.samples, cell["cell"])),
            )
        )  # fmt: skip
    return rows


def find_speed(run: Run, cell: str) -> Speed | None:
    """Return the absolute figures of one cell, None where the run has no such cell."""
    return next(iter(_speeds(run, run.cells[run.cells["cell"] == cell])), None)


def why_no_ff(run: Run, point: Point) -> str:
    """Return why a section has no FF of its own dtype."""
    at = run.cells[(run.cells["batch"] == point.batch) & (run.cells["d_in"] == point.width)]
    ff = _under(at, point.conditions)
    reasons = ff[ff["model"] == point.baseline].groupby("reason")
    found = [f"{', '.join(rows['implementation'].unique())}: {why}" for why, rows in reasons]
    return "; ".join(found) or "none was asked for"


def _aa(run: Run, cells: pd.DataFrame) -> Ratio | None:
    twins = cells[(cells["role"] == "aa") & (cells["status"] == "ok")]
    if twins.empty:
        return None
    twin = twins.iloc[0]["cell"]
    return stats.ratio(run.samples, twin.removesuffix("/again"), twin)


def _under(cells: pd.DataFrame, how: Conditions) -> pd.DataFrame:
    """Return the cells under one set of conditions."""
    return cells[(cells[list(axes.COLUMNS)] == list(how)).all(axis=1)]


def points(run: Run) -> list[Point]:
    """Return what the run says at each batch, width and conditions, largest batch and default first."""
    layers = run.cells[~run.cells["role"].isin(["ceiling", "ladder"])]
    found = []
    keys = (
        layers[["batch", "d_in"]].drop_duplicates().sort_values(["d_in", "batch"], ascending=False)
    )
    places = [
        (batch, width, at, how)
        for batch, width in keys.itertuples(index=False)
        for at in [layers[(layers["batch"] == batch) & (layers["d_in"] == width)]]
        for how in contrasts.of_frame(at)
    ]
    for batch, width, at, how in places:
        here = _under(at, how)
        own = here[here["role"] == "layer"]
        fastest, judged_by = _fastest(run, own), here
        stand_in = not fastest and how != axes.in_float32(how)
        if stand_in:
            judged_by = _under(at, axes.in_float32(how))
            fastest = _fastest(run, judged_by[judged_by["role"] == "layer"])
        entries = {
            provider: [
                _entry(run, own[own["provider"] == provider], model, level)
                for model in models(run)
                for level in run.head.sweep.levels
            ]
            for provider in own.loc[own["status"] != "unavailable", "provider"].unique()
            if provider
        }
        found.append(
            Point(
                batch=int(batch), width=int(width), baseline=run.head.sweep.baseline, conditions=how,
                entries=entries, fastest=fastest, stand_in=stand_in and bool(fastest),
                versus=_versus(run, own, fastest), aa=_aa(run, judged_by), speeds=_speeds(run, own),
            )
        )  # fmt: skip
    known = analysis_ceilings.measure(run)
    return [_with_limits(run, known, point) for point in found]


def _by_id(run: Run) -> dict[str, Any]:
    return {cell["cell"]: cell for _, cell in run.cells.iterrows()}


def _with_limits(run: Run, known: analysis_ceilings.Ceilings, point: Point) -> Point:
    """Return the point with each cell's share of its ceiling, and what passes a limit remarked on."""
    by_id = _by_id(run)
    at = run.cells[(run.cells["batch"] == point.batch) & (run.cells["d_in"] == point.width)]
    here = _under(at, point.conditions)
    resolution = point.aa.resolution if point.aa else 0.0

    def judged(found: Entry | Versus, base: pd.Series | None, cell: pd.Series | None) -> Any:
        if found.ratio is not None and found.model != point.baseline:
            resolved = not abs(math.log(found.ratio.value)) < resolution
            found = replace(found, resolved=resolved)
        if base is None or cell is None:
            return found
        remark, impossible = above_limit.judge_speedup(
            run, known, base, cell, found.ratio, speedup_limit(found.model, point.baseline)
        )
        return replace(found, remark=remark, impossible=impossible)

    def entry(provider: str, found: Entry) -> Entry:
        own = here[(here["provider"] == provider) & (here["role"] == "layer")]
        layer, column = parse_model(found.model).layer, COLUMNS[found.level]
        base = _one(own, model=point.baseline, implementation=f"ff_{column}")
        made: Entry = judged(
            found, base, _one(own, model=found.model, implementation=f"{layer}_{column}")
        )
        return made

    def speed(found: Speed) -> Speed:
        share = roofline.floor_ns(known, by_id[found.cell]) / found.pass_ns
        summed = roofline.summed_floor_ns(known, by_id[found.cell]) / found.pass_ns
        impossible = share > roofline.SLACK
        return replace(found, of_ceiling=share, of_floor=summed, impossible=impossible)

    base = by_id[point.fastest] if point.fastest else None
    return replace(
        point,
        entries={p: [entry(p, e) for e in entries] for p, entries in point.entries.items()},
        versus=[judged(v, base, by_id[v.cell]) for v in point.versus],
        speeds=[speed(s) for s in point.speeds],
    )


def ceilings(run: Run) -> list[Speed]:
    """Return the ceilings that the run measured: products, the FMA loop, then streams by place."""
    by_id = _by_id(run)
    places = {place: i for i, place in enumerate(analysis_ceilings.capacities(run))}

    def finished(found: Speed) -> Speed:
        cell = by_id[found.cell]
        own = run.samples.loc[run.samples["cell"] == found.cell, "pass_ns"]
        stream = analysis_ceilings.is_stream(cell)
        return replace(
            found, place=analysis_ceilings.place_name(cell), fastest_ns=float(own.min()),
            width=int(max(cell["d_in"], cell["d_out"])),
            gflops=np.nan if stream else found.gflops,
            gbs=cell["bytes_moved"] / found.pass_ns if stream else np.nan,
            note=analysis_ceilings.precision(cell)
            if found.implementation == "ceiling_cuda_matmul"
            else found.note,
        )  # fmt: skip

    made = [finished(s) for s in _speeds(run, run.cells[run.cells["role"] == "ceiling"])]
    return sorted(
        made,
        key=lambda s: (s.gbs > 0, _CEILING_ORDER.get(s.implementation, 9), places.get(s.place, 9)),
    )


def clock_change(run: Run) -> float:
    """Return how far the clock moved between blocks, as a share, by the FMA ceiling; 0 without one."""
    found = run.cells[
        (run.cells["implementation"] == "ceiling_fma") & (run.cells["status"] == "ok")
    ]
    return stability.clock_change(run.samples, found.iloc[0]["cell"]) if len(found) else 0.0
