"""Own the seats: which measuring process an implementation runs in, and what that process takes."""

from __future__ import annotations

from typing import NamedTuple

from harness import plugin, registry

# A newline stands in no provider's name, and in a path only where someone put it there to break this.
_AND = "\n"
_LIBRARY = "library\n"
_START_S = 1.5  # interpreter, libraries, drawing the operands
_PROCESS_BYTES = 160 << 20


class Seat(NamedTuple):
    """Hold what a measuring process serves: a provider, a plugin or a library, empty where it is none."""

    provider: str
    plugin: str
    library: str


def find(provider: str, implementation_id: str, *, apart: bool = True) -> str:
    """Return the name of the measuring process that an implementation runs in.

    Our own share one per provider, and one per library that brings thread pools. Each plugin has one for
    itself: what it does to a process (crashes, stray writes, flush-to-zero, pools of threads) reaches no
    other cell. apart: whether a library gets one for itself.
    """
    source = plugin.origin(implementation_id)
    library = registry.get(implementation_id).library if apart else None
    if source:
        return f"{provider}{_AND}{source}"
    return f"{provider}{_AND}{_LIBRARY}{library.name}" if library else provider


def split(name: str) -> Seat:
    """Return what a measuring process serves by its name."""
    provider, _, rest = name.partition(_AND)
    if rest.startswith(_LIBRARY):
        return Seat(provider, "", rest.removeprefix(_LIBRARY))
    return Seat(provider, rest, "")


def start_s(name: str) -> float:
    """Return a guess of what starting a measuring process takes, in seconds."""
    library = split(name).library
    return _START_S + (registry.library(library).start_s if library else 0.0)


def resident_bytes(name: str) -> int:
    """Return a guess of the memory that a measuring process takes without operands and workspace."""
    library = split(name).library
    return _PROCESS_BYTES + (registry.library(library).resident_bytes if library else 0)
