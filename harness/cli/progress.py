"""Own what a person sees while a sweep runs: progress, time left, the table so far."""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.cli.streams import print_notice
from harness.problem import axes
from harness.problem.models import BASELINE
from harness.records.identity import identify
from harness.records.schema import CellRecord, SampleRecord
from harness.records.text import visible
from harness.report.formats import format_time

_LINE_EVERY_S = 10.0
_DRAW_EVERY_S = 0.25


def _format_span(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"


def _same_level(cell: CellRecord) -> tuple[object, ...]:
    """Return what a cell shares with the baseline's cell of its own level: all but the layer."""
    identity = identify(cell)
    how = cell.implementation.partition("_")[2]
    return (cell.level, *identity._replace(implementation=how, model=""))


def _parts(cell: CellRecord) -> str:
    """Return how a cell of a whole model is run, and that it is timed in parts, where it is."""
    whole = cell.transformer
    if whole is None:
        return ""
    ways = [way for way in whole.ways() if way != whole.dtype]  # the dtype is the cell's own
    return ", ".join([*ways, *(["in parts"] if whole.in_parts else [])])


class Display:
    """Show a sweep's progress: a live table on a terminal, a line every ten seconds elsewhere.

    It is drawn in the calls that it hears of progress by, which come between samples: a thread that draws
    would take a core from what is timed.
    """

    def __init__(self, baseline: str = BASELINE) -> None:
        """Prepare the display of ratios over a baseline; it begins when entered."""
        self.baseline = baseline
        self.console = Console(stderr=True)
        # Asked for colours a console takes any file for a terminal, and a dumb one can't be drawn on.
        self.is_live = sys.stderr.isatty() and not self.console.is_dumb_terminal
        self.last_drawn = 0.0
        self.cells: dict[str, CellRecord] = {}
        self.samples: dict[str, list[float]] = defaultdict(list)
        self.baselines: dict[tuple[object, ...], str] = {}  # by what a cell shares with its own
        self.reasons: set[str] = set()  # why cells are unavailable: each is said once
        self.text = ""
        self.last_line = 0.0
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(), TextColumn("left {task.fields[left]}"), console=self.console,
        )  # fmt: skip
        self.task = self.bar.add_task("sweep", total=1.0, left="?")
        self.live = Live(self, console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> Display:
        """Begin to show."""
        if self.is_live:
            self.live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Take the display away, so that the final table stands alone."""
        if self.is_live:
            self.live.stop()

    def __rich__(self) -> Group:
        """Return the picture of this moment."""
        return Group(self._table(), self.bar, self.text)

    def _speedup(self, cell: CellRecord) -> str:
        """Return the ratio to the same level's baseline cell, from medians, without an interval."""
        baseline = self.baselines.get(_same_level(cell), "")
        base, own = self.samples.get(baseline), self.samples.get(cell.cell)
        if not base or not own or baseline == cell.cell:
            return ""
        return f"{statistics.median(base) / statistics.median(own):.3g}x"

    def _table(self) -> Table:
        table = Table(
            "implementation", "model", "batch", "width", "provider", "samples", "a pass",
            "same level",
        )  # fmt: skip
        for cell in self.cells.values():
            if cell.status == "unavailable":
                continue  # said once, above
            if cell.role == "ceiling" and not cell.provider and cell.status == "ok":
                continue  # the machine's own, a screenful: they stand in the final table
            times = self.samples.get(cell.cell, [])
            state = format_time(statistics.median(times)) if times else "checked"
            if cell.status != "ok":
                state = cell.status.upper()
            table.add_row(
                cell.implementation + (" (again)" if cell.role == "aa" else ""),
                ", ".join(filter(None, (cell.model, axes.title(cell.conditions), _parts(cell)))),
                str(cell.batch), str(cell.d_in), cell.provider, str(len(times)), state, self._speedup(cell),
            )  # fmt: skip
        return table

    def stage(self, text: str) -> None:
        """Hear what is being done."""
        self.text = text
        self._draw()

    def _draw(self) -> None:
        """Draw the picture of this moment where one can be seen and the last is not of just now."""
        now = time.monotonic()
        if self.is_live and now - self.last_drawn > _DRAW_EVERY_S:
            self.last_drawn = now
            self.live.refresh()

    def progress(self, elapsed_s: float, predicted_s: float) -> None:
        """Hear how far the sweep is."""
        left = _format_span(predicted_s - elapsed_s)
        self.bar.update(
            self.task, completed=min(0.99, elapsed_s / max(predicted_s, 1e-9)), left=left
        )
        self._draw()
        now = time.monotonic()
        if not self.is_live and now - self.last_line > _LINE_EVERY_S:
            self.last_line = now
            taken = sum(map(len, self.samples.values()))
            print(f"{_format_span(elapsed_s)} of about {_format_span(predicted_s)}, {taken} samples, "
                  f"{self.text}", file=sys.stderr, flush=True)  # fmt: skip

    def cell(self, record: CellRecord) -> None:
        """Hear the outcome of a cell's gate."""
        known = self.cells.get(record.cell)
        if known is None or record.status != "ok":
            self.cells[record.cell] = record
        if record.role == "layer" and record.model == self.baseline:
            self.baselines[_same_level(record)] = record.cell
        if record.status == "unavailable":
            if record.reason in self.reasons:
                return
            self.reasons.add(record.reason)
        if record.status != "ok":
            lines = [f"{record.status.upper()}: {record.cell}: {record.reason}"]
            lines += [f"repeat with: {record.repro}"] if record.repro else []
            for line in lines:
                if self.is_live:  # above the table
                    self.console.print(visible(line), markup=False, highlight=False, soft_wrap=True)
                else:
                    print_notice(line)

    def sample(self, record: SampleRecord) -> None:
        """Hear a sample; that of a slice counts for the whole batch, as it does in the tables."""
        known = self.cells.get(record.cell)
        slices = known.slices if known else 1
        self.samples[record.cell].append(record.elapsed_ns / record.loops * slices)
