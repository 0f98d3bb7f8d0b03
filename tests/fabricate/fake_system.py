"""A system's files as a machine would have them."""

from __future__ import annotations

from pathlib import Path

from harness.machine.resources import Files


def write_tree(root: Path, files: dict[str, str]) -> Files:
    """Write a fake system and return its reader."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")
    return Files(root)
