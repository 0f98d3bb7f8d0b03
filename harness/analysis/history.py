"""Own the history of cells over several runs: their times, their speedups, and where their levels moved.

Times stand in one line only where they may be compared: runs of one hardware, one BLAS and one way to run.
A speedup is of two cells of one run, so that it may stand beside those of any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.analysis.compare import Comparison
from harness.analysis.compare_match import (
    hardware,
    identify_layers,
    provider_name,
    provider_names,
)
from harness.analysis.history_rows import History, Indexed, LeftOut, Line, Series
from harness.analysis.history_series import find_speedups, find_times
from harness.analysis.index import index_run
from harness.errors import UnknownNameError, UsageError
from harness.records.reader import Run


def _index(runs: Iterable[Run]) -> Indexed:
    by_time = sorted(runs, key=lambda run: (run.head.started_utc, str(run.folder)))
    indices = [index_run(run) for run in by_time]
    names = provider_names(*indices)
    return Indexed(by_time, indices, [identify_layers(index, names) for index in indices])


def _facts(run: Run) -> dict[str, str]:
    """Return what of a run must be that of another for their times to be compared, by name."""
    sweep, device = run.head.sweep, run.head.machine.device
    facts = hardware(run.head) | {
        "threads": str(sweep.threads), "seed": str(sweep.seed), "order": sweep.order,
        "instruction set": sweep.isa or "fastest",
    }  # fmt: skip
    if device is not None:
        facts |= {"torch": device.torch, "CUDA": device.cuda}
    for provider in run.providers:
        version = f"{provider.version}, kernels {provider.architecture}"
        facts[f"BLAS {provider_name(provider.name)}"] = version
    return facts


def _differences(here: Mapping[str, str], there: Mapping[str, str]) -> tuple[str, ...]:
    """Return what two sets of facts both tell and tell otherwise, each with both values."""
    names = [name for name in here if name in there and here[name] != there[name]]
    return tuple(f"{name.replace('_', ' ')} {here[name]}, not {there[name]}" for name in names)


def _find_lines(runs: Sequence[Run], baseline: int | None) -> tuple[Line, ...]:
    """Return the lines, in the order of their first runs; the baseline is the base of its own."""
    known: list[tuple[dict[str, str], list[int]]] = []
    for place, run in enumerate(runs):
        facts = _facts(run)
        for shared, members in known:
            if not _differences(facts, shared):
                shared.update(facts)
                members.append(place)
                break
        else:
            known.append((facts, [place]))
    newest = next(facts for facts, members in known if len(runs) - 1 in members)
    return tuple(
        Line(
            runs=tuple(members), base=baseline if baseline in members else members[0],
            differs=_differences(facts, newest),
        )
        for facts, members in known
    )  # fmt: skip


def find_run(runs: Sequence[Run], name: str) -> int:
    """Return the place of the run that a name is of: that of its folder, a path, or its commit's beginning.

    Raises UnknownNameError where there is none, UsageError where there are several.
    """
    path = Path(name).resolve()
    named = [
        p for p, run in enumerate(runs) if run.folder.name == name or run.folder.resolve() == path
    ]
    if not named and name:
        named = [p for p, run in enumerate(runs) if run.head.machine.commit.startswith(name)]
    if not named:
        known = [f"{run.folder.name} ({run.head.machine.commit})" for run in runs]
        raise UnknownNameError("baseline", name, known)
    if len(named) > 1:
        folders = ", ".join(str(runs[place].folder) for place in named)
        raise UsageError(
            f"--baseline: {name!r} is the name of several runs ({folders}): give a folder"
        )
    return named[0]


def _judge(read: Indexed, baseline: int | None) -> tuple[int | None, Comparison | None]:
    """Return the run that the newest is judged against, and the comparison of the two.

    Where none is given it is the oldest run of the newest one's line that shares a cell with it, else the
    oldest of all others, by ratios. Raises UsageError where the given one shares too little with the newest.
    """
    newest = len(read.runs) - 1
    own = next(line for line in _find_lines(read.runs, None) if newest in line.runs).runs
    if baseline is not None:
        return baseline, read.compare(baseline, newest, same=baseline in own)
    others = [place for place in range(newest) if place not in own]
    for place in [*own[:-1], *others]:
        if read.cells[place].keys() & read.cells[newest].keys():
            try:
                return place, read.compare(place, newest, same=place in own)
            except UsageError:  # no cell of theirs may stand for the drift between them
                continue
    return None, None


def make_history(
    runs: Sequence[Run], baseline: str | None = None, left_out: Sequence[LeftOut] = ()
) -> History:
    """Return the history of runs; the newest is judged against the baseline, by name, or the oldest like it.

    Raises UsageError for fewer than two runs, for a baseline that is not among them, that is the newest one
    itself or shares no cell with it.
    """
    if len(runs) < 2:
        raise UsageError(f"a history needs two runs or more, got {len(runs)}")
    read = _index(runs)
    named = None if baseline is None else find_run(read.runs, baseline)
    if named == len(read.runs) - 1:
        raise UsageError(
            f"--baseline: {read.runs[-1].folder} is the newest run itself, and no other is judged"
        )
    judge, judged = _judge(read, named)
    lines = _find_lines(read.runs, judge)
    series: list[Series] = []
    alone: list[str] = []
    for place, line in enumerate(lines):
        found, single = find_times(read, line, place)
        series += found
        alone += single
    return History(
        runs=tuple(read.runs), lines=lines, series=(*series, *find_speedups(read, lines)),
        left_out=tuple(left_out), baseline=judge, judged=judged, alone=tuple(alone),
    )  # fmt: skip
