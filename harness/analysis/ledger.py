"""Own the ledger: what a run says of each published cell, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from harness.analysis import gpu as analysis_gpu
from harness.analysis import points as analysis_points
from harness.analysis.published import find_differences
from harness.analysis.rows import Point
from harness.analysis.stats import Ratio
from harness.paper.published import FASTEST_FF, PAPER_BATCH, PAPER_WIDTH, PublishedCell, table2
from harness.problem import axes
from harness.problem.models import BASELINE, speedup_limit, title
from harness.records.schema import RunHead

BAND = 0.10
PAPER_PROVIDER = "mkl"

Finding = Literal["reproduced", "not reproduced", "not comparable here"]
FINDINGS: tuple[Finding, ...] = ("reproduced", "not reproduced", "not comparable here")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Hold one published cell and what the run says of it.

    measured, low, high: the speedup and its 95 % interval, None where there is none. provider: what it was
    judged with, empty where nothing was: the BLAS library, for a leaf FFF the implementations of both layers.
    A level's fastest FF is that of the whole run.
    """

    model: str
    column: str
    device: str
    baseline: str
    published: float
    provenance: str
    finding: Finding
    reason: str
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    blocks: int = 0
    provider: str = ""


class Published(Protocol):
    """State what a published cell is judged by: how many times faster it is said to be."""

    @property
    def speedup(self) -> float:
        """Return the published speedup."""
        ...


def judge(measured: Ratio, cell: Published) -> tuple[Finding, str]:
    """Return the finding on a measured ratio that can be compared with a published cell, and the reason.

    The rule: a cell is reproduced when the measured 95 % interval overlaps the published value within a
    band of 10 % to either side. The paper gives no interval for its figures; 10 % is what its own mean
    of one run can be trusted to at best. Otherwise it is not reproduced. A ratio without an interval
    decides nothing.
    """
    if not measured.known:
        return "not comparable here", "one block was sampled, so the measured ratio has no interval"
    low, high = cell.speedup * (1 - BAND), cell.speedup * (1 + BAND)
    band = f"the published value within {100 * BAND:.0f} %"
    if measured.high < low:
        return "not reproduced", f"the measured interval lies below {band}"
    if measured.low > high:
        return "not reproduced", f"the measured interval lies above {band}"
    return "reproduced", f"the measured interval overlaps {band}"


def paper_device(head: RunHead) -> str:
    """Return which half of the paper's table a run measured: `cpu` or `gpu`."""
    return "gpu" if analysis_gpu.is_device(head) else "cpu"


def _why_run_unfit(head: RunHead) -> str:
    """Return why no measured cell of a run can be set against the paper, or an empty string."""
    if head.sweep.quick:
        return "a quick run is not for comparing"
    if head.sweep.baseline != BASELINE:
        return f"its ratios are over {title(head.sweep.baseline)}"
    if not head.machine.processor:
        return "the record does not tell which machine this is"
    return "; ".join(find_differences(head))


def _paper_point(points: Sequence[Point]) -> Point | None:
    """Return what the run says at the paper's own batch and width and under its conditions."""
    for point in points:
        at = point.batch, point.width, point.conditions
        if at == (PAPER_BATCH, PAPER_WIDTH, axes.DEFAULTS):
            return point
    return None


def _why_no_point(head: RunHead, points: Sequence[Point]) -> str:
    """Return why a run says nothing at the paper's own problem: another shape, or other conditions."""
    here = [p.conditions for p in points if (p.batch, p.width) == (PAPER_BATCH, PAPER_WIDTH)]
    if here:
        differs = dict.fromkeys(f"{name} {value}" for how in here
                                for name, value in axes.changes(how).items())  # fmt: skip
        return f"published under other conditions, measured with {', '.join(differs)}"
    batches = ", ".join(map(str, head.sweep.batches))
    widths = ", ".join(map(str, head.sweep.widths))
    return (
        f"published at batch {PAPER_BATCH} and width {PAPER_WIDTH}, measured at batch {batches} and "
        f"width {widths}"
    )


def _prefer(providers: list[str], head: RunHead) -> list[str]:
    """Return the providers in the order in which they are asked: the paper's own library first."""
    asked = [p.rsplit("/", 1)[-1] for p in head.sweep.blas]
    return sorted(providers, key=lambda p: (p != PAPER_PROVIDER, p not in asked,
                                            asked.index(p) if p in asked else 0, p))  # fmt: skip


