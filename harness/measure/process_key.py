"""Own the seats: which measuring process an implementation runs in, and what that process takes."""

from __future__ import annotations

from typing import NamedTuple

from harness import plugin
from harness.backends import registry

# A newline stands in no provider's name, and in a path only where someone put it there to break this.
_AND = "\n"
_LIBRARY = "library\n"


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
