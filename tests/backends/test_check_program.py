"""The C program that checks the kernels without Python and BLAS, here and for AArch64 in an emulator."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import native
from native import build_native

ROOT = Path(__file__).parents[2]
CROSS, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Name a processor, its instruction sets, the words of a compiler for it, what its programs are started
    with, and flags behind the build's own.
    """

    machine: str
    isas: list[str]
    compiler: tuple[str, ...]
    start: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


CC = tuple(shlex.split(os.environ.get("CC") or "cc"))
# A processor of neither family has the generic code alone.
UNKNOWN = Target(machine="unknown", isas=["generic"], compiler=CC)
# What the build's own optimisation makes of the kernels here is what the conformance suite runs.
HERE = Target(machine=platform.machine(), isas=native.isas(), compiler=CC, flags=("-Og",))
TARGETS = [
    pytest.param(UNKNOWN, id=UNKNOWN.machine, marks=pytest.mark.slow),
    pytest.param(HERE, id=HERE.machine, marks=pytest.mark.slow),
]
# No test is skipped where the tools are missing: the ledger of skipped tests would call that a fault.
# `.ci/run` installs them where it may.
if platform.machine() != "aarch64" and shutil.which(CROSS) and shutil.which(EMULATOR):
    libraries = ("-L", "/usr/aarch64-linux-gnu")
    emulated = Target(
        machine="aarch64", isas=["neon", "generic"], compiler=(CROSS,), start=(EMULATOR, *libraries)
    )
    TARGETS.append(pytest.param(emulated, id=emulated.machine, marks=pytest.mark.slow))


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Return the outcome of a command with its output."""
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def build(target: Target, folder: Path) -> Path:
    """Return the program for a target: the build's own sources, macros and flags, and the check's."""
    macros = [f"-D{name}={value}" for name, value in build_native.macros(target.machine)]
    flags = [*build_native.FLAGS, "-Werror", *macros, "-Inative/include", "-Inative"]
    flags += target.flags
    own = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "native" / "check").glob("*.c"))]

    def compile_one(source: str) -> str:
        made = str(folder / source.replace("/", "_")) + ".o"
        own_flags = build_native.flags_for(source)
        done = run(*target.compiler, *flags, *own_flags, "-c", source, "-o", made)
        assert done.returncode == 0, done.stderr
        return made

    with ThreadPoolExecutor(max_workers=2) as pool:
        objects = list(pool.map(compile_one, [*build_native.sources(target.machine), *own]))
    program = folder / "check_kernels"
    done = run(*target.compiler, *objects, "-lm", "-lpthread", "-o", str(program))
    assert done.returncode == 0, done.stderr
    return program


def _tell(command: list[str], *words: str) -> tuple[int, str, int, int]:
    """Return the program's status, what it printed, and how many problems and faults it counted."""
    done = run(*command, *words)
    assert done.stdout, done.stderr
    last = done.stdout.splitlines()[-1]
    found = re.fullmatch(r"(\d+) problems, (\d+) faults, (\d+) near-ties left out", last)
    assert found, done.stdout + done.stderr
    assert int(found[3]) < int(found[1])
    return done.returncode, done.stdout, int(found[1]), int(found[2])


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_agrees_with_the_truth(target: Target, tmp_path: Path) -> None:
    """Every kernel of a layer is right under every instruction set of the target, at every shape; and each
    pass is found at fault whose output, guard or input was spoiled behind it.

    One test, since the program is built for it, which takes the longest.
    """
    command = [*target.start, str(build(target, tmp_path))]
    status, told, problems, faults = _tell(command)
    assert (status, faults) == (0, 0), told
    assert problems > 50
    assert re.findall(r"^instruction set (\w+)$", told, re.MULTILINE) == target.isas
    for what in ("value", "unwritten", "guard", "input"):
        status, told, problems, faults = _tell(command, "spoil", what)
        assert (what, status) == (what, 1)
        assert faults == problems > 0, told


def test_family_of_an_unknown_processor() -> None:
    """A processor of neither family gets the generic code alone, and no macro."""
    assert build_native.macros("riscv64") == []
    isas = [s for s in build_native.sources("riscv64") if Path(s).parent.name == "isa"]
    assert [Path(s).name for s in isas] == ["generic.c"]
    assert ("FFK_HAVE_NEON", "1") in build_native.macros("ARM64")
