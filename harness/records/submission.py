"""Own the record of a submission: which sweeps were asked for, on which machines, into which folders."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import UsageError
from harness.records.files import write_whole
from harness.records.schema import SweepRecord
from harness.records.text import printable

FILE = "submission.json"
LOGS = (
    "jobs"  # what the executor keeps of its own, and what the sweeps print; never in a run's folder
)
SUBMISSION_VERSION = 1
Executor = Literal["slurm", "local", "ssh-hosts"]
_PROGRAM = ("-m", "harness", "sweep")
_NAME = (
    r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"  # of a folder inside the submission's, whatever a file says
)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class JobRecord(_Record):
    """One whole sweep on one node."""

    name: Annotated[str, Field(pattern=_NAME)] = Field(
        description="of the run's folder, inside that of the submission"
    )
    node: str = Field(description="that it was asked for, empty for any")
    words: list[str] = Field(description="of the sweep, without its folder")
    sweep: SweepRecord = Field(description="what its run has to say that it was asked for")
    ids: list[str] = Field(
        default=[], description="by the executor, one for each time that it was submitted"
    )


class SubmissionRecord(_Record):
    """What was submitted together."""

    submission_version: int
    submitted_utc: str
    on: Executor
    minutes: int = Field(gt=0, description="time limit of a job")
    grace_s: int = Field(gt=0, description="between SIGTERM and the end of that limit")
    sbatch: dict[str, str] = Field(default={}, description="further options of sbatch")
    jobs: list[JobRecord] = Field(min_length=1)


def words_of(job: JobRecord, folder: Path, *, resume: bool = False) -> list[str]:
    """Return the words behind `python` that carry out a job, or take up its run.

    folder: of the submission.
    """
    return [*_PROGRAM, *job.words, "--resume" if resume else "--out", str(folder / job.name)]


def command(job: JobRecord, folder: Path, *, resume: bool = False) -> str:
    """Return the command line that does by hand what a job does, or takes up its run."""
    return shlex.join(["python", *words_of(job, folder, resume=resume)])


def write_submission(folder: Path, record: SubmissionRecord) -> None:
    """Write a submission into its folder, whole or not at all. Raises UsageError where that can't be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / FILE, record.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"can't write {folder / FILE}: {error.strerror}") from None


def read_submission(folder: Path) -> SubmissionRecord:
    """Return the submission in a folder. Raises UsageError where there is none that can be read."""
    path = folder / FILE
    if not path.is_file():
        raise UsageError(
            f"{folder} holds no submission: it has no {FILE}; need a folder that `submit` has made"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data.get("submission_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version > SUBMISSION_VERSION:
            raise UsageError(
                f"{path} has version {version}, newer than this harness reads ({SUBMISSION_VERSION}); "
                "install a newer fff-harness"
            )
        record = SubmissionRecord.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(printable(f"{path} can't be read: {where}: {first['msg']}")) from None
    except UsageError:
        raise
    except (ValueError, RecursionError) as error:
        raise UsageError(printable(f"{path} can't be read: {error}".partition("\n")[0])) from None
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None
    names = [job.name for job in record.jobs]
    if len(set(names)) < len(names):
        raise UsageError(f"{path} can't be read: two jobs have one folder")
    return record


def read_last_words(folder: Path, job: JobRecord) -> tuple[Path, str] | None:
    """Return the file of what a job printed when it was last submitted, and its error; None without one."""
    for name in [f"{job.ids[-1]}_0_log.err", f"{job.ids[-1]}.log"] if job.ids else []:
        path = folder / LOGS / name
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:  # it has not begun, or the folder was copied without
            continue
        # What the executor adds to it says less than the sweep itself.
        if errors := [line for line in lines if line.startswith("error:")] or lines[-1:]:
            return path, printable(errors[-1])
    return None
