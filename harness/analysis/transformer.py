"""Own what a run says of whole models: how much faster each is, and what its FF leaves to gain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from harness.analysis import stats
from harness.analysis.index import RunIndex
from harness.analysis.samples import BlockTimes, Samples
from harness.analysis.stats import Ratio
from harness.problem.transformer import ALL_PARTS, DENSE, FF_PARTS, LEFT_OUT, Transformer
from harness.records.schema import CellRecord

# By part, and by block.
_PartTimes = Mapping[str, BlockTimes]
_ALL_FF = "all ff"  # of the FFs, whatever they are divided into


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Hold a model with one layer, or none, as its FF.

    ff: DENSE, LEFT_OUT or the layer's name. computed_by: the implementation of the layer. pass_ns: of the
    model, without timers. parts_ns: median by part, of passes with timers. All ratios are over the model as
    it is. speedup: of the model. layer: of the FF alone, as it runs in the model. follows: the speedup of
    the model that follows from that of its FF, where no other part changes. residual: the measured over
    that, what the swap did to all other parts. of_limit: the speedup as a share of the measured limit, that
    of the model without its FF.
    """

    ff: str
    cell: str
    computed_by: str
    status: str
    reason: str
    pass_ns: float
    parts_ns: Mapping[str, float]
    speedup: Ratio | None
    layer: Ratio | None
    follows: Ratio | None
    residual: Ratio | None
    of_limit: Ratio | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeModel:
    """Hold all that is said of one model at one batch.

    share: of the pass that its FFs take. limit: the speedup that follows where they take no time at all
    (Amdahl). aa: the model as it is against itself under a second name. timers: how many times longer it
    takes with the time of its parts taken. over_plain: how much faster the model as it is, in this dtype and
    compiled or not, is than in float32 and eager; None where this is that, or that was not measured.
    """

    transformer: Transformer
    forms: Sequence[Form]
    share: Ratio | None
    limit: Ratio | None
    aa: Ratio | None
    timers: Ratio | None
    over_plain: Ratio | None

    def find(self, ff: str) -> Form | None:
        """Return the form with a layer as its FF, None where the run has none."""
        return next((form for form in self.forms if form.ff == ff), None)

    @property
    def measured_limit(self) -> Ratio | None:
        """Return the speedup of the model without its FF, None where it was not measured."""
        left_out = self.find(LEFT_OUT)
        return left_out.speedup if left_out else None


# ---- times by block -----------------------------------------------------------------------------


def _part_frame(samples: Samples, cell: str) -> pd.DataFrame:
    """Return the time of each part of a pass in ns: a row a sample, with its process and block."""
    if cell not in samples:
        return pd.DataFrame(columns=["process", "block", *ALL_PARTS])
    frame = samples[cell].frame
    parts = pd.DataFrame(
        [{part: spent.get(part, 0) for part in ALL_PARTS} for spent in frame["parts_ns"]],
        index=frame.index, columns=[*ALL_PARTS],
    )  # fmt: skip
    return parts.div(frame["loops"], axis=0).join(frame[["process", "block"]])


def part_times(samples: Samples, cell: CellRecord) -> _PartTimes:
    """Return the mean time of each part of a pass in ns, by process and block, of a cell in parts."""
    return _part_times(_part_frame(samples, cell.cell))


def _part_times(frame: pd.DataFrame) -> _PartTimes:
    means = frame.groupby(["process", "block"], as_index=False)[[*ALL_PARTS]].mean()
    places = list(zip(map(int, means["process"]), map(int, means["block"]), strict=True))
    times = {part: list(map(float, means[part])) for part in ALL_PARTS}
    times[_ALL_FF] = [sum(spent) for spent in zip(*(times[p] for p in FF_PARTS), strict=True)]
    return {part: dict(zip(places, spent, strict=True)) for part, spent in times.items()}


def _combine(
    first: BlockTimes, others: Sequence[BlockTimes], of: Callable[..., float]
) -> BlockTimes:
    """Return what a function makes of the times of each block that all have, where that is above 0."""
    shared = [block for block in first if all(block in other for other in others)]
    found = {block: of(first[block], *(other[block] for other in others)) for block in shared}
    return {block: value for block, value in found.items() if value > 0}


def _ratio(slow: BlockTimes, fast: BlockTimes) -> Ratio | None:
    """Return a ratio of what is above 0 in both: the FF of a model without one takes no time."""
    return stats.ratio_of_blocks(
        {block: t for block, t in slow.items() if t > 0},
        {block: t for block, t in fast.items() if t > 0},
    )


# ---- one model ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timed:
    """Hold the times of one form by block: of the model, of the model with timers, and of its parts."""

    whole: BlockTimes
    timed: BlockTimes
    parts: _PartTimes
    medians: Mapping[str, float]


