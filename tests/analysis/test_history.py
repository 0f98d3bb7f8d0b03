"""Histories of made-up runs, whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from fabricated_runs import Fake, make_provider

from harness.analysis.history import find_run, make_history
from harness.analysis.history_rows import History, Series
from harness.errors import UnknownNameError, UsageError
from harness.records.reader import Run

QUIET = {"noise": 0.004, "process_noise": 0.002}
L1, L2 = "fff_l1_blas/ultrafastbert-1x11", "fff_l2_blas/ultrafastbert-1x11"
OTHER = {"processor": "Example 9001"}


def make_run(day: int, **changes: object) -> Run:
    """Return a run of a day of January, of a commit and in a folder of its own."""
    machine = {"commit": f"c{day:02d}", **changes.pop("machine", {})}
    fake = Fake(seed=day, started=f"2026-01-{day:02d}T00:00:00+00:00", machine=machine,
                **{**QUIET, **changes})  # fmt: skip
    return fake.run()._replace(folder=Path(f"run{day:02d}"))


@cache
def stepped() -> tuple[Run, ...]:
    """Return eight runs, in which one kernel is 10 % slower from the fifth on."""
    return tuple(make_run(d, factors={"fff_l1": 1.1} if d >= 5 else {}) for d in range(1, 9))


def find(history: History, cell: str, kind: str) -> list[Series]:
    """Return the series of a kind whose cell begins so."""
    return [s for s in history.series if s.kind == kind and s.cell.startswith(cell)]


def test_a_step_is_in_the_time_and_in_the_speedup():
    """A kernel that got slower has a change point in both of its series, and no other cell has one."""
    history = make_history(stepped())
    [time], [speedup] = (find(history, L1, kind) for kind in ("time", "speedup"))
    assert [c.start for c in time.changes] == [c.start for c in speedup.changes] == [4]
    assert time.changes[0].change.value == pytest.approx(1.1, abs=0.01)
    assert speedup.changes[0].change.value == pytest.approx(1 / 1.1, abs=0.01)
    assert not [s.cell for s in history.series if s.changes and not s.cell.startswith(L1)]
    assert {s.cell.split("/")[0] for s in history.series if s.kind == "speedup"} == {
        "fff_l1_blas", "fff_l2_blas",
    }  # fmt: skip


def test_runs_stand_by_time_and_the_newest_is_judged_against_the_oldest():
    """Whatever order they were given in, the last to begin is judged, against the first."""
    history = make_history(stepped()[::-1])
    assert [run.folder.name for run in history.runs] == [f"run{d:02d}" for d in range(1, 9)]
    assert (history.baseline, history.newest) == (0, 7)
    assert [c.cell.split("/")[0] for c in history.judged.slower_than(5)] == ["fff_l1_blas"]


@pytest.mark.parametrize("name", ["run06", "c06"])
def test_a_named_baseline_is_the_base_of_all(name):
    """By folder or by commit: its own times are 1, and the newest, as slow as it, is not slower."""
    history = make_history(stepped(), name)
    assert history.baseline == history.lines[0].base == 5
    assert history.judged.slower_than(0) == []
    [time] = find(history, L1, "time")
    assert time.values[5].ratio.value == 1
    assert time.values[0].ratio.value == pytest.approx(1 / 1.1, abs=0.01)
    assert time.values[0].verdict == "faster"


def test_names_that_are_no_baseline():
    """Unknown, of several runs, of the newest itself: each is a usage error that says so."""
    runs = stepped()
    with pytest.raises(UnknownNameError, match=r"unknown baseline 'x'; known: run01 \(c01\)"):
        find_run(runs, "x")
    with pytest.raises(UsageError, match=r"'c' is the name of several runs"):
        find_run(runs, "c")
    with pytest.raises(UsageError, match="is the newest run itself"):
        make_history(runs, "run08")
    with pytest.raises(UsageError, match="needs two runs or more, got 1"):
        make_history(runs[:1])


def test_machines_have_lines_of_their_own_and_share_speedups():
    """No time of one machine stands in a series of another's; a speedup's series has both."""
    runs = [make_run(d, machine=OTHER if d % 2 else {}) for d in range(1, 7)]
    history = make_history(runs)
    assert [line.runs for line in history.lines] == [(0, 2, 4), (1, 3, 5)]
    assert history.lines[0].differs == ("processor Example 9001, not Example 9000",)
    assert history.lines[1].differs == ()
    assert [[v.run for v in s.values] for s in find(history, L1, "time")] == [[0, 2, 4], [1, 3, 5]]
    assert [[v.run for v in s.values] for s in find(history, L1, "speedup")] == [list(range(6))]
    assert history.baseline == 1  # the oldest on the newest one's machine
    assert history.judged.same_machine


def test_a_change_of_machine_is_no_change_point():
    """A speedup that differs between two machines has not moved on either."""
    factors = {"fff_l1": 2.0}
    runs = [
        make_run(d, **({"machine": OTHER, "factors": factors} if d > 4 else {}))
        for d in range(1, 9)
    ]
    assert [s.changes for s in find(make_history(runs), L1, "speedup")] == [()]


def test_another_blas_is_another_line():
    """What times are taken over is the BLAS's own product: with another version they are not compared."""
    runs = list(stepped()[:4])
    runs[2:] = [r._replace(providers=[make_provider(0, version="OpenBLAS 0.4")]) for r in runs[2:]]
    history = make_history(runs)
    assert [line.runs for line in history.lines] == [(0, 1), (2, 3)]
    assert "OpenBLAS 0.4" in history.lines[0].differs[0]
    across = make_history(runs, "run01")
    assert not across.judged.same_machine
    assert make_history(runs, "run03").judged.same_machine


