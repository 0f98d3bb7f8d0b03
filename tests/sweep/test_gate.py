"""What a sweep learns of a cell from its gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import scripted
from kill import Silent
from made_machines import SMALL

from harness.errors import UsageError
from harness.measure.process import ProcessDiedError, RequestFailedError
from harness.measure.protocol import Answer, AnyRequest, GateAnswer, GateRequest, Unavailable
from harness.problem.check import Verdict
from harness.records.schema import CellRecord, Line
from harness.sweep import gate
from harness.sweep.journal import Journal
from harness.sweep.plan import make_plan
from harness.sweep.processes import Processes
from harness.sweep.state import CellState, CellTable
from harness.sweep.twins import make_missing

RIGHT = Verdict(ok=True, reason="", worst=0.1, tokens=16, near_ties=0, unwritten=0)
WRONG = Verdict(ok=False, reason="off", worst=9.0, tokens=16, near_ties=0, unwritten=0)
COLD_NS, PASS_NS = 4_000_000_000, 500_000_000.0


class OneAnswer:
    """Answer every request alike, or raise; it stands for a measuring process."""

    def __init__(self, answer: Answer | Exception) -> None:
        """Begin; answer: what is said or raised."""
        self.answer, self.asked = answer, list[AnyRequest]()

    def ask(self, request: AnyRequest, _timeout_s: float) -> Answer:
        """Answer a request."""
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def alive(self) -> bool:
        """Say that it runs."""
        return True


def take_through(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: CellState | None,
    answer: Answer | Exception,
) -> tuple[CellState, GateRequest, CellRecord]:
    """Take a cell through a gate that is answered so; return its state, the request and the record."""
    spec = scripted.make_spec(folder)
    journal, records, process = (
        Journal(spec=spec, monitor=Silent(), predicted_s=1.0), list[Line](), OneAnswer(answer),
    )  # fmt: skip
    monkeypatch.setattr(Journal, "append", lambda _, line: records.append(line))
    monkeypatch.setattr(Processes, "serving", lambda *_: process)
    cell = next(c for c in make_plan(spec, SMALL).cells if c.implementation == "ff_l1_blas")
    state = state or CellState(cell=cell)
    gate.prepare(state, journal, Processes(journal=journal, machine=SMALL))
    (record,) = records
    (request,) = process.asked
    assert isinstance(record, CellRecord)
    assert isinstance(request, GateRequest)
    return state, request, record


def right(**changes: object) -> GateAnswer:
    """Return the answer of a gate that was passed, its first pass a cold one."""
    values = {"gate_ns": COLD_NS, "pass_ns": PASS_NS, "notes": {"a": "b"}, "loops": 3, "slices": 2}
    return GateAnswer(verdict=RIGHT, **{**values, **changes})  # type: ignore[arg-type]


def test_a_pass_after_the_gates_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state holds the warm pass, by which twins and blocks are chosen; the record holds the checked one."""
    state, request, record = take_through(tmp_path, monkeypatch, None, right())
    assert (request.loops, request.slices, request.head_only, request.count_nodes) == (
        0, 0, False, True,
    )  # fmt: skip
    assert (state.pass_s, state.loops, state.slices, state.gated) == (0.5, 3, 2, True)
    assert state.is_ready()
    assert (record.status, record.gate_ns, record.loops, record.slices, record.notes) == (
        "ok", COLD_NS, 3, 2, {"a": "b"},
    )  # fmt: skip


def test_a_second_process_is_told_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later gate hands over loops and slices, checks a long pass by its head, and changes no pass that was
    sampled; the loops of its own preparation count from then on."""
    state, _, _ = take_through(tmp_path, monkeypatch, None, right())
    state.add_sample(0, 0.4, 0.0)
    state, request, _ = take_through(
        tmp_path, monkeypatch, state, right(pass_ns=0.0, gate_ns=1, loops=4)
    )
    assert (request.loops, request.slices, request.head_only, request.count_nodes) == (
        3, 2, True, False,
    )  # fmt: skip
    assert (state.pass_s, state.loops) == (0.4, 4)


def test_a_second_process_takes_the_tile_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an implementation chose in the first process of a run is handed to all later ones, and the A/A
    twin's is its cell's."""
    told = right(notes={"tile": "32 tokens"})
    state, request, _ = take_through(tmp_path, monkeypatch, None, told)
    assert request.tile == ""
    state, request, _ = take_through(tmp_path, monkeypatch, state, told)
    assert request.tile == state.tile == "32 tokens"
    state.cell = replace(state.cell, model="bert-base-4095", role="layer")
    (twin,) = make_missing(CellTable(states=[state]), "bert-base-4095", 0)
    assert twin.tile == "32 tokens"


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (GateAnswer(verdict=WRONG, gate_ns=1, notes={}, loops=0, slices=0), "wrong", "off"),
        (Unavailable(reason="one set"), "unavailable", "one set"),
        (RequestFailedError("RuntimeError: no"), "failed", "RuntimeError: no"),
        (ProcessDiedError("it died"), "failed", "it died"),
        (UsageError("another harness"), "failed", "another harness"),
    ],
)
def test_what_does_not_pass_is_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer | Exception, status: str,
    reason: str,
) -> None:  # fmt: skip
    """A cell that is wrong, unavailable or failed is out, with the reason in its state and its record."""
    state, _, record = take_through(tmp_path, monkeypatch, None, answer)
    assert (state.status, state.reason) == (record.status, record.reason) == (status, reason)
    assert not state.is_live()
    assert not state.gated
    assert record.slices == 1
