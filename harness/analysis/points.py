"""Own what a run says at each point of its axes: its cells arranged into the rows of tables and figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from harness.analysis import above_limit, contrasts, roofline, stability, stats
from harness.analysis import ceilings as analysis_ceilings
from harness.analysis import gpu as analysis_gpu
from harness.analysis.ceilings import Ceilings
from harness.analysis.controls import find_point_controls, is_control
from harness.analysis.fastest import find_fastest
from harness.analysis.index import RunIndex
from harness.analysis.published import find_beside
from harness.analysis.reach import Reach, find_reach
from harness.analysis.rows import Entry, Point, Speed, Versus
from harness.analysis.stats import Ratio
from harness.paper.published import FASTEST_FF
from harness.problem import axes
from harness.problem.axes import Conditions
from harness.problem.ceilings import ORDER
from harness.problem.models import parse_model, speedup_limit
from harness.problem.problem import CONTROLS
from harness.records.schema import CellRecord

# The implementation behind each column of the paper's table: the level's plain form.
COLUMNS = {1: "l1_blas", 2: "l2_blas", 3: "l3_blas"}
# What the paper's column over the fastest FF is called, of what is not built on BLAS.
_PUBLISHED_AS = {"fff_torch_bmm": "pytorch bmm"}


def models(run: RunIndex) -> list[str]:
    """Return the run's models, the baseline first."""
    found = list(dict.fromkeys(c.model for c in run.cells.values() if c.model))
    return sorted(found, key=lambda model: model != run.head.sweep.baseline)


def ordered(run: RunIndex, cells: Iterable[CellRecord]) -> list[CellRecord]:
    """Return the cells by model, level, implementation and provider: the order of the tables."""
    place = {model: i for i, model in enumerate(["", *models(run)])}
    return sorted(cells, key=lambda c: (place[c.model], c.level or 9, c.implementation, c.provider))


# ---- judgements ---------------------------------------------------------------------------------


class _Judgement(TypedDict):
    """Hold what is said of a ratio beside its value: fields of Entry and of Versus."""

    remark: str
    impossible: bool
    resolved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """Hold what the ratios of a point are judged by: the ceilings, and what its A/A pairs resolve.

    resolution: that of the pair that resolves the least.
    """

    run: RunIndex
    conditions: Conditions
    known: Ceilings
    resolution: float

    def of(self, ratio: Ratio | None, base: CellRecord | None, cell: CellRecord) -> _Judgement:
        """Return the judgement on how many times faster a cell is than `base`."""
        baseline = self.run.head.sweep.baseline
        remark, impossible, resolved = "", False, True
        if ratio is not None and cell.model != baseline:
            resolved = not abs(math.log(ratio.value)) < self.resolution
        if base is not None:
            remark, impossible = above_limit.judge_speedup(
                self.known, base, cell, stats.pass_ns(self.run.samples, base.cell), ratio,
                speedup_limit(cell.model, baseline), self.resolution,
            )  # fmt: skip
        return {"remark": remark, "impossible": impossible, "resolved": resolved}


# ---- rows ---------------------------------------------------------------------------------------


def _entry(judge: _Judge, cells: Sequence[CellRecord], model: str, level: int) -> Entry:
    """Return a cell of the paper's table, from one provider's cells at a point."""
    run, by_name = judge.run, {(c.model, c.implementation): c for c in reversed(cells)}
    published = find_beside(run.head, judge.conditions, model, f"level {level}")
    cell = by_name.get((model, f"{parse_model(model).layer}_{COLUMNS[level]}"))
    if cell is None:
        return Entry(model=model, level=level, ratio=None, status="none", published=published)
    base = by_name.get((run.head.sweep.baseline, f"ff_{COLUMNS[level]}"))
    ratio, status = None, str(cell.status)
    if status == "ok":
        if base is None or base.status != "ok":
            status = "no baseline"
        else:
            ratio = stats.ratio(run.samples, base.cell, cell.cell)
            status = "ok" if ratio else "not sampled"
    return Entry(
        model=model, level=level, ratio=ratio, status=status, published=published,
        **judge.of(ratio, base, cell),
    )  # fmt: skip


def _versus(judge: _Judge, cells: Iterable[CellRecord], fastest: CellRecord | None) -> list[Versus]:
    """Return every right FFF of a point against the fastest FF."""
    run, rows = judge.run, []
    on_cpu = run.head.sweep.device == "cpu"
    for cell in ordered(run, cells):
        if cell.layer not in ("fff", "leaf") or cell.status != "ok":
            continue
        column = f"level {cell.level}" if cell.level else _PUBLISHED_AS.get(cell.implementation, "")
        ratio = stats.ratio(run.samples, fastest.cell, cell.cell) if fastest else None
        rows.append(
            Versus(
                cell=cell.cell, implementation=cell.implementation, model=cell.model,
                provider=cell.provider, level=cell.level, ratio=ratio,
                published=find_beside(
                    run.head, judge.conditions, cell.model, column, baseline=FASTEST_FF
                )
                if (cell.level is not None) == on_cpu
                else None,
                **judge.of(ratio, fastest, cell),
            )
        )  # fmt: skip
    return rows


