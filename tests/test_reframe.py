"""The ReFrame test of integrations/reframe, run by ReFrame with its local scheduler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("reframe")

MAIN = "from reframe.frontend.cli import main; main()"
ROOT = Path(__file__).parents[1]
FABRICATE = ROOT / "tests" / "fabricate"
SWEEP = (
    "--batch 8 --width 8 --models bert-base-4095,1x1 --skip ceiling* --only ff_l3_blas,fff_l1_blas "
    "--processes 1 --passes 3 --no-figures --no-page"
)


def run_reframe(folder: Path, options: str) -> tuple[int, dict[str, Any]]:
    """Run the test with options of the sweep; return ReFrame's exit status and its report of the one case."""
    path = [FABRICATE / "told_caches_site", FABRICATE, ROOT]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, path)))
    report = folder / "report.json"
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "--prefix", str(folder), "--nocolor",
         "-c", str(ROOT / "integrations" / "reframe" / "fff_harness.py"), "--run",
         "-S", f"FffSweep.options={options}", f"--report-file={report}"],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert report.is_file(), done.stdout + done.stderr
    (case,) = json.loads(report.read_text())["runs"][-1]["testcases"]
    return done.returncode, case


@pytest.mark.slow
def test_reframe_carries_out_a_sweep(tmp_path: Path) -> None:
    """A sweep passes, its speedups are the performance, and its run is kept."""
    status, case = run_reframe(tmp_path, SWEEP)
    assert (status, case["result"]) == (0, "pass"), case
    (speedup,) = [v for name, v in case["perfvalues"].items() if "ultrafastbert_1x1_fff_l1" in name]
    assert speedup[0] > 0
    assert list(tmp_path.glob("output/**/run/run.json"))


def test_reframe_fails_with_the_sweep(tmp_path: Path) -> None:
    """A sweep that ends otherwise than clean fails the test, which names its status and what it said."""
    status, case = run_reframe(tmp_path, "--levels 4")
    assert status != 0
    assert case["result"] == "fail"
    assert "the sweep ended with 2: error: --levels: unknown level '4'" in case["fail_reason"]
