"""Own the exit statuses: what each says of how a command ended, the same for all of them."""

from __future__ import annotations

from enum import IntEnum, unique


@unique
class ExitStatus(IntEnum):
    """Say how a command ended.

    75 is EX_TEMPFAIL of sysexits.h, by which batch systems and service managers tell what to start again.
    From 128 on they are those of a shell, 128 and the signal's number, where nothing is there to go on from.
    """

    CLEAN = 0
    BAD = 1
    USAGE = 2
    UNFIT = 3
    RESUMABLE = 75
    HANGUP = 129
    INTERRUPTED = 130
    READER_GONE = 141
    TERMINATED = 143

    @property
    def meaning(self) -> str:
        """Return what it says, as the help and docs/exit-statuses.md have it."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitStatus.CLEAN: "done and clean",
    ExitStatus.BAD: "judged bad or not all done",
    ExitStatus.USAGE: "usage, or what was asked for by name is missing here",
    ExitStatus.UNFIT: "machine unfit, under --strict",
    ExitStatus.RESUMABLE: "interrupted; --resume goes on",
    ExitStatus.HANGUP: "ended by SIGHUP, nothing to resume",
    ExitStatus.INTERRUPTED: "ended by Ctrl-C, nothing to resume",
    ExitStatus.READER_GONE: "whoever read the output went away",
    ExitStatus.TERMINATED: "ended by SIGTERM, nothing to resume",
}
# What stands below the help of each command: those that a script asks for.
EPILOG = "Exit status: " + ", ".join(
    f"{status:d} {status.meaning}" for status in ExitStatus if status < ExitStatus.HANGUP
) + ", 128 and more ended by a signal."  # fmt: skip
