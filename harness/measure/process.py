"""Own the sweep's end of a measuring process: starting it, asking it, noticing that it died."""

from __future__ import annotations

import json
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from harness.errors import UsageError
from harness.machine import environment as machine_environment
from harness.measure.process_key import ProcessKey

_START_TIMEOUT_S = 120.0


class ProcessDiedError(RuntimeError):
    """Say how a measuring process ended, and the last that it wrote."""


class RequestFailedError(RuntimeError):
    """Say what an implementation raised."""


class MeasuringProcess:
    """Run `harness.measure.worker` for one process key and exchange JSON lines with it."""

    def __init__(
        self, key: ProcessKey, *, threads: int, keep_blas_env: bool, device: str = "cpu"
    ) -> None:
        """Start the process. key: what it serves. device: where its passes run.

        Raises UsageError where it refuses the provider or the plugin, ProcessDiedError where it ends.
        """
        environment, self.dropped = machine_environment.worker_environment(
            threads, keep_blas_env=keep_blas_env
        )
        self.key = key
        # Open as long as the process lives; released with it.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        # A group of its own: Ctrl-C is the sweep's to handle, not the measuring process's.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.measure.worker", key.encode(), device],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env=environment, process_group=0, bufsize=0,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._from, selectors.EVENT_READ)
        self._unread = b""
        try:
            self.hello = self._read(_START_TIMEOUT_S)
        except ProcessDiedError:
            self.kill()
            raise
        if "refused" in self.hello:
            self.kill()
            option = "" if key.plugin or key.library else "--blas: "
            raise UsageError(f"{option}{self.hello['refused']}")

    def _read_line(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                self.kill()
                raise ProcessDiedError(f"no answer within {timeout_s:.3g} s; the process was ended")
            chunk = self._from.read(1 << 16)
            if not chunk:
                raise ProcessDiedError(self._how_it_ended())
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _read(self, timeout_s: float) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._read_line(timeout_s))
        return answer

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        how = f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        last = lines[-1] if code > 0 and lines else ""
        return f"the measuring process ended with {how}" + (f": {last}" if last else "")

    def ask(self, op: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        """Return the answer to a request.

        Raises ProcessDiedError where the process ended or did not answer in time, RequestFailedError where
        the implementation raised.
        """
        try:
            self._to.write(json.dumps({"op": op, **fields}).encode() + b"\n")
        except BrokenPipeError:
            raise ProcessDiedError(self._how_it_ended()) from None
        answer = self._read(timeout_s)
        if "failed" in answer:
            raise RequestFailedError(answer["failed"])
        return answer

    def alive(self) -> bool:
        """Say whether the process still runs."""
        return self._process.poll() is None

    def peak_resident_bytes(self) -> int:
        """Return the most memory that the process has held, 0 where it is gone."""
        if not self.alive():
            return 0
        try:
            return int(self.ask("resident", 60.0)["peak_resident_bytes"])
        except ProcessDiedError:
            return 0

    def close(self) -> None:
        """Let the process end by closing its input."""
        self._to.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
        self._release()

    def kill(self) -> None:
        """End the process at once; for one that ended already, release what it held here."""
        self._process.kill()
        self._process.wait()
        self._to.close()
        self._release()

    def _release(self) -> None:
        if not self._errors.closed:
            self._selector.close()
            self._to.close()
            self._from.close()
            self._errors.close()
