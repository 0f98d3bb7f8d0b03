"""Run the command line on told caches, unseen: `python tests/fabricate/told_caches.py sweep ...`."""

from __future__ import annotations

from harness.cli import main as command_line
from harness.machine import cache_walk, caches
from harness.machine.facts import Machine
from harness.records.facts import CacheWalk


def take(machine: Machine, *, threads: int, **_: object) -> CacheWalk:
    """Return what a walk says that saw nothing: the real one takes seconds, and tells of this machine."""
    return caches.find_effective(
        machine.caches, [], threads=threads, last_level_caches=1, seconds=0.0
    )


def main() -> None:
    """Carry out the words of this process."""
    cache_walk.take = take
    command_line.main()


if __name__ == "__main__":
    main()
