"""Own what can disturb a sample: the counters of this process and of the machine."""

from __future__ import annotations

import resource
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """Count what can disturb a sample: involuntary context switches, page faults, steal ticks."""

    switches: int
    faults: int
    steal_ticks: int

    def since(self, earlier: Disturbance) -> dict[str, int]:
        """Return the differences to an earlier reading."""
        return {
            "switches": self.switches - earlier.switches,
            "faults": self.faults - earlier.faults,
            "steal_ticks": self.steal_ticks - earlier.steal_ticks,
        }


def read_disturbance() -> Disturbance:
    """Read the counters of this process, and the machine's steal time where the kernel tells it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Disturbance(
        switches=usage.ru_nivcsw,
        faults=usage.ru_minflt + usage.ru_majflt,
        steal_ticks=_steal_ticks(),
    )


def _steal_ticks() -> int:
    try:
        with open("/proc/stat", encoding="ascii") as file:
            fields = file.readline().split()
    except OSError:
        return 0
    return int(fields[8]) if len(fields) > 8 else 0
