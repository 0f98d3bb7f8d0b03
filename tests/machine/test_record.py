"""The facts of the machine and the environment of a measuring process."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from pathlib import Path

import pytest
from made_machines import SMALL

from harness import package
from harness.machine import disturbance
from harness.machine import environment as machine_environment
from harness.machine import record as machine_record
from harness.records import variables
from harness.records.schema import MachineRecord

DROPPED = (
    "BLIS_IC_NT", "MKL_CBWR", "MKL_DOMAIN_NUM_THREADS", "NUMPY_MADVISE_HUGEPAGE", "OMP_PROC_BIND",
    "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE",
)  # fmt: skip


@pytest.fixture
def _forced(without_forcing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DROPPED:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("UNRELATED", "kept")


@pytest.mark.usefixtures("_forced")
def test_variables_that_change_a_library_are_dropped() -> None:
    """Variables that change a library are taken out and named; the pools' sizes are set; others pass."""
    environment, dropped = machine_environment.worker_environment(2, keep_blas_env=False)
    assert dropped == list(DROPPED)
    assert not set(DROPPED) & set(environment)
    for pool in ("OMP", "OPENBLAS", "MKL", "BLIS"):
        assert environment[f"{pool}_NUM_THREADS"] == "2"
    assert environment["UNRELATED"] == "kept"
    assert environment["LD_PRELOAD"] == ""


@pytest.mark.usefixtures("_forced")
def test_variables_that_change_a_library_are_kept_on_demand() -> None:
    """With keep_blas_env nothing is taken out."""
    environment, dropped = machine_environment.worker_environment(1, keep_blas_env=True)
    assert dropped == []
    assert {environment[name] for name in DROPPED} == {"1"}


def test_the_table_of_variables_says_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a measuring process gets from the harness is what the table says that the harness sets."""
    for name in tuple(os.environ):
        monkeypatch.delenv(name)
    environment, _ = machine_environment.worker_environment(3, keep_blas_env=False)
    ours = {p for f in variables.FAMILIES if f.fate == "set" for p in f.patterns}
    assert ours == set(environment) - {"PYTHONFAULTHANDLER"}


@pytest.mark.usefixtures("without_forcing")
def test_nothing_to_drop() -> None:
    """An environment without them has nothing taken out, and this process's own is left alone."""
    import os

    before = dict(os.environ)
    _, dropped = machine_environment.worker_environment(1, keep_blas_env=False)
    assert dropped == []
    assert dict(os.environ) == before


@pytest.mark.parametrize(("threads", "layer"), [(1, "SEQUENTIAL"), (2, "GNU")])
def test_mkl_layer(threads: int, layer: str) -> None:
    """One thread has no OpenMP pool in MKL at all."""
    environment, _ = machine_environment.worker_environment(threads, keep_blas_env=False)
    assert environment["MKL_THREADING_LAYER"] == layer


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a compiler, a cross compiler and a wrapper: the only one on PATH."""
    for name in ("gcc", "arm-gcc", "ccache"):
        (tmp_path / name).write_text("#!/bin/sh\n", encoding="ascii")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "compiler"),
    [
        ("gcc", "gcc"), ("gcc -m64", "gcc"), ("ccache gcc", "gcc"), ("ccache arm-gcc -O2", "arm-gcc"),
        ("ccache A=b gcc", "gcc"), ("ccache clang", ""), ("sccache gcc", ""), ("clang", ""),
    ],
)  # fmt: skip
def test_the_compiler_behind_a_wrapper_is_named(
    programs: Path, monkeypatch: pytest.MonkeyPatch, command: str, compiler: str
) -> None:
    """What CC and CXX name is the compiler, not what stands before it; none where either is missing."""
    monkeypatch.setenv("CC", command)
    monkeypatch.setenv("CXX", command)
    expected = str(programs / compiler) if compiler else ""
    assert machine_environment.find_compiler() == expected
    assert machine_environment.find_cpp_compiler() == expected


def test_relevant_variables() -> None:
    """The record keeps what can change a BLAS, its threads or the allocator, and nothing private."""
    found = machine_environment.relevant_variables(
        {
            "OPENBLAS_CORETYPE": "a", "OMP_NUM_THREADS": "1", "MKL_X": "b", "LD_PRELOAD": "c",
            "MALLOC_ARENA_MAX": "2", "HOME": "/home", "TOKEN": "secret", "MY_OMP_THING": "d",
            "LD_PRELOAD_X": "e",
        }
    )  # fmt: skip
    assert list(found) == [
        "LD_PRELOAD",
        "MALLOC_ARENA_MAX",
        "MKL_X",
        "OMP_NUM_THREADS",
        "OPENBLAS_CORETYPE",
    ]


def _git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


@pytest.fixture
def source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a source tree that this package believes to stand in."""
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "machine.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(package, "FOLDER", tmp_path / "harness")
    return tmp_path


