"""Run the quick sweep as a user would, and parse what it wrote: the table must have the paper's form."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from harness.records.reader import load_run

LIMIT_S = 60


def main(folder: Path) -> None:
    """Sweep into a folder, then check the exit status, the time and the table's cells."""
    out = folder / f"quick-{time.time_ns()}"
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "harness", "sweep", "--quick", "--out", str(out)], check=True
    )
    elapsed = time.monotonic() - began
    table = pd.read_csv(out / "table.csv")
    found = set(zip(table["model"], table["column"], strict=True))
    for level in (1, 2, 3):
        wanted = [
            "bert-base-4095",
            "bert-base-3072",
            *(["ultrafastbert-1x11"] if level < 3 else []),
        ]
        for model in wanted:
            if (model, f"level {level}") not in found:
                sys.exit(f"the table has no cell for {model} at level {level}")
    unmeasured = table[(table["status"] == "ok") & ~(table["speedup"] > 0)]
    if len(unmeasured):
        sys.exit(f"cells without a speedup:\n{unmeasured}")
    if not load_run(out).cells["status"].isin(["ok", "unavailable"]).all():
        sys.exit("a cell of the quick sweep is wrong or failed")
    print(f"quick sweep: {elapsed:.0f} s, {len(table)} cells parsed")
    if elapsed > LIMIT_S:
        sys.exit(f"the quick sweep took {elapsed:.0f} s, more than {LIMIT_S}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
