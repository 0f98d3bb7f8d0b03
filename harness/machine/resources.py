"""Own what this machine has to give: processors, caches, memory and their limits."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Files:
    """Read a system's files under a root; what is missing or unreadable reads as empty."""

    root: Path = Path("/")

    def text(self, path: str) -> str:
        """Return a file's text, stripped."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        """Return a file's number, None where it holds none."""
        try:
            return int(self.text(path))
        except ValueError:
            return None

    def matches(self, pattern: str) -> list[str]:
        """Return the paths that match a pattern, relative to the root, sorted."""
        return sorted(str(p.relative_to(self.root)) for p in self.root.glob(pattern))


def _cgroup_folders(files: Files, controller: str) -> list[str]:
    """Return the folders of this process's cgroup, own first and then its parents, of both versions."""
    found = []
    for line in files.text("proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        base = "sys/fs/cgroup"
        if controllers:
            if controller not in controllers.split(","):
                continue
            base += f"/{controllers}"
            if not (files.root / base).is_dir():
                base = f"sys/fs/cgroup/{controller}"
        parts = [part for part in path.split("/") if part]
        found += [
            "/".join([base, *parts[:n]]) for n in range(len(parts), -1, -1)
        ]  # a container sees its own folder at the top, whatever the path says
    return found


def read_quota(files: Files) -> float | None:
    """Return the processors' worth of time that the cgroup allows, None where it sets no limit."""
    found = []
    for folder in _cgroup_folders(files, "cpu"):
        quota, _, period = files.text(f"{folder}/cpu.max").partition(" ")
        if not quota:
            quota = files.text(f"{folder}/cpu.cfs_quota_us")
            period = files.text(f"{folder}/cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            found.append(int(quota) / int(period))
    return min(found, default=None)


def _memory_limits(files: Files) -> dict[str, int]:
    """Return the bytes that each folder of the cgroup allows; those without a limit stay out."""
    total = read_meminfo(files).get("MemTotal", 0)
    found = {}
    for folder in _cgroup_folders(files, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = files.number(f"{folder}/{name}")
            # Version 1 writes "no limit" as a number beyond any memory.
            if limit and (not total or limit < total):
                found[folder] = limit
    return found


def read_memory_limit(files: Files) -> int | None:
    """Return the memory that the cgroup allows in bytes, None where it sets no limit."""
    return min(_memory_limits(files).values(), default=None)


def _used_bytes(files: Files, folder: str) -> int:
    """Return what a cgroup's processes hold, without the file pages that the kernel would give up first."""
    used = files.number(f"{folder}/memory.current") or files.number(
        f"{folder}/memory.usage_in_bytes"
    )
    lines = [line.split() for line in files.text(f"{folder}/memory.stat").splitlines()]
    stat = {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}
    given_up = stat.get("total_inactive_file", stat.get("inactive_file", 0))
    return max(0, (used or 0) - given_up)


def read_available_memory(files: Files) -> int:
    """Return the bytes that new allocations can have without swapping, within the cgroup's limits."""
    free = [limit - _used_bytes(files, at) for at, limit in _memory_limits(files).items()]
    return max(0, min([read_meminfo(files).get("MemAvailable", 0), *free]))


def read_meminfo(files: Files) -> dict[str, int]:
    """Return /proc/meminfo in bytes."""
    found = {}
    for line in files.text("proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        fields = rest.split()
        if fields and fields[0].isdigit():
            found[name] = int(fields[0]) * (1024 if fields[1:] == ["kB"] else 1)
    return found


def _cache_folders(files: Files, processor: int) -> list[tuple[int, str]]:
    """Return the level and the folder of each cache of data that one processor sees."""
    folders = files.matches(f"sys/devices/system/cpu/cpu{processor}/cache/index[0-9]*")
    levels = [(files.number(f"{at}/level"), at) for at in folders]
    return [
        (level, at)
        for level, at in levels
        if level is not None and files.text(f"{at}/type") != "Instruction"
    ]


def read_caches(files: Files, processor: int) -> dict[str, int]:
    """Return the bytes of each cache as one processor sees it; empty where the system does not tell.

    Guests on Arm and under some hypervisors have levels and types and no sizes.
    """
    found: dict[str, int] = {}
    for level, at in _cache_folders(files, processor):
        size = files.text(f"{at}/size")
        if size.endswith("K") and size[:-1].isdigit():
            found[f"L{level}" + ("d" if level == 1 else "")] = int(size[:-1]) * 1024
    return found


def count_last_level(files: Files, processors: Iterable[int]) -> int:
    """Return how many last-level caches processors have between them; 1 where the system does not tell."""
    found = set()
    for processor in processors:
        _, at = max(_cache_folders(files, processor), default=(0, ""))
        if shared := files.text(f"{at}/shared_cpu_list"):
            found.add(shared)
    return max(1, len(found))


def choose_cores(files: Files, allowed: Iterable[int], count: int) -> list[int]:
    """Return `count` processors of those that are allowed, each of a core of its own; all where that fails.

    Where the system does not tell which processors share a core, each is taken for one.
    """
    cores: dict[str, int] = {}
    for processor in sorted(allowed):
        listed = files.text(f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        cores.setdefault(listed or str(processor), processor)
    chosen = list(cores.values())[:count]
    return chosen if len(chosen) == count else sorted(allowed)


def caches() -> dict[str, int]:
    """Return the bytes of each cache as the first processor sees it that this process may run on."""
    return read_caches(Files(), min(os.sched_getaffinity(0)))