def test_commit_label(source_tree: Path) -> None:
    """The label is the release outside of a repository, else the commit, `-dirty` where files changed."""
    assert machine_record.git_commit() == ("", False)
    assert machine_record.commit_label().startswith("v")
    _git(source_tree, "init", "-q")
    _git(source_tree, "add", "-A")
    _git(source_tree, "commit", "-q", "-m", "first")
    commit, dirty = machine_record.git_commit()
    assert not dirty
    assert len(commit) == 10
    assert machine_record.commit_label() == commit
    (source_tree / "results" / "run").mkdir(parents=True)
    (source_tree / "results" / "run" / "table.md").write_text("", encoding="utf-8")
    assert machine_record.commit_label() == commit, "a run's own folder is no change of the code"
    (source_tree / "harness" / "machine.py").write_text("x = 1\n", encoding="utf-8")
    assert machine_record.commit_label() == f"{commit}-dirty"


def _commit(folder: Path) -> str:
    """Make a repository of a folder and return its commit."""
    _git(folder, "init", "-q")
    _git(folder, "add", "-A")
    _git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    return machine_record.git_commit()[0]


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"])
def test_the_commit_is_of_these_files(
    source_tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
) -> None:
    """Whatever repository the caller's variables name, the commit is that of the harness's own."""
    own = _commit(source_tree)
    other = tmp_path_factory.mktemp("other")
    (other / "theirs").touch()
    _commit(other)
    monkeypatch.setenv(name, str(other / ".git" if name == "GIT_DIR" else other))
    assert machine_record.commit_label() == own


def test_a_checkout_of_another_user_has_its_commit(
    source_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git's doubt of who owns a checkout, which a container always raises, costs no commit."""
    own = _commit(source_tree)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert machine_record.commit_label() == own


def test_a_linked_checkout_has_its_own_commit(source_tree: Path, tmp_path: Path) -> None:
    """In a linked working tree, where .git is a file, the commit is that tree's."""
    first = _commit(source_tree)
    (source_tree / ".git").rename(tmp_path / "kept")
    (source_tree / ".git").write_text(f"gitdir: {tmp_path / 'kept'}\n", encoding="utf-8")
    assert machine_record.git_commit()[0] == first


def test_a_commit_that_can_not_be_read_is_named_as_that(source_tree: Path) -> None:
    """Where git tells nothing of a checkout, the label says that the release stands in for its commit."""
    (source_tree / ".git").mkdir()
    assert machine_record.commit_label() == f"v{machine_record.release()}-commit-unread"


def test_host_is_safe_for_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the host is called, its name can stand in a folder's."""
    for name, safe in (("a.b.c", "a"), ("x/y z", "x_y_z"), ("", "host"), ("n-1", "n_1")):
        monkeypatch.setattr("socket.gethostname", lambda name=name: name)
        assert machine_record.host() == safe


def test_record() -> None:
    """The machine record is complete, and survives being written and read."""
    record = machine_record.make_record(SMALL)
    assert (record.cores, record.caches) == (SMALL.cores, SMALL.caches)
    assert record.memory_bytes > 1 << 28
    assert record.microarchitecture
    assert record.packages["numpy"]
    assert record.build["compiler"]
    assert MachineRecord.model_validate_json(record.model_dump_json()) == record


def test_disturbance_counts_up() -> None:
    """The counters never run backwards, and their difference is what happened between."""
    first = disturbance.read_disturbance()
    bytearray(1 << 24)
    second = disturbance.read_disturbance()
    between = second.since(first)
    assert all(count >= 0 for count in between.values())
    assert first.since(first) == {"switches": 0, "faults": 0, "steal_ticks": 0}


def test_the_release_is_known_without_an_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package runs by the path alone, its project file tells its version."""
    installed = machine_record.release()

    def refuse(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", refuse)
    assert machine_record.release() == installed != ""
