"""Own the trained routing: which traces are shipped, and the shapes of the trees that they are of.

They are the leaves of held-out text in trees that were distilled from the layers of a small trained encoder.
`harness/data/traces/README.md` says what they are, `traces.json` beside it from what and how they were made.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from harness import package

FOLDER = package.FOLDER / "data" / "traces"
PROVENANCE = FOLDER / "traces.json"
STUDENTS = FOLDER / "students.csv"  # how far each distilled layer is from its teacher


@cache
def provenance() -> dict[str, Any]:
    """Return what is written down of the traces: text, encoder, students, and a line a file."""
    found: dict[str, Any] = json.loads(PROVENANCE.read_bytes())
    return found


@cache
def digest() -> str:
    """Return a short digest of the traces: what is written down of them has that of each file."""
    return hashlib.sha256(PROVENANCE.read_bytes()).hexdigest()[:8]


def find_file(trees: int, depth: int) -> Path:
    """Return the trace of a shape: of the encoder's layer whose leaves have the median entropy of all.

    Raises ValueError naming the shapes that there are, where none of such trees was trained. The upper
    levels of a deeper tree are no stand-in: nobody trained them as the whole.
    """
    layer = provenance()["trained_layer"]
    own = [t for t in provenance()["traces"] if t["layer"] == layer and not t["drawn"]]
    for trace in own:
        if (trace["trees"], trace["depth"]) == (trees, depth):
            return FOLDER / str(trace["file"])
    known = ", ".join(f"{t['trees']}x{t['depth']}" for t in own)
    raise ValueError(
        f"routing trained: no {trees}x{depth} was trained, the traces here are of {known}; make one of "
        "your own tree with harness.nn's record() and take trace:FILE"
    )
