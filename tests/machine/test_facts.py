"""What is read of a machine once, for plans to be made from."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_machines import KIB, MACHINES, MIB, SMALL

from harness.gpu import probe
from harness.machine.facts import read_machine
from harness.machine.resources import Files
from harness.records.facts import DeviceFacts


def test_the_facts_are_read_once_and_a_gpu_where_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Processors, caches and memory are this machine's; asking a GPU takes seconds, so the CPU does not."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 4, 5})
    told = {"sys/devices/system/cpu/cpu0/cache/index0": ("1", "Data", "16K"),
            "sys/devices/system/cpu/cpu1/cache/index0": ("1", "Data", "32K")}  # fmt: skip
    for folder, texts in told.items():
        (tmp_path / folder).mkdir(parents=True)
        for name, text in zip(("level", "type", "size"), texts, strict=True):
            (tmp_path / folder / name).write_text(text, encoding="ascii")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 5120 kB\n", encoding="ascii")
    files = Files(tmp_path)
    found = probe.Found(facts=DeviceFacts(name="Fake 1"))
    asked: list[str] = []
    monkeypatch.setattr(probe, "find_cuda", lambda: asked.append("gpu") or found)
    machine = read_machine(device="cpu", missing_providers={"mkl": "not here"}, files=files)
    assert (machine.cores, machine.caches, machine.available_bytes) == (
        3,
        {"L1d": 32 * KIB},
        5 * MIB,
    )
    assert machine.memory_limit_bytes is None
    assert machine.isas[-1] == "generic"
    assert machine.missing_providers == {"mkl": "not here"}
    assert machine.gpu.facts is None
    assert machine.gpu.reason
    assert asked == []
    assert read_machine(device="cuda", missing_providers={}, files=files).gpu is found


def test_a_system_without_files_is_a_machine(tmp_path: Path) -> None:
    """Where there is no /sys and no /proc, the facts are few and there is no error."""
    machine = read_machine(device="cpu", missing_providers={}, files=Files(tmp_path))
    assert (machine.caches, machine.last_level_bytes(), machine.memory_limit_bytes) == ({}, 0, None)


def test_the_last_level_is_the_largest_cache() -> None:
    """The last level is the largest cache there is, and 0 where none is told."""
    assert SMALL.last_level_bytes() == SMALL.caches["L3"]
    assert MACHINES["no sizes told"].last_level_bytes() == 0
