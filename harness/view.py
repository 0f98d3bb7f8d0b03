"""Own what a run says: its cells and samples arranged into the rows that tables and figures show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness import axes, published, stats
from harness.published import PublishedCell
from harness.records import Run
from harness.stats import Ratio

# The implementation behind each column of the paper's table: the level's plain form.
COLUMNS = {1: "l1_blas", 2: "l2_blas", 3: "l3_blas"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Hold one cell of the paper's table, measured and published.

    status: `ok`, `none` (no such implementation or not asked for), or why there is no figure.
    """

    model: str
    level: int
    ratio: Ratio | None
    status: str
    published: PublishedCell | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """Hold one implementation of an FFF against the fastest FF."""

    cell: str
    implementation: str
    model: str
    provider: str
    level: int | None
    ratio: Ratio | None
    published: PublishedCell | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Hold the absolute figures of one cell. share is of the same provider's sgemm, level 3 only."""

    cell: str
    implementation: str
    model: str
    provider: str
    status: str
    reason: str
    pass_ns: float
    token_ns: float
    gflops: float
    share: float
    samples: int
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Hold all that is said of one batch and width."""

    batch: int
    width: int
    entries: dict[str, list[Entry]]  # by provider
    fastest: str
    versus: list[Versus]
    aa: Ratio | None
    speeds: list[Speed]


def title(model: str) -> str:
    """Return a model's printed name."""
    return axes.parse_model(model).title


def limit(model: str) -> float:
    """Return the limit of a model's speedup: the baseline's neurons over those that it computes."""
    parsed, base = axes.parse_model(model), axes.parse_model(axes.BASELINE)
    used = parsed.trees * (parsed.depth + 1) if parsed.layer == "fff" else parsed.hidden
    return base.hidden / used


def models(run: Run) -> list[str]:
    """Return the run's models, the baseline first."""
    found = [m for m in run.cells["model"].unique() if m]
    return sorted(found, key=lambda m: (m != axes.BASELINE, found.index(m)))


def _one(cells: pd.DataFrame, **want: object) -> pd.Series | None:
    for name, value in want.items():
        cells = cells[cells[name] == value]
    return cells.iloc[0] if len(cells) else None


def _entry(run: Run, cells: pd.DataFrame, model: str, level: int) -> Entry:
    layer = axes.parse_model(model).layer
    cell = _one(cells, model=model, implementation=f"{layer}_{COLUMNS[level]}")
    base = _one(cells, model=axes.BASELINE, implementation=f"ff_{COLUMNS[level]}")
    found = published.find(model, f"level {level}")
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
    ff = cells[(cells["model"] == axes.BASELINE) & (cells["status"] == "ok")]
    times = {c: stats.pass_ns(run.samples, c) for c in ff["cell"]}
    times = {c: t for c, t in times.items() if np.isfinite(t)}
    return min(times, key=lambda c: times[c]) if times else ""


def _versus(run: Run, cells: pd.DataFrame, fastest: str) -> list[Versus]:
    rows = []
    cells = _ordered(run, cells)
    for _, cell in cells[(cells["layer"] == "fff") & (cells["status"] == "ok")].iterrows():
        level = int(cell["level"]) if pd.notna(cell["level"]) else None
        column = f"level {level}" if level else cell["implementation"]
        rows.append(
            Versus(
                cell=cell["cell"], implementation=cell["implementation"], model=cell["model"],
                provider=cell["provider"], level=level,
                ratio=stats.ratio(run.samples, fastest, cell["cell"]) if fastest else None,
                published=published.find(cell["model"], column, baseline=published.FASTEST_FF),
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
            )
        )  # fmt: skip
    return rows


def _aa(run: Run, cells: pd.DataFrame) -> Ratio | None:
    twins = cells[(cells["role"] == "aa") & (cells["status"] == "ok")]
    if twins.empty:
        return None
    twin = twins.iloc[0]["cell"]
    return stats.ratio(run.samples, twin.removesuffix("/again"), twin)


def points(run: Run) -> list[Point]:
    """Return what the run says at each batch and width, largest batch first."""
    layers = run.cells[~run.cells["role"].isin(["ceiling", "ladder"])]
    found = []
    keys = (
        layers[["batch", "d_in"]].drop_duplicates().sort_values(["d_in", "batch"], ascending=False)
    )
    for batch, width in keys.itertuples(index=False):
        here = layers[(layers["batch"] == batch) & (layers["d_in"] == width)]
        own = here[here["role"] == "layer"]
        fastest = _fastest(run, own)
        entries = {
            provider: [
                _entry(run, own[own["provider"] == provider], model, level)
                for model in models(run)
                for level in run.head.sweep.levels
            ]
            for provider in own["provider"].unique()
            if provider
        }
        found.append(
            Point(
                batch=int(batch), width=int(width), entries=entries, fastest=fastest,
                versus=_versus(run, own, fastest), aa=_aa(run, here), speeds=_speeds(run, own),
            )
        )  # fmt: skip
    return found


def ceilings(run: Run) -> list[Speed]:
    """Return the ceilings that the run measured."""
    return _speeds(run, run.cells[run.cells["role"] == "ceiling"])
