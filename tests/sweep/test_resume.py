"""Runs that are cut, damaged or taken up again."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import kill
import pytest
from fabricated_runs import Fake, make_cell, make_machine, make_provider
from made_machines import SMALL

from harness import cli
from harness.errors import UsageError
from harness.records import reader, schema
from harness.records.files import write_whole
from harness.records.lock import FolderLock, LockedError
from harness.records.reader import load_run
from harness.records.schema import EndRecord
from harness.records.writer import WriteError, Writer
from harness.sweep import resume
from harness.sweep import run as sweep_run
from harness.sweep.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a small real run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    kill.carry_out(folder)
    return folder


def cut(whole: Path, folder: Path, keep: float, *, tail: str = "") -> list[str]:
    """Copy a run as a kill would have left it: a share of its lines, then `tail`; return the lines."""
    shutil.copytree(whole, folder)
    path = folder / "records.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = lines[: int(keep * len(lines))]
    path.write_text("".join(kept) + tail, encoding="utf-8")
    return kept


# ---- real sweeps -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_kill_at_random_moments(whole, tmp_path):
    """Killed twice at random moments, a run loses no finished line and completes in the same form."""
    folder = tmp_path / "run"
    kill.kill_and_complete(folder, 2, 2.0, random.Random(1))
    assert kill.form(folder) == kill.form(whole)
    run = load_run(folder)
    assert run.end is not None
    assert run.end.reason == "complete"


def test_resume_measures_only_what_is_missing(whole, tmp_path):
    """The old lines stay as they are, each cell gets the blocks it lacked, in processes of new numbers."""
    folder = tmp_path / "run"
    kept = cut(whole, folder, 0.8, tail='{"kind":"sample","cell":"ff_l3')
    before = load_run(folder)
    assert before.end is None
    assert "cut short" in before.warnings[0]
    outcome = kill.carry_out(folder)
    assert outcome is not None
    assert (outcome.reason, outcome.trouble) == ("complete", "")
    text = (folder / "records.jsonl").read_text(encoding="utf-8")
    assert text.startswith("".join(kept) + '{"kind":"sample","cell":"ff_l3\n')
    after = load_run(folder)
    assert len(after.warnings) == 1
    new = after.samples[len(before.samples) :]
    assert new["process"].min() > before.samples["process"].max()
    assert new["block"].min() > before.samples["block"].max()
    assert new["started_ns"].min() > before.samples["started_ns"].max()
    blocks = after.samples.groupby("cell")["block"].nunique()
    assert set(blocks) == {4}
    assert kill.form(folder) == kill.form(whole)
    assert [len(after.resumes), after.resumes[0].block] == [1, new["block"].min()]


def test_a_whole_run_is_not_measured_again(whole, tmp_path, capsys):
    """Resuming a run that ended by itself adds no line and prints its table."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    before = (folder / "records.jsonl").read_bytes()
    assert cli.run(["sweep", "--resume", str(folder)]) == 0
    said = capsys.readouterr()
    assert "nothing is missing" in said.err
    assert "BERT-base-4095" in said.out
    assert (folder / "records.jsonl").read_bytes() == before


def test_a_run_killed_before_its_last_line_only_gets_that(whole, tmp_path):
    """With every sample there, resume measures and gates nothing; it says that the run is complete."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    path = folder / "records.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), encoding="utf-8")
    outcome = kill.carry_out(folder)
    assert outcome is not None
    assert outcome.reason == "complete"
    new = path.read_text(encoding="utf-8").splitlines()[len(lines) - 1 :]
    assert [json.loads(line)["kind"] for line in new] == ["resume", "end"]


def test_resume_of_another_machine_writes_nothing(whole, tmp_path):
    """Where the run is another machine's, the sweep is refused before a byte is written."""
    folder = tmp_path / "run"
    cut(whole, folder, 0.5)
    head = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    head["machine"]["processor"] = "Example 9000"
    (folder / "run.json").write_text(json.dumps(head), encoding="utf-8")
    before = (folder / "records.jsonl").read_bytes()
    with pytest.raises(
        UsageError, match=r"another machine: its processor was 'Example 9000' and is"
    ):
        kill.carry_out(folder)
    assert (folder / "records.jsonl").read_bytes() == before


