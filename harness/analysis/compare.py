"""Own the comparison of two runs: per cell faster, slower, same or ambiguous, from intervals.

Times of two runs can't be compared as they stand: the machine drifts between them. What is compared is each
cell's time over that of a reference of its own run, sampled in the same blocks, so that whatever slows the
whole machine cancels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from harness.analysis import compare_controls, compare_interval, stats
from harness.analysis.fastest import find_fastest
from harness.analysis.index import RunIndex, index_run
from harness.analysis.stats import Ratio
from harness.errors import UsageError
from harness.records.reader import Run

TOLERANCE = 0.02  # an interval wholly within 1 -+ this is "same"
_REFERENCE = "ceiling_sgemm"  # the provider's product: no code of ours, in every run

Verdict = Literal["faster", "slower", "same", "ambiguous", "reference", "broken"]

# What tells two cells apart beside implementation, model and provider, where a run records it.
_CONDITIONS = ("threads", "dtype", "data", "rows", "routing", "weights")
# The same hardware and system, in all that bears on a time; the host's name does not.
_MACHINE = ("processor", "microarchitecture", "cores", "caches", "virtual_machine")


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

    same_machine: whether the two stood on the same hardware. references: the reference cell in A and in B.
    drift: how much longer the reference itself took in B. resolution: the share below which no
    difference is believed. unmatched: what only one run has, and which.
    """

    a: Run
    b: Run
    same_machine: bool
    references: tuple[str, str]
    drift: float
    resolution: float
    changes: list[Change]
    unmatched: list[str]

    def slower_than(self, percent: float) -> list[Change]:
        """Return the cells that are slower by more than so many percent, or give no right result any more."""
        limit = 1 + percent / 100
        return [
            c
            for c in self.changes
            if c.verdict == "broken"
            or (c.verdict == "slower" and c.change is not None and c.change.value > limit)
        ]


# ---- matching -------------------------------------------------------------------------------------


def _provider_name(label: str) -> str:
    """Return a provider's label without the version of its file: libopenblas.so.0.3 -> libopenblas."""
    return re.sub(r"\.so(\.\d+)*$", "", label.rsplit("/", 1)[-1])


def _keys(run: Run) -> dict[str, str]:
    """Return each layer's cell of a run under the key that it is matched by."""
    found = {}
    for row in run.cells[run.cells["role"] == "layer"].to_dict("records"):
        parts = [row["implementation"], row["model"], f"b{row['batch']}", f"w{row['d_in']}"]
        if row["provider"]:
            parts.append(_provider_name(row["provider"]))
        conditions = [f"{c}={row[c]}" for c in _CONDITIONS if c in row]
        found[f"{'/'.join(map(str, parts))} ({', '.join(conditions)})"] = str(row["cell"])
    return found


def _match(a: Run, b: Run) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Return the cells of A and B by what is printed of them, and what has no partner."""
    of_a, of_b = _keys(a), _keys(b)
    unmatched = [f"only in A: {k}" for k in of_a if k not in of_b]
    unmatched += [f"only in B: {k}" for k in of_b if k not in of_a]
    both = {k.partition(" (")[0]: (of_a[k], of_b[k]) for k in of_a if k in of_b}
    if not both:
        raise UsageError(
            f"{a.folder} and {b.folder} have no cell in common, so nothing can be compared; A has "
            f"{next(iter(of_a), 'none')}, B has {next(iter(of_b), 'none')}"
        )
    return both, unmatched


def is_same_machine(a: Run, b: Run) -> bool:
    """Say whether two runs stood on the same hardware."""
    then, now = a.head.machine, b.head.machine
    return all(getattr(then, name) == getattr(now, name) for name in _MACHINE)


# ---- references -----------------------------------------------------------------------------------


def _sampled(run: RunIndex, cell: str) -> bool:
    return run.cells[cell].status == "ok" and cell in run.samples


def _fastest_ff(run: RunIndex, cells: list[str]) -> str:
    """Return the fastest FF of the baseline's shape at the largest width and batch among some cells."""
    ff = [run.cells[c] for c in cells if run.cells[c].model == run.head.sweep.baseline]
    largest = max(((c.d_in, c.batch) for c in ff), default=None)
    found = find_fastest(
        (c.cell, stats.pass_ns(run.samples, c.cell))
        for c in ff
        if (c.d_in, c.batch) == largest and _sampled(run, c.cell)
    )
    return found or ""


def _ceiling(run: RunIndex) -> dict[str, str]:
    """Return the sampled product of each provider."""
    return {
        _provider_name(c.provider): c.cell
        for c in run.cells.values()
        if c.implementation == _REFERENCE and _sampled(run, c.cell)
    }


def _references(
    a: RunIndex, b: RunIndex, both: dict[str, tuple[str, str]], *, same: bool
) -> tuple[str, str] | None:
    """Return the cells of A and B that all others are taken over, None where there are none.

    On one machine that is the provider's large product, which is not code under test; without it, and
    across machines, the fastest FF.
    """
    of_a, of_b = _ceiling(a), _ceiling(b)
    shared = [p for p in of_a if p in of_b]
    if same and shared:
        return of_a[shared[0]], of_b[shared[0]]
    pairs = dict(both.values())
    if not same:
        found = _fastest_ff(a, list(pairs)), _fastest_ff(b, list(pairs.values()))
    else:
        usable = [x for x, y in pairs.items() if _sampled(b, y)]
        first = _fastest_ff(a, usable)
        found = first, pairs.get(first, "")
    return found if all(found) else None


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
            references: tuple[str, str], moves: compare_controls.Moves) -> Change:  # fmt: skip
    times = stats.pass_ns(a.samples, pair[0]), stats.pass_ns(b.samples, pair[1])
    states = [a.cells[pair[0]].status, b.cells[pair[1]].status]
    verdict: Verdict = "ambiguous"
    found, resolution, reason = None, moves.resolution, ""
    if states[0] == "ok" and states[1] in ("wrong", "failed"):
        verdict, reason = "broken", f"{states[1]} in B"
    elif states != ["ok", "ok"]:
        reason = f"{states[0]} in A, {states[1]} in B"
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
    same = is_same_machine(a, b)
    both, unmatched = _match(a, b)
    of_a, of_b = index_run(a), index_run(b)
    references = _references(of_a, of_b, both, same=same)
    if references is None:
        raise UsageError(
            f"{a.folder} and {b.folder} share neither {_REFERENCE} nor a sampled {a.head.sweep.baseline}: "
            "there is nothing to take their drift out with"
        )
    moves = compare_controls.watch(of_a, of_b, references, same=same)
    return Comparison(
        a=a, b=b, same_machine=same, references=references, resolution=moves.resolution,
        drift=stats.pass_ns(of_b.samples, references[1]) / stats.pass_ns(of_a.samples, references[0]),
        changes=[_change(of_a, of_b, n, pair, references, moves) for n, pair in both.items()
                 if _either_ok(of_a, of_b, pair)],
        unmatched=unmatched,
    )  # fmt: skip
