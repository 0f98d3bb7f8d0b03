"""Kill sweeps at random moments and take them up again: `python tests/kill.py --count 30`."""

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

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "--quick", "--batch", "8", "--width", "8", "--models", "bert-base-4095,1x1",
    "--only", "ff_l3_blas,fff_l1_blas", "--skip", "ceiling*", "--passes", "4", "--processes", "2",
]  # fmt: skip


def start_sweep(*arguments: str) -> subprocess.Popen[bytes]:
    """Start a sweep in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "sweep", *arguments], cwd=ROOT, process_group=0,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[bytes]) -> str:
    """Wait for a sweep that must succeed; return what it wrote on standard error."""
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    return errors.decode()


def kill(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Kill a sweep's process group as a terminal would, and return the children that it had."""
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


def take_up(folder: Path) -> subprocess.Popen[bytes]:
    """Start what a user would: --resume where there is a run, the same sweep where it had not begun."""
    if (folder / "run.json").exists():
        return start_sweep("--resume", str(folder))
    return start_sweep(*TINY, "--out", str(folder))


def kill_and_complete(folder: Path, kills: int, longest_s: float, rng: random.Random) -> None:
    """Kill a run several times at random moments, check what it left each time, then complete it."""
    for _ in range(kills):
        before = whole_lines(folder)
        process = take_up(folder)
        time.sleep(rng.uniform(0.0, longest_s))
        children = kill(process)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive, "a measuring process outlived its sweep"
        lines = whole_lines(folder)
        assert lines[: len(before)] == before, "a line that was finished is gone or changed"
        for line in lines:
            json.loads(line)
    finish(take_up(folder))


def form(folder: Path) -> list[tuple[str, ...]]:
    """Return a run's table without its figures: rows, columns and which cells have one."""
    import pandas as pd

    frame = pd.read_csv(folder / "table.csv")
    columns = ["batch", "width", "provider", "model", "column", "status"]
    filled = frame[["speedup", "low", "high"]].notna().astype(str)
    return [tuple(row) for row in frame[columns].astype(str).join(filled).to_numpy()]


def main() -> None:
    """Kill `--count` sweeps, one after the other, each once, and complete each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        began = time.monotonic()
        finish(start_sweep(*TINY, "--out", str(whole)))
        took = time.monotonic() - began
        for i in range(asked.count):
            folder = Path(scratch) / str(i)
            kill_and_complete(folder, 1, took, rng)
            assert form(folder) == form(whole), folder
            print(f"{i + 1} of {asked.count}: {len(whole_lines(folder))} records", flush=True)


if __name__ == "__main__":
    main()
