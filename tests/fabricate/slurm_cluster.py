"""Run a Slurm of Debian's packages on this host alone: munged, slurmctld, and two slurmd as two nodes."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue",
            "sinfo")  # fmt: skip
NODES = ("fff1", "fff2")
_START_S = 30.0
_CONFIGURATION = """\
ClusterName=fff
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
KillWait=5
MessageTimeout=30
ReturnToService=2
MinJobAge=600
MpiDefault=none
{nodes}
PartitionName=usual Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class NoStartError(RuntimeError):
    """Say why a cluster did not come up, in the words of its daemons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Hold a running cluster. environment: what its commands are found and configured by."""

    environment: Mapping[str, str]

    def ask(self, *words: str) -> str:
        """Return what a command of Slurm's prints."""
        return subprocess.run(
            words, env=dict(self.environment), capture_output=True, text=True, check=True
        ).stdout

    def show(self, job: str) -> dict[str, str]:
        """Return what the controller knows of a job, by name."""
        text = self.ask("scontrol", "show", "job", job)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def wait(self, job: str, *states: str, seconds: float = 60.0) -> dict[str, str]:
        """Wait until a job is in one of the states, and return what is known of it then."""
        until = time.monotonic() + seconds
        while (found := self.show(job))["JobState"] not in states:
            assert time.monotonic() < until, f"job {job} is {found['JobState']}, not {states}"
            time.sleep(0.2)
        return found


def find_lack() -> str:
    """Return why no cluster can be started here, or an empty string."""
    path = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if lacking:
        return f"no {', '.join(lacking)} here (apt install slurmctld slurmd slurm-client munge)"
    if os.geteuid() != 0:
        return "slurmd starts jobs as root alone"
    return ""


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _configuration(folder: Path) -> str:
    cpus, host = len(os.sched_getaffinity(0)), socket.gethostname().split(".")[0]
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={_free_port()} CPUs={cpus} "
        f"Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 State=UNKNOWN"
        for name in NODES
    )
    return _CONFIGURATION.format(folder=folder, host=host, port=_free_port(), nodes=nodes)


def _read_logs(folder: Path) -> str:
    """Return the last lines of what the daemons wrote."""
    return "\n".join(
        f"{path.name}: {line}"
        for path in sorted(folder.glob("*.log"))
        for line in path.read_text(errors="replace").splitlines()[-5:]
    )


@contextmanager
def _daemon(folder: Path, environment: Mapping[str, str], *words: str) -> Iterator[None]:
    """Run a daemon in the foreground, as a child that is ended."""
    with (folder / f"{words[0]}.out.log").open("a") as log:
        process = subprocess.Popen(
            words, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def start(folder: Path) -> Iterator[Cluster]:
    """Start a cluster of two nodes that keeps all that it has in a folder; end it behind the block.

    Raises NoStartError, with what the daemons say, where it does not come up.
    """
    folder.mkdir(mode=0o755)
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(_configuration(folder))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    path = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"
    environment = dict(os.environ, PATH=path, SLURM_CONF=str(folder / "slurm.conf"))
    socket_path = folder / "munge.socket"
    cluster = Cluster(environment=environment)
    with ExitStack() as daemons:

        def begin(*words: str) -> None:
            daemons.enter_context(_daemon(folder, environment, *words))

        begin("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={socket_path}",
              f"--log-file={folder}/munged.log", f"--pid-file={folder}/munged.pid",
              f"--seed-file={folder}/munged.seed")  # fmt: skip
        until = time.monotonic() + _START_S
        while not socket_path.exists():
            if time.monotonic() > until:
                raise NoStartError(f"munged did not start: {_read_logs(folder)}")
            time.sleep(0.05)
        begin("slurmctld", "-D")
        for name in NODES:
            begin("slurmd", "-D", "-N", name)
        while True:
            asked = subprocess.run(
                ["sinfo", "--noheader", "--Node", "--partition=usual", "--format=%T"],
                env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if asked.stdout.split() == ["idle"] * len(NODES):
                break
            if time.monotonic() > until:
                said = asked.stdout + asked.stderr
                raise NoStartError(f"Slurm did not start: {said}\n{_read_logs(folder)}")
            time.sleep(0.1)
        yield cluster
