"""What `submit` would submit, and what it refuses; nothing is submitted here."""

from __future__ import annotations

import shlex
import sys

import fabricated_submissions as fabricated
import pytest
from fabricated_submissions import make_fake

from harness import cli
from harness.cli.exit_status import ExitStatus
from harness.errors import UnavailableError, UsageError
from harness.machine import slurm

QUICK = ["--", "--quick", "--models", "bert-base-4095,1x1"]


def dry_run(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Return the lines of what would be submitted."""
    assert cli.run(["submit", "--dry-run", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_each_job_is_a_plain_sweep(capsys, tmp_path):
    """A dry run prints a line a job, whose command, repeated by hand, is a sweep into the job's folder."""
    lines = dry_run(capsys, "--nodes", "n1,n2", "--seeds", "0,3..4", "--out", str(tmp_path), *QUICK)
    jobs = [line for line in lines if ": python -m harness sweep " in line]
    assert [line.partition(":")[0] for line in jobs] == ["n1"] * 3 + ["n2"] * 3
    words = shlex.split(jobs[-1].partition(": ")[2])
    assert words[:4] == ["python", "-m", "harness", "sweep"]
    assert words[4:] == [*QUICK[1:], "--seed", "4", "--out", str(tmp_path / "n2-seed4")]
    assert cli.run([*words[3:], "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())


def test_arrays_go_over_machines_dtypes_and_seeds(capsys):
    """Each dtype is a sweep of its own where that is asked for; in the sweep's words it is one for both."""
    words = ["--nodes", "n1", "--dtypes", "float32,bfloat16", "--out", "d", *QUICK]
    lines = dry_run(capsys, *words)
    assert [line.rpartition("/")[2] for line in lines[:2]] == ["n1-float32", "n1-bfloat16"]
    lines = dry_run(capsys, "--nodes", "n1", "--out", "d", *QUICK, "--dtype", "float32,bfloat16")
    assert lines[0].endswith("--dtype float32,bfloat16 --out d/n1")
    assert lines[-1].startswith("1 jobs on slurm")


def test_slurm_is_asked_for_a_node_alone(capsys):
    """A job has its node to itself, all of its memory, a core a thread, and SIGTERM before its limit."""
    lines = dry_run(
        capsys, "--nodes", "n1", "--time", "30", "--grace", "60", "--sbatch", "partition=long",
        "--sbatch", "--requeue", *QUICK, "--threads", "4",
    )  # fmt: skip
    asked = lines[1].split()
    for option in ("--exclusive", "--mem=0", "--nodes=1", "--ntasks-per-node=1", "--threads-per-core=1",
                   "--cpus-per-task=4", "--time=30", "--partition=long", "--requeue"):  # fmt: skip
        assert option in " ".join(asked).replace(";", "").split(), option
    assert "--signal=TERM@60" in lines[1]
    assert "srun --cpu-bind=cores --cpus-per-task=4" in lines[1]


def test_a_gpu_is_asked_for(capsys):
    """A sweep on a device gets one of its node, unless the caller asks for one otherwise."""
    words = ["--nodes", "n1", "--out", "d", "--", "--device", "cuda"]
    assert "--gpus-per-node=1" in dry_run(capsys, *words)[1]
    assert "--gpus-per-node" not in dry_run(capsys, "--sbatch", "gres=gpu:a100:1", *words)[1]


def test_this_machine_is_pinned(capsys):
    """On this machine the command is pinned to as many processors as the sweep has threads."""
    line = dry_run(capsys, "--on", "local", "--out", "d", *QUICK)[0]
    assert line.startswith("taskset -c ")
    assert line.endswith("--out d/run")


def test_hosts_of_a_file(capsys, tmp_path):
    """Hosts stand one a line, with comments; --nodes takes some of them."""
    file = tmp_path / "hosts"
    file.write_text("# ours\nuser@one.example:22  # the fast one\n\ntwo\n")
    words = ["--on", "ssh-hosts", str(file), "--out", "d"]
    lines = dry_run(capsys, *words, *QUICK)
    assert lines[0].startswith("user@one.example:22: python -m harness sweep --quick")
    assert lines[0].endswith("--out d/user_one.example_22")
    assert lines[1].endswith("--out d/two")
    assert len(dry_run(capsys, *words, "--nodes", "two", *QUICK)) == 2


BAD = {
    "executor": (["--on", "pbs"], "unknown executor 'pbs'; known: slurm, local, ssh-hosts"),
    "level": (["--", "--levels", "4"], "unknown level '4'"),
    "no option": (["--", "--sneed", "4"], "No such option: --sneed"),
    "word": (["quick"], "the options of the sweep stand behind `--`"),
    "out": (["--", "--out", "x"], "--out behind `--`: the folder of each run"),
    "resume": (["--", "--resume", "x"], "--resume behind `--`: `submit --resume DIR`"),
    "dry run": (["--", "--dry-run"], "--dry-run behind `--`"),
    "two seeds": (["--seeds", "1,2", "--", "--seed", "3"], "--seed behind `--`: --seeds gives"),
    "two dtypes": (["--dtypes", "float32", "--", "--dtype", "float32"], "--dtype behind `--`"),
    "dtype": (["--dtypes", "float8"], "--dtype: unknown value 'float8'"),
    "no dtype": (["--dtypes", ","], "--dtypes: need at least one"),
    "folder": (["--nodes", "jobs"], "a job can't have the folder jobs"),
    "one dtype twice": (["--dtypes", "float32,float32"], "two jobs would have the folder float32"),
    "seeds": (["--seeds", "3..1"], "--seeds: need a rising range"),
    "many seeds": (["--seeds", "0..5000"], "--seeds: need a rising range of at most 1000"),
    "seed of letters": (["--seeds", "a"], "--seeds: need numbers of 0 or more"),
    "nodes": (["--nodes", ","], "--nodes: need at least one name"),
    "local nodes": (["--on", "local", "--nodes", "a"], "--on local is this machine alone"),
    "local sbatch": (["--on", "local", "--sbatch", "a=b"], "--sbatch: of Slurm"),
    "sbatch": (["--sbatch", "=x"], "--sbatch: need NAME=VALUE"),
    "no hosts": (["--on", "ssh-hosts"], "--on ssh-hosts: need a file behind it"),
    "no file": (["--on", "ssh-hosts", "none", "--", "--quick"], "can't read none"),
    "time": (["--time", "3"], "--time: need 4 minutes or more beside --grace 90, got 3"),
    "time 0": (["--time", "0"], "--time: need a number above 0"),
    "plugin": (["--", "--plugin", "none.py"], "--plugin: there is no file 'none.py'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_one_line_before_anything_is_submitted(name, tmp_path, monkeypatch):
    """A mistake, in the words of the sweep too, is told here and not by each of a hundred nodes."""
    monkeypatch.chdir(tmp_path)
    words, says = BAD[name]
    with pytest.raises(UsageError) as raised:
        cli.run(["submit", *words])
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_range_needs_slurm(monkeypatch):
    """Slurm's ranges are expanded by Slurm; without it they are refused, and names go through."""
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    assert slurm.expand_nodes("b,a,b") == ["b", "a"]
    with pytest.raises(UsageError, match="`scontrol` expands"):
        slurm.expand_nodes("n[1-2]")
    assert slurm.find_queued(["1"]) == set()


@pytest.mark.parametrize("on", ["slurm", "local"])
def test_without_what_it_needs_nothing_is_written(on, tmp_path, monkeypatch):
    """Without Slurm or submitit the line says what to do, and no folder is made."""
    monkeypatch.setitem(sys.modules, "submitit", None)
    says = "there is no sbatch here" if on == "slurm" else r"pip install 'fff-harness\[cluster\]'"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match=says):
        cli.run(["submit", "--on", on, "--out", str(tmp_path / "d"), *QUICK])
    assert not (tmp_path / "d").exists()


def test_a_second_submission_into_one_folder_is_refused(tmp_path):
    """A folder that holds a submission takes no other; what is left of it is submitted with --resume."""
    folder = fabricated.write(tmp_path / "s", {"a": make_fake("a")})
    with pytest.raises(UsageError, match="holds a submission already"):
        cli.run(["submit", "--out", str(folder), *QUICK])


def test_a_folder_that_is_there_is_no_jobs_run(tmp_path):
    """What lies where a job's run is to be would be taken up as that run, so it is refused."""
    (tmp_path / "n1").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        cli.run(["submit", "--nodes", "n1", "--out", str(tmp_path), *QUICK])


def test_what_is_left_is_submitted_again(tmp_path, capsys):
    """--resume submits what is missing and unfinished; a wrong run is named, a complete one is let be."""
    fakes = {n: make_fake(n, i) for i, n in enumerate("abcd")}
    fakes["b"].end = "interrupted"
    folder = fabricated.write(tmp_path / "s", fakes, absent=["c", "d"])
    make_fake("d", batch=8).write(folder / "d")
    lines = dry_run(capsys, "--resume", str(folder))
    assert [line[:2] for line in lines[:2]] == ["b:", "c:"]
    assert lines[-1].startswith("2 jobs on slurm")
    for words in (["--nodes", "a"], ["--on", "local"], ["--", "--quick"]):
        with pytest.raises(UsageError, match="takes --time and --dry-run, got"):
            cli.run(["submit", "--resume", str(folder), *words])


def test_nothing_is_left(tmp_path, capsys):
    """Where all is complete there is nothing to submit, and nothing is needed for it."""
    folder = fabricated.write(tmp_path / "s", {"a": make_fake("a")})
    assert cli.run(["submit", "--resume", str(folder)]) == ExitStatus.CLEAN
    assert "nothing is left to submit" in capsys.readouterr().err
