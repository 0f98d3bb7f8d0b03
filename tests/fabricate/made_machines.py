"""Describe machines that are made up: what is planned must not hang on the one that the tests run on."""

from __future__ import annotations

from dataclasses import replace

from harness.machine.facts import Machine

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
X86_ISAS, ARM_ISAS = ("avx512", "avx2", "generic"), ("neon", "generic")

# Sets of a small machine are small: what is really measured on one takes little time and memory.
SMALL = Machine(
    cores=4, caches={"L1d": 32 * KIB, "L2": 128 * KIB, "L3": MIB}, available_bytes=8 * GIB,
    isas=X86_ISAS,
)  # fmt: skip
DESKTOP = replace(SMALL, caches={"L1d": 32 * KIB, "L2": MIB, "L3": 32 * MIB})

MACHINES = {
    "desktop": DESKTOP,
    "L3 of 480 MiB": replace(
        DESKTOP, caches={"L1d": 48 * KIB, "L2": 2 * MIB, "L3": 480 * MIB}, available_bytes=64 * GIB
    ),
    "two L3s": replace(DESKTOP, cores=16, last_level_caches=2),
    "nothing beyond L2": replace(DESKTOP, caches={"L1d": 64 * KIB, "L2": 512 * KIB}),
    "no sizes told": replace(DESKTOP, caches={}),
    "1 core": replace(DESKTOP, cores=1, available_bytes=4 * GIB),
    "256 cores": replace(DESKTOP, cores=256, last_level_caches=32, available_bytes=700 * GIB),
    "x86-64 without AVX-512": replace(DESKTOP, isas=("avx2", "generic")),
    "AArch64": replace(
        DESKTOP, cores=8, caches={"L1d": 64 * KIB, "L2": MIB, "L3": 32 * MIB}, isas=ARM_ISAS
    ),
}  # fmt: skip
