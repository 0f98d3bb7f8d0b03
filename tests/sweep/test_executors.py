"""Sweeps that an executor carries out: a real Slurm of two nodes, this machine, and hosts by ssh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import psutil
import pytest
import slurm_cluster

from harness import cli
from harness.cli.exit_status import ExitStatus
from harness.errors import UsageError
from harness.records.reader import load_run
from harness.records.submission import read_submission
from harness.sweep import executors

ROOT = Path(__file__).resolve().parents[2]
FABRICATE = ROOT / "tests" / "fabricate"
SWEEP = ["--batch", "8", "--width", "8", "--models", "bert-base-4095,1x1", "--skip", "ceiling*",
         "--only", "ff_l3_blas,fff_l1_blas", "--processes", "1", "--no-figures", "--no-page"]  # fmt: skip
SHORT, LONG = [*SWEEP, "--passes", "3"], [*SWEEP, "--passes", "60"]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sweeps that a test submits be of this tree, and not look at the caches, which takes seconds."""
    path = [FABRICATE / "told_caches_site", FABRICATE, ROOT]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, path)))
    monkeypatch.chdir(ROOT)


def wait_for_sample(folder: Path, seconds: float = 60.0) -> None:
    """Wait until a sweep samples into a folder."""
    records, until = folder / "records.jsonl", time.monotonic() + seconds
    while not records.exists() or '"kind":"sample"' not in records.read_text(encoding="utf-8"):
        assert time.monotonic() < until, "the sweep has not begun"
        time.sleep(0.05)


def last_id(folder: Path, name: str) -> str:
    """Return the id that a job was last submitted by."""
    return next(job.ids[-1] for job in read_submission(folder).jobs if job.name == name)


def check_whole(folder: Path, *names: str) -> None:
    """Check that the runs of a submission are complete, and one table of a row for each."""
    assert cli.run(["collect", str(folder)]) == ExitStatus.CLEAN
    frame = pd.read_csv(folder / "merged.csv")
    assert sorted(frame.loc[frame["model"] == "ultrafastbert-1x1", "run"]) == sorted(names)
    for name in names:
        assert not list((folder / name).glob("*.pkl")), (
            "an executor's own files are none of a run's"
        )


# ---- Slurm ---------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[slurm_cluster.Cluster]:
    """Start a Slurm of two nodes whose commands are on PATH; skip where there is none, and say why."""
    pytest.importorskip("submitit")
    if lack := slurm_cluster.find_lack():
        pytest.skip(f"no Slurm can be started, {lack}")
    with ExitStack() as running:
        try:
            started = running.enter_context(slurm_cluster.start(tmp_path / "slurm"))
        except slurm_cluster.NoStartError as error:
            pytest.skip(f"Slurm did not start, {' '.join(str(error).split())}")
        for name in ("PATH", "SLURM_CONF"):
            monkeypatch.setenv(name, started.environment[name])
        yield started


