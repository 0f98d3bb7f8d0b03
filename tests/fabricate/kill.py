"""Kill sweeps at random moments and take them up again: `python tests/fabricate/kill.py --count 30`."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from made_machines import SMALL

from harness.analysis.analysis import analyse
from harness.problem.models import parse_models
from harness.records.reader import load_run
from harness.records.schema import CellRecord, SampleRecord
from harness.sweep import plan, resume
from harness.sweep import run as sweep_run
from harness.sweep.spec import SweepSpec

ROOT = Path(__file__).resolve().parents[2]


class Silent:
    """Watch a sweep and say nothing."""

    def stage(self, text: str) -> None:
        """Hear what is being done."""

    def progress(self, elapsed_s: float, predicted_s: float) -> None:
        """Hear how far the sweep is."""

    def cell(self, record: CellRecord) -> None:
        """Hear the outcome of a cell's gate."""

    def sample(self, record: SampleRecord) -> None:
        """Hear a sample."""


def make_spec(folder: Path, **changes: object) -> SweepSpec:
    """Return the smallest sweep that has a ratio, an A/A pair and several processes."""
    values: dict[str, object] = {
        "levels": [1, 2, 3], "device": "cpu", "models": parse_models("bert-base-4095,1x1"),
        "batches": [8], "widths": [8], "only": ["ff_l3_blas", "fff_l1_blas"],
        "skip": ["ceiling*"], "blas": ["scipy"], "threads": 1, "seed": 0, "passes": 4,
        "budget_s": 60.0, "processes": 2, "quick": True, "keep_blas_env": False, "out": folder,
    }  # fmt: skip
    return SweepSpec(**(values | changes))


def carry_out(folder: Path) -> sweep_run.Outcome | None:
    """Do what the command does: take up the run in the folder, or begin one; None where it is whole."""
    if not (folder / "run.json").exists():
        spec = make_spec(folder)
        return sweep_run.run(plan.make_plan(spec, SMALL), Silent())
    run = load_run(folder)
    if resume.has_ended(run):
        return None
    spec = resume.find_spec(run)
    return sweep_run.run(plan.make_plan(spec, SMALL), Silent(), run)


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Carry a sweep out in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, __file__, "--carry-out", str(folder)], cwd=ROOT, process_group=0,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a sweep that must succeed."""
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


def kill(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Kill a sweep's process group, as a terminal or a batch system would; return its children."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
    except (psutil.NoSuchProcess, ProcessLookupError):
        children = []
    process.communicate()
    return children


def whole_lines(folder: Path) -> list[str]:
    """Return the lines of a run that were written to their end."""
    path = folder / "records.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text.split("\n")[:-1]


def kill_and_complete(folder: Path, kills: int, longest_s: float, rng: random.Random) -> None:
    """Kill a run several times at random moments, check what it left each time, then complete it."""
    for _ in range(kills):
        before = whole_lines(folder)
        process = start(folder)
        time.sleep(rng.uniform(0.0, longest_s))
        children = kill(process)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive, "a measuring process outlived its sweep"
        lines = whole_lines(folder)
        assert lines[: len(before)] == before, "a line that was finished is gone or changed"
        for line in lines:
            json.loads(line)
    finish(start(folder))


def form(folder: Path) -> list[tuple[str, ...]]:
    """Return a run's table without its figures: rows, columns and which places have a figure."""
    from harness.report.csv import csv_frame

    frame = csv_frame(analyse(load_run(folder)))
    columns = ["batch", "width", "provider", "model", "column", "status"]
    filled = frame[["speedup", "low", "high"]].notna().astype(str)
    return [tuple(row) for row in frame[columns].astype(str).join(filled).to_numpy()]


def main() -> None:
    """Kill `--count` sweeps, one after the other, each once, and complete each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--carry-out", type=Path, help="be the sweep that is killed, in this folder"
    )
    asked = parser.parse_args()
    if asked.carry_out:
        carry_out(asked.carry_out)
        return
    rng = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        began = time.monotonic()
        finish(start(whole))
        took = time.monotonic() - began
        for i in range(asked.count):
            folder = Path(scratch) / str(i)
            kill_and_complete(folder, 1, took, rng)
            assert form(folder) == form(whole), folder
            print(f"{i + 1} of {asked.count}: {len(whole_lines(folder))} records", flush=True)


if __name__ == "__main__":
    main()
