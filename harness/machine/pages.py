"""Own the pages of memory that operands lie in, as the kernel made them."""

from __future__ import annotations

import re

from harness.machine.resources import Files
from harness.problem.operands import make_aligned

_PROBE_BYTES = 16 << 20  # as the weights: well above the 4 MiB from which NumPy asks for huge pages
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")


def share_of_huge_pages(smaps: str, first: int, last: int) -> float | None:
    """Return the share of huge pages in the mappings that hold the addresses from `first` to `last`.

    smaps: of /proc/PID/smaps. Both kinds count: transparent ones, and those reserved in a pool.

    Returns None where no such mapping is told.
    """
    resident = huge = 0
    inside = False
    for line in smaps.splitlines():
        if mapping := _MAPPING.match(line):
            low, high = (int(address, 16) for address in mapping.groups())
            inside = low <= last and first < high
        elif inside:
            name, _, size = line.partition(":")
            kib = int(size.split()[0]) if size.endswith("kB") else 0
            huge += kib if name in ("AnonHugePages", "Private_Hugetlb", "Shared_Hugetlb") else 0
            resident += kib if name in ("Rss", "Private_Hugetlb", "Shared_Hugetlb") else 0
    return huge / resident if resident else None


def measure_huge_page_share() -> float | None:
    """Return the share of huge pages in a buffer made as operands are, here and now; None if not told."""
    buffer = make_aligned((_PROBE_BYTES,), "uint8")
    first = buffer.ctypes.data
    return share_of_huge_pages(Files().text("proc/self/smaps"), first, first + _PROBE_BYTES - 1)
