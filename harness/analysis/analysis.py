"""Own the analysis of a run: all that is said of it, derived once from its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.analysis import caches as analysis_caches
from harness.analysis import ceilings as analysis_ceilings
from harness.analysis import contrasts as analysis_contrasts
from harness.analysis import gpu as analysis_gpu
from harness.analysis import ladder as analysis_ladder
from harness.analysis import ledger as analysis_ledger
from harness.analysis import points as analysis_points
from harness.analysis import quality as analysis_quality
from harness.analysis import routing as analysis_routing
from harness.analysis.caches import CacheCurve
from harness.analysis.ceilings import Ceilings
from harness.analysis.contrasts import Contrast
from harness.analysis.index import RunIndex, index_run
from harness.analysis.ladder import Ladder
from harness.analysis.leaf import make_leaf_ledger
from harness.analysis.quality import Quality
from harness.analysis.reach import Remedy, find_remedies
from harness.analysis.routing import RoutedSpeedup
from harness.analysis.rows import Contests, Point, Speed
from harness.analysis.transformer import WholeModel, find_whole_models
from harness.errors import UsageError
from harness.records.reader import Run
from harness.records.schema import CellRecord, EndRecord, ProviderRecord, ResumeRecord, RunHead


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Hold all that is said of a run; whoever prints it derives nothing from samples.

    folder, head, providers, end, resumes, warnings: as they were read. cells: the record of each cell.
    models: those of its cells, the baseline first. cache_curve: what reading working sets of many sizes
    showed, None where the run did not begin with that. ceilings: the rates that it measured; ceiling_speeds:
    the figures of each of them. clock_change: how far the processor's clock moved between blocks, as a share.
    peakless: precisions of its layers that have no peak, and why. remedies: what could be tried where the
    baseline reaches little. routed: its speedups under each of
    several routings. quality: what was published and measured of how good the layers are, of no run.
    ledger, leaf_ledger: what it says of the published cells, and of those of the original FFF.
    contests: best against best on a device. ladder: None where the run
    measured none. whole_models: each at each batch, none where the run is of layers alone.
    processes, samples: how many processes took samples, and how many they took. call_ns: the median time of
    the call from Python around a timed interval, None where the samples do not tell it.
    checked_tokens: the fewest and the most tokens that a right cell's gate compared, None without one.
    """

    folder: Path
    head: RunHead
    providers: Sequence[ProviderRecord]
    end: EndRecord | None
    resumes: Sequence[ResumeRecord]
    warnings: Sequence[str]
    cells: Mapping[str, CellRecord]
    models: Sequence[str]
    points: Sequence[Point]
    cache_curve: CacheCurve | None
    ceilings: Ceilings
    ceiling_speeds: Sequence[Speed]
    clock_change: float
    peakless: Mapping[str, Sequence[str]]
    remedies: Sequence[Remedy]
    contrasts: Sequence[Contrast]
    routed: Sequence[RoutedSpeedup]
    quality: Quality
    contests: Sequence[Contests]
    ledger: Sequence[analysis_ledger.Entry]
    leaf_ledger: Sequence[analysis_ledger.Entry]
    ladder: Ladder | None
    whole_models: Sequence[WholeModel]
    processes: int
    samples: int
    call_ns: float | None
    checked_tokens: tuple[int, int] | None

    def find_speed(self, cell: str) -> Speed | None:
        """Return the absolute figures of a layer's cell, None where the run has no such cell."""
        return next((s for point in self.points for s in point.speeds if s.cell == cell), None)

    def require_ladder(self) -> Ladder:
        """Return what the run says of the ladder. Raises UsageError where it did not measure it."""
        if self.ladder is None:
            raise UsageError(
                f"{self.folder} is not a run of the ladder; make one with `python -m harness explain`"
            )
        return self.ladder


def _checked_tokens(run: RunIndex) -> tuple[int, int] | None:
    checked = [c.checked_tokens for role in ("layer", "aa") for c in run.right(role)]
    return (min(checked), max(checked)) if checked else None


def analyse(run: Run) -> Analysis:
    """Return all that is said of a run."""
    index = index_run(run)
    known = analysis_ceilings.measure(index)
    points = analysis_points.points(index, known)
    calls = run.samples["call_ns"]
    return Analysis(
        folder=run.folder, head=run.head, providers=run.providers, end=run.end, resumes=run.resumes,
        warnings=run.warnings, cells=index.cells, models=analysis_points.models(index),
        points=points, cache_curve=analysis_caches.find_curve(run.head.machine),
        ceilings=known, ceiling_speeds=analysis_points.ceilings(index, known),
        clock_change=analysis_points.clock_change(index),
        peakless=analysis_ceilings.find_peakless(index, known),
        remedies=find_remedies(run.head, run.providers),
        contrasts=analysis_contrasts.contrasts(index),
        routed=analysis_routing.find_routed(index, points),
        quality=analysis_quality.find_quality(analysis_points.models(index)),
        contests=analysis_gpu.contests(index, points),
        ledger=analysis_ledger.make_ledger(run.head, points),
        leaf_ledger=make_leaf_ledger(index), ladder=analysis_ladder.find_ladder(index),
        whole_models=find_whole_models(index),
        processes=run.samples["process"].nunique(), samples=len(run.samples),
        call_ns=float(calls.median()) if calls.any() else None,
        checked_tokens=_checked_tokens(index),
    )  # fmt: skip
