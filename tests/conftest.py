"""Set what no test may find as it happens to be, and hand out what many tests need."""

# The environment has to stand before the imports below it.
# ruff: noqa: E402

from __future__ import annotations

import os
import shutil
import signal
import site
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

# Libraries read these when they load, so they stand before the first import of NumPy.
for _name in ("OMP", "OPENBLAS", "MKL", "BLIS"):
    os.environ.setdefault(f"{_name}_NUM_THREADS", "1")
# They have been heard; a pytest that a test starts must not write over this one's report.
os.environ.pop("PYTEST_ADDOPTS", None)
# What is begun behind `nohup`, or by a script with `&`, ignores these, and so would all that tests start.
for _number, _heard in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _heard)
os.environ.setdefault("MKL_THREADING_LAYER", "SEQUENTIAL")
os.environ.setdefault("MKL_INTERFACE_LAYER", "LP64")

import forked
import numpy as np
import pytest
import told_caches
from made_machines import SMALL

from harness.backends import blas
from harness.gpu import probe
from harness.machine import cache_walk, facts
from harness.measure import process
from harness.problem.problem import Array, Problem
from harness.records import variables

# Each worker of `-n auto` imports and collects all tests; beyond these, that costs more than it saves.
_MOST_WORKERS = 8


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Return one worker per processor that may be used; None leaves it to xdist's own variable."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Let workers that are through take tests of the others: a few take as long as hundreds.

    They take what follows on each other in a file together, so what its tests share is made about once.
    Not as an option in pyproject.toml: pytest-benchmark measures nothing where it finds one of xdist's.
    """
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name the tests that need what not every machine has in the report, for the ledger of skipped tests."""
    for item in items:
        for need in ("gpu", "slurm"):
            if item.get_closest_marker(need):
                item.user_properties.append((need, "needed"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a real GPU where there is none."""
    if item.get_closest_marker("gpu"):
        found = probe.find_cuda()
        if found.reason:
            pytest.skip(found.reason)


_TERMINAL = {
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "COLUMNS": "100",
    "TERM": "xterm",
    "NO_COLOR": "1",
}
# A user's wishes for colours; where folders and Git's settings lie that are not those of a bare home.
_COLOURS, _ELSEWHERE = ("FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS"), ("XDG_", "GIT_")


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give all tests, and the processes that they start, one home, locale and terminal."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n in _COLOURS or n.startswith(_ELSEWHERE)]:
            patch.delenv(name)
        # What is installed for the user alone must still be found.
        patch.setenv("PYTHONUSERBASE", site.getuserbase())
        for name, value in {**_TERMINAL, "HOME": str(home)}.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session", autouse=True)
def _machine() -> Iterator[None]:
    """Let the command line plan for a small machine, whatever the one is that the tests run on.

    Its caches are not looked at: that takes seconds, and says what this machine has.
    """
    real = facts.read_machine

    def read(**asked: object) -> facts.Machine:
        found = real(**asked)
        return replace(
            SMALL, isas=found.isas, gpu=found.gpu, missing_providers=found.missing_providers
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facts, "read_machine", read)
        patch.setattr(cache_walk, "take", told_caches.take)
        yield


_SUBPROCESS = process.subprocess


@pytest.fixture(scope="session", autouse=True)
def _forks() -> Iterator[None]:
    """Let measuring processes be forks of one that has loaded what they load: forked.py."""
    replaced = SimpleNamespace(**{**vars(_SUBPROCESS), "Popen": forked.start})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "subprocess", replaced)
        yield
    forked.end()


@pytest.fixture
def fresh_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test that is about the start of a measuring process have it as users do."""
    monkeypatch.setattr(process, "subprocess", _SUBPROCESS)


@pytest.fixture(scope="session")
def scipy_provider() -> blas.Provider:
    """Return SciPy's own BLAS, loaded once."""
    return blas.load("scipy")


@pytest.fixture
def small_ff() -> Problem:
    """Return an FF of odd, unequal extents."""
    return Problem(layer="ff", batch=5, d_in=9, d_out=7, hidden=17, seed=1)


@pytest.fixture
def small_fff() -> Problem:
    """Return an FFF of odd, unequal extents with two trees."""
    return Problem(layer="fff", batch=5, d_in=9, d_out=7, depth=3, trees=2, seed=1)


@pytest.fixture
def draw() -> Callable[..., Array]:
    """Return a maker of float32 standard normals; the same arguments give the same array."""

    def normal(*shape: int, seed: int = 0) -> Array:
        return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)

    return normal


@pytest.fixture
def data_folder() -> Path:
    """Return the folder of the golden files."""
    return Path(__file__).parent / "data"


@pytest.fixture
def without_forcing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the variables that change a library out of the environment for one test."""
    for name in variables.find_foreign(os.environ):
        monkeypatch.delenv(name)


@pytest.fixture
def golden_run(data_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the hand-made run of schema version 1."""
    folder = tmp_path / "run-v1"
    folder.mkdir()
    for name in ("run.json", "records.jsonl"):
        shutil.copy(data_folder / "run-v1" / name, folder)
    return folder
