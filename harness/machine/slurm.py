"""Own what Slurm's commands say: the names of its nodes, and which jobs wait or run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from harness.errors import UsageError


def expand_nodes(text: str) -> list[str]:
    """Return the names in a list of nodes, Slurm's ranges such as node[01-04] among them.

    Raises UsageError for an empty list, or a range where Slurm's own command is not here to expand it.
    """
    if "[" not in text:
        names = [name.strip() for name in text.split(",") if name.strip()]
        if not names:
            raise UsageError("--nodes: need at least one name")
        return list(dict.fromkeys(names))
    if shutil.which("scontrol") is None:
        raise UsageError(
            f"--nodes: {text!r} is a range, which `scontrol` expands, and it is not here"
        )
    asked = subprocess.run(
        ["scontrol", "show", "hostnames", text], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise UsageError(
            f"--nodes: scontrol refuses {text!r}: {asked.stderr.strip().rpartition(chr(10))[2]}"
        )
    return list(dict.fromkeys(asked.stdout.split()))


def find_queued(ids: Sequence[str]) -> set[str]:
    """Return those of Slurm's jobs that wait or run; none where Slurm is not here or knows none of them."""
    if shutil.which("squeue") is None:
        return set()
    asked = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i"],
        capture_output=True,
        text=True,
        check=False,
    )
    return set(asked.stdout.split()) & set(ids)