@pytest.mark.slow
def test_full_disk_ends_the_sweep_and_keeps_what_is_finished(whole, tmp_path, monkeypatch):
    """When the disk is full, half a line is taken back, the reason is said, and resume goes on from there."""
    folder = tmp_path / "run"
    cut(whole, folder, 0.5)
    calls, write = Counter(), os.write

    def full(file: int, data: bytes) -> int:
        calls["n"] += 1
        if calls["n"] < 12:
            return write(file, data)
        if calls["n"] == 12:
            return write(file, data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        outcome = kill.carry_out(folder)
    assert outcome is not None
    assert outcome.reason == "failed"
    assert "No space left on device" in outcome.trouble
    assert "kept" in outcome.trouble
    run = load_run(folder)
    assert run.warnings == []
    assert run.end is None
    outcome = kill.carry_out(folder)
    assert outcome is not None
    assert outcome.reason == "complete"
    assert kill.form(folder) == kill.form(whole)


def test_full_disk_on_the_command_line(tmp_path, capsys):
    """A sweep whose first record can't be written says so in one line and exits with status 1."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "records.jsonl").symlink_to("/dev/full")
    tiny = ["--batch", "8", "--width", "8", "--passes", "1", "--models", "bert-base-4095"]
    only = ["--only", "ff_l3_blas", "--skip", "ceiling*", "--out", str(folder)]
    assert cli.run(["sweep", *tiny, *only]) == 1
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    assert "# Speedups" in said.out


# ---- what is missing -------------------------------------------------------------------------------


def find_progress(folder: Path) -> resume.Progress:
    """Return how far a run came, of a plan that has no other cells than the run."""
    run = load_run(folder)
    made = make_plan(resume.find_spec(run), SMALL)
    known = [cell for cell in made.cells if cell.id in set(run.cells["cell"])]
    return resume.find_progress(run, replace(made, cells=known))


def test_progress_of_a_budget_run(tmp_path):
    """A run by budget is to have the blocks that it last decided on; processes that finished are not due."""
    folder = Fake(processes=3, blocks=2, end=None).write(tmp_path / "run")
    path = folder / "records.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    first_of_third = next(i for i, x in enumerate(lines) if '"block":4' in x)
    path.write_text("".join(lines[:first_of_third]), encoding="utf-8")
    progress = find_progress(folder)
    assert progress.cells.goal == 6
    assert progress.missing() == progress.cells.missing() == 2
    assert (progress.rounds, progress.process, progress.block) == (1, 3, 4)
    twins = [s for s in progress.cells.states if s.cell.role == "aa"]
    assert [s.cell.id for s in twins] == ["ff_l3_blas/bert-base-4095/b64/w32/scipy/again"]
    assert progress.recorded >= {s.cell.id for s in progress.cells.states}


def test_progress_knows_each_cell(tmp_path):
    """Of each cell the blocks, the passes, the loops and the slices stand in its state again."""
    folder = Fake(processes=2, blocks=2, end=None).write(tmp_path / "run")
    run = load_run(folder)
    for state in find_progress(folder).cells.states:
        own = run.samples[run.samples["cell"] == state.cell.id]
        assert state.gated
        assert state.blocks == set(own["block"]) == {0, 1, 2, 3}
        assert state.joined == 0
        assert state.passes_s == pytest.approx((own["pass_ns"] / 1e9).tolist())
        assert state.pass_s == state.passes_s[-1]
        assert (state.loops, state.slices) == (own["loops"].iloc[-1], own["slices"].iloc[-1])
        assert not state.is_ready()


def test_a_twin_of_a_later_process_lacks_no_earlier_blocks(tmp_path):
    """A second name that came in a later process is not due the blocks that had been sampled before."""
    folder = Fake(processes=2, blocks=2, end=None).write(tmp_path / "run")
    path = folder / "records.jsonl"
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if '"kind":"cell"' in line and '/again"' in line:
            kept.append(line.replace('"process":0', '"process":1'))
        elif '/again"' not in line or '"process":1' in line:
            kept.append(line)
    path.write_text("".join(kept), encoding="utf-8")
    progress = find_progress(folder)
    (twin,) = [s for s in progress.cells.states if s.cell.role == "aa"]
    assert (twin.joined, twin.blocks) == (2, {2, 3})
    assert progress.missing() == 0


def test_a_run_cut_before_its_decision_has_no_goal(tmp_path):
    """A budget run killed in its first gates has no number of blocks yet: resume decides it anew."""
    folder = Fake(processes=0, end=None).write(tmp_path / "run")
    progress = resume.find_progress(load_run(folder), make_plan(kill.make_spec(folder), SMALL))
    assert progress.cells.goal == 0
    assert (progress.rounds, progress.block) == (1, 0)
    assert progress.missing() is None


def test_wrong_and_failed_cells_stay_out(tmp_path):
    """What was wrong in the run is not tried again."""
    folder = Fake(wrong=("fff_l1_blas/ultrafastbert-1x11",), end=None).write(tmp_path / "run")
    lost = {s.cell.id: s.status for s in find_progress(folder).cells.states if not s.is_live()}
    assert lost == {"fff_l1_blas/ultrafastbert-1x11/b64/w32/scipy": "wrong"}


# ---- what must not differ --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"microarchitecture": "zen4"}, "another machine: its microarchitecture was 'zen5'"),
        ({"cores": 4}, "cores was 2 and is 4"),
        ({"caches": {"L1d": 65536}}, "caches was"),
        ({"memory_bytes": 16 << 30}, "memory_bytes was"),
        ({"commit": "9876543210"}, "another code: its commit was '0123456789' and is '9876543210'"),
        ({"harness_version": "0.2.0"}, "harness_version was '0.1.0'"),
        ({"build": {"isa": "avx2", "compiler": "clang"}}, "build was"),
        ({"packages": {"numpy": "3.0"}}, "numpy was '2.1.0' and is '3.0'"),
    ],
)
def test_another_machine_or_code_is_refused(change, says):
    """A run is not taken up on another machine or by other code; what differs is named with both values."""
    with pytest.raises(UsageError, match=says):
        resume.check_machine(Fake().run(), make_machine(**change))


@pytest.mark.parametrize(
    "change",
    [{}, {"host": "renamed"}, {"memory_bytes": (8 << 30) + 4096}, {"environment": {"A": "b"}}],
)
def test_what_may_differ(change):
    """The host's name and a little memory may differ: neither is another machine."""
    resume.check_machine(Fake().run(), make_machine(**change))


@pytest.mark.parametrize(
    ("name", "value"),
    [("path", "/opt/lib.so"), ("version", "9"), ("architecture", "Haswell"), ("threads", 2),
     ("variables", {"OPENBLAS_CORETYPE": "Haswell"})],
)  # fmt: skip
def test_another_provider_is_refused(name, value):
    """A run is not taken up with another library, version, kernel set or thread count."""
    with pytest.raises(UsageError, match=f"BLAS provider scipy: its {name} was"):
        resume.check_provider(Fake().run(), make_provider(0, **{name: value}))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--batch", "128"], "--batch: .* was begun with"),
        (["--models", "1x3"], "--models"),
        (["--passes", "3"], "--passes"),
        (["--quick"], "--quick"),
        (["--timeout", "3"], "--timeout: .* was begun with 0.0, got 3.0"),
        (["--controls", "--models", "1x3"], "--models|--controls"),
        (["--out", "elsewhere"], "--out"),
    ],
)
def test_options_that_contradict_the_run_are_refused(tmp_path, options, says):
    """An option that says other than the run is a usage error."""
    folder = Fake(end=None).write(tmp_path / "run")
    with pytest.raises(UsageError, match=says):
        cli.run(["sweep", "--resume", str(folder), *options])


