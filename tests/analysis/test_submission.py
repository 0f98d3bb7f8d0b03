"""What came of a submission, from made-up runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import fabricated_submissions as fabricated
import pandas as pd
import pytest
from fabricated_submissions import make_fake

from harness import cli
from harness.analysis import submission as analysis
from harness.errors import UsageError
from harness.problem.axes import DEFAULTS
from harness.records.submission import JobRecord, read_submission, write_submission


def judge(folder: Path) -> dict[str, analysis.Outcome]:
    """Return what came of the submission in a folder, by the jobs' names."""
    return {o.job.name: o for o in analysis.judge(read_submission(folder), folder)}


def test_a_whole_submission_is_one_table(tmp_path, capsys):
    """All that came is one table, a row for each machine, printed and written; the status is 0."""
    folder = fabricated.write(tmp_path / "s", {n: make_fake(n, i) for i, n in enumerate("ab")})
    assert cli.run(["collect", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "2 jobs (slurm, 2026-01-02T03:00:00+00:00): 2 complete" in text
    assert "- b: complete, on b" in text
    assert "# Speedups on 2 machines" in text
    frame = pd.read_csv(folder / "merged.csv")
    assert set(frame["run"]) == {"a", "b"}
    assert (folder / "merged.md").is_file()


def test_what_is_left_is_named_with_its_command(tmp_path, capsys):
    """Missing and unfinished runs are named, each with the command for it; the others make a table."""
    fakes = {n: make_fake(n, i) for i, n in enumerate("abcd")}
    fakes["b"].end, fakes["c"].end = "interrupted", None
    folder = fabricated.write(tmp_path / "s", fakes, absent=["d"])
    assert cli.run(["collect", str(folder)]) == 1
    said = capsys.readouterr()
    program = "python -m harness sweep"
    assert f"- b: unfinished (interrupted): `{program} --resume {folder / 'b'}` on b" in said.out
    assert f"- c: unfinished (still running, or killed): `{program} --resume" in said.out
    assert f"- d: missing: `{program} --out {folder / 'd'}` on d makes it" in said.out
    assert "# Speedups on 1 machines" in said.out
    assert "error: d is missing" in said.err
    assert f"`python -m harness submit --resume {folder}` submits what is left" in said.err


def test_the_log_of_a_missing_run_is_quoted(tmp_path, capsys):
    """Of a job that left no run, the error that its sweep printed is named, not what Slurm adds to it."""
    fakes = {"a": make_fake("a")}
    submission = fabricated.make_submission(fakes)
    job = submission.jobs[0].model_copy(update={"ids": ["7", "9_1"]})
    write_submission(tmp_path, submission.model_copy(update={"jobs": [job]}))
    (tmp_path / "jobs").mkdir()
    log = tmp_path / "jobs" / "9_1_0_log.err"
    log.write_text(
        "error: --blas: no mkl\x1b[2J here\nsrun: error: task 0: Exited with exit code 2\n"
    )
    assert cli.run(["collect", str(tmp_path)]) == 1
    assert f"{log} says: error: --blas: no mkl" in (text := capsys.readouterr().out)
    assert "\x1b" not in text


def test_a_pinned_run_is_taken_up_pinned(tmp_path, capsys):
    """A run that had one processor of four is taken up on it: on all four it would be another machine's."""
    fake = make_fake("a", end="interrupted")
    fake.machine["facts"] = {"cpus_online": 4, "cpus_allowed": [2]}
    folder = fabricated.write(tmp_path / "s", {"a": fake})
    cli.run(["collect", str(folder)])
    assert "`taskset -c 2 python -m harness sweep --resume" in capsys.readouterr().out


def test_a_run_of_something_else_is_wrong(tmp_path):
    """A run that was begun with other options than the job's is wrong, and in no table."""
    folder = fabricated.write(
        tmp_path / "s", {"a": make_fake("a"), "b": make_fake("b")}, absent=["b"]
    )
    make_fake("b", batch=128).write(folder / "b")
    found = judge(folder)
    assert found["b"].state == "wrong"
    assert found["b"].why == "not what was asked for: batches is [128], asked was [64]"
    assert not found["b"].mergeable
    assert found["a"].state == "complete"


def test_wrong_cells_and_damage_are_named(tmp_path):
    """A run with a wrong cell or a damaged line is wrong; what else it measured stays in the table."""
    fakes = {"a": make_fake("a", wrong=("fff_l1_blas/ultrafastbert-1x11",)), "b": make_fake("b")}
    folder = fabricated.write(tmp_path / "s", fakes)
    with (folder / "b" / "records.jsonl").open("a") as file:
        file.write('{"kind": "sample"\n')
    found = judge(folder)
    assert (found["a"].state, found["a"].why, found["a"].mergeable) == (
        "wrong",
        "1 cells wrong",
        True,
    )
    assert found["b"].state == "wrong"
    assert "is damaged and left out" in found["b"].why


def test_a_head_that_can_not_be_read_is_wrong(tmp_path):
    """A folder whose head is damaged is named, and ends nothing."""
    folder = fabricated.write(tmp_path / "s", {"a": make_fake("a")})
    (folder / "a" / "run.json").write_text("{")
    assert judge(folder)["a"].state == "wrong"
    assert "can't be read" in judge(folder)["a"].why


def test_each_dtype_has_its_table(tmp_path, capsys):
    """Figures of two dtypes never stand in one table."""
    half = DEFAULTS._replace(dtype="bfloat16")
    fakes = {"a": make_fake("a"), "b": make_fake("b", 1, conditions=(half,))}
    folder = fabricated.write(tmp_path / "s", fakes)
    assert cli.run(["collect", str(folder)]) == 0
    names = {path.name for path in folder.glob("merged*")}
    assert names == {f"merged-{d}.{e}" for d in ("float32", "bfloat16") for e in ("md", "csv")}
    assert capsys.readouterr().out.count("# Speedups on 1 machines") == 2


def test_a_copy_is_refused(tmp_path):
    """One run under two names is no second machine."""
    folder = fabricated.write(
        tmp_path / "s", {"a": make_fake("a"), "b": make_fake("b")}, absent=["b"]
    )
    shutil.copytree(folder / "a", folder / "b")
    with pytest.raises(UsageError, match="is a copy of"):
        cli.run(["collect", str(folder)])


def test_nodes_of_one_machine_are_told(tmp_path, capsys):
    """Where jobs of two nodes ran on one host, that is said: they are no two machines."""
    fakes = {n: make_fake("same", i) for i, n in enumerate("ab")}
    cli.run(["collect", str(fabricated.write(tmp_path / "s", fakes))])
    assert "notice: a, b are one machine, same" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "holds no submission"), ("{", "can't be read"), ("[]", "can't be read"),
        ('{"submission_version": 99}', "newer than this harness reads"),
        ('{"submission_version": 1}', "can't be read: submitted_utc"),
    ],
)  # fmt: skip
def test_what_is_no_submission(tmp_path, text, says):
    """A folder without a submission that can be read is a usage error of one line."""
    if text is not None:
        (tmp_path / "submission.json").write_text(text)
    with pytest.raises(UsageError, match=says) as raised:
        cli.run(["collect", str(tmp_path)])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/x", "", ".hidden", "a/b"])
def test_a_job_lies_inside_of_its_submission(name):
    """A submission of a stranger names no folder outside of its own."""
    with pytest.raises(ValueError, match="name"):
        JobRecord(name=name, node="", words=[], sweep=make_fake("a").head().sweep)
