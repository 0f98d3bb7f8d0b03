"""Describe the compiled extension `harness._native` to cffi: its sources, flags and declarations."""

from __future__ import annotations

import os
import platform
import shlex
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

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")

# One object per instruction set, by file name; gcc prefers 256-bit vectors for AVX-512 unless told.
ISA_FLAGS = {
    "generic.c": (),
    "avx2.c": ("-mavx2", "-mfma"),
    "avx512.c": (
        "-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mprefer-vector-width=512",
    ),
}  # fmt: skip


def sources() -> list[str]:
    """List the C sources for this target, relative to the project's root."""
    isas = [name for name in ISA_FLAGS if IS_X86 or name == "generic.c"]
    found = [NATIVE / name for name in ("table.c", "fpenv.c", "team.c")]
    found.extend(NATIVE / "isa" / name for name in isas)
    for folder in ("ff", "fff", "ceilings", "ladder"):
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
    ]
    ffi.set_source(
        "harness._native",
        '#include "ffk.h"\n'
        '#include "team_make.h"\n'
        "#ifdef __clang__\n"
        "#define FFK_COMPILER __VERSION__\n"
        "#else\n"
        '#define FFK_COMPILER "gcc " __VERSION__\n'
        "#endif\n"
        "static const char *ffk_build_compiler(void) { return FFK_COMPILER; }\n"
        "static const char *ffk_build_flags(void) { return FFK_BUILD_FLAGS; }\n",
        sources=sources(),
        include_dirs=["native/include", "native"],
        define_macros=[
            *([("FFK_HAVE_X86", "1")] if IS_X86 else []),
            ("FFK_BUILD_FLAGS", '"' + " ".join(flags).replace('"', "") + '"'),
        ],
        extra_compile_args=flags,
        libraries=["m", "pthread"],
        extra_link_args=shlex.split(os.environ.get("FFK_LDFLAGS", "")),
        depends=[str(path.relative_to(ROOT)) for path in headers],
    )
    return ffi


ffibuilder = make_ffi()
