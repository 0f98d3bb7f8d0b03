"""Own what all figures share: the canvas and the title."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness.records.schema import RunHead


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
