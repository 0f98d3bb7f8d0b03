"""The pages of memory that operands lie in."""

from __future__ import annotations

import pytest

from harness.machine import pages

SMAPS = """\
00001000-00003000 rw-p 00000000 00:00 0
Size:                  8 kB
Rss:                   8 kB
AnonHugePages:         0 kB
VmFlags: rd wr mr mw me
10000000-10800000 rw-p 00000000 00:00 0
Rss:                8192 kB
AnonHugePages:      6144 kB
Private_Hugetlb:       0 kB
20000000-20400000 rw-p 00000000 00:0f 9 /anon_hugepage (deleted)
Rss:                   0 kB
AnonHugePages:         0 kB
Private_Hugetlb:    4096 kB
"""


@pytest.mark.parametrize(
    ("first", "last", "share"),
    [
        (0x1000, 0x1FFF, 0.0),
        (0x10000040, 0x107FFFFF, 0.75),
        (0x20000000, 0x203FFFFF, 1.0),
        (0x10000000, 0x20000000, (6144 + 4096) / (8192 + 4096)),
        (0x3000, 0x4000, None),
    ],
)
def test_share_of_huge_pages(first: int, last: int, share: float | None) -> None:
    """The share is of the mappings that hold a buffer; pages of both kinds count, and nothing is guessed."""
    assert pages.share_of_huge_pages(SMAPS, first, last) == share


def test_a_system_that_tells_no_mappings_tells_no_share() -> None:
    """Where the mappings are hidden there is no share."""
    assert pages.share_of_huge_pages("", 0, 1 << 40) is None
