"""Own the signals that end a sweep: a batch system's and a closed terminal's do what Ctrl-C does."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from harness.cli.exit_status import ExitStatus

_ENDING = (signal.SIGTERM, signal.SIGHUP)


class _Ending:
    """Raise KeyboardInterrupt at the first ending signal; what it interrupts ends in order."""

    def __init__(self) -> None:
        """Begin without a signal; Ctrl-C is Python's own to raise."""
        self.number = signal.SIGINT
        self.heard = False
        self._terminals = [f for f in (1, 2) if os.isatty(f)]

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """Interrupt, once: a second signal of a session that ends must not cut the end records short."""
        if self.heard:
            return
        self.heard, self.number = True, signal.Signals(number)
        self._leave_closed_terminals()
        raise KeyboardInterrupt

    def _leave_closed_terminals(self) -> None:
        """Write what would go to a terminal that is gone to nowhere; it would be an error otherwise."""
        for file in self._terminals:
            if not os.isatty(file):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, file)
                os.close(nowhere)


@contextmanager
def _heard() -> Iterator[_Ending]:
    """Hear the ending signals, but for those that are ignored, as under nohup.

    Behind one that was heard they are ignored: batch systems send several, and the last must not take the
    exit status from a process that has nothing left to do but to end.
    """
    ending = _Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending  # Python lets the main thread alone set handlers
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, ending.hear)
    try:
        yield ending
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_IGN if ending.heard else before[number])


def end_in_order(sweep: Callable[[], ExitStatus | None]) -> ExitStatus:
    """Carry out a sweep and return its exit status; SIGTERM and SIGHUP interrupt it as Ctrl-C does.

    sweep: returns a status, None where it was interrupted and can't be taken up again. That is then 128 and
    the signal's number, as a shell has it, so that nobody who starts again what is resumable waits for this.
    """
    with _heard() as ending:
        try:
            status = sweep()
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            status = None
        return ExitStatus(128 + ending.number) if status is None else status
