"""Own the executors of a submission: Slurm and this machine by submitit, other machines by ssh."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from harness.errors import UnavailableError, UsageError
from harness.machine import environment
from harness.records.schema import HEAD
from harness.records.submission import LOGS, JobRecord, SubmissionRecord, words_of
from harness.sweep.submission import begin, choose_cpus

# submitit sends this before a time limit, where it would send SIGUSR2: it ends a sweep in order.
_SIGNAL = {"SUBMITIT_PREEMPT_SIGNAL": "TERM"}
_LOOK_S = 0.2
# Nobody is there to type a password. What runs a sweep asks for a terminal (-tt) too: where the connection
# ends, that is SIGHUP for the sweep, which ends in order.
_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR")

_Ssh = subprocess.Popen[bytes]

# Takes each job when it has been handed over, and the id that it is known by.
Started = Callable[[JobRecord, str], None]


def _load_submitit() -> Any:
    """Return submitit. Raises UnavailableError with what to install."""
    try:
        import submitit
    except ImportError:
        raise UnavailableError(
            "jobs are submitted by submitit, which is not installed: pip install 'fff-harness[cluster]'"
        ) from None
    return submitit


def require(submission: SubmissionRecord) -> None:
    """Raise UnavailableError where what a submission needs is not here, with what to do."""
    program = {"slurm": "sbatch", "ssh-hosts": "ssh"}.get(submission.on)
    if program and shutil.which(program) is None:
        where = "install it"
        if program == "sbatch":
            where = "run this where Slurm's commands are, or on this machine with --on local"
        raise UnavailableError(f"--on {submission.on}: there is no {program} here; {where}")
    if submission.on != "ssh-hosts":
        _load_submitit()


def read_hosts(path: Path) -> list[str]:
    """Return the hosts in a file, one a line; what stands behind # is none. Raises UsageError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"--on ssh-hosts: can't read {path}: {why}") from None
    hosts = [name for line in lines if (name := line.partition("#")[0].strip())]
    for name in hosts:
        if not re.fullmatch(r"[A-Za-z0-9_][\w.@:-]*", name):
            raise UsageError(f"--on ssh-hosts: need one host a line in {path}, got {name!r}")
    if not hosts:
        raise UsageError(f"--on ssh-hosts: {path} names no host")
    return list(dict.fromkeys(hosts))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]


# ---- Slurm ---------------------------------------------------------------------------------------


def sbatch_options(submission: SubmissionRecord, job: JobRecord, folder: Path) -> dict[str, Any]:
    """Return what a job asks of sbatch, by the names that submitit takes. folder: of the submission."""
    threads = job.sweep.threads
    own: dict[str, Any] = {
        # A whole node: no neighbour, all its memory, a core for each thread and not its second half.
        "exclusive": True, "mem": "0", "threads-per-core": 1,
        "signal": f"TERM@{submission.grace_s}",
    }  # fmt: skip
    own.update({key: value or True for key, value in submission.sbatch.items()})
    options: dict[str, Any] = {
        "job_name": f"fff-{folder.name}", "time": submission.minutes, "nodes": 1, "ntasks_per_node": 1,
        "cpus_per_task": threads, "additional_parameters": own,
        "srun_args": ["--cpu-bind=cores", f"--cpus-per-task={threads}"],
    }  # fmt: skip
    if job.node:
        options["nodelist"] = job.node
    if job.sweep.device != "cpu" and not any("gpu" in f"{k}={v}" for k, v in own.items()):
        options["gpus_per_node"] = 1
    return options


def submit_slurm(
    submission: SubmissionRecord, jobs: Sequence[JobRecord], folder: Path, started: Started
) -> None:
    """Submit jobs to Slurm, an array for each node.

    Raises UsageError with Slurm's own words where it refuses them.
    """
    submitit = _load_submitit()
    with environment.put(_SIGNAL):
        for _, group in groupby(jobs, key=lambda job: (job.node, job.sweep.threads)):
            array = list(group)
            try:
                executor = submitit.SlurmExecutor(folder=folder / LOGS)
                executor.update_parameters(**sbatch_options(submission, array[0], folder))
                with redirect_stderr(io.StringIO()):  # what sbatch refuses is told below
                    made = executor.map_array(begin, array, [folder] * len(array))
            except (
                submitit.core.utils.FailedJobError,
                submitit.core.utils.FailedSubmissionError,
            ) as error:
                raise UsageError(
                    f"--on slurm: sbatch refuses the jobs: {_find_refusal(str(error))}"
                ) from None
            for job, each in zip(array, made, strict=True):
                started(job, each.job_id)


def _find_refusal(text: str) -> str:
    """Return what sbatch says is wrong, out of what submitit says of it."""
    lines = [line.strip() for line in text.splitlines() if "error:" in line]
    return lines[0] if lines else _last_line(text)


