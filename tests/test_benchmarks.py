"""The benchmarks of pytest-benchmark's own table can be asked for as the README says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_soft_training_writes_its_page(tmp_path: Path) -> None:
    """The script trains every layer and writes the page: a row for each, as in the one that is shipped."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    page = tmp_path / "page.md"
    subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "soft_training.py", "--seeds=2", "--epochs=1",
         f"--output={page}"],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    shipped = (ROOT / "docs" / "soft-training.md").read_text(encoding="utf-8")
    rows = [
        [line.split("|")[1:6] for line in text.splitlines() if line.startswith("| FF")]
        for text in (page.read_text(encoding="utf-8"), shipped)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 13
