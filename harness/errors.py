"""Own the errors that are the caller's to mend: they print as one line and never as a traceback."""

from __future__ import annotations

from collections.abc import Iterable


class UsageError(ValueError):
    """Say what was needed, what came and what to do, in one line."""


class UnknownNameError(UsageError, LookupError):
    """Say that a name is not known, and list the known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Compose the line from the kind of thing, the name that came and the known names."""
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(known)}")


class UnfitMachineError(UsageError):
    """Say what is wrong with a machine that was to be measured on only if nothing is."""


class UnavailableError(RuntimeError):
    """Say why a thing that is known can't be used on this machine."""