@pytest.mark.slow
@pytest.mark.slurm
def test_slurm_carries_out_a_sweep_on_each_node(
    cluster: slurm_cluster.Cluster, jobs: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One node's sweep is preempted: it ends with 75, is taken up by --resume, and both make one table."""
    folder = tmp_path / "submission"
    assert cli.run(["submit", "--nodes", "fff[1-2]", "--out", str(folder), "--", *LONG]) == 0
    wait_for_sample(folder / "fff1")
    preempted = last_id(folder, "fff1")
    assert cli.run(["submit", "--resume", str(folder)]) == ExitStatus.CLEAN
    assert f"fff1: job {preempted} waits or runs" in capsys.readouterr().err
    # A job of a partition that preempts: the sweep is told by SIGTERM, and has its time of grace to end.
    cluster.ask(
        "sbatch", "--partition=urgent", "--nodelist=fff1", "--wrap=true", "--output=/dev/null"
    )
    found = cluster.wait(preempted, "FAILED", "PREEMPTED", "COMPLETED")
    assert found["ExitCode"] == "75:0"
    assert found["NodeList"] == "fff1"
    assert found["OverSubscribe"] == "NO"  # the node is the job's alone
    cut = load_run(folder / "fff1")
    assert cut.end is not None
    assert cut.end.reason == "interrupted"
    assert len(cut.head.machine.facts.cpus_allowed) == 1  # pinned to a core for its one thread
    assert cli.run(["collect", str(folder)]) == ExitStatus.BAD
    assert "- fff1: unfinished (interrupted): `" in capsys.readouterr().out
    assert cli.run(["submit", "--resume", str(folder)]) == ExitStatus.CLEAN
    for name in ("fff1", "fff2"):
        assert cluster.wait(last_id(folder, name), "COMPLETED", "FAILED")["ExitCode"] == "0:0"
    check_whole(folder, "fff1", "fff2")
    assert len(load_run(folder / "fff1").resumes) == 1


@pytest.mark.slow
@pytest.mark.slurm
def test_what_slurm_refuses_is_one_line(
    cluster: slurm_cluster.Cluster, tmp_path: Path, jobs: None
) -> None:
    """A partition or a node that is not there is told in Slurm's own words."""
    folder = tmp_path / "s"
    for words, says in [
        (["--sbatch", "partition=none"], "invalid partition specified: none"),
        (["--nodes", "fff1,fff9"], "Invalid node name specified"),
    ]:
        with pytest.raises(UsageError, match=f"sbatch refuses the jobs: .*{says}") as raised:
            cli.run(["submit", *words, "--dtypes", "bfloat16", "--out", str(folder), "--", *SHORT])
        assert "\n" not in str(raised.value)
    # The node that is there got its job, and no more than that; what was refused whole left nothing behind.
    assert [bool(job.ids) for job in read_submission(folder).jobs] == [True, False]
    cluster.ask("scancel", last_id(folder, "fff1-bfloat16"))


# ---- this machine --------------------------------------------------------------------------------


@pytest.mark.slow
def test_this_machine_carries_out_one_sweep_after_the_other(
    jobs: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sweeps run in turn, pinned; SIGTERM ends the one that runs in order, begins no other, and is 75."""
    pytest.importorskip("submitit")
    folder = tmp_path / "submission"
    words = ["submit", "--on", "local", "--seeds", "0..2", "--out", str(folder), "--", *SWEEP]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *words, "--passes", "12"], stdout=subprocess.DEVNULL
    )
    wait_for_sample(folder / "seed1")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == ExitStatus.RESUMABLE
    assert children
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert cli.run(["collect", str(folder)]) == ExitStatus.BAD
    assert "3 jobs (local, " in (told := capsys.readouterr().out)
    assert ": 1 complete, 1 missing, 1 unfinished\n" in told
    first, second = (load_run(folder / name) for name in ("seed0", "seed1"))
    assert (second.end and second.end.reason, second.head.sweep.seed) == ("interrupted", 1)
    assert first.end is not None
    assert first.end.ended_utc <= second.head.started_utc
    assert len(first.head.machine.facts.cpus_allowed) == 1  # pinned to a core for its one thread
    assert list(pd.read_csv(folder / "merged.csv")["run"].unique()) == ["seed0"]


# ---- hosts by ssh --------------------------------------------------------------------------------

# `here` does on this machine what it is told, in a folder of its own; `far` keeps its run and sends a copy of
# it; no other host can be reached.
SSH = """#!/bin/sh
echo "$@" >>"$SSH_CALLS"
for word; do last=$word; done
case "$*" in
    *" user@here "*) cd / && exec /bin/sh -c "$last" ;;
    *" far tar "*) exec tar -C "$SSH_FAR" -cf - far ;;
    *" far "*) ;;
    *) echo "error: no route to host"; exit 255 ;;
esac
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an ssh on PATH that knows two hosts, and return the file of its calls."""
    program, calls, far = tmp_path / "bin" / "ssh", tmp_path / "calls", tmp_path / "distant"
    program.parent.mkdir()
    program.write_text(SSH)
    program.chmod(0o755)
    (far / "far").mkdir(parents=True)
    (far / "far" / "run.json").write_text("{}")
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SSH_CALLS", str(calls))
    monkeypatch.setenv("SSH_FAR", str(far))
    return calls


@pytest.mark.slow
def test_hosts_carry_out_a_sweep_each(
    jobs: None, ssh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each host of a file gets a sweep by ssh; a run that lies on its host alone is copied."""
    hosts, folder = tmp_path / "hosts", tmp_path / "submission"
    hosts.write_text("user@here\nfar\nlost\n")
    words = ["submit", "--on", "ssh-hosts", str(hosts), "--out", str(folder), "--", *SHORT]
    assert cli.run(words) == ExitStatus.BAD
    told = capsys.readouterr().out
    assert "- user_here: complete" in told
    assert len(load_run(folder / "user_here").head.machine.facts.cpus_allowed) == 1
    assert (folder / "far" / "run.json").read_text() == "{}"
    assert f"{folder / 'jobs' / 'lost.log'} says: error: no route to host" in told
    assert all("-o BatchMode=yes" in call for call in ssh.read_text().splitlines())


def test_a_host_is_told_what_to_do_by_one_line(tmp_path, monkeypatch, jobs):
    """The line begins in this folder, pins, and quotes what a shell would take apart."""
    monkeypatch.chdir(tmp_path)
    cli.run(["submit", "--on", "local", "--dry-run", "--", *SHORT])
    from fabricated_submissions import make_fake, make_submission

    job = make_submission({"n": make_fake("n")}, words=["--skip", "ceiling*"]).jobs[0]
    line = executors.ssh_command(job, Path("a folder"), resume=False)
    assert line.startswith(f"cd {tmp_path} && exec taskset -c $(")
    assert line.endswith("-m harness sweep --skip 'ceiling*' --out 'a folder/n'")
