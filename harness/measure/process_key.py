"""Own the process key: what a measuring process serves, and so which implementations share one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from harness import plugin
from harness.backends.registry import Implementation


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessKey:
    """Name a measuring process by what it serves; empty where it serves none of a kind.

    provider: of BLAS, by name or path. plugin: the source that one was loaded from. library: a package
    that brings thread pools of its own, by its name in the registry.
    """

    provider: str = ""
    plugin: str = ""
    library: str = ""

    def encode(self) -> str:
        """Return the key as one word of a command line."""
        return json.dumps(asdict(self))


def decode(word: str) -> ProcessKey:
    """Return the key that `ProcessKey.encode` made a word of."""
    return ProcessKey(**json.loads(word))


def find(implementation: Implementation, provider: str) -> ProcessKey:
    """Return the key of the process that an implementation runs in.

    Our own share one per provider, and one per library that brings thread pools. Each plugin has one for
    itself: what it does to a process (crashes, stray writes, flush-to-zero, pools of threads) reaches no
    other cell. provider: that the cell stands under, empty on a device, which one process holds for all.
    """
    bound = provider if implementation.needs_provider else ""
    if source := plugin.origin(implementation.id):
        return ProcessKey(provider=bound, plugin=source)
    if provider and implementation.library is not None:
        return ProcessKey(provider=bound, library=implementation.library.name)
    return ProcessKey(provider=provider)