# ---- this machine --------------------------------------------------------------------------------


def _start_without_interrupt(start: Callable[[], Any]) -> Any:
    """Start a process that Ctrl-C on this terminal does not reach: who started it ends it in order."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return start()
    finally:
        signal.signal(signal.SIGINT, before)


def run_local(
    submission: SubmissionRecord, jobs: Sequence[JobRecord], folder: Path, started: Started
) -> None:
    """Carry out jobs on this machine, one after the other, each pinned.

    Raises KeyboardInterrupt, when the job that runs has ended in order, where this process is interrupted.
    """
    submitit = _load_submitit()
    executor = submitit.LocalExecutor(folder=folder / LOGS)
    executor.update_parameters(
        timeout_min=submission.minutes,
        signal_delay_s=min(submission.grace_s, submission.minutes * 30),
    )
    devices = environment.read_device_variables()
    for job in jobs:
        cpus = choose_cpus(job.sweep.threads)
        start = partial(executor.submit, begin, job, folder, cpus, devices)
        with environment.put(_SIGNAL):
            made = _start_without_interrupt(start)
        started(job, made.job_id)
        try:
            while not made.done():
                time.sleep(_LOOK_S)
        except KeyboardInterrupt:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(int(made.job_id), signal.SIGTERM)
            while not made.done():
                time.sleep(_LOOK_S)
            raise


# ---- other machines ------------------------------------------------------------------------------


def ssh_command(job: JobRecord, folder: Path, *, resume: bool) -> str:
    """Return what a host is told to do: a job's sweep, pinned, in the folder that this process is in."""
    python = shlex.quote(sys.executable)
    choose = (
        "from harness.sweep.submission import choose_cpus; "
        f"print(*choose_cpus({job.sweep.threads}), sep=',')"
    )
    return (
        f"cd {shlex.quote(os.getcwd())} && exec taskset -c $({python} -c {shlex.quote(choose)}) "
        f"{python} {shlex.join(words_of(job, folder, resume=resume))}"
    )


def _fetch(host: str, job: JobRecord, folder: Path) -> None:
    """Copy a run that lies on a host alone; where that has none, there is nothing to copy."""
    pack = f"tar -C {shlex.quote(str(folder.absolute()))} -cf - {shlex.quote(job.name)}"
    with subprocess.Popen(
        [*_SSH, host, pack], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as sent:  # fmt: skip
        unpack = ["tar", "-C", str(folder), "-xf", "-"]
        subprocess.run(unpack, stdin=sent.stdout, stderr=subprocess.DEVNULL, check=False)


def _run_on_host(words: Sequence[str], log: Path, seconds: float, running: list[_Ssh]) -> None:
    """Run ssh until it ends, or until a time limit ends it, which is SIGHUP for what runs on the host."""
    with log.open("ab") as file:
        # A session of its own, so that Ctrl-C on this terminal does not reach it.
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    running.append(process)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGHUP)
        process.wait()
    running.remove(process)


def run_on_hosts(
    submission: SubmissionRecord, jobs: Sequence[JobRecord], folder: Path, started: Started
) -> None:
    """Carry out jobs on their hosts by ssh, one at a time on each.

    A host sees this folder under the same path, or keeps its runs and has them copied when a job has ended.

    Raises KeyboardInterrupt, when the connections have ended, where this process is interrupted.
    """
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    running: list[_Ssh] = []
    stopped, telling = threading.Event(), threading.Lock()
    seconds = 60.0 * submission.minutes - submission.grace_s

    def serve(host: str) -> None:
        for job in jobs:
            if job.node != host or stopped.is_set():
                continue
            resume = (folder / job.name / HEAD).is_file()
            words = [*_SSH, "-tt", host, ssh_command(job, folder, resume=resume)]
            with telling:
                started(job, job.name)
            _run_on_host(words, folder / LOGS / f"{job.name}.log", seconds, running)
            if not (folder / job.name).is_dir():
                _fetch(host, job, folder)

    hosts = list(dict.fromkeys(job.node for job in jobs))
    with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
        served = [pool.submit(serve, host) for host in hosts]
        try:
            for each in served:
                each.result()
        except KeyboardInterrupt:
            stopped.set()
            for process in list(running):
                process.send_signal(signal.SIGHUP)
            raise


def execute(
    submission: SubmissionRecord, jobs: Sequence[JobRecord], folder: Path, started: Started
) -> None:
    """Submit jobs to Slurm, or carry them out on this or other machines and wait for their end."""
    by_executor = {"slurm": submit_slurm, "local": run_local, "ssh-hosts": run_on_hosts}
    by_executor[submission.on](submission, jobs, folder, started)
