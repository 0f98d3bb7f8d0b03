"""Own what a plan has to know of the machine that it is made for: read once, then handed down."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness import native
from harness.gpu import probe
from harness.machine import resources
from harness.machine.resources import Files
from harness.records.facts import CacheWalk

_NOT_ASKED = probe.Found(reason="no device was asked for")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Hold the facts that decide about a plan; sizes are in bytes.

    cores: processors that this process may run on. caches: L1d, L2, L3 as one core gets them: as the system
    tells, empty where it does not, until a walk over working sets says otherwise; then told_caches are what
    the system tells. last_level_caches: those of the last level that these processors have between
    them. available_bytes: memory that new allocations can have without swapping. memory_limit_bytes: that
    the cgroup allows, None where it sets no limit. isas: instruction sets of our own vector code, the
    fastest first. gpu: what the CUDA device is, or why there is none. missing_providers: the BLAS providers
    of those asked about that are not here, and why.
    """

    cores: int
    caches: Mapping[str, int]
    told_caches: Mapping[str, int] | None = None
    cache_walk: CacheWalk | None = None
    last_level_caches: int = 1
    available_bytes: int
    memory_limit_bytes: int | None = None
    isas: Sequence[str]
    gpu: probe.Found = _NOT_ASKED
    missing_providers: Mapping[str, str] = field(default_factory=dict)

    def last_level_bytes(self, threads: int = 1) -> int:
        """Return the bytes of the last-level caches that threads reach together, 0 where they are unknown."""
        reached = max(1, min(threads, self.last_level_caches))
        return reached * max(self.caches.values(), default=0)

    def with_walk(self, walk: CacheWalk | None) -> Machine:
        """Return the machine with the caches that a walk found; None for no walk changes nothing."""
        if walk is None:
            return self
        told = self.caches if self.told_caches is None else self.told_caches
        return replace(self, caches=dict(walk.caches), told_caches=told, cache_walk=walk)


def read_machine(
    *, device: str, missing_providers: Mapping[str, str], files: Files | None = None
) -> Machine:
    """Return the facts of this machine; a GPU, which takes seconds to ask, only where `device` is one."""
    files = Files() if files is None else files
    allowed = os.sched_getaffinity(0)
    return Machine(
        cores=len(allowed), caches=resources.read_caches(files, min(allowed)),
        last_level_caches=resources.count_last_level(files, allowed),
        available_bytes=resources.read_available_memory(files),
        memory_limit_bytes=resources.read_memory_limit(files), isas=native.isas(),
        gpu=probe.find_cuda() if device == probe.CUDA else _NOT_ASKED,
        missing_providers=missing_providers,
    )  # fmt: skip
