"""What is shown while a sweep runs."""

from __future__ import annotations

import io
import sys
import threading

import pytest
from fabricated_runs import make_cell

from harness.cli.progress import Display
from harness.records.schema import SampleRecord


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def _sample(cell: str, elapsed_ns: int) -> SampleRecord:
    return SampleRecord.model_validate(
        {"cell": cell, "process": 0, "block": 0, "order": 0, "loops": 2, "elapsed_ns": elapsed_ns,
         "call_ns": elapsed_ns, "started_ns": 0, "switches": 0, "faults": 0, "steal_ticks": 0}
    )  # fmt: skip


def test_a_slice_counts_for_the_whole_batch() -> None:
    """The time and the ratio of a sliced cell are those that the tables will say."""
    display = Display()
    ff = make_cell("ff_l1_blas/bert-base-4095/b64").model_copy(update={"slices": 8})
    fff = make_cell("fff_l1_blas/ultrafastbert-1x11/b64")
    for cell, elapsed_ns in ((ff, 2000), (fff, 1000)):
        display.cell(cell)
        display.sample(_sample(cell.cell, elapsed_ns))
    assert display.samples[ff.cell] == [8000]
    assert display._speedup(fff) == "16x"


@pytest.mark.parametrize(
    ("terminal", "variables"), [(False, {"FORCE_COLOR": "1"}), (True, {"TERM": "dumb"})]
)
def test_no_escape_where_nothing_can_be_drawn(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, variables: dict[str, str]
) -> None:
    """A log and a dumb terminal get lines: progress, and what became of a cell."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Display() as display:
        display.cell(make_cell("fff_l1_blas/ultrafastbert-1x11/b64", status="wrong"))
        display.progress(20.0, 100.0)
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 2


def test_nothing_is_drawn_beside_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a table is drawn, by no thread of its own."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    before = threading.active_count()
    with Display() as display:
        display.cell(make_cell("fff_l1_blas/ultrafastbert-1x11/b64"))
        display.progress(20.0, 100.0)
        assert threading.active_count() == before
        assert "fff_l1_blas" in sys.stderr.getvalue()  # type: ignore[attr-defined]