def test_threads_and_their_times_stand_apart():
    """Runs of other threads share no cell: their times and speedups are told apart."""
    runs = [make_run(d, threads=1 + d % 2) for d in range(1, 5)]
    history = make_history(runs)
    assert [line.runs for line in history.lines] == [(0, 2), (1, 3)]
    assert {s.cell.rsplit(", ", 1)[1] for s in find(history, L1, "speedup")} == {
        "threads 1", "threads 2",
    }  # fmt: skip


def test_a_cell_that_the_base_lacks_is_over_the_oldest_that_has_it():
    """A new kernel has a history of its own; what one run alone has is named."""
    runs = list(stepped()[:4])
    for place, gone in ((0, "fff_l2"), (1, "ff_l1"), (2, "ff_l1"), (3, "ff_l1")):
        cells = runs[place].cells
        runs[place] = runs[place]._replace(cells=cells[~cells["cell"].str.startswith(gone)])
    history = make_history(runs)
    [time] = find(history, L2, "time")
    assert (time.base, [v.run for v in time.values]) == (1, [1, 2, 3])
    assert [name.split("/")[0] for name in history.alone] == ["ff_l1_blas"]


def test_what_is_wrong_in_a_run_has_no_value_there():
    """A run in which a cell was wrong has a verdict and no ratio, and is no part of a level."""
    runs = [make_run(d, wrong=(L1,) if d == 3 else ()) for d in range(1, 6)]
    [time] = find(make_history(runs), L1, "time")
    assert [(v.verdict, v.ratio is None) for v in time.values if v.run == 2] == [("broken", True)]
    assert time.changes == ()


def test_without_a_common_cell_nothing_is_judged():
    """Runs of other batches share no cell: they stand side by side, and a named baseline is an error."""
    runs = [make_run(1), make_run(2), make_run(3, batch=16)]
    history = make_history(runs)
    assert (history.baseline, history.judged) == (None, None)
    with pytest.raises(UsageError, match="no cell in common"):
        make_history(runs, "run01")


def test_drift_of_the_machine_is_no_change_point():
    """A machine that is half as fast from some run on moves no level."""
    runs = [make_run(d, drift=lambda done, slow=1 + (d > 4): slow) for d in range(1, 9)]
    assert [s.cell for s in make_history(runs).series if s.changes] == []


def test_devices_are_machines_apart():
    """A run of another device stands in another line, though the host is the same."""
    runs = [replace(Fake(seed=d, **QUIET), started=f"2026-01-0{d}").run() for d in (1, 2)]
    head = runs[1].head.model_copy(
        update={"sweep": runs[1].head.sweep.model_copy(update={"device": "cuda"})}
    )
    assert len(make_history([runs[0], runs[1]._replace(head=head)]).lines) == 2