def _find_level(head: RunHead, point: Point, cell: PublishedCell) -> tuple[Ratio | None, str, str]:
    """Return the ratio at the same level, its provider, and why there is none."""
    reason = "this run did not measure it"
    for provider in _prefer(list(point.entries), head):
        for entry in point.entries[provider]:
            if (entry.model, f"level {entry.level}") != (cell.model, cell.implementation):
                continue
            if entry.ratio is not None:
                return entry.ratio, provider, ""
            if entry.status != "none":
                reason = f"the cell is {entry.status} in this run"
    return None, "", reason


def _find_versus(head: RunHead, point: Point, cell: PublishedCell) -> tuple[Ratio | None, str, str]:
    """Return the ratio to the fastest FF, its provider, and why there is none."""
    if cell.implementation in analysis_gpu.COLUMNS:
        want = f"fff_{analysis_gpu.COLUMNS[cell.implementation]}"
    else:
        want = f"fff_{analysis_points.COLUMNS.get(int(cell.implementation.rsplit(' ', 1)[-1]), '')}"
    rows = {v.provider: v for v in point.versus
            if v.model == cell.model and v.implementation == want}  # fmt: skip
    for provider in _prefer(list(rows), head):
        if rows[provider].ratio is not None:
            return rows[provider].ratio, provider, ""
    return None, "", "this run did not measure it, or no FF to compare it with"


def _find_gpu(head: RunHead, point: Point, cell: PublishedCell) -> tuple[Ratio | None, str, str]:
    """Return the ratio in the same GPU column, no provider, and why there is none."""
    for entry in point.gpu:
        if (entry.model, entry.column) != (cell.model, cell.implementation):
            continue
        if entry.ratio is not None:
            return entry.ratio, "", ""
        if entry.status != "none":
            return None, "", f"the cell is {entry.status} in this run"
    return None, "", "this run did not measure it"


def _by_definition(cell: PublishedCell) -> tuple[Finding, str] | None:
    """Return the finding on a cell that needs no measurement: a limit, or the baseline itself."""
    if cell.implementation == "limit":
        exact = speedup_limit(cell.model)
        if round(exact, 2) == cell.speedup:
            return "reproduced", "arithmetic: the baseline's neurons over those that are computed"
        return "not reproduced", f"arithmetic gives {exact:.2f}"
    if cell.model == cell.baseline == BASELINE:
        return "not comparable here", "the baseline over itself: 1 by definition"
    return None


def _entry(head: RunHead, point: Point | None, why_none: str, cell: PublishedCell) -> Entry:
    ratio: Ratio | None = None
    provider = ""
    finding: Finding = "not comparable here"
    known = _by_definition(cell)
    if known is not None:
        finding, reason = known
    elif cell.device != paper_device(head):
        reason = f"a {cell.device.upper()} figure; this run measured on {head.sweep.device.upper()}"
    elif point is None:
        reason = why_none
    else:
        same = _find_gpu if analysis_gpu.is_device(head) else _find_level
        find = _find_versus if cell.baseline == FASTEST_FF else same
        ratio, provider, reason = find(head, point, cell)
        unfit = _why_run_unfit(head)
        if ratio is not None:
            finding, reason = ("not comparable here", unfit) if unfit else judge(ratio, cell)
    has = ratio is not None and ratio.known
    return Entry(
        model=cell.model, column=cell.implementation, device=cell.device, baseline=cell.baseline,
        published=cell.speedup, provenance=cell.provenance, finding=finding, reason=reason,
        measured=ratio.value if ratio else None, low=ratio.low if ratio and has else None,
        high=ratio.high if ratio and has else None, blocks=ratio.blocks if ratio else 0,
        provider=provider,
    )  # fmt: skip


def make_ledger(head: RunHead, points: Sequence[Point]) -> list[Entry]:
    """Return the finding on each published cell, in the order of the paper's table.

    Each is `reproduced`, `not reproduced` (see `judge`) or `not comparable here`: another device, batch or
    width than the published one, other conditions, several threads, a forced instruction set, a quick run,
    an unknown machine, a cell that was not measured or failed.
    Where a run has several BLAS libraries a cell is judged with the paper's own, MKL, or else with the
    first that was asked for. What is compared is always a ratio: the machines differ.
    """
    point = _paper_point(points)
    why_none = "" if point else _why_no_point(head, points)
    return [_entry(head, point, why_none, cell) for cell in table2()]


def count(entries: Sequence[Entry]) -> dict[Finding, int]:
    """Return how many cells got each finding."""
    found = Counter(e.finding for e in entries)
    return {finding: found[finding] for finding in FINDINGS}
