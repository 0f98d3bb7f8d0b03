"""The notebook runs from a clean kernel on the shipped run."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]


# The kernel's own libraries warn about event loops and paths that are not ours to mend.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_notebook_shows_the_shipped_run() -> None:
    """notebooks/tables.ipynb executes and shows the tables and two figures of a run in results/."""
    notebook = nbformat.read(ROOT / "notebooks" / "tables.ipynb", as_version=4)
    client = NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(ROOT / "notebooks")}}
    )
    client.execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    shown = [out["data"] for out in outputs if "data" in out]
    assert sum("image/png" in data for data in shown) >= 2
    text = "".join(data.get("text/markdown", "") for data in shown)
    assert "UltraFastBERT-1x11" in text
    assert "over the fastest FF" in text
