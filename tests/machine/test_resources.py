"""What a machine has to give, read from the files of made-up systems."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_system import write_tree

from harness.machine import resources
from harness.machine.resources import Files

KIB, MIB = 1 << 10, 1 << 20


def _write_cache(root: Path, processor: int, index: int, **facts: str) -> None:
    folder = root / f"sys/devices/system/cpu/cpu{processor}/cache/index{index}"
    folder.mkdir(parents=True)
    for name, text in facts.items():
        (folder / name).write_text(text + "\n", encoding="ascii")


def _write_processor(root: Path, processor: int, l2: str, l3: str) -> None:
    _write_cache(root, processor, 0, level="1", type="Data", size="48K")
    _write_cache(root, processor, 1, level="1", type="Instruction", size="64K")
    _write_cache(root, processor, 2, level="2", type="Unified", size=l2)
    _write_cache(root, processor, 3, level="3", type="Unified", size=l3)


def test_caches_are_those_of_the_processor(tmp_path: Path) -> None:
    """Where processors differ, the caches are those of the one that was asked about."""
    _write_processor(tmp_path, 0, "2048K", "491520K")
    _write_processor(tmp_path, 7, "4096K", "32768K")
    files = Files(tmp_path)
    large = {"L1d": 48 * KIB, "L2": 2 * MIB, "L3": 480 * MIB}
    assert resources.read_caches(files, 0) == large
    assert resources.read_caches(files, 7) == {"L1d": 48 * KIB, "L2": 4 * MIB, "L3": 32 * MIB}


def test_this_process_reads_the_caches_of_a_processor_it_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that is bound to some processors is told of one of them, not of the first there is."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {5, 3})
    monkeypatch.setattr(resources, "read_caches", lambda _, processor: {"L2": processor})
    assert resources.caches() == {"L2": 3}


@pytest.mark.parametrize(
    "told",
    [{"level": "1", "type": "Data"}, {"level": "1"}, {"type": "Data", "size": "32K"}, {},
     {"level": "1", "type": "Data", "size": ""}, {"level": "1", "type": "Data", "size": "unknown"}],
)  # fmt: skip
def test_a_cache_that_is_told_in_part_is_left_out(tmp_path: Path, told: dict[str, str]) -> None:
    """A guest may have a cache's level and type and not its size: that is a cache of unknown size."""
    _write_cache(tmp_path, 0, 0, **told)
    _write_cache(tmp_path, 0, 2, level="2", type="Unified", size="512K")
    assert resources.read_caches(Files(tmp_path), 0) == {"L2": 512 * KIB}


def test_a_system_without_files_tells_no_caches(tmp_path: Path) -> None:
    """Without /sys there are no sizes, and no error."""
    assert resources.read_caches(Files(tmp_path), 0) == {}


def test_last_level_caches_are_counted_among_the_processors_that_may_be_used(
    tmp_path: Path,
) -> None:
    """Processors that share a last cache have one between them; where sharing is not told there is one."""
    for processor, shared in enumerate(("0-1", "0-1", "2-3", "2-3")):
        _write_cache(
            tmp_path, processor, 2, level="2", type="Unified", shared_cpu_list=str(processor)
        )
        _write_cache(tmp_path, processor, 3, level="3", type="Unified", shared_cpu_list=shared)
    files = Files(tmp_path)
    assert resources.count_last_level(files, {0, 1, 2, 3}) == 2
    assert resources.count_last_level(files, {2, 3}) == 1
    assert resources.count_last_level(Files(tmp_path / "empty"), {0, 1}) == 1


GROUP = "proc/self/cgroup"


def _write(root: Path, files: dict[str, str]) -> Files:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n", encoding="ascii")
    return Files(root)


@pytest.mark.parametrize(
    ("limits", "available"),
    [
        ({}, 4000),
        ({GROUP: "0::/a/b", "sys/fs/cgroup/a/memory.max": "921600",
          "sys/fs/cgroup/a/memory.current": "409600",
          "sys/fs/cgroup/a/memory.stat": "anon 204800\ninactive_file 102400",
          "sys/fs/cgroup/a/b/memory.max": "max"}, 600),
        ({GROUP: "4:memory:/x", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "614400",
          "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "307200",
          "sys/fs/cgroup/memory/x/memory.stat": "inactive_file 0\ntotal_inactive_file 204800"}, 500),
        ({GROUP: "0::/", "sys/fs/cgroup/memory.max": "1024", "sys/fs/cgroup/memory.current": "9999"}, 0),
        ({GROUP: "0::/", "sys/fs/cgroup/memory.max": "7168000"}, 4000),
    ],
    ids=["no limit", "of the parent", "version 1", "used up", "beyond what is free"],
)  # fmt: skip
def test_available_memory_is_within_the_containers_limit(
    tmp_path: Path, limits: dict[str, str], available: int
) -> None:
    """A limit counts less what its group holds, but for file pages that the kernel would give up first."""
    told = {"proc/meminfo": "MemTotal: 8000 kB\nMemAvailable: 4000 kB"}
    assert resources.read_available_memory(_write(tmp_path, {**told, **limits})) == available * KIB


def test_a_sweep_is_pinned_to_cores_of_its_own(tmp_path: Path) -> None:
    """Of each core one processor is taken, of those that are allowed; all are where the cores are too few."""
    at = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    files = write_tree(tmp_path, {at.format(n): f"{n // 2 * 2}-{n // 2 * 2 + 1}" for n in range(8)})
    assert resources.choose_cores(files, range(8), 3) == [0, 2, 4]
    assert resources.choose_cores(files, [1, 5, 4, 7], 3) == [1, 4, 7]
    assert resources.choose_cores(files, [0, 1, 2], 3) == [0, 1, 2]
    assert resources.choose_cores(write_tree(tmp_path / "untold", {}), [3, 1], 1) == [1]
