"""Own the CUDA kernels on the CPU: build a source with the shim of `cuda_shim/`, launch it, answer as a case.

Each source becomes a program of its own under AddressSanitizer and UBSan. It is started once and gets its
launches through a pipe; every array lies in an allocation of its own there, so that a read or a write one
byte off ends it. A launch's threads run in an order that changes with every launch.
"""

from __future__ import annotations

import atexit
import os
import shutil
import struct
import subprocess
import tempfile
import time as clock
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import IO

import numpy as np

from harness.backends import cuda_compile, cuda_launch
from harness.backends.cuda_launch import Launch
from harness.backends.registry import Context, Implementation, Prepared
from harness.problem.operands import Operands
from harness.problem.problem import Array, Problem

FOLDER = Path(__file__).parent / "cuda_shim"
FLAGS = (
    "-std=c++17", "-O1", "-g1", f"-I{FOLDER}",
    "-fno-strict-aliasing",  # the GPU's compiler has no such rule, and 16-byte loads break it
)  # fmt: skip
SANITIZERS = (
    "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fsanitize-sections=shim_shared",
)  # fmt: skip
COMPILER = "g++"
TEAMS = (1, 2, 8)


class ShimFault(AssertionError):
    """Say what a launch did that it must not: what the shim or a sanitizer reported first."""


