"""Own the command `submit`: whole sweeps, one a node, on many machines."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import typer
import typer.main

from harness.cli import grammar, options, signals
from harness.cli.exit_status import ExitStatus
from harness.cli.streams import print_error, print_notice, say
from harness.cli.sweep_options import make_spec
from harness.errors import UnknownNameError, UsageError
from harness.machine import slurm
from harness.records.submission import (
    FILE,
    Executor,
    JobRecord,
    SubmissionRecord,
    read_submission,
    write_submission,
)
from harness.sweep import executors
from harness.sweep import submission as sweep_submission
from harness.sweep.spec import SweepSpec

_EXECUTORS: tuple[Executor, ...] = get_args(Executor)
_HOSTS = "ssh-hosts"
GRACE_S = 90
_SIGNAL_EARLY_S = 120  # Slurm may send it a minute early, and a sweep takes some time to begin
# Options of a sweep that say nothing of what is measured, and those that are the submission's to give.
_BESIDE = ("dry_run", "figures", "style", "page", "resume_run")
_REFUSED = {
    "out": "the folder of each run is that of the submission, which --out of `submit` names",
    "resume_run": "`submit --resume DIR` takes up the runs of a submission",
    "dry_run": "`submit --dry-run` prints the jobs; `sweep --dry-run` prints what one of them does",
}


def _parse_sweep(words: Sequence[str], refused: dict[str, str]) -> SweepSpec:
    """Return what the words of a sweep ask for. refused: names of options that may not stand there, and why.

    Raises UsageError for one of those, and for a mistake in the words.
    """
    from harness.cli import make_app

    app = typer.main.get_command(make_app("sweep"))
    command = app.commands["sweep"]  # type: ignore[attr-defined]
    with command.make_context("sweep", list(words)) as context:
        given = options.find_given(context)
        for name, why in refused.items():
            if name in given:
                raise UsageError(f"{given[name]} behind `--`: {why}")
        values = {k: v for k, v in context.params.items() if k not in _BESIDE}
        options.require_style(context.params["style"])
    plugins = [Path(path) for path in values.pop("plugins") or []]
    for path in plugins:
        if not path.is_file():
            raise UsageError(f"--plugin: there is no file {str(path)!r}")
    return make_spec(**{**values, "plugins": plugins, "out": None})


def _parse_sbatch(texts: Sequence[str]) -> dict[str, str]:
    """Return options of sbatch by their names. Raises UsageError."""
    found = {}
    for text in texts:
        name, _, value = text.removeprefix("--").partition("=")
        if not name:
            raise UsageError(f"--sbatch: need NAME=VALUE, such as partition=long, got {text!r}")
        found[name] = value
    return found


def _find_nodes(on: Executor, nodes: str | None, words: list[str]) -> list[str]:
    """Return the names of the machines, an empty one for any; take the file of hosts out of the words."""
    if on != _HOSTS and words and not words[0].startswith("-"):
        raise UsageError(
            f"{words[0]!r}: the options of the sweep stand behind `--` and begin with a dash"
        )
    if on == _HOSTS:
        if not words or words[0].startswith("-"):
            raise UsageError("--on ssh-hosts: need a file behind it, with one host a line")
        hosts = executors.read_hosts(Path(words.pop(0)))
        if nodes is None:
            return hosts
        asked = slurm.expand_nodes(nodes)
        for name in asked:
            if name not in hosts:
                raise UnknownNameError("host", name, hosts)
        return asked
    if on == "local":
        if nodes is not None:
            raise UsageError("--nodes: --on local is this machine alone")
        return [""]
    return slurm.expand_nodes(nodes) if nodes is not None else [""]


def print_jobs(submission: SubmissionRecord, jobs: Sequence[JobRecord], folder: Path) -> None:
    """Print what would be submitted: a line for each job, with its command."""
    from harness.report import submission as report

    for job in jobs:
        local = submission.on == "local"
        cpus = sweep_submission.choose_cpus(job.sweep.threads) if local else []
        say(report.format_job(job, folder, cpus))
    if submission.on == "slurm":
        asked = executors.sbatch_options(submission, jobs[0], folder)
        own = {k: v for k, v in asked.items() if k not in ("additional_parameters", "srun_args")}
        flags = {
            k.replace("_", "-"): v for k, v in {**own, **asked["additional_parameters"]}.items()
        }
        flags.pop("nodelist", None)
        text = " ".join(f"--{k}" if v is True else f"--{k}={v}" for k, v in sorted(flags.items()))
        say(f"sbatch, an array for each node: {text}; srun {' '.join(asked['srun_args'])}")
    say(
        f"{len(jobs)} jobs on {submission.on}, at most {submission.minutes} minutes each; their runs would "
        f"stand in {folder}."
    )


def _carry_out(
    submission: SubmissionRecord, todo: Sequence[JobRecord], folder: Path
) -> ExitStatus | None:  # fmt: skip
    """Submit jobs, and keep the id of each; return the exit status, None where it was interrupted."""
    jobs = {job.name: job for job in submission.jobs}

    def keep(job: JobRecord, number: str) -> None:
        jobs[job.name] = job.model_copy(update={"ids": [*job.ids, number]})
        write_submission(folder, submission.model_copy(update={"jobs": list(jobs.values())}))
        at = f" on {job.node}" if job.node else ""
        what = "submitted as" if submission.on == "slurm" else "begins as"
        say(f"{job.name}{at} {what} job {number}")

    interrupted = False
    try:
        executors.execute(submission, todo, folder, keep)
    except KeyboardInterrupt:
        interrupted = True
    except UsageError:
        if not any(
            job.ids for job in jobs.values()
        ):  # nothing was submitted: the folder stays free for it
            (folder / FILE).unlink()
        raise
    if submission.on == "slurm":
        say(f"`python -m harness collect {shlex.quote(str(folder))}` puts together what has come")
        return None if interrupted else ExitStatus.CLEAN
    return _conclude(folder, interrupted=interrupted)


def _conclude(folder: Path, *, interrupted: bool) -> ExitStatus:
    """Say what came of jobs whose end was waited for, and return the exit status."""
    from harness.analysis import submission as analysis
    from harness.report import submission as report

    record = read_submission(folder)
    outcomes = analysis.judge(record, folder)
    say(report.format_outcomes(record, outcomes, folder, ()))
    left = [o for o in outcomes if o.state in ("missing", "unfinished")]
    if left:
        print_notice(
            f"`python -m harness submit --resume {shlex.quote(str(folder))}` goes on from here"
        )
    say(f"`python -m harness collect {shlex.quote(str(folder))}` puts together what has come")
    if interrupted or any(o.state == "unfinished" for o in left):
        return ExitStatus.RESUMABLE
    for outcome in outcomes:
        if outcome.state == "wrong":
            print_error(f"{outcome.job.name}: {outcome.why}")
    return ExitStatus.CLEAN if all(o.state == "complete" for o in outcomes) else ExitStatus.BAD


def _find_left(submission: SubmissionRecord, folder: Path) -> list[JobRecord]:
    """Return the jobs of a submission that are to be submitted again; those that wait or run are not."""
    from harness.analysis import submission as analysis

    outcomes = analysis.judge(submission, folder)
    for outcome in outcomes:
        if outcome.state == "wrong" and not outcome.mergeable:
            print_error(f"{outcome.job.name}: {outcome.why}; it is not submitted again")
    left = [o.job for o in outcomes if o.state in ("missing", "unfinished")]
    queued = slurm.find_queued([number for job in left for number in job.ids])
    for job in left:
        if queued.intersection(job.ids):
            print_notice(f"{job.name}: job {job.ids[-1]} waits or runs; it is not submitted again")
    return [job for job in left if not queued.intersection(job.ids)]


def _given_beside_resume(context: typer.Context) -> list[str]:
    """Return the options on the command line that a submission which is taken up has of its own."""
    return [
        option if option.startswith("-") else "words"
        for name, option in options.find_given(context).items()
        if context.params[name] and name not in ("resume", "minutes", "dry_run")
    ]


def _check_times(minutes: int | None, grace_s: int) -> None:
    """Raise UsageError where a time limit leaves no time to measure."""
    options.require_positive("--time", minutes)
    options.require_positive("--grace", grace_s)
    least = math.ceil((grace_s + _SIGNAL_EARLY_S) / 60)
    if minutes is not None and minutes < least:
        raise UsageError(
            f"--time: need {least} minutes or more beside --grace {grace_s}, got {minutes}: the sweep would "
            "be ended as it begins"
        )


def submit_command(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE] -- [OPTIONS OF SWEEP]",
            help="Behind `--` the options of each sweep, as `sweep --help` has them; before it the file of "
            "--on ssh-hosts, one host a line.",
        ),
    ] = None,
    on: Annotated[
        str,
        typer.Option(
            "--on",
            help="Where jobs go: slurm; local, this machine, one after the other; ssh-hosts FILE, one after "
            "the other on each.",
        ),
    ] = "slurm",
    nodes: Annotated[
        str | None,
        typer.Option(
            help="Names of machines, a list, with Slurm's ranges such as node[01-04]: each measures all. "
            "[default: whichever Slurm takes; all hosts of the file]"
        ),
    ] = None,
    dtypes: Annotated[
        str | None,
        typer.Option(
            help="A sweep for each dtype, a list: float32,bfloat16. (`-- --dtype` measures several in one.)"
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="A sweep for each seed, a list with ranges: 0..4.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the submission, in which the runs' folders lie; every machine has to reach it. "
            "[default: results/<UTC time>-submission-<commit>]",
        ),
    ] = None,
    minutes: Annotated[
        int | None,
        typer.Option(
            "--time",
            metavar="MINUTES",
            help="Time limit of a job. [default: twice the sweep's budget and 10; 240 with --passes]",
        ),
    ] = None,
    grace: Annotated[
        int,
        typer.Option(metavar="SECONDS", help="SIGTERM comes so long before the time limit."),
    ] = GRACE_S,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Option of Slurm's sbatch, such as partition=long or account=x. Repeatable.",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="DIR",
            help="Submit again what is missing in a submission, and take up what is unfinished.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print each job with its command; submit nothing.")
    ] = False,
) -> ExitStatus:
    """Submit whole sweeps to many machines: one a node, alone on it and pinned.

    Arrays go over machines, dtypes and seeds, never over the cells of one ratio. Each job is a plain
    `python -m harness sweep`; one that preemption or its time limit ends has status 75 and can be resumed.
    `collect` puts the runs together. docs/cluster.md goes through it.
    """
    if resume is not None:
        if others := _given_beside_resume(context):
            raise UsageError(
                f"--resume: what was submitted stands in the folder; of other options it takes --time and "
                f"--dry-run, got {', '.join(others)}"
            )
        submission, folder = read_submission(resume), resume
        if minutes is not None:
            _check_times(minutes, submission.grace_s)
            submission = submission.model_copy(update={"minutes": minutes})
        todo = _find_left(submission, folder)
        if not todo:
            print_notice(f"{folder}: nothing is left to submit")
            return ExitStatus.CLEAN
    else:
        submission, folder = _make(words, on, nodes, dtypes, seeds, out, minutes, grace, sbatch)
        todo = submission.jobs
    if dry_run:
        print_jobs(submission, todo, folder)
        return ExitStatus.CLEAN
    executors.require(submission)
    write_submission(folder, submission)
    return signals.end_in_order(partial(_carry_out, submission, todo, folder))


def _make(
    words: list[str] | None, on: str, nodes: str | None, dtypes: str | None, seeds: str | None,
    out: Path | None, minutes: int | None, grace: int, sbatch: list[str] | None,
) -> tuple[SubmissionRecord, Path]:  # fmt: skip
    """Return the submission that the command line asks for, and its folder. Raises UsageError."""
    _check_times(minutes, grace)
    executor = next((name for name in _EXECUTORS if name == on), None)
    if executor is None:
        raise UnknownNameError("executor", on, _EXECUTORS)
    if sbatch and executor != "slurm":
        raise UsageError(f"--sbatch: of Slurm; --on {executor} takes none")
    own = list(words or [])
    names = _find_nodes(executor, nodes, own)
    each_dtype = options.split_patterns([dtypes]) if dtypes is not None else []
    each_seed = grammar.parse_seeds("--seeds", seeds) if seeds is not None else []
    if dtypes is not None and not each_dtype:
        raise UsageError("--dtypes: need at least one")
    refused = dict(_REFUSED)
    if each_dtype:
        refused["dtype"] = "--dtypes gives each sweep its own"
    if each_seed:
        refused["seed"] = "--seeds gives each sweep its own"
    asked = _parse_sweep(own, refused)
    jobs = sweep_submission.plan_jobs(
        own, partial(_parse_sweep, refused={}), nodes=names, dtypes=each_dtype, seeds=each_seed
    )
    folder = out or sweep_submission.default_folder()
    if (folder / FILE).exists():
        raise UsageError(
            f"--out: {folder} holds a submission already; name a folder of its own, or submit what is left "
            "of it with --resume"
        )
    for job in jobs:
        if (folder / job.name).exists():
            raise UsageError(
                f"--out: {folder / job.name} is there already, and would be taken for the job's run"
            )
    return sweep_submission.make_submission(
        executor, jobs, minutes=minutes or sweep_submission.default_minutes(asked), grace_s=grace,
        sbatch=_parse_sbatch(sbatch or []),
    ), folder  # fmt: skip
