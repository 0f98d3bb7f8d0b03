"""The benchmarks of pytest-benchmark's own table can be asked for as the README says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_options_of_the_project_let_benchmarks_measure() -> None:
    """`pytest --benchmark-only` is taken: no option of this project's switches the measuring off."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-only", "--collect-only"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bench_layers.py" in done.stdout
