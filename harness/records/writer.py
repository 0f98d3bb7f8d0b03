"""Own the writing of a run: a folder that is locked, its head, and lines that are only ever appended."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import UsageError
from harness.records.files import write_whole
from harness.records.lock import FolderLock, LockedError
from harness.records.schema import HEAD, LINES, LOCK, Line, RunHead


class WriteError(RuntimeError):
    """Say that the system refused to write a record, and why."""


class Writer:
    """Append records to a run folder, each line handed to the system before the next is measured."""

    def __init__(self, folder: Path, head: RunHead | None) -> None:
        """Create the folder and its head; without a head, take up the run that is there.

        The folder stays locked until `close`, or until the process ends in whatever way. Raises UsageError
        where it can't be written, another sweep is writing to it, or it holds another run.
        """
        self.folder, self._lock = folder, None
        option = "--out" if head else "--resume"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(folder / LOCK)
            if head:
                self._create(head)
            self._file = os.open(folder / LINES, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._begin_on_a_fresh_line()
        except LockedError:
            raise UsageError(f"{option}: another sweep is writing to {folder}") from None
        except OSError as error:
            self._release()
            raise UsageError(f"{option}: can't write to {folder}: {error.strerror}") from None
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _create(self, head: RunHead) -> None:
        """Write the head whole or not at all: half a head would make the folder useless."""
        path = self.folder / HEAD
        records = self.folder / LINES
        if records.is_file() and records.stat().st_size and not path.exists():
            raise UsageError(
                f"--out: {self.folder} holds {LINES} without {HEAD}: records of a run whose head is lost; "
                "name a folder of its own"
            )
        if path.exists():
            raise UsageError(
                f"--out: {self.folder} holds a run already; name a folder of its own, or take it up "
                "with --resume"
            )
        write_whole(path, head.model_dump_json(indent=1) + "\n")

    def _begin_on_a_fresh_line(self) -> None:
        """End a line that a kill cut short, so that the next record does not become part of it."""
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def append(self, line: Line) -> None:
        """Hand one record to the system: what is finished survives a kill. Raises WriteError."""
        data = line.model_dump_json().encode() + b"\n"
        before = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, data)
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError as error:
            # The part of this line that went through says nothing; the lines before it stay.
            if os.fstat(self._file).st_size > before:
                os.ftruncate(self._file, before)
            raise WriteError(
                f"can't write to {self.folder / LINES}: {error.strerror}; what was finished before is kept"
            ) from None

    def close(self) -> None:
        """Sync the records to the disk and release the folder. Raises WriteError."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise WriteError(f"can't sync {self.folder / LINES}: {error.strerror}") from None
        finally:
            os.close(self._file)
            self._release()