def _note(cell: CellRecord) -> str:
    notes = cell.notes
    loops = [name.removeprefix("batched_") for name, how in notes.items() if how == "loop"]
    parts = [f"batched={'loop' if loops else 'routine'}"] if "batched_gemv" in notes else []
    if cell.layer == "fff" and cell.nodes_touched:
        neurons = cell.trees * (2 ** (cell.depth + 1) - 1)
        parts.append(f"{cell.nodes_touched} of {neurons} nodes touched")
    if cell.layer in CONTROLS and cell.nodes_touched:
        of = parse_model(cell.model).problem(batch=1, width=1, seed=0)
        parts.append(f"{cell.nodes_touched} of {of.experts or of.n_nodes} chosen by some token")
    if cell.layer == "leaf" and cell.nodes_touched:
        parts.append(
            f"{cell.nodes_touched} of {2 ** (cell.depth + 1) - 1} nodes and leaves touched"
        )
    if notes.get("timed_by", "").startswith("Python"):
        parts.append("timed by a loop in Python")
    parts += [notes[name] for name in ("weights", "launch") if name in notes]
    return ", ".join(parts)


def _sgemm_rates(run: RunIndex) -> dict[str, float]:
    """Return the rate of each provider's large product in GFLOP/s."""
    products = [c for c in run.right("ceiling") if c.implementation == "ceiling_sgemm"]
    return {c.provider: c.flops / stats.pass_ns(run.samples, c.cell) for c in products}


def _speed(run: RunIndex, cell: CellRecord, sgemm: dict[str, float]) -> Speed:
    """Return the absolute figures that a layer and a ceiling both have. sgemm: rates by provider."""
    time, own = stats.pass_ns(run.samples, cell.cell), run.samples.get(cell.cell)
    rate = cell.flops / time
    low, high = stats.pass_interval_ns(run.samples, cell.cell)
    return Speed(
        cell=cell.cell, implementation=cell.implementation, model=cell.model,
        provider=cell.provider, status=cell.status, reason=cell.reason, pass_ns=time,
        token_ns=time / cell.batch, gflops=rate,
        share=rate / sgemm.get(cell.provider, np.nan) if cell.level == 3 else np.nan,
        samples=len(own.frame) if own else 0, note=_note(cell),
        wall_ns=stats.wall_ns(run.samples, cell.cell), low_ns=low, high_ns=high,
        unstable=tuple(stability.reasons(run.samples, cell.cell, cell.threads)),
    )  # fmt: skip


def _speeds(run: RunIndex, known: Ceilings, cells: Iterable[CellRecord]) -> list[Speed]:
    """Return the absolute figures of a point's cells, as shares of what this machine can do."""
    sgemm, rows = _sgemm_rates(run), []
    for cell in ordered(run, cells):
        found = _speed(run, cell, sgemm)
        share = roofline.floor_ns(known, cell) / found.pass_ns
        impossible = share > roofline.SLACK
        # Without a peak of its precision the bytes alone bound a pass: enough to refuse it, no share of what
        # this machine can do.
        whole = impossible or known.peak_of(cell) > 0
        rows.append(
            replace(
                found, of_ceiling=share if whole else math.nan, impossible=impossible,
                of_floor=roofline.summed_floor_ns(known, cell) / found.pass_ns,
            )
        )  # fmt: skip
    return rows


def _aa_pairs(run: RunIndex, cells: Iterable[CellRecord]) -> dict[str, Ratio]:
    """Return the ratio of each A/A pair among some cells, by the cell that is repeated."""
    found: dict[str, Ratio] = {}
    for twin in (c.cell for c in cells if (c.role, c.status) == ("aa", "ok")):
        own = twin.removesuffix("/again")
        if (ratio := stats.ratio(run.samples, own, twin)) is not None:
            found[own] = ratio
    return found


def _aa(pairs: Mapping[str, Ratio], fastest: str) -> Ratio | None:
    """Return the ratio of the A/A pair that is told, None where there is none.

    Of several pairs (another FF turned out the fastest after the first was chosen) that of the fastest FF
    is, as soon as it has an interval.
    """
    if fastest in pairs and pairs[fastest].known:
        return pairs[fastest]
    return next(iter(pairs.values()), None)