def test_options_that_agree_with_the_run_may_stand(tmp_path, capsys):
    """An option that repeats what the run was begun with is no contradiction."""
    folder = Fake(batch=64, width=32, processes=2, end=None).write(tmp_path / "run")
    options = ["--batch", "64", "--width", "32", "--threads", "1", "--out", str(folder), "--strict"]
    assert cli.run(["sweep", "--resume", str(folder), "--dry-run", *options]) == 0
    assert "are missing" in capsys.readouterr().out


def test_resume_of_what_is_no_run(tmp_path):
    """A folder without a run can't be taken up, and none is made."""
    with pytest.raises(UsageError, match="is not a run"):
        cli.run(["sweep", "--resume", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


# ---- the lock --------------------------------------------------------------------------------------


def test_two_sweeps_into_one_folder(tmp_path):
    """While one sweep writes, another is refused, to begin or to resume; afterwards the folder is free."""
    writer = Writer(tmp_path, Fake().head())
    for head in (Fake().head(), None):
        with pytest.raises(UsageError, match="another sweep is writing"):
            Writer(tmp_path, head)
    writer.close()
    assert not (tmp_path / "run.lock").exists()
    Writer(tmp_path, None).close()


def test_a_dead_process_holds_no_lock(tmp_path):
    """The file that a killed holder leaves behind stops nobody."""
    script = (
        "import os, pathlib, signal, sys; from harness.records.lock import FolderLock;"
        "lock = FolderLock(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "run.lock"
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert path.exists()
    lock = FolderLock(path)
    with pytest.raises(LockedError):
        FolderLock(path)
    lock.release()


def test_a_lock_on_a_removed_file_is_not_believed(tmp_path, monkeypatch):
    """Who opened the file before its holder removed it locks the new file, not the removed one."""
    path = tmp_path / "run.lock"
    path.touch()
    opened, real = [], os.open

    def racing(*arguments: object) -> int:
        descriptor = real(*arguments)
        if not opened:
            path.unlink()
        opened.append(descriptor)
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", racing)
        lock = FolderLock(path)
    assert len(opened) == 2
    with pytest.raises(LockedError):
        FolderLock(path)
    lock.release()


# ---- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ('{"kind": "sample"', "damaged and left out"),
        ("\x00\x00\x00\x00", "damaged and left out"),
        ("[1, 2]", "need an object, got list"),
        ('{"no": "kind"}', "kind None is not known"),
        ('{"kind": "spectrum"}', "a newer fff-harness may have written it"),
        ('{"kind": "sample", "schema_version": 99}', "it has schema version 99"),
        ('{"kind": "end", "extra": 1}', "damaged and left out"),
    ],
)
def test_a_damaged_line_is_named_and_the_rest_is_read(tmp_path, damage, says):
    """A corrupted line in the middle costs itself alone, and the warning tells its number."""
    folder = Fake(processes=1, blocks=2).write(tmp_path / "run")
    count = len(load_run(folder).samples)
    path = folder / "records.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines.insert(12, damage)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    before = path.read_bytes()
    run = load_run(folder)
    assert len(run.samples) == count
    assert len(run.warnings) == 1
    assert run.warnings[0].startswith("records.jsonl:13 ")
    assert says in run.warnings[0]
    assert path.read_bytes() == before


def test_a_lost_cell_record_is_named(tmp_path):
    """Samples whose cell record was damaged are kept, and the cell is named."""
    folder = Fake(processes=1, blocks=2).write(tmp_path / "run")
    path = folder / "records.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[1:]), encoding="utf-8")
    assert load_run(folder).warnings == [
        "records.jsonl: the record of cell ff_l1_blas/bert-base-4095/b64/w32/scipy is missing"
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"schema_version": 99}', "schema version 99, newer than this harness reads"),
        ('{"schema_version": "1"}', "schema_version is '1'"), ("{", "can't be read"),
        ("[]", "need an object"), ("", "can't be read"), ('{"schema_version": 1}', "can't be read"),
    ],
)  # fmt: skip
def test_a_head_that_cannot_be_read(tmp_path, text, says):
    """A damaged or newer head is one clear line."""
    folder = Fake(processes=1, blocks=1).write(tmp_path / "run")
    (folder / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=says):
        load_run(folder)


