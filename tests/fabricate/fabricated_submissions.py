"""Make submissions out of made-up runs, without submitting anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fabricated_runs import Fake

from harness.records.submission import JobRecord, SubmissionRecord, write_submission

SMALL = {"processes": 2, "blocks": 2}


def make_fake(node: str, seed: int = 0, **changes: object) -> Fake:
    """Describe the small run of a node, a machine of its own."""
    return Fake(seed=seed, machine={"host": node}, **{**SMALL, **changes})


def make_submission(fakes: Mapping[str, Fake], *, words: Sequence[str] = ()) -> SubmissionRecord:
    """Return the submission whose jobs were asked for what some runs are, by their names: the nodes'."""
    jobs = [
        JobRecord(name=name, node=name, words=list(words), sweep=fake.head().sweep)
        for name, fake in fakes.items()
    ]
    return SubmissionRecord(
        submission_version=1, submitted_utc="2026-01-02T03:00:00+00:00", on="slurm", minutes=21,
        grace_s=90, jobs=jobs,
    )  # fmt: skip


def write(folder: Path, fakes: Mapping[str, Fake], *, absent: Sequence[str] = ()) -> Path:
    """Write a submission with its runs, but for those that are absent, and return its folder."""
    write_submission(folder, make_submission(fakes))
    for name, fake in fakes.items():
        if name not in absent:
            fake.write(folder / name)
    return folder
