"""Describe the compiled extension `harness._native` to cffi: its sources, flags and declarations."""

from __future__ import annotations

import os
import platform
import shlex
import sysconfig
from pathlib import Path

from cffi import FFI

NATIVE = Path(__file__).resolve().parent
ROOT = NATIVE.parent

# -fno-math-errno and -fno-trapping-math let clamps and selections vectorise; never -ffast-math: at
# link time it makes gcc turn flush-to-zero on for the whole process.
FLAGS = (
    "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O3", "-ffp-contract=fast", "-fno-math-errno",
    "-fno-trapping-math", "-Wall", "-Wextra",
)  # fmt: skip

# What names the families of processors that have instruction sets of their own here.
_FAMILIES = {"x86_64": "x86", "amd64": "x86", "aarch64": "neon", "arm64": "neon"}
_ISAS = {
    "x86": ("generic.c", "avx2.c", "avx512.c", "avx512_bf16.c"),
    "neon": ("generic.c", "neon.c"),
}

_AVX512 = (
    "-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mprefer-vector-width=512",
)  # fmt: skip

# One object per instruction set, by file name; gcc prefers 256-bit vectors for AVX-512 unless told.
ISA_FLAGS = {
    "generic.c": (),
    "neon.c": (),
    "avx2.c": ("-mavx2", "-mfma"),
    "avx512.c": _AVX512,
    "avx512_bf16.c": (*_AVX512, "-mavx512bf16"),
}


def target() -> str:
    """Return the machine that is compiled for: this one, or another that a cross build names to Python.

    `_PYTHON_HOST_PLATFORM=linux-aarch64` does so, as for Python's own cross builds.
    """
    system, _, machine = sysconfig.get_platform().partition("-")
    return machine if system == "linux" else platform.machine()


def family(machine: str = target()) -> str:
    """Return the family of a processor by its machine's name, empty for one of neither."""
    return _FAMILIES.get(machine.lower(), "")


def macros(machine: str = target()) -> list[tuple[str, str]]:
    """Return what tells the sources which instruction sets a target has."""
    found = family(machine)
    return [(f"FFK_HAVE_{found.upper()}", "1")] if found else []


def sources(machine: str = target()) -> list[str]:
    """List the C sources for a target, relative to the project's root."""
    isas = _ISAS.get(family(machine), ("generic.c",))
    found = [NATIVE / "isa" / name for name in isas]
    for folder in (
        "table",
        "threads",
        "ff",
        "fff",
        "leaf",
        "hash",
        "experts",
        "ceilings",
        "ladder",
    ):
        found.extend(sorted((NATIVE / folder).glob("*.c")))
    return [str(path.relative_to(ROOT)) for path in found]


def flags_for(source: str) -> list[str]:
    """Return the further flags of one source: those of its instruction set."""
    path = Path(source)
    return list(ISA_FLAGS.get(path.name, ())) if path.parent.name == "isa" else []


def make_ffi() -> FFI:
    """Return the builder that setuptools runs through `cffi_modules`."""
    flags = [*FLAGS, *shlex.split(os.environ.get("FFK_CFLAGS", ""))]
    ffi = FFI()
    ffi.cdef((NATIVE / "ffk.cdef.txt").read_text(encoding="ascii"))
    headers = [
        *NATIVE.rglob("*.h"),
        *NATIVE.rglob("*.inc"),
        NATIVE / "ffk.cdef.txt",
        NATIVE / "build_native.py",
        NATIVE / "build_record.py",
    ]
    ffi.set_source(
        "harness._native",
        '#include "ffk.h"\n'
        '#include "isa/ieee.h"\n'
        '#include "table/addresses.h"\n'
        '#include "threads/pool.h"\n'
        "#ifdef __clang__\n"
        "#define FFK_COMPILER __VERSION__\n"
        "#else\n"
        '#define FFK_COMPILER "gcc " __VERSION__\n'
        "#endif\n"
        "static const ffk_api ffk_own_api = FFK_API;\n"
        "static const ffk_api *ffk_build_api(void) { return &ffk_own_api; }\n"
        "static const char *ffk_build_compiler(void) { return FFK_COMPILER; }\n"
        "static const char *ffk_build_record(void) { return FFK_BUILD_RECORD; }\n",
        sources=sources(),
        include_dirs=["native/include", "native"],
        define_macros=[
            *macros()
        ],  # FFK_BUILD_RECORD follows when the compiler's own flags are known
        extra_compile_args=flags,
        libraries=["m", "pthread"],
        extra_link_args=shlex.split(os.environ.get("FFK_LDFLAGS", "")),
        depends=[str(path.relative_to(ROOT)) for path in headers],
    )
    return ffi


ffibuilder = make_ffi()