def test_older_versions_are_migrated(tmp_path, monkeypatch):
    """A run of an older version is taken through every step to today's schema, head and lines."""
    folder = Fake(processes=1, blocks=1).write(tmp_path / "run")
    path = folder / "records.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"switches"', '"interruptions"'),
                    encoding="utf-8")  # fmt: skip

    def renamed(data: reader.Json) -> reader.Json:
        return {("switches" if k == "interruptions" else k): v for k, v in data.items()}

    monkeypatch.setattr(reader, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(
        reader, "_HEAD_MIGRATIONS", {1: dict, 2: lambda d: {**d, "schema_version": 3}}
    )
    monkeypatch.setattr(reader, "_LINE_MIGRATIONS", {1: renamed, 2: dict})
    run = load_run(folder)
    assert run.warnings == []
    assert len(run.samples) == 8
    assert run.head.schema_version == 3


def test_every_older_version_has_a_migration():
    """No version below today's is without its step."""
    steps = list(range(1, schema.SCHEMA_VERSION))
    assert sorted(reader._HEAD_MIGRATIONS) == steps
    assert sorted(reader._LINE_MIGRATIONS) == steps


def test_infinite_errors_are_read_back(tmp_path):
    """An error that is not finite is written so that it can be read."""
    writer = Writer(tmp_path, Fake().head())
    cell = make_cell("fff_l1_blas/ultrafastbert-1x11/b1/w1/scipy")
    writer.append(cell.model_copy(update={"worst_error": float("inf")}))
    writer.close()
    run = load_run(tmp_path)
    assert run.warnings == []
    assert run.cells["worst_error"].tolist() == [float("inf")]


def test_a_line_that_was_not_written_leaves_no_part(tmp_path, monkeypatch):
    """A write that fails in the middle is taken back, so that the file ends with a whole line."""
    writer = Writer(tmp_path, Fake().head())
    writer.append(make_provider(0))
    before = (tmp_path / "records.jsonl").read_bytes()
    state, write = Counter(), os.write

    def full(file: int, data: bytes) -> int:
        state["n"] += 1
        if state["n"] > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[:7])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(WriteError, match="No space left on device"):
            writer.append(make_provider(1))
    assert (tmp_path / "records.jsonl").read_bytes() == before
    writer.append(make_provider(2))
    writer.close()
    assert [p.process for p in load_run(tmp_path).providers] == [0, 2]