@cache
def unavailable() -> str:
    """Return why nothing can be built and run here, or an empty string."""
    if shutil.which(COMPILER) is None:
        return f"there is no {COMPILER}"
    folder = Path(tempfile.mkdtemp(dir=_scratch()))
    (folder / "main.cpp").write_text("int main() {}\n")
    done = subprocess.run(
        [COMPILER, *FLAGS, *SANITIZERS, "main.cpp", "-o", "program"], cwd=folder, env=_environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = done.stderr.strip().splitlines()
    return f"{COMPILER} can't build with sanitizers: {lines[-1]}" if done.returncode else ""


@cache
def _scratch() -> str:
    """Return a folder that goes with this process."""
    folder = tempfile.mkdtemp(prefix="cuda-shim-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _environment() -> dict[str, str]:
    """Return the environment without what concerns a sanitizer in this process: the program has its own."""
    ours = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS")
    return {name: value for name, value in os.environ.items() if name not in ours}


def _compile(folder: Path, *arguments: str | Path) -> None:
    subprocess.run([COMPILER, *FLAGS, *arguments], cwd=folder, env=_environment(), check=True)


@cache
def _objects(flags: tuple[str, ...]) -> tuple[Path, ...]:
    """Return the shim's own object files, compiled once."""
    folder = Path(tempfile.mkdtemp(dir=_scratch()))
    sources = [FOLDER / "fibers.cpp", FOLDER / "serve.cpp"]
    _compile(folder, *flags, "-c", *sources)
    return tuple(folder / f"{s.stem}.o" for s in sources)


def _write(folder: Path, kernels: list[tuple[cuda_compile.Source, tuple[str, ...]]]) -> None:
    """Write `main.cpp`: each source as it stands, in a namespace of its own, and the table of the entries."""
    included, table = "", ""
    for i, (source, entries) in enumerate(kernels):
        for name, text in {source.name: source.text, **source.headers}.items():
            (folder / name).write_text(text, encoding="ascii")
        included += f'namespace kernel{i} {{\n#include "{source.name}"\n}}\n'
        table += "".join(f"    SHIM_ENTRY(kernel{i}, {entry})\n" for entry in entries)
    (folder / "main.cpp").write_text(
        f'#include "shim.h"\n{included}extern const ShimEntry shim_entries[];\n'
        f"const ShimEntry shim_entries[] = {{\n{table}    {{nullptr, nullptr}}}};\n"
    )


def build(
    source: cuda_compile.Source, entries: tuple[str, ...], flags: tuple[str, ...] = ()
) -> Path:
    """Return the program of a source, which is compiled as it stands behind the shim's header."""
    folder = Path(tempfile.mkdtemp(dir=_scratch()))
    _write(folder, [(source, entries)])
    flags = (*SANITIZERS, *flags)
    _compile(folder, *flags, "main.cpp", *_objects(flags), "-o", "program")
    return folder / "program"


def build_driver() -> Path:
    """Return the folder of a `libcuda.so.1` that runs the launches of every kernel in the shim."""
    folder = Path(tempfile.mkdtemp(dir=_scratch()))
    _write(
        folder, [(cuda_compile.read_source(k.id), k.entries) for k in cuda_launch.KERNELS.values()]
    )
    sources = (FOLDER / "fibers.cpp", FOLDER / "driver.cpp")
    _compile(folder, "-shared", "-fPIC", "main.cpp", *sources, "-o", "libcuda.so.1")
    return folder


@dataclass(kw_only=True)
class Program:
    """Run launches of one built source; a program that ended is started again by the next."""

    path: Path
    orders: count[int] = field(default_factory=count)
    process: subprocess.Popen[bytes] | None = None
    report: IO[bytes] = field(default_factory=tempfile.TemporaryFile)

    def launch(self, launch: Launch, arrays: list[Array]) -> list[bytes]:
        """Return the bytes of the arrays after a launch. Raises ShimFault where it did what it must not."""
        if self.process is None:
            self.report.truncate(0)
            self.process = subprocess.Popen(
                [self.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.report,
                env=_environment(),
            )  # fmt: skip
            atexit.register(self.stop)
        order = next(self.orders)
        name = launch.entry.encode("ascii")
        sizes = (len(name), *launch.grid, launch.block, order, len(arrays), len(launch.extents))
        request = [struct.pack("<7i", *sizes), name]
        for array in arrays:
            request += [struct.pack("<q", array.nbytes), array.tobytes()]
        request.append(struct.pack(f"<{len(launch.extents)}i", *launch.extents))
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(request))
        self.process.stdin.flush()
        length = self._read(4)
        if length != bytes(4):
            text = self._read(*struct.unpack("<i", length)) if length else self._last_words()
            self.stop()
            raise ShimFault(text.decode("utf-8", "replace"))
        return [self._read(array.nbytes) for array in arrays]

    def _read(self, size: int) -> bytes:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.read(size)

    def _last_words(self) -> bytes:
        """Return the sanitizer's line of a program that has ended without an answer."""
        assert self.process is not None
        status = self.process.wait()
        self.report.seek(0)
        lines = self.report.read().splitlines()
        found = [line for line in lines if b"ERROR: " in line or b"runtime error: " in line]
        return found[0] if found else f"ended with status {status}".encode()

    def stop(self) -> None:
        """End the program."""
        if self.process is not None:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()
            self.process = None


def prepare_launch(
    program: Program, launch: Launch, problem: Problem, operands: Operands
) -> Prepared:
    """Return a preparation whose passes are launches in the program, on copies of the operands there."""

    def forward() -> None:
        arrays = [operands.x, operands.w_in, operands.w_out, operands.y]
        for array, after in zip(arrays, program.launch(launch, arrays), strict=True):
            array.view(np.uint8).reshape(-1)[...] = np.frombuffer(after, np.uint8)

    def time(loops: int) -> int:
        began = clock.monotonic_ns()
        for _ in range(loops):
            forward()
        return clock.monotonic_ns() - began

    return Prepared(forward=forward, time=time)


def plan(kernel: cuda_launch.Kernel, problem: Problem, team: int = 0) -> Launch:
    """Return a kernel's launch for a problem; team as in `make`."""
    aligned = cuda_launch.is_aligned(problem, ())  # the program's own copies are
    choose = cuda_launch.plan_fused if team else kernel.plan
    return choose(problem, aligned, team or 1)


def make(
    kernel: cuda_launch.Kernel, program: Callable[[], Program], team: int = 0
) -> Implementation:
    """Return an implementation that runs a kernel in a program; it is not registered.

    team: warps of a token where the kernel has a choice; 0 for the kernel's own on one multiprocessor.
    """

    def prepare(problem: Problem, operands: Operands, context: Context) -> Prepared:
        return prepare_launch(program(), plan(kernel, problem, team), problem, operands)

    return Implementation(
        id=f"{kernel.id}_shim" + (f"_team{team}" if team else ""), layer=kernel.layer, level=None,
        devices=("cpu",), summary=f"{kernel.id} on the CPU", prepare=prepare,
        workspace_bytes=lambda problem: 0, dtypes=kernel.dtypes,
    )  # fmt: skip


@cache
def program(kernel_id: str) -> Program:
    """Return a kernel's program, built once from the very file that the GPU gets."""
    source = cuda_compile.read_source(kernel_id)
    return Program(path=build(source, cuda_launch.KERNELS[kernel_id].entries))


def implementations() -> list[Implementation]:
    """Return every CUDA kernel, the fused one with one warp a token, several tokens a block, and one."""
    if unavailable():
        return []
    found = []
    for kernel in cuda_launch.KERNELS.values():
        teams = TEAMS if kernel.id == "fff_cuda_fused" else (0,)
        found += [make(kernel, partial(program, kernel.id), team) for team in teams]
    return found


def mutate(kernel_id: str, old: str, new: str, entry: str) -> Program:
    """Return the program of one entry of a kernel with a fault planted where `old` stands in its source or
    a header.
    """
    source = cuda_compile.read_source(kernel_id)
    texts = {source.name: source.text, **source.headers}
    hit = [name for name, text in texts.items() for _ in range(text.count(old))]
    if len(hit) != 1:
        raise AssertionError(f"{old!r} stands {len(hit)} times in {', '.join(texts)}")
    texts[hit[0]] = texts[hit[0]].replace(old, new)
    changed = replace(source, text=texts.pop(source.name), headers=texts)
    return Program(path=build(changed, (entry,)))