def _reach(run: RunIndex, known: Ceilings, cells: Iterable[CellRecord]) -> Reach | None:
    """Return how near the baseline's level 3 comes to the peak, among a point's cells."""
    baseline = run.head.sweep.baseline
    right = [c for c in cells if (c.layer, c.model, c.status) == ("ff", baseline, "ok")]
    return find_reach(known, [(c, stats.pass_ns(run.samples, c.cell)) for c in right])


# ---- points -------------------------------------------------------------------------------------


def _fastest_ff(run: RunIndex, cells: Iterable[CellRecord]) -> CellRecord | None:
    """Return the fastest FF of the baseline's shape among a point's cells."""
    return find_fastest(
        (c, stats.pass_ns(run.samples, c.cell))
        for c in cells
        if (c.role, c.model, c.status) == ("layer", run.head.sweep.baseline, "ok")
    )


def _under(cells: Iterable[CellRecord], conditions: Conditions) -> list[CellRecord]:
    """Return the cells under one set of conditions."""
    return [c for c in cells if c.conditions == conditions]


def _point(
    run: RunIndex, known: Ceilings, at: Sequence[CellRecord], conditions: Conditions
) -> Point:
    """Return what is said of the cells of one batch and width under one set of conditions."""
    here = _under(at, conditions)
    own = [c for c in here if c.role == "layer"]
    baseline, judged_by = run.head.sweep.baseline, here
    fastest, lacking = _fastest_ff(run, here), list[tuple[str, str]]()
    if fastest is None and conditions != axes.in_float32(conditions):
        judged_by = _under(at, axes.in_float32(conditions))
        fastest = _fastest_ff(run, judged_by)
        lacking = [(c.implementation, c.reason) for c in here if c.model == baseline]
    pairs = _aa_pairs(run, judged_by)
    aa = _aa(pairs, fastest.cell if fastest else "")
    judge = _Judge(
        run=run, conditions=conditions, known=known,
        resolution=max((pair.resolution for pair in pairs.values()), default=0.0),
    )  # fmt: skip
    providers = dict.fromkeys(c.provider for c in own if c.provider and c.status != "unavailable")
    return Point(
        batch=at[0].batch, width=at[0].d_in, baseline=baseline, conditions=conditions,
        entries={
            provider: [
                _entry(judge, [c for c in own if c.provider == provider], model, level)
                for model in models(run)
                if not is_control(model)
                for level in run.head.sweep.levels
            ]
            for provider in providers
        },
        gpu=analysis_gpu.gpu_entries(run, own, models(run), conditions)
        if analysis_gpu.is_device(run.head)
        else [],
        fastest=fastest.cell if fastest else "",
        stand_in=fastest is not None and judged_by is not here, lacking=lacking,
        versus=_versus(judge, own, fastest), aa=aa, speeds=_speeds(run, known, own),
        reach=_reach(run, known, own), controls=find_point_controls(run, own, fastest),
    )  # fmt: skip


def points(run: RunIndex, known: Ceilings) -> list[Point]:
    """Return what the run says at each batch, width and conditions, largest batch and default first.

    known: the ceilings that its cells are judged by.
    """
    layers = [c for c in run.cells.values() if c.role in ("layer", "aa") and not c.transformer]
    found = []
    for width, batch in sorted({(c.d_in, c.batch) for c in layers}, reverse=True):
        at = [c for c in layers if (c.d_in, c.batch) == (width, batch)]
        found += [_point(run, known, at, conditions) for conditions in contrasts.of_cells(at)]
    return found


def ceilings(run: RunIndex, known: Ceilings) -> list[Speed]:
    """Return the figures of the run's ceilings: products, the FMA loop, then streams by place."""
    places, sgemm = {place: i for i, place in enumerate(known.capacity)}, _sgemm_rates(run)

    def finished(cell: CellRecord) -> Speed:
        found, stream = _speed(run, cell, sgemm), analysis_ceilings.is_stream(cell)
        return replace(
            found, place=analysis_ceilings.place_name(cell),
            fastest_ns=stats.fastest_ns(run.samples, cell.cell), width=max(cell.d_in, cell.d_out),
            gflops=np.nan if stream else found.gflops,
            gbs=cell.bytes_moved / found.pass_ns if stream else np.nan,
            note=analysis_ceilings.precision(cell)
            if found.implementation == "ceiling_cuda_matmul" or cell.conditions.dtype != "float32"
            else found.note,
        )  # fmt: skip

    made = [finished(cell) for cell in ordered(run, run.of_role("ceiling"))]
    return sorted(
        made,
        key=lambda s: (s.gbs > 0, ORDER.get(s.implementation, len(ORDER)), places.get(s.place, 9)),
    )


def clock_change(run: RunIndex) -> float:
    """Return how far the clock moved between blocks, as a share, by the FMA ceiling; 0 without one."""
    loops = [c.cell for c in run.right("ceiling") if c.implementation == "ceiling_fma"]
    return stability.clock_change(run.samples, loops[0]) if loops else 0.0
