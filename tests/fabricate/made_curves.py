"""Make up what reading working sets shows on machines whose caches are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from fabricated_runs import Fake
from made_machines import GIB, KIB, MIB

from harness.analysis.analysis import Analysis, analyse
from harness.machine import caches
from harness.records.facts import ReadRate
from harness.records.reader import load_run

SETS = [size for power in range(18, 31) for size in (1 << power, 3 << (power - 1))]


def make_curve(
    levels: Sequence[tuple[int, float]], memory_gbs: float = 14.0, *, most: int = GIB,
    noise: float = 0.0, seed: int = 0,
) -> list[ReadRate]:  # fmt: skip
    """Return the curve of caches of (bytes of all threads together, GB/s), the fastest first.

    A set beyond a cache finds less and less of itself there, nothing from twice the cache on. noise: a share
    by which disturbances slow a point at most.
    """
    rng = np.random.default_rng(seed)

    def ns_a_byte(size: int, places: Sequence[tuple[int, float]]) -> float:
        if not places:
            return 1 / memory_gbs
        (held, gbs), *slower = places
        inside = min(1.0, max(0.0, 2 - size / held))
        return inside / gbs + (1 - inside) * ns_a_byte(size, slower)

    return [
        ReadRate(set_bytes=size, gbs=(1 - noise * rng.random()) / ns_a_byte(size, levels))
        for size in SETS
        if size <= most
    ]


L2, L3 = (MIB, 60.0), (32 * MIB, 30.0)
TOLD = {"L1d": 32 * KIB, "L2": MIB, "L3": 32 * MIB}
VIRTUAL = {**TOLD, "L3": 480 * MIB}


def analyse_walk(folder: Path, told: Mapping[str, int], threads: int = 1) -> Analysis:
    """Return the analysis of a run that began with a walk on a machine whose last level holds 32 MiB."""
    curve = make_curve([(threads * L2[0], L2[1]), L3])
    walk = caches.find_effective(told, curve, threads=threads, last_level_caches=1, seconds=3.0)
    machine = {"caches": dict(told), "cache_walk": walk.model_dump()}
    return analyse(load_run(Fake(machine=machine, threads=threads).write(folder)))
