"""Own what a history is made of: runs by time, the lines that they stand in, and series of values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from harness.analysis import compare
from harness.analysis.change_points import ChangePoint
from harness.analysis.compare import Comparison, Verdict
from harness.analysis.index import RunIndex
from harness.analysis.stats import Ratio
from harness.records.identity import Identity
from harness.records.reader import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Name a folder that takes no part in a history, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Hold runs whose times may be compared, by their places in the history.

    base: the run that the others' times are over. differs: what of it is otherwise than in the line of the
    newest run, each with both values; empty for that line itself.
    """

    runs: tuple[int, ...]
    base: int
    differs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """Hold what one run says of a cell.

    ratio: of a time that over the base's, 1 for the base itself; of a speedup that. None where the cell gave
    no right result. verdict: of a time that over the base's, None for the base and for speedups.
    """

    run: int
    ratio: Ratio | None
    pass_ns: float
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Hold a cell's values by time.

    line: place of the line of a time; None for a speedup, whose values are of all lines. base: the run that
    the times are over. changes: each begins at a place of a run, and lies within one line.
    """

    cell: str
    kind: Literal["time", "speedup"]
    line: int | None
    base: int | None
    values: tuple[Value, ...]
    changes: tuple[ChangePoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Hold what several runs say of their cells.

    runs: by the time of their beginning. baseline: place of the run that the newest is judged against, with
    the verdicts in `judged`; None where it shares no cell with an older one. alone: cells that one run of a
    line has, which have no history.
    """

    runs: tuple[Run, ...]
    lines: tuple[Line, ...]
    series: tuple[Series, ...]
    left_out: tuple[LeftOut, ...]
    baseline: int | None
    judged: Comparison | None
    alone: tuple[str, ...]

    @property
    def newest(self) -> int:
        """Return the place of the newest run."""
        return len(self.runs) - 1

    def line_of(self, run: int) -> int:
        """Return the place of a run's line."""
        return next(place for place, line in enumerate(self.lines) if run in line.runs)


class Indexed(NamedTuple):
    """Hold runs with their indices and their layers' cells by identity, in the order of time."""

    runs: list[Run]
    indices: list[RunIndex]
    cells: list[dict[Identity, str]]

    def holds(self, run: int, identity: Identity) -> bool:
        """Say whether a run has a right result and a time of a cell."""
        cell = self.cells[run].get(identity)
        return cell is not None and compare.is_sampled(self.indices[run], cell)

    def compare(self, first: int, second: int, *, same: bool) -> Comparison:
        """Compare two runs. Raises UsageError where they share too little."""
        pair = [(self.runs[place], self.indices[place]) for place in (first, second)]
        return compare.compare_indexed(pair[0], pair[1], same=same)
