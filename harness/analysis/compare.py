"""Own the comparison of two runs: per cell faster, slower, same or ambiguous, from intervals.

Times of two runs can't be compared as they stand: the machine drifts between them. What is compared is each
cell's time over that of a reference of its own run, sampled in the same blocks, so that whatever slows the
whole machine cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from harness.analysis import compare_controls, compare_interval, contrasts, stats
from harness.analysis.compare_match import (
    describe_cell,
    identify_layers,
    is_same_machine,
    name_cell,
    provider_names,
)
from harness.analysis.fastest import find_fastest
from harness.analysis.index import RunIndex, index_run
from harness.analysis.stats import Ratio
from harness.errors import UsageError
from harness.records.identity import Identity
from harness.records.reader import Run

TOLERANCE = 0.02  # an interval wholly within 1 -+ this is "same"
_REFERENCE = "ceiling_sgemm"  # the provider's product: no code of ours, in every run

Verdict = Literal["faster", "slower", "same", "ambiguous", "reference", "broken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Hold what became of one cell.

    change: time in B over time in A, both over their reference. resolution: the share below which no
    difference of this cell is believed.
    """

    cell: str
    a_ns: float
    b_ns: float
    change: Ratio | None
    verdict: Verdict
    resolution: float
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Hold the comparison of run B with run A.

    same_machine: whether the two stood on the same hardware. references: the reference cell in A and in B;
    across machines that of the largest batch and width, others have their own.
    drift: how much longer the reference itself took in B. resolution: the share below which no
    difference is believed. unmatched: what only one run has, and which. lost: what A measured and B did not,
    so that nothing is known of it, each with why. of_models: whether it is of whole models, each over
    the model as it is of its own batch.
    """

    a: Run
    b: Run
    same_machine: bool
    references: tuple[str, str]
    drift: float
    resolution: float
    changes: list[Change]
    unmatched: list[str]
    lost: list[str]
    of_models: bool = False

    def slower_than(self, percent: float) -> list[Change]:
        """Return the cells that are slower by more than so many percent, or give no right result any more."""
        limit = 1 + percent / 100
        return [
            c
            for c in self.changes
            if c.verdict == "broken"
            or (c.verdict == "slower" and c.change is not None and c.change.value > limit)
        ]


def _require_common(a: Run, b: Run, of_a: Iterable[Identity], of_b: Iterable[Identity]) -> None:
    """Raise UsageError where two runs have no cell in common."""
    if set(of_a) & set(of_b):
        return
    first = [next(map(describe_cell, found), "none") for found in (iter(of_a), iter(of_b))]
    raise UsageError(
        f"{a.folder} and {b.folder} have no cell in common, so nothing can be compared; A has "
        f"{first[0]}, B has {first[1]}"
    )


# ---- references -----------------------------------------------------------------------------------


def is_sampled(run: RunIndex, cell: str) -> bool:
    """Say whether a run has a right result and a time of a cell."""
    return run.cells[cell].status == "ok" and cell in run.samples


def fastest_ff(run: RunIndex, cells: Iterable[str]) -> str:
    """Return the fastest FF of the baseline's shape among some cells.

    It is of the largest width and batch, and of the conditions that are nearest to the default.
    """
    ff = [run.cells[c] for c in cells if run.cells[c].model == run.head.sweep.baseline]
    largest = max(((c.d_in, c.batch) for c in ff), default=None)
    ff = [c for c in ff if (c.d_in, c.batch) == largest]
    nearest = contrasts.of_cells(ff)[:1]
    found = find_fastest(
        (c.cell, stats.pass_ns(run.samples, c.cell)) for c in ff if c.conditions in nearest
    )
    return found or ""


def _ceiling(run: RunIndex, names: dict[str, str]) -> dict[str, str]:
    """Return the sampled product of each provider."""
    return {
        names[c.provider]: c.cell
        for c in run.cells.values()
        if c.implementation == _REFERENCE and is_sampled(run, c.cell)
    }


def _references(
    a: RunIndex, b: RunIndex, pairs: Iterable[tuple[str, str]], *, same: bool
) -> tuple[str, str] | None:
    """Return the cells of A and B that all others are taken over, None where there are none.

    On one machine that is the provider's large product, which is not code under test; without it, and
    across machines, the fastest FF.
    """
    names = provider_names(a, b)
    of_a, of_b = _ceiling(a, names), _ceiling(b, names)
    shared = [p for p in of_a if p in of_b]
    if same and shared:
        return of_a[shared[0]], of_b[shared[0]]
    usable = {x: y for x, y in pairs if is_sampled(a, x) and is_sampled(b, y)}
    first = fastest_ff(a, usable)
    found = first, usable.get(first, "") if same else fastest_ff(b, usable.values())
    return found if all(found) else None


def _own_references(
    a: RunIndex, b: RunIndex, pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], tuple[str, str]]:
    """Return what each pair of cells is taken over across machines: the fastest FF where it was measured.

    A speedup is over an FF of the same batch, width and conditions, as the tables have it. A pair is missing
    where not both runs have one there.
    """
    sections: dict[tuple[object, ...], list[tuple[str, str]]] = {}
    for pair in pairs:
        cell = a.cells[pair[0]]
        sections.setdefault((cell.batch, cell.d_in, cell.conditions), []).append(pair)
    own: dict[tuple[str, str], tuple[str, str]] = {}
    for members in sections.values():
        usable = [(x, y) for x, y in members if is_sampled(a, x) and is_sampled(b, y)]
        found = fastest_ff(a, (x for x, _ in usable)), fastest_ff(b, (y for _, y in usable))
        if all(found):
            own |= dict.fromkeys(members, found)
    return own


def find_lost(
    a: RunIndex,
    b: RunIndex,
    cells_a: Mapping[Identity, str],
    cells_b: Mapping[Identity, str],
    name: Callable[[Identity], str],
) -> list[str]:
    """Return what A measured and B has no time of, each with why; what B found wrong is judged as a cell.

    name: says of what is matched what it is called.
    """
    lost = []
    for identity, cell in cells_a.items():
        if not is_sampled(a, cell):
            continue
        if identity not in cells_b:
            lost.append(f"{name(identity)} is not in B")
            continue
        record = b.cells[cells_b[identity]]
        if record.status == "ok" and not is_sampled(b, record.cell):
            lost.append(f"{name(identity)} is not sampled in B")
        elif record.status not in ("ok", "wrong", "failed"):
            lost.append(f"{name(identity)} is {record.status} in B: {record.reason}")
    return lost


# ---- verdicts ------------------------------------------------------------------------------------


def judge(change: Ratio | None, resolution: float) -> Verdict:
    """Return the verdict that an interval of B over A allows."""
    if change is None or not change.known:
        return "ambiguous"
    if change.low >= 1 - TOLERANCE and change.high <= 1 + TOLERANCE:
        return "same"
    if change.low > 1 + resolution:
        return "slower"
    if change.high < 1 / (1 + resolution):
        return "faster"
    return "ambiguous"


def _either_ok(a: RunIndex, b: RunIndex, pair: tuple[str, str]) -> bool:
    """Say whether a pair of cells can be spoken of: what was never measured has not changed."""
    return a.cells[pair[0]].status == "ok" or b.cells[pair[1]].status == "ok"


def _judge_cell(
    a: RunIndex,
    b: RunIndex,
    pair: tuple[str, str],
    references: tuple[str, str],
    moves: compare_controls.Moves,
) -> tuple[Ratio | None, Verdict, float, str]:
    """Return the change of a pair of right cells, its verdict, its resolution and a remark."""
    found = compare_interval.estimate(
        compare_interval.levels(a.samples, pair[0], references[0]),
        compare_interval.levels(b.samples, pair[1], references[1]),
    )
    place = moves.place(pair)
    resolution = max(moves.resolution, moves.of(place))
    verdict, reason = judge(found, resolution), ""
    if found is None or not found.known:
        reason = "too few blocks for an interval"
    elif verdict == "ambiguous" and judge(found, moves.resolution) != verdict:
        reason = (
            f"streams its weights from {place}, whose own loops moved by up to "
            f"{100 * resolution:.0f} % between the runs"
        )
    return found, verdict, resolution, reason


def _change(a: RunIndex, b: RunIndex, name: str, pair: tuple[str, str],
            references: tuple[str, str] | None, moves: compare_controls.Moves) -> Change:  # fmt: skip
    times = stats.pass_ns(a.samples, pair[0]), stats.pass_ns(b.samples, pair[1])
    states = [a.cells[pair[0]].status, b.cells[pair[1]].status]
    verdict: Verdict = "ambiguous"
    found, resolution, reason = None, moves.resolution, ""
    if states[0] == "ok" and states[1] in ("wrong", "failed"):
        verdict, reason = "broken", f"{states[1]} in B"
    elif states != ["ok", "ok"]:
        reason = f"{states[0]} in A, {states[1]} in B"
    elif references is None:
        reason = "no FF of its batch, width and conditions in both runs"
    elif pair == references:
        verdict, reason = "reference", "all others are taken over it"
    else:
        found, verdict, resolution, reason = _judge_cell(a, b, pair, references, moves)
    return Change(
        cell=name, a_ns=times[0], b_ns=times[1], change=found, verdict=verdict,
        resolution=resolution, reason=reason,
    )  # fmt: skip


def compare(a: Run, b: Run) -> Comparison:
    """Compare run B with run A, cell by cell.

    Raises UsageError where they share no cell, or no cell that the others can be taken over.
    """
    return compare_indexed((a, index_run(a)), (b, index_run(b)), same=is_same_machine(a, b))


def compare_indexed(
    first: tuple[Run, RunIndex], second: tuple[Run, RunIndex], *, same: bool
) -> Comparison:
    """Compare the second run with the first as `compare` does, each with its index.

    same: whether their times may be compared; else only ratios inside of each are.
    """
    (a, of_a), (b, of_b) = first, second
    names = provider_names(of_a, of_b)
    cells_a, cells_b = identify_layers(of_a, names), identify_layers(of_b, names)
    _require_common(a, b, cells_a, cells_b)
    both = {k: (cells_a[k], cells_b[k]) for k in cells_a if k in cells_b}
    references = _references(of_a, of_b, both.values(), same=same)
    if references is None:
        raise UsageError(
            f"{a.folder} and {b.folder} share neither {_REFERENCE} nor a sampled {a.head.sweep.baseline}: "
            "there is nothing to take their drift out with"
        )
    own = (
        dict.fromkeys(both.values(), references) if same
        else _own_references(of_a, of_b, both.values())
    )  # fmt: skip
    moves = compare_controls.watch(of_a, of_b, references, same=same)
    return Comparison(
        a=a, b=b, same_machine=same, references=references, resolution=moves.resolution,
        drift=stats.pass_ns(of_b.samples, references[1]) / stats.pass_ns(of_a.samples, references[0]),
        changes=[_change(of_a, of_b, name_cell(identity), pair, own.get(pair), moves)
                 for identity, pair in both.items() if _either_ok(of_a, of_b, pair)],
        unmatched=[*(f"only in A: {describe_cell(k)}" for k in cells_a if k not in cells_b),
                   *(f"only in B: {describe_cell(k)}" for k in cells_b if k not in cells_a)],
        lost=find_lost(of_a, of_b, cells_a, cells_b, name_cell),
    )  # fmt: skip