def test_a_head_is_whole_or_not_there(tmp_path, monkeypatch):
    """Where the head can't be written the folder stays free for the next sweep."""

    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("harness.records.writer.write_whole", full)
        with pytest.raises(UsageError, match=r"--out: can't write .* No space left"):
            Writer(tmp_path / "run", Fake().head())
    assert list((tmp_path / "run").iterdir()) == []
    Writer(tmp_path / "run", Fake().head()).close()


@pytest.mark.parametrize("head", [Fake().head(), None], ids=["--out", "--resume"])
def test_a_read_only_folder_is_one_line(tmp_path, monkeypatch, head):
    """A folder that can't be written, new or to take up, is a usage error that names option and reason."""
    folder = tmp_path / "run"
    if head is None:
        Fake(processes=1, blocks=1).write(folder)

    def refused(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    option = "--out" if head else "--resume"
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        with pytest.raises(UsageError, match=f"{option}: can't write to .*: Read-only file system"):
            Writer(folder, head)


def test_derived_files_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    """A table that can't be saved is printed all the same, with one line of why."""
    folder = Fake().write(tmp_path / "run")

    def refused(self: Path, target: Path) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "replace", refused)
    assert cli.run(["table", str(folder)]) == 1
    said = capsys.readouterr()
    assert "# Speedups" in said.out
    assert said.err.count("\n") == 1
    assert "Read-only file system" in said.err


def test_a_resumed_run_that_is_cut_again_has_no_end(tmp_path):
    """The end of the first part is not the end of a run that was taken up and killed."""
    folder = Fake(processes=1, blocks=1, end="interrupted").write(tmp_path / "run")
    assert isinstance(load_run(folder).end, EndRecord)
    writer = Writer(folder, None)
    writer.append(schema.ResumeRecord(resumed_utc="2026-01-03T00:00:00+00:00", host="h", process=1,
                                       block=1))  # fmt: skip
    writer.close()
    assert load_run(folder).end is None


def test_resumed_spec_is_the_runs_own(tmp_path):
    """What a run says of its sweep makes the very spec that it was begun with."""
    spec = kill.make_spec(tmp_path / "run")
    run = Fake().run()
    head = run.head.model_copy(update={"sweep": spec.record()})
    found = resume.find_spec(run._replace(head=head, folder=tmp_path / "run"))
    assert found.record() == spec.record()
    assert (found.models, found.out) == (spec.models, spec.out)
    assert len(make_plan(spec, SMALL).cells) == 2
    assert sweep_run.run_folder(spec) == tmp_path / "run"


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that the disk has no room for leaves the one that was there, and no part of itself."""
    path = tmp_path / "table.md"
    write_whole(path, "first")

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "second")
    assert path.read_text(encoding="utf-8") == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["table.md"]
