"""Own the series of a history: each cell's time over that of one run, its speedup, and its change points."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from harness.analysis import change_points, compare, compare_interval, stats
from harness.analysis.change_points import ChangePoint
from harness.analysis.compare_match import name_cell
from harness.analysis.history_rows import Indexed, Line, Series, Value
from harness.analysis.stats import Ratio
from harness.errors import UsageError
from harness.records.identity import Identity


def find_times(read: Indexed, line: Line, place: int) -> tuple[list[Series], list[str]]:
    """Return the times of a line over those of its base, and the cells that one of its runs alone has.

    A cell that the base has not is taken over the oldest run that has it.
    """
    series, alone = [], []
    changes: dict[tuple[int, int], dict[str, compare.Change]] = {}
    for identity in dict.fromkeys(i for run in line.runs for i in read.cells[run]):
        holders = [run for run in line.runs if read.holds(run, identity)]
        if not holders:
            continue
        base = line.base if line.base in holders else holders[0]
        time = stats.pass_ns(read.indices[base].samples, read.cells[base][identity])
        values, resolutions, name = [], [], name_cell(identity)
        for run in line.runs:
            if run == base:
                values.append(
                    Value(run=run, ratio=Ratio(value=1, low=1, high=1, blocks=0), pass_ns=time)
                )
                continue
            if (base, run) not in changes:
                changes[base, run] = _changes(read, base, run)
            if (change := changes[base, run].get(name)) and _is_told(change):
                values.append(Value(run=run, ratio=change.change, pass_ns=change.b_ns,
                                    verdict=change.verdict))  # fmt: skip
                resolutions.append(change.resolution)
        if len(values) < 2:
            alone.append(name)
            continue
        moved = _find_changes(values, line, statistics.median(resolutions))
        series.append(
            Series(
                cell=name, kind="time", line=place, base=base, values=tuple(values), changes=tuple(moved)
            )
        )  # fmt: skip
    return series, alone


def _changes(read: Indexed, base: int, run: int) -> dict[str, compare.Change]:
    """Return what became of each cell from one run of a line to another, by the cell's name."""
    if not read.cells[base].keys() & read.cells[run].keys():
        return {}
    try:
        found = read.compare(base, run, same=True)
    except UsageError:  # no cell of theirs may stand for the drift between them
        return {}
    return {change.cell: change for change in found.changes}


def _is_told(change: compare.Change) -> bool:
    """Say whether something is known of a change: an estimate, or that there is no right result any more."""
    return change.change is not None or change.verdict == "broken"


def _find_changes(values: Sequence[Value], line: Line, resolution: float) -> list[ChangePoint]:
    """Return the change points among the values of one line; each begins at a run."""
    own = [(v.run, v.ratio.value) for v in values if v.run in line.runs and v.ratio is not None]
    found = change_points.find_change_points([value for _, value in own], resolution)
    return [replace(change, start=own[change.start][0]) for change in found]


class _Key(NamedTuple):
    """State what a speedup is of: cells of one key are compared over runs."""

    identity: Identity
    baseline: str


def _speedups_of(read: Indexed, run: int) -> dict[_Key, Value]:
    """Return the speedup of each conditional layer of a run over the fastest FF of its place."""
    index, found = read.indices[run], {}
    sections: dict[tuple[object, ...], list[Identity]] = {}
    for identity in read.cells[run]:
        if read.holds(run, identity):
            sections.setdefault((identity.batch, identity.d_in, identity.conditions), []).append(
                identity
            )
    baseline = index.head.sweep.baseline
    for members in sections.values():
        fastest = compare.fastest_ff(index, (read.cells[run][i] for i in members))
        for identity in members:
            cell = index.cells[read.cells[run][identity]]
            if not fastest or cell.layer == "ff":
                continue
            ratio = stats.ratio(index.samples, fastest, cell.cell)
            if ratio is not None:
                time = stats.pass_ns(index.samples, cell.cell)
                found[_Key(identity, baseline)] = Value(run=run, ratio=ratio, pass_ns=time)
    return found


def find_speedups(read: Indexed, lines: Sequence[Line]) -> list[Series]:
    """Return the speedups that two runs or more tell of, whatever their machines."""
    by_run = [_speedups_of(read, run) for run in range(len(read.runs))]
    resolutions = [compare_interval.resolve(index) for index in read.indices]
    shared = {
        key: values
        for key in dict.fromkeys(key for found in by_run for key in found)
        if len(values := [found[key] for found in by_run if key in found]) > 1
    }
    names = _name_speedups(shared)
    series = []
    for key, values in shared.items():
        moved = [
            change
            for line in lines
            for change in _find_changes(
                values, line, statistics.median(resolutions[run] for run in line.runs)
            )
        ]
        series.append(
            Series(
                cell=names[key], kind="speedup", line=None, base=None, values=tuple(values),
                changes=tuple(moved),
            )
        )  # fmt: skip
    return series


def _name_speedups(keys: Iterable[_Key]) -> dict[_Key, str]:
    """Return what is printed of each speedup: its cell, and what tells it from another of that cell."""
    found = list(keys)
    told = {
        "threads": {key: str(key.identity.threads) for key in found},
        "seed": {key: str(key.identity.seed) for key in found},
        "over": {key: key.baseline for key in found},
    }
    differing = [name for name, values in told.items() if len(set(values.values())) > 1]
    return {
        key: ", ".join(
            [name_cell(key.identity), *(f"{name} {told[name][key]}" for name in differing)]
        )
        for key in found
    }
