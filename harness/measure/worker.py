"""Own the measuring process: it serves the requests of a sweep, one after the other.

Requests and answers are lines (protocol.py). Whatever a library prints on standard output goes to standard
error, so that it can't damage an answer.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.backends.registry import Prepared
from harness.errors import UnavailableError, UsageError
from harness.gpu.device import Device
from harness.measure import clock, faults, libraries, process_key, protocol
from harness.measure.buffers import Store
from harness.measure.gate import Gate, ReadyCell
from harness.measure.libraries import Libraries
from harness.measure.protocol import (
    Answer,
    AnyRequest,
    Failure,
    GateAnswer,
    GateRequest,
    MemoryAnswer,
    MemoryRequest,
    PublishedAnswer,
    PublishedRequest,
    Refusal,
    SampleAnswer,
    SampleRequest,
    TransformerRequest,
    Unavailable,
    WrongOutput,
)

if TYPE_CHECKING:
    from harness.measure.transformer import Bench, ReadyTransformer

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class Worker:
    """Answer the sweep's requests with what was loaded for one process key."""

    def __init__(self, loaded: Libraries, *, device: Device | None = None) -> None:
        """Begin without a cell. device: where the passes run, None for the CPU."""
        self.device = device
        self.store = Store(device)
        self.gate = Gate(loaded.provider, self.store, device)
        self.cells: dict[str, ReadyCell] = {}
        self.transformers: dict[str, ReadyTransformer] = {}
        self.transformer_bench: Bench | None = None
        self.threads = 1  # that the last cell was prepared for
        self.ladder = faults.Bench(
            table=loaded.provider.table if loaded.provider else None,
            operands=lambda problem: self.store.operands(problem).host,
            workspace=self.store.workspace,
        )

    def prepare(self, request: GateRequest) -> GateAnswer | Unavailable:
        """Take a cell through its gate."""
        self.threads = request.threads
        answer, cell = self.gate.prepare(request)
        if cell is not None:
            self.cells[request.cell] = cell
        return answer

    def prepare_transformer(self, request: TransformerRequest) -> GateAnswer | Unavailable:
        """Take the cell of a whole model through its gate."""
        # Here, since torch takes seconds and layers on BLAS need none of it.
        from harness.measure.transformer import Bench

        self.threads = request.threads
        self.transformer_bench = self.transformer_bench or Bench(self.device)
        answer, cell = self.transformer_bench.prepare(request)
        if cell is not None:
            self.transformers[request.cell] = cell
        return answer

    def sample(self, request: SampleRequest) -> SampleAnswer | WrongOutput:
        """Take one sample of a prepared cell, its slices in turn; judge what it leaves where asked to.

        A slice whose output is not proved yet is judged in any case.
        """
        if whole := self.transformers.get(request.cell):
            return whole.sample(request)
        cell = self.cells[request.cell]
        turn = request.turn % len(cell.pieces)
        piece, timing = cell.pieces[turn], self.gate.timing
        self.gate.set_math(piece.problem)

        def take(prepared: Prepared) -> clock.Sample:
            return timing.sample(prepared, request.loops, request.expected_ns)

        if cell.proved[turn] and not request.check:
            return SampleAnswer(sample=take(piece.prepared))
        taken, verdict = self.gate.checker.run(piece, take)
        if not verdict.ok:
            behind = replace(verdict, reason=f"behind a sample: {verdict.reason}")
            return WrongOutput(verdict=behind)
        cell.proved[turn] = True
        return SampleAnswer(sample=taken)

    def published(self, request: PublishedRequest) -> PublishedAnswer:
        """Check a kernel of the ladder against its own definition, then take one cold sample of it."""
        return self.ladder.run(request)

    def answer(self, request: AnyRequest) -> Answer:
        """Carry out one request; pools of several threads are at rest before it is answered."""
        answer: Answer
        match request:
            case GateRequest():
                answer = self.prepare(request)
            case TransformerRequest():
                answer = self.prepare_transformer(request)
            case SampleRequest():
                answer = self.sample(request)
            case PublishedRequest():
                answer = self.published(request)
            case MemoryRequest():
                peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                return MemoryAnswer(peak_resident_bytes=peak_kib * 1024)
        if self.threads > 1:
            clock.rest()
        return answer


def open_device(name: str) -> Device | None:
    """Return a device by name, None for the CPU. Raises UnavailableError with the reason."""
    if name == "cpu":
        return None
    # Here, since torch takes seconds and the CPU needs none of it.
    from harness.gpu.torch_cuda import TorchDevice

    return TorchDevice()


def open_channel() -> Callable[[int, Answer], None]:
    """Return what sends an answer to the sweep; standard output itself then goes to standard error."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def send(serial: int, answer: Answer) -> None:
        channel.write(protocol.encode_answer(serial, answer))
        channel.flush()

    return send


def _describe(error: Exception) -> str:
    """Return what was raised in one text that can be sent, whatever bytes a file's name put into it."""
    text = f"{type(error).__name__}: {error}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def end_with_parent() -> None:
    """Have the kernel end this process with the sweep's, however that ends: in a pass nobody reads an end."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(key: str, device: str) -> None:
    """Serve requests from standard input until it ends. key: a process key, encoded."""
    end_with_parent()
    send = open_channel()
    try:
        loaded = libraries.load(process_key.decode(key))
        worker = Worker(loaded, device=open_device(device))
    except (UsageError, UnavailableError) as error:
        send(0, Refusal(reason=str(error)))
        return
    send(0, loaded.hello())
    for text in sys.stdin.buffer:
        serial, request = protocol.decode_request(text)
        try:
            send(serial, worker.answer(request))
        # Whatever an implementation raises is that cell's failure; the process goes on serving.
        except Exception as error:
            send(serial, Failure(reason=_describe(error)))
