"""The ledger of skipped tests, over reports that pytest itself writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

LEDGER = Path(__file__).parent.parent / "tools" / "skips.py"
CONFTEST = """import pytest
def pytest_collection_modifyitems(items):
    for item in items:
        for need in ("gpu", "slurm"):
            if item.get_closest_marker(need):
                item.user_properties.append((need, "needed"))
"""
TESTS = """import os, pytest
full = pytest.mark.skipif(os.environ["WHERE"] != "full", reason="needs the full environment")
def test_everywhere(): pass
@full
def test_in_one(): pass
@pytest.mark.gpu
@pytest.mark.skipif(True, reason="no GPU")
def test_on_a_gpu(): pass
@pytest.mark.slurm
@pytest.mark.skipif(True, reason="no slurmctld")
def test_on_slurm(): pass
"""
NOWHERE = """
@pytest.mark.skipif(True, reason="nobody has this")
def test_nowhere(): pass
"""
OF_PARAMETERS = """
@pytest.mark.parametrize("where", ["core-a::b", pytest.param("full-a::b", marks=full)])
def test_each(where): pass
"""
WHOLE = 'import pytest\npytest.importorskip("{}")\ndef test_x(): pass\n'


def _report(folder: Path, where: str) -> str:
    """Run pytest over a folder as one environment; return the ledger's word for its report."""
    path = folder / f"{where}.xml"
    environment = dict(os.environ, WHERE=where, PYTEST_ADDOPTS=f"--junitxml={path}")
    environment["PYTHONPATH"] = str(folder / where)
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # loading them takes longer than the suite
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"], cwd=folder,
        env=environment, capture_output=True, check=False,
    )  # fmt: skip
    return f"{where}={path}"


def _ledger(folder: Path, *environments: str) -> subprocess.CompletedProcess[str]:
    words = [_report(folder, where) for where in environments]
    return subprocess.run(
        [sys.executable, str(LEDGER), *words], capture_output=True, text=True, check=False
    )


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Return a folder with a small suite of its own."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n    gpu: needs a GPU\n    slurm: needs Slurm\n"
    )
    (tmp_path / "tests" / "conftest.py").write_text(CONFTEST)
    (tmp_path / "tests" / "test_a.py").write_text(TESTS)
    return tmp_path


def test_what_ran_somewhere_passes(suite: Path) -> None:
    """A test that one environment skips and another runs is no fault; one for a GPU is listed."""
    done = _ledger(suite, "core", "full")
    assert done.returncode == 0, done.stdout
    assert "core: 1 ran, 3 skipped" in done.stdout
    assert "full: 2 ran, 2 skipped" in done.stdout
    assert (
        "1 need a real GPU and ran in no environment:\n  tests.test_a::test_on_a_gpu\n"
        in done.stdout
    )
    assert (
        "1 need a Slurm that can be started and ran in no environment:\n"
        "  tests.test_a::test_on_slurm (no slurmctld)\n" in done.stdout
    )


def test_what_ran_nowhere_fails(suite: Path) -> None:
    """A test that every environment skips fails the ledger and is named with its reason."""
    with (suite / "tests" / "test_a.py").open("a") as file:
        file.write(NOWHERE)
    done = _ledger(suite, "core", "full")
    assert done.returncode == 1
    assert "error: tests.test_a::test_nowhere ran in no environment" in done.stdout
    assert "nobody has this" in done.stdout
    assert "test_in_one" not in done.stdout


def test_one_environment_alone_is_not_enough(suite: Path) -> None:
    """Without the second environment the test that only it runs is a fault."""
    done = _ledger(suite, "core")
    assert done.returncode == 1
    assert "tests.test_a::test_in_one" in done.stdout


def test_modules_that_skip_themselves(suite: Path) -> None:
    """A module that is skipped whole counts as run where another environment collects it, else as a fault."""
    (suite / "tests" / "test_b.py").write_text(WHOLE.format("only_in_full"))
    (suite / "full").mkdir()
    (suite / "full" / "only_in_full.py").write_text("")
    assert _ledger(suite, "core", "full").returncode == 0
    done = _ledger(suite, "core")
    assert done.returncode == 1
    assert "error: tests.test_b ran in no environment" in done.stdout


def test_files_to_run_again(suite: Path) -> None:
    """The files that hold a skipped test, or were skipped whole, are named once each, and no others."""
    (suite / "tests" / "test_b.py").write_text(WHOLE.format("only_in_full"))
    (suite / "tests" / "test_c.py").write_text("def test_x(): pass\n")
    done = subprocess.run(
        [sys.executable, str(LEDGER), "--again", _report(suite, "core")], capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["tests/test_a.py", "tests/test_b.py"]


def test_what_passed_elsewhere_is_left_out(suite: Path) -> None:
    """Of a file that is run again, what another environment ran is left out, and nothing beside it."""
    with (suite / "tests" / "test_a.py").open("a") as file:
        file.write(OF_PARAMETERS)
    ran = _report(suite, "core").removeprefix("core=")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "skips", "--ran", ran, "-p", "no:cacheprovider", "-v"],
        cwd=suite, capture_output=True, text=True, check=False,
        env=dict(os.environ, WHERE="full", PYTHONPATH=str(LEDGER.parent),
                 PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
    )  # fmt: skip
    assert re.findall(r"::(\S+) PASSED", done.stdout) == ["test_in_one", "test_each[full-a::b]"]
    assert "2 passed, 2 skipped, 2 deselected" in done.stdout


def test_an_empty_report_is_a_fault(tmp_path: Path) -> None:
    """A report without a test proves nothing and fails."""
    (tmp_path / "x.xml").write_text("<testsuites></testsuites>")
    done = subprocess.run(
        [sys.executable, str(LEDGER), f"core={tmp_path / 'x.xml'}"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "holds no test" in done.stderr
