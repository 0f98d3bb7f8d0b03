"""Own the plan of a submission: one whole sweep a job, arrays over machines, dtypes and seeds."""

from __future__ import annotations

import itertools
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from harness.errors import UsageError
from harness.machine import environment, resources
from harness.machine import record as machine_record
from harness.records.schema import HEAD
from harness.records.submission import (
    LOGS,
    SUBMISSION_VERSION,
    Executor,
    JobRecord,
    SubmissionRecord,
    words_of,
)
from harness.sweep.spec import SweepSpec

NONE_SET: Mapping[str, str | None] = MappingProxyType({})
# A sweep goes on beyond its budget: processes start, cells pass their gates, figures are drawn. A job that is
# ended by its limit can be resumed, so twice is enough.
_BUDGETS, _BEYOND_MINUTES = 2, 10
_BY_PASSES_MINUTES = 240  # nobody knows before what they take on that machine


def plan_jobs(
    words: Sequence[str], make: Callable[[Sequence[str]], SweepSpec], *, nodes: Sequence[str] = ("",),
    dtypes: Sequence[str] = (), seeds: Sequence[int] = (),
) -> list[JobRecord]:  # fmt: skip
    """Return a job for each node, dtype and seed: always a whole sweep, so that no ratio is of two jobs.

    words: of the sweep, without its folder. make: what the words ask for. nodes: an empty name is any.

    Raises UsageError where the words are none of a sweep, or two jobs would have one folder.
    """
    jobs: list[JobRecord] = []
    by_dtype = [["--dtype", name] for name in dtypes] or [[]]
    by_seed = [["--seed", str(seed)] for seed in seeds] or [[]]
    for node, dtype, seed in itertools.product(nodes, by_dtype, by_seed):
        own = [*words, *dtype, *seed]
        parts = [node, *dtype[1:], *(f"seed{number}" for number in seed[1:])]
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(filter(None, parts))).lstrip("-.") or "run"
        jobs.append(JobRecord(name=name, node=node, words=own, sweep=make(own).record()))
    names = [job.name for job in jobs]
    if LOGS in names:
        raise UsageError(f"a job can't have the folder {LOGS}, which holds what all of them print")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"two jobs would have the folder {name}: a machine, dtype or seed was given twice"
            )
    return jobs


def default_folder() -> Path:
    """Return the folder of a new submission that was given none."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return Path("results") / f"{stamp}-submission-{machine_record.commit_label()}"


def default_minutes(spec: SweepSpec) -> int:
    """Return the time limit of a sweep where none was asked for."""
    if spec.passes:
        return _BY_PASSES_MINUTES
    return math.ceil(_BUDGETS * spec.budget_s / 60) + _BEYOND_MINUTES


def make_submission(
    on: Executor, jobs: Sequence[JobRecord], *, minutes: int, grace_s: int, sbatch: dict[str, str]
) -> SubmissionRecord:
    """Return the record of a submission that is made now."""
    return SubmissionRecord(
        submission_version=SUBMISSION_VERSION, on=on, minutes=minutes, grace_s=grace_s,
        submitted_utc=datetime.now(UTC).isoformat(timespec="seconds"), sbatch=sbatch, jobs=list(jobs),
    )  # fmt: skip


def begin(
    job: JobRecord, folder: Path, cpus: Sequence[int] = (), variables: Mapping[str, str | None] = NONE_SET
) -> NoReturn:  # fmt: skip
    """Become a job's sweep: the process that the executor started and signals is then the sweep itself.

    Where the run has begun already, as in a job that was put back into the queue, it is taken up. cpus: the
    processors that it is pinned to, none where the executor has pinned it. variables: of its environment
    that the executor has set otherwise, None for one to take away.
    """
    if cpus:
        os.sched_setaffinity(0, cpus)
    words = words_of(job, folder, resume=(folder / job.name / HEAD).is_file())
    sys.stdout.flush()
    sys.stderr.flush()
    environment.become([sys.executable, *words], variables)


def choose_cpus(threads: int) -> list[int]:
    """Return as many processors as there are threads, each of a core of its own, to pin a sweep to.

    All that this process may run on where those have not so many cores between them.
    """
    return resources.choose_cores(resources.Files(), os.sched_getaffinity(0), threads)
