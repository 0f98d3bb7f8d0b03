"""Own the compilation of the CUDA kernels: their sources, NVRTC with its options, cubins kept on disk.

Nothing here needs a GPU or its driver: NVRTC is a library like any other.
"""

from __future__ import annotations

import hashlib
import importlib.util
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.backends import sources
from harness.errors import UnavailableError
from harness.gpu.compilers import nvrtc
from harness.records.files import write_whole

OPTIONS = ("--std=c++17", "--ptxas-options=-v")
INSTALL = "pip install 'fff-harness[cuda]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Hold a kernel's source and the headers beside it, by name."""

    name: str
    text: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """Hold what NVRTC made of a source: the cubin, and the log, in which ptxas tells of its resources."""

    image: bytes
    log: str


def source_folder() -> Path:
    """Return the folder of the `.cu` files. Raises UnavailableError where the installation lacks them."""
    return sources.find_folder("cuda", "*.cu")


def read_source(kernel_id: str) -> Source:
    """Return a kernel's source with all headers of its folder."""
    folder = source_folder()
    headers = {p.name: p.read_text(encoding="ascii") for p in sorted(folder.glob("*.cuh"))}
    path = folder / f"{kernel_id}.cu"
    return Source(name=path.name, text=path.read_text(encoding="ascii"), headers=headers)


def _ok(result: tuple[Any, ...]) -> Any:
    """Return what an NVRTC call gave behind its status. Raises UnavailableError where it failed."""
    status, *values = result
    if int(status):
        raise UnavailableError(f"NVRTC: {status.name}")
    return values[0] if values else None


def unavailable() -> str:
    """Return why nothing can be compiled here, in one line, or an empty string."""
    try:
        found = importlib.util.find_spec("cuda.bindings")
    except ModuleNotFoundError:  # not even `cuda` is there
        found = None
    if found is None:
        return f"needs cuda-bindings: {INSTALL}"
    try:
        nvrtc_version()
    # The bindings look for the library on its first use, and have an exception of their own for none.
    except RuntimeError as error:
        return f"needs NVRTC: {INSTALL} ({str(error).splitlines()[0]})"
    return ""


@cache
def nvrtc_version() -> str:
    """Return NVRTC's version, like "13.0". Raises RuntimeError where there is no such library."""
    status, major, minor = nvrtc().nvrtcVersion()
    _ok((status,))
    return f"{major}.{minor}"


def compile_source(source: Source, arch: str) -> Compiled:
    """Compile a source for an architecture like "sm_90".

    Raises UnavailableError with the compiler's first error where it does not compile.
    """
    compiler = nvrtc()
    headers = [text.encode("ascii") for text in source.headers.values()]
    names = [name.encode("ascii") for name in source.headers]
    program = _ok(
        compiler.nvrtcCreateProgram(
            source.text.encode("ascii"), source.name.encode("ascii"), len(names), headers, names
        )
    )
    try:
        options = [o.encode("ascii") for o in (f"--gpu-architecture={arch}", *OPTIONS)]
        (status,) = compiler.nvrtcCompileProgram(program, len(options), options)
        log = bytearray(_ok(compiler.nvrtcGetProgramLogSize(program)))
        _ok(compiler.nvrtcGetProgramLog(program, log))
        text = log.rstrip(b"\0").decode("utf-8", "replace")
        if int(status):
            errors = [line for line in text.splitlines() if "error" in line] or [status.name]
            raise UnavailableError(f"{source.name} does not compile for {arch}: {errors[0]}")
        image = bytearray(_ok(compiler.nvrtcGetCUBINSize(program)))
        _ok(compiler.nvrtcGetCUBIN(program, image))
    finally:
        compiler.nvrtcDestroyProgram(program)
    return Compiled(image=bytes(image), log=text)


def cache_folder() -> Path:
    """Return the user's folder for what is compiled once and kept."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("fff-harness")) / "cuda"


def _key(source: Source, arch: str) -> str:
    digest = hashlib.sha256()
    parts = [arch, nvrtc_version(), *OPTIONS, source.name, source.text]
    for part in [*parts, *(text for header in source.headers.items() for text in header)]:
        digest.update(hashlib.sha256(part.encode("ascii")).digest())
    return digest.hexdigest()


def cached_image(source: Source, arch: str, folder: Path) -> bytes:
    """Return the cubin of a source, from the folder where it stands there, else compiled and put there.

    Its name hashes the source with its headers, the architecture, the options and NVRTC's version. A folder
    that can't be written costs a compilation a process, nothing else.
    """
    path = folder / f"{source.name}-{arch}-{_key(source, arch)}.cubin"
    if path.is_file():
        return path.read_bytes()
    image = compile_source(source, arch).image
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, image)  # several processes may compile at once
    return image
