"""Own what is printed of a submission: its jobs as commands, and what came of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from harness.analysis.merge import Row
from harness.analysis.submission import STATES, Outcome
from harness.records.reader import Run
from harness.records.submission import JobRecord, SubmissionRecord, command, read_last_words
from harness.report import merge


def format_pinned(line: str, cpus: Sequence[int]) -> str:
    """Return a command line that is pinned to processors, as it stands for none."""
    return f"taskset -c {','.join(map(str, cpus))} {line}" if cpus else line


def format_job(job: JobRecord, folder: Path, cpus: Sequence[int] = ()) -> str:
    """Return the line of a job that is to be submitted: where, and the command that does it by hand."""
    where = f"{job.node}: " if job.node else ""
    return where + format_pinned(command(job, folder), cpus)


def _pinned_to(run: Run) -> list[int]:
    """Return the processors that a run was pinned to, none where it had them all."""
    facts = run.head.machine.facts
    return facts.cpus_allowed if len(facts.cpus_allowed) < facts.cpus_online else []


def _advise(outcome: Outcome, folder: Path) -> str:
    """Return what becomes of a job that is not there yet, as a command, and what it said."""
    job, run = outcome.job, outcome.run
    where = run.head.machine.host if run else job.node
    at = f" on {where}" if where else ""
    line = command(job, folder, resume=run is not None)
    said = read_last_words(folder, job)
    log = (
        f"; {said[0]} says: {said[1]}"
        if said and (run is None or said[1].startswith("error:"))
        else ""
    )
    if run is not None:
        return f"`{format_pinned(line, _pinned_to(run))}`{at} takes it up{log}"
    return f"`{line}`{at} makes it{log}"


def format_outcome(outcome: Outcome, folder: Path, queued: Collection[str] = ()) -> str:
    """Return the line of what came of a job. queued: ids of jobs that wait or run."""
    name, state = outcome.job.name, outcome.state
    if state in ("missing", "unfinished"):
        if queued and outcome.job.ids and outcome.job.ids[-1] in queued:
            return f"- {name}: {state}; job {outcome.job.ids[-1]} waits or runs"
        why = f" ({outcome.why})" if outcome.why else ""
        return f"- {name}: {state}{why}: {_advise(outcome, folder)}"
    if state == "wrong":
        return f"- {name}: wrong: {outcome.why}"
    host = outcome.run.head.machine.host if outcome.run else ""
    return f"- {name}: complete, on {host}"


def format_outcomes(
    submission: SubmissionRecord, outcomes: Sequence[Outcome], folder: Path, queued: Collection[str]
) -> str:
    """Return what came of a submission: how many jobs of each state, and a line for each of them."""
    counts = {state: sum(o.state == state for o in outcomes) for state in STATES}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines = [f"{len(outcomes)} jobs ({submission.on}, {submission.submitted_utc}): {told}", ""]
    lines += [format_outcome(outcome, folder, queued) for outcome in outcomes]
    return "\n".join(lines)


def write_tables(tables: Sequence[tuple[str, list[Run], list[Row]]], folder: Path) -> list[Path]:
    """Write the tables of a submission into its folder and return the files. Raises UsageError.

    merged.md and merged.csv; of several dtypes with the name of each, since no table holds two of them.
    """
    found = []
    for dtypes, runs, rows in tables:
        part = f"-{dtypes}" if len(tables) > 1 else ""
        for name in merge.MERGED_FILES:
            path = folder / name.replace("merged", f"merged{part}")
            found += merge.write_merged(runs, rows, path)
    return found
