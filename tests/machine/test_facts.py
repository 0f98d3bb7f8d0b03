"""What is read of a machine once, for plans to be made from."""

from __future__ import annotations

import pytest
from made_machines import MIB, SMALL

from harness.gpu import probe
from harness.machine import resources
from harness.machine.facts import read_machine
from harness.records.facts import DeviceFacts


def test_the_facts_are_read_once_and_a_gpu_where_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Processors, caches and memory are this machine's; asking a GPU takes seconds, so the CPU does not."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 4, 5})
    monkeypatch.setattr(resources, "caches", lambda: {"L2": MIB})
    monkeypatch.setattr(resources, "available_memory_bytes", lambda: 5 * MIB)
    found = probe.Found(facts=DeviceFacts(name="Fake 1"))
    asked: list[str] = []
    monkeypatch.setattr(probe, "find_cuda", lambda: asked.append("gpu") or found)
    machine = read_machine(device="cpu", missing_providers={"mkl": "not here"})
    assert (machine.cores, machine.caches, machine.available_bytes) == (3, {"L2": MIB}, 5 * MIB)
    assert machine.isas[-1] == "generic"
    assert machine.missing_providers == {"mkl": "not here"}
    assert machine.gpu.facts is None
    assert machine.gpu.reason
    assert asked == []
    assert read_machine(device="cuda", missing_providers={}).gpu is found


def test_the_last_level_is_the_largest_cache() -> None:
    """The last level is the largest cache there is, and 0 where none is told."""
    assert SMALL.last_level_bytes() == SMALL.caches["L3"]
    assert read_machine(device="cpu", missing_providers={}).last_level_bytes() >= 0
