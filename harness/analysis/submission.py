"""Own what came of a submission: which of its runs are complete, missing, unfinished or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.analysis import merge
from harness.analysis.merge import Row
from harness.errors import UsageError
from harness.records.reader import Run, load_run
from harness.records.schema import HEAD, SweepRecord
from harness.records.submission import JobRecord, SubmissionRecord

State = Literal["complete", "missing", "unfinished", "wrong"]
STATES: tuple[State, ...] = ("complete", "missing", "unfinished", "wrong")
# What the digests of plugins are is known when they have been loaded, which is on the node.
_NOT_COMPARED = ("plugin_digests",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """State what came of a job.

    why: what is wrong, or how far it came; empty where it is complete. run: None where none can be read.
    mergeable: whether its figures may stand in a table: it has ended by itself and is what was asked for.
    """

    job: JobRecord
    state: State
    why: str = ""
    run: Run | None = None
    mergeable: bool = False


def _find_differences(asked: SweepRecord, found: SweepRecord) -> list[str]:
    """Return what a run was begun with that was not asked for."""
    then, now = asked.model_dump(), found.model_dump()
    return [
        f"{name} is {now[name]!r}, asked was {then[name]!r}"
        for name in then
        if name not in _NOT_COMPARED and then[name] != now.get(name)
    ]


def _judge_cells(run: Run) -> str:
    """Return what is wrong with the cells and lines of a run, or an empty string."""
    found = [
        f"{count} cells {status}"
        for status in ("wrong", "failed")
        if (count := int((run.cells["status"] == status).sum()))
    ]
    if run.warnings:
        found.append(f"{len(run.warnings)} lines of its records: {run.warnings[0]}")
    return "; ".join(found)


def judge_job(job: JobRecord, folder: Path) -> Outcome:
    """Return what came of a job. folder: of the submission."""
    at = folder / job.name
    if not (at / HEAD).is_file():
        return Outcome(job=job, state="missing")
    try:
        run = load_run(at)
    except UsageError as error:
        return Outcome(job=job, state="wrong", why=str(error))
    if others := _find_differences(job.sweep, run.head.sweep):
        return Outcome(job=job, state="wrong", why=f"not what was asked for: {others[0]}", run=run)
    if run.end is None or run.end.reason not in ("complete", "budget"):
        how = "still running, or killed" if run.end is None else run.end.reason
        return Outcome(job=job, state="unfinished", why=how, run=run)
    if run.samples.empty:
        return Outcome(job=job, state="wrong", why="nothing was sampled", run=run)
    why = _judge_cells(run)
    return Outcome(job=job, state="wrong" if why else "complete", why=why, run=run, mergeable=True)


def judge(submission: SubmissionRecord, folder: Path) -> list[Outcome]:
    """Return what came of each job, in the order of the submission."""
    return [judge_job(job, folder) for job in submission.jobs]


def find_shared_machines(outcomes: Sequence[Outcome]) -> list[tuple[str, list[str]]]:
    """Return the hosts that ran jobs of several nodes, each with their names: no machines of their own."""
    nodes: dict[str, set[str]] = {}
    for outcome in outcomes:
        if outcome.run is not None and outcome.job.node:
            nodes.setdefault(outcome.run.head.machine.host, set()).add(outcome.job.node)
    return [(host, sorted(found)) for host, found in nodes.items() if len(found) > 1]


def merge_outcomes(outcomes: Sequence[Outcome]) -> list[tuple[str, list[Run], list[Row]]]:
    """Return the tables of what came, one for each dtype: its name, its runs, its rows.

    Raises UsageError where runs can't stand in one table, as where one is a copy of another.
    """
    runs: dict[str, list[Run]] = {}
    for outcome in outcomes:
        if outcome.mergeable and outcome.run is not None:
            dtypes = "-".join(outcome.job.sweep.axes["dtype"])
            runs.setdefault(dtypes, []).append(outcome.run)
    return [(dtypes, found, merge.merged_rows(found)) for dtypes, found in runs.items()]
