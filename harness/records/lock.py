"""Own the lock of a run folder: one sweep writes to it, and a dead process never holds it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class LockedError(RuntimeError):
    """Say that another process holds the lock."""


class FolderLock:
    """Hold `flock` on a file; the kernel lets go of it when the process ends, however it ends.

    What a killed process leaves behind is a file that nobody holds, which the next sweep takes. Measuring
    processes do not inherit the descriptor, so that one that outlives its sweep does not hold it either.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock at once. Raises LockedError where it is held, OSError where it can't be made."""
        self._path = path
        while True:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._descriptor)
                raise LockedError(str(path)) from None
            if self._is_at_path():
                return
            # The holder before removed the file between our open and our lock: this one guards nothing.
            os.close(self._descriptor)

    def _is_at_path(self) -> bool:
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._descriptor))

    def release(self) -> None:
        """Remove the file, still locked, then let go: who opened it in between looks again."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
