"""Own what the ceilings of two runs say of their comparison: code that nobody changed, so machine alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.analysis import above_limit, compare_interval, stats
from harness.analysis import ceilings as analysis_ceilings
from harness.analysis.index import RunIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """Hold by how much the machine's parts moved between two runs, beside what moved its reference.

    resolution: the share below which no difference is believed. by_place: the largest change of any loop
    over a set in that part of the memory. places: of each run, the cells that stream their weights from one.
    """

    resolution: float
    by_place: dict[str, float]
    places: tuple[dict[str, str], dict[str, str]]

    def place(self, pair: tuple[str, str]) -> str:
        """Return where a cell streams its weights from in one of the runs, empty where it does in none."""
        return self.places[0].get(pair[0], "") or self.places[1].get(pair[1], "")

    def of(self, place: str) -> float:
        """Return by how much a place moved, 0 where no loop tells."""
        return self.by_place.get(place, 0.0)


def _find_streaming(run: RunIndex) -> dict[str, str]:
    """Return the cells that are bound by streaming their weights, each with the place of these."""
    known = analysis_ceilings.measure(run)
    if not known.bandwidth:
        return {}
    found = {}
    for cell in run.right("layer"):
        time = stats.pass_ns(run.samples, cell.cell)
        if place := above_limit.streams_from(known, cell, time):
            found[cell.cell] = place
    return found


def _find_loops(run: RunIndex) -> dict[str, str]:
    """Return the ceilings over a set in some place, each with that place."""
    found = {cell.cell: analysis_ceilings.place_name(cell) for cell in run.right("ceiling")}
    return {cell: place for cell, place in found.items() if place}


def watch(a: RunIndex, b: RunIndex, references: tuple[str, str], *, same: bool) -> Moves:
    """Return what moved between two runs; across machines (`same` is false) no loop can tell.

    A cache that is shared with neighbours is as fast as they leave it, for minutes on end: all processes of
    a run then agree, and the next run differs. No interval from within a run sees that, but the loops over
    a set in that cache do.
    """
    by_place: dict[str, float] = {}
    if same:
        of_a, of_b = _find_loops(a), _find_loops(b)
        for cell in of_a.keys() & of_b.keys():
            found = compare_interval.estimate(
                compare_interval.levels(a.samples, cell, references[0]),
                compare_interval.levels(b.samples, cell, references[1]),
            )
            if found is not None:
                moved = math.exp(abs(math.log(found.value))) - 1
                by_place[of_a[cell]] = max(by_place.get(of_a[cell], 0.0), moved)
    return Moves(
        resolution=compare_interval.resolve(a, b), by_place=by_place,
        places=(_find_streaming(a), _find_streaming(b)),
    )  # fmt: skip
