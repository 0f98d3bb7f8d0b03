"""Own the sweep's end of a measuring process: starting it, asking it, noticing that it died."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from typing import cast

from harness import package
from harness.errors import UsageError
from harness.machine import environment as machine_environment
from harness.measure import protocol
from harness.measure.process_key import ProcessKey
from harness.measure.protocol import (
    Answer,
    AnswerT,
    Failure,
    ForeignLineError,
    Hello,
    MemoryRequest,
    Refusal,
    Request,
)

_START_TIMEOUT_S = 120.0
_MEMORY_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 30.0
_LAST_WORDS_S = 10.0  # to end, once its answers have
_LOOK_S = 1.0  # between two looks whether it lives
# Who ends a job may signal all of its processes: then ours comes within this, before the death of one of them
# is taken for the failure of a cell.
_OURS_TOO, _SIGNAL_S = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT), 0.3
_LONGEST_LINE = 1 << 20  # bytes; an answer has some kB


def _name_signal(number: int) -> str:
    """Return a signal's name; only the ends of the real-time signals have one of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


class ProcessError(RuntimeError):
    """Say why a measuring process has no answer to a request."""


class ProcessDiedError(ProcessError):
    """Say how a measuring process ended, and the last that it wrote."""


class ForeignAnswerError(ProcessError):
    """Say what came in place of an answer; nothing that follows can be trusted, so the process was ended."""


class RequestFailedError(ProcessError):
    """Say what an implementation raised; its process goes on."""


class MeasuringProcess:
    """Run `harness.measure.worker` for one process key and exchange messages with it."""

    def __init__(
        self, key: ProcessKey, *, threads: int, keep_blas_env: bool, device: str = "cpu"
    ) -> None:
        """Start the process. key: what it serves. device: where its passes run.

        Raises UsageError where it refuses the provider or the plugin, or is not of this very harness, and
        ProcessError where it does not begin.
        """
        environment, self.dropped = machine_environment.worker_environment(
            threads, keep_blas_env=keep_blas_env
        )
        self.key = key
        # Open as long as the process lives; released with it.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        # A group of its own: Ctrl-C is the sweep's to handle, not the measuring process's.
        self._process = subprocess.Popen(
            package.command("harness.measure.worker", key.encode(), device),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env=environment, process_group=0, bufsize=0,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._from, selectors.EVENT_READ)
        self._unread = b""
        self._serial = 0
        try:
            self.hello = self._begin()
        except BaseException:
            self.kill()
            raise

    def _begin(self) -> Hello:
        """Return what the process says when it has loaded what its key names."""
        first = self._read(_START_TIMEOUT_S)
        if isinstance(first, Refusal):
            option = "" if self.key.plugin or self.key.library else "--blas: "
            raise UsageError(f"{option}{first.reason}")
        if not isinstance(first, Hello):
            raise ForeignAnswerError(f"the measuring process began with {first.kind!r}")
        if first.version != protocol.VERSION:
            raise UsageError(
                f"the measuring process speaks version {first.version} of the messages, this sweep "
                f"{protocol.VERSION}: they are of two installations of harness"
            )
        if reason := package.why_another(first.package):
            raise UsageError(f"the measuring process {reason}")
        return first

    def _read_line(self, timeout_s: float) -> bytes:
        left_s = timeout_s
        while b"\n" not in self._unread:
            look_s, began = min(left_s, _LOOK_S), time.monotonic()
            if self._selector.select(look_s):
                chunk = self._from.read(1 << 16)
                if not chunk:
                    raise ProcessDiedError(self._how_it_ended())
                self._unread += chunk
                if len(self._unread) > _LONGEST_LINE:
                    raise ForeignLineError(f"no line end within {_LONGEST_LINE >> 20} MiB")
            elif not self.alive():  # a child of it holds the pipe open
                raise ProcessDiedError(self._how_it_ended())
            elif left_s <= _LOOK_S:
                self.kill()
                raise ProcessDiedError(f"no answer within {timeout_s:.3g} s; the process was ended")
            # A sweep that was stopped (Ctrl-Z) has looked no longer than it meant to, whatever a clock says.
            left_s -= min(time.monotonic() - began, look_s)
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _read(self, timeout_s: float) -> Answer:
        """Return the answer to the last request, ending the process where something else comes."""
        try:
            serial, answer = protocol.decode_answer(self._read_line(timeout_s))
            if serial != self._serial:
                raise ForeignLineError(f"answers {serial}, asked was {self._serial}")
        except ForeignLineError as error:
            self.kill()
            raise ForeignAnswerError(
                f"the measuring process sent what is no answer ({error}); it was ended"
            ) from None
        return answer

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(timeout=_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            self._end_group()
            return "the measuring process closed its answers and was ended"
        self._end_group()
        if -code in _OURS_TOO:
            time.sleep(_SIGNAL_S)
        how = f"exit status {code}" if code >= 0 else f"signal {_name_signal(-code)}"
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        last = lines[-1] if code > 0 and lines else ""
        return f"the measuring process ended with {how}" + (f": {last}" if last else "")

    def ask(self, request: Request[AnswerT], timeout_s: float) -> AnswerT:
        """Return the answer to a request.

        Raises ProcessDiedError where the process ended or did not answer in time, ForeignAnswerError where
        what came is no answer to it, RequestFailedError where the implementation raised.
        """
        self._serial += 1
        line = protocol.encode_request(self._serial, cast("protocol.AnyRequest", request))
        try:
            self._to.write(line)
        except BrokenPipeError:
            raise ProcessDiedError(self._how_it_ended()) from None
        answer = self._read(timeout_s)
        if isinstance(answer, Failure):
            raise RequestFailedError(answer.reason)
        if not isinstance(answer, request.answers):
            self.kill()
            raise ForeignAnswerError(
                f"the measuring process answered with {answer.kind!r}; it was ended"
            )
        return cast("AnswerT", answer)

    def alive(self) -> bool:
        """Say whether the process still runs."""
        return self._process.poll() is None

    def peak_resident_bytes(self) -> int:
        """Return the most memory that the process has held, 0 where it is gone."""
        if not self.alive():
            return 0
        try:
            return self.ask(MemoryRequest(), _MEMORY_TIMEOUT_S).peak_resident_bytes
        except ProcessError:
            return 0

    def close(self) -> None:
        """Let the process end by closing its input."""
        self._to.close()
        with suppress(subprocess.TimeoutExpired):  # then it is ended below
            self._process.wait(timeout=_END_TIMEOUT_S)
        self._end_group()
        self._release()

    def kill(self) -> None:
        """End the process at once; for one that ended already, release what it held here."""
        self._end_group()
        self._release()

    def _end_group(self) -> None:
        """End the process and whatever it started: that would run beside all that is timed later."""
        with suppress(ProcessLookupError):  # none of them is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _release(self) -> None:
        if not self._errors.closed:
            self._selector.close()
            self._to.close()
            self._from.close()
            self._errors.close()