def _read_times(samples: Samples, cell: CellRecord, in_parts: CellRecord | None) -> _Timed:
    frame = _part_frame(samples, in_parts.cell if in_parts else "")
    own = cell.transformer.parts if cell.transformer else ()
    medians = {} if frame.empty else {part: float(frame[part].median()) for part in own}
    return _Timed(
        whole=stats.block_times(samples, cell.cell),
        timed=stats.block_times(samples, in_parts.cell) if in_parts else {},
        parts=_part_times(frame), medians=medians,
    )  # fmt: skip


def _invert_limit(limit: Ratio | None) -> Ratio | None:
    """Return the share of a pass whose removal gives a limit."""
    if limit is None:
        return None
    share, low, high = (1 - 1 / value for value in (limit.value, limit.low, limit.high))
    return Ratio(value=share, low=low, high=high, blocks=limit.blocks)


def _form(cell: CellRecord, own: _Timed, base: _Timed, left_out: _Timed | None) -> Form:
    whole = cell.transformer
    assert whole is not None
    speedups = stats.shared_blocks(base.whole, own.whole)
    expected = _combine(
        base.timed, [base.parts[_ALL_FF], own.parts[_ALL_FF]], lambda all_, ff, now: all_ - ff + now
    )
    follows = stats.shared_blocks(base.timed, expected)
    is_swapped = whole.ff not in (DENSE, LEFT_OUT)
    return Form(
        ff=whole.ff, cell=cell.cell, computed_by=cell.notes.get("computed_by", ""),
        status=cell.status, reason=cell.reason, pass_ns=float(pd.Series(own.whole).median()),
        parts_ns=own.medians,
        speedup=stats.ratio_of_blocks(base.whole, own.whole) if whole.ff != DENSE else None,
        layer=_ratio(base.parts[_ALL_FF], own.parts[_ALL_FF]) if is_swapped else None,
        follows=stats.ratio_of_blocks(base.timed, expected) if is_swapped else None,
        residual=stats.ratio_of_blocks(speedups, follows) if is_swapped else None,
        of_limit=stats.ratio_of_blocks(left_out.whole, own.whole)
        if is_swapped and left_out
        else None,
    )  # fmt: skip


def _order(run: RunIndex, forms: Iterable[str]) -> list[str]:
    """Return forms in the order in which they were asked for, the model as it is before them."""
    asked = [DENSE, LEFT_OUT, *run.head.sweep.models]
    return sorted(forms, key=lambda ff: asked.index(ff) if ff in asked else len(asked))


def _over_plain(run: RunIndex, whole: Transformer, cell: str) -> Ratio | None:
    """Return how much faster a model as it is is than the same in float32 and eager."""
    plain = replace(whole, dtype="float32", compiled=False)
    if plain == whole:
        return None
    of = [c for c in run.cells.values() if c.transformer == plain and c.role == "model"]
    return stats.ratio(run.samples, of[0].cell, cell) if of else None


def _whole_model(run: RunIndex, cells: Sequence[CellRecord]) -> WholeModel | None:
    """Return what is said of one model and batch, None where the model as it is has no sample.

    Where nothing of it could be measured at all, its forms say why.
    """
    by_form = {
        (c.transformer.ff, c.transformer.in_parts): c
        for c in cells
        if c.role == "model" and c.transformer
    }
    timed = {
        ff: _read_times(run.samples, cell, by_form.get((ff, True)))
        for (ff, in_parts), cell in by_form.items()
        if not in_parts
    }
    first = by_form.get((DENSE, False))
    if first is None or first.transformer is None:
        return None
    if not timed[DENSE].whole and first.status != "unavailable":
        return None
    base, left_out = timed[DENSE], timed.get(LEFT_OUT)
    rest = _combine(base.timed, [base.parts[_ALL_FF]], lambda all_, ff: all_ - ff)
    limit = stats.ratio_of_blocks(base.timed, rest)
    twins = [c for c in cells if c.role == "aa"]
    return WholeModel(
        transformer=first.transformer,
        forms=[_form(by_form[ff, False], timed[ff], base, left_out) for ff in _order(run, timed)],
        share=_invert_limit(limit), limit=limit,
        aa=stats.ratio(run.samples, first.cell, twins[0].cell) if twins else None,
        timers=stats.ratio_of_blocks(base.timed, base.whole),
        over_plain=_over_plain(run, first.transformer, first.cell),
    )  # fmt: skip


def find_whole_models(run: RunIndex) -> list[WholeModel]:
    """Return what a run says of each whole model and batch; none for layers alone."""
    groups: dict[Transformer, list[CellRecord]] = {}
    for cell in run.cells.values():
        if whole := cell.transformer:
            groups.setdefault(whole.as_it_is(), []).append(cell)
    shapes = run.head.sweep.shapes
    keys = sorted(groups, key=lambda w: (
        w.training, shapes.index(w.shape) if w.shape in shapes else len(shapes), w.dtype != "float32",
        w.compiled,
    ))  # fmt: skip
    found = [_whole_model(run, groups[key]) for key in keys]
    return [model for model in found if model is not None]
