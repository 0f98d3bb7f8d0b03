"""Own what all figures share: the canvas, the palette and the title."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness.records.schema import RunHead

# Okabe and Ito's palette: told apart by readers of every colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that many inches, drawn without a display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def set_title(figure: Figure, head: RunHead, text: str) -> None:
    """Write what is shown, and where it was measured, above the whole figure."""
    quick = "QUICK run, not for quoting. " if head.sweep.quick else ""
    threads, device = head.sweep.threads, head.machine.device
    where = f"{head.machine.processor}; {threads} thread{'s'[: threads != 1]}"
    if device is not None:
        where = f"{device.name}, torch {device.torch}, CUDA {device.cuda}"
    figure.suptitle(f"{text}\n{quick}{where}; {head.started_utc[:10]}", fontsize=10)
