"""Write notebooks/tables.ipynb, executed, so that it shows its tables and figures before it is run."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"

CELLS = (
    new_markdown_cell(
        "# The paper's CPU table, measured\n\n"
        "*Exponentially Faster Language Modelling* (arXiv 2311.10770) prints speedups of 131x to 255x of a "
        "fast feedforward layer (FFF, 12 of 4095 neurons computed per token) over the plain layer (FF). "
        "This reads a run of the harness and shows what one machine makes of them; it measures nothing.\n\n"
        "To see your own run, change the line below to the folder that `python -m harness sweep` printed.",
        id="intro",
    ),
    new_code_cell('RUN = "../results/SHIPPED"', id="run"),
    new_code_cell(
        "%matplotlib inline\n"
        "from IPython.display import Markdown\n\n"
        "import harness\nfrom harness.analysis.analysis import analyse\n"
        "from harness.report import figures, table\n\n"
        "run = harness.load_run(RUN)\nanalysis = analyse(run)\n"
        "Markdown(table.format_markdown(analysis))",
        id="tables",
    ),
    new_markdown_cell(
        "## Measured against published\n\n"
        "The tick is the limit: the operations that the FFF leaves out. Same level: both layers on the "
        "same BLAS primitives. Over the fastest FF: what a user gains.",
        id="speedup-text",
    ),
    new_code_cell("figures.speedup_figure(analysis)", id="speedup"),
    new_markdown_cell("## Time per token", id="time-text"),
    new_code_cell("figures.time_figure(analysis)", id="time"),
    new_markdown_cell(
        "## The raw samples\n\n"
        "`run.samples` is a pandas frame with one row per timed value; `run.cells` has one row per "
        "implementation and problem. The spread of each cell over the run, as a share of its median:",
        id="samples-text",
    ),
    new_code_cell(
        "spread = run.samples.groupby('cell')['pass_ns'].describe(percentiles=[0.1, 0.5, 0.9])\n"
        "shares = spread[['10%', '90%']].div(spread['50%'], axis=0)\n"
        "shares.assign(samples=spread['count'].astype(int)).round(3)",
        id="samples",
    ),
)


def main(run: str) -> None:
    """Write the notebook for a run in results/, by its folder's name."""
    notebook = new_notebook(cells=[cell.copy() for cell in CELLS])
    notebook.metadata["kernelspec"] = {
        "name": "python3", "display_name": "Python 3", "language": "python",
    }  # fmt: skip
    notebook.cells[1]["source"] = notebook.cells[1]["source"].replace("SHIPPED", run)
    NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}}
    ).execute()
    for cell in notebook.cells:  # when it was run is of no interest to a reader
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, NOTEBOOKS / "tables.ipynb")


if __name__ == "__main__":
    main(sys.argv[1])
