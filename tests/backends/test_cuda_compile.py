"""The CUDA kernels compile for the GPUs that matter, with NVRTC and without a GPU, and use what they used."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import cuda_resources
import pytest
from cuda_resources import ARCHITECTURES, Resources

from harness.backends import cuda_compile
from harness.backends.cuda_launch import KERNELS
from harness.errors import UnavailableError

ROOT = Path(__file__).parents[2]
_REASON = cuda_compile.unavailable()
needs_nvrtc = pytest.mark.skipif(bool(_REASON), reason=_REASON)

_LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a_any' for 'sm_90'
ptxas info    : Function properties for a_any
ptxas         .     16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 16 bytes cumulative stack size, 64 bytes smem
ptxas info    : Compile time = 1.0 ms
ptxas info    : Compiling entry function 'b' for 'sm_80'
ptxas info    : Function properties for b
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 400 bytes cmem[0]
"""


def test_reads_the_compilers_log() -> None:
    """Registers, shared memory, stack and spills of every entry are read from ptxas's own words."""
    assert cuda_resources.parse(_LOG) == {
        "a_any": Resources(registers=128, shared_bytes=64, stack_bytes=16, spill_bytes=20),
        "b": Resources(registers=32, shared_bytes=0, stack_bytes=0, spill_bytes=0),
    }


_USED = Resources(registers=100, shared_bytes=64, stack_bytes=0, spill_bytes=0)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (replace(_USED, registers=108), ""),
        (replace(_USED, registers=60), ""),
        (replace(_USED, registers=109), "109 registers, 100 in the golden file"),
        (replace(_USED, spill_bytes=4), "spills 4 bytes"),
        (replace(_USED, stack_bytes=8), "8 bytes of stack"),
        (replace(_USED, shared_bytes=68), "68 bytes of shared memory"),
    ],
)  # fmt: skip
def test_tolerance_of_the_golden_file(changed: Resources, says: str) -> None:
    """A few more registers pass; spills, a stack frame and other shared memory do not."""
    fault = cuda_resources.find_fault(changed, _USED)
    assert says in fault
    assert bool(fault) == bool(says)
    other = cuda_resources.find_fault(changed, _USED, same_compiler=False)
    assert other == ("" if "registers" in says else fault)


class _Status(int):
    """Stand in for a status of the bindings: a number with a name."""

    name = "NVRTC_ERROR"


def test_nvrtc_is_asked_for_its_version_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the version is needed, the library tells it once; where it failed it is asked again."""
    answers = [(_Status(1), 0, 0), (_Status(0), 13, 0), (_Status(0), 13, 1)]
    nvrtc = SimpleNamespace(nvrtcVersion=lambda: answers.pop(0))
    monkeypatch.setattr(cuda_compile, "nvrtc", lambda: nvrtc)
    cuda_compile.nvrtc_version.cache_clear()
    with pytest.raises(UnavailableError, match="NVRTC: NVRTC_ERROR"):
        cuda_compile.nvrtc_version()
    assert [cuda_compile.nvrtc_version() for _ in range(3)] == ["13.0"] * 3
    assert len(answers) == 1
    cuda_compile.nvrtc_version.cache_clear()


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("kernel_id", KERNELS)
def test_compiles_within_its_resources(kernel_id: str, arch: str) -> None:
    """Every entry that can be launched compiles, spills nothing and keeps to its golden resources.

    One that the golden file does not know yet is held to no spill and no stack.
    """
    compiled = cuda_compile.compile_source(cuda_compile.read_source(kernel_id), arch)
    assert compiled.image[:4] == b"\x7fELF"
    used = cuda_resources.parse(compiled.log)
    assert sorted(used) == sorted(KERNELS[kernel_id].entries)
    golden, same = cuda_resources.read(), cuda_compile.nvrtc_version() == cuda_resources.compiler()
    faults = {}
    for name, r in used.items():
        held_to = golden[name][arch] if name in golden else replace(r, stack_bytes=0, spill_bytes=0)
        faults[name] = cuda_resources.find_fault(r, held_to, same_compiler=same)
    assert not any(faults.values()), faults


def test_registers_allow_the_occupancy_of_the_header() -> None:
    """Two blocks of the fused kernel fit the 65536 registers of a multiprocessor on every architecture."""
    for name, by_arch in cuda_resources.read().items():
        if name.startswith("fff_cuda_fused"):
            assert all(2 * 256 * r.registers <= 65536 for r in by_arch.values()), name


@needs_nvrtc
def test_a_kernel_that_begins_to_spill_fails() -> None:
    """A fused kernel that is bound to half its registers spills, and the golden file says so."""
    source = cuda_compile.read_source("fff_cuda_fused")
    crowded = replace(
        source, text=source.text.replace("__launch_bounds__(THREADS, 2)", "__launch_bounds__(512, 2)")
    )  # fmt: skip
    assert crowded != source
    used = cuda_resources.parse(cuda_compile.compile_source(crowded, "sm_90").log)
    name = "fff_cuda_fused_float32_aligned"
    assert "spills" in cuda_resources.find_fault(used[name], cuda_resources.read()[name]["sm_90"])


def test_golden_file_names_entries_that_are_there() -> None:
    """The golden file holds entries that can be launched, for each architecture, without a spill."""
    golden = cuda_resources.read()
    assert set(golden) <= {e for kernel in KERNELS.values() for e in kernel.entries}
    for by_arch in golden.values():
        assert tuple(by_arch) == ARCHITECTURES
        assert all(r.spill_bytes == r.stack_bytes == 0 for r in by_arch.values())


# ---- the cache ----------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put a compiler in NVRTC's place that notes what it compiles."""
    done: list[str] = []

    def compile_source(source: cuda_compile.Source, arch: str) -> cuda_compile.Compiled:
        done.append(arch)
        return cuda_compile.Compiled(image=f"{source.text} {arch}".encode(), log="")

    monkeypatch.setattr(cuda_compile, "compile_source", compile_source)
    monkeypatch.setattr(cuda_compile, "nvrtc_version", lambda: "13.0")
    return done


_SOURCE = cuda_compile.Source(name="k.cu", text="k", headers={"h.cuh": "h"})


def test_compiled_once(counted: list[str], tmp_path: Path) -> None:
    """A source is compiled once for an architecture, and read from the folder after that."""
    folder = tmp_path / "deep" / "cache"
    images = [cuda_compile.cached_image(_SOURCE, "sm_80", folder) for _ in range(2)]
    assert images == [b"k sm_80"] * 2
    assert counted == ["sm_80"]
    assert len(list(folder.iterdir())) == 1


def test_compiled_anew_for_what_matters(
    counted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another architecture, source, header, option or NVRTC is another cubin."""
    headers = {"h.cuh": "changed"}
    for source in (_SOURCE, replace(_SOURCE, text="l"), replace(_SOURCE, headers=headers)):
        for arch in ("sm_80", "sm_90"):
            cuda_compile.cached_image(source, arch, tmp_path)
    monkeypatch.setattr(cuda_compile, "nvrtc_version", lambda: "13.1")
    cuda_compile.cached_image(_SOURCE, "sm_80", tmp_path)
    monkeypatch.setattr(cuda_compile, "OPTIONS", (*cuda_compile.OPTIONS, "-lineinfo"))
    cuda_compile.cached_image(_SOURCE, "sm_80", tmp_path)
    assert len(counted) == 8


def test_folder_that_cannot_be_written(counted: list[str], tmp_path: Path) -> None:
    """Where nothing can be kept, the cubin is compiled and returned all the same."""
    occupied = tmp_path / "file"
    occupied.touch()
    assert cuda_compile.cached_image(_SOURCE, "sm_80", occupied) == b"k sm_80"


def test_nothing_is_left_of_a_cubin_that_could_not_be_kept(
    counted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk costs a compilation a process, and no file of which nobody knows what it is."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    monkeypatch.setattr("os.replace", fail)
    assert cuda_compile.cached_image(_SOURCE, "sm_80", tmp_path) == b"k sm_80"
    assert list(tmp_path.iterdir()) == []


# ---- what is missing ----------------------------------------------------------------------------


def test_missing_bindings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cuda-bindings the reason is one line that says what to install."""
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert cuda_compile.unavailable() == "needs cuda-bindings: pip install 'fff-harness[cuda]'"


@needs_nvrtc
def test_source_that_does_not_compile() -> None:
    """The compiler's first error is named in one line, with the file and the architecture."""
    broken = cuda_compile.Source(name="broken.cu", text="\nint x = ;\n", headers={})
    with pytest.raises(
        UnavailableError, match=r"broken.cu does not compile for sm_90: .*error"
    ) as e:
        cuda_compile.compile_source(broken, "sm_90")
    assert len(str(e.value).splitlines()) == 1


@needs_nvrtc
def test_unknown_architecture() -> None:
    """An architecture that this NVRTC does not know is named in one line."""
    with pytest.raises(UnavailableError, match="sm_999"):
        cuda_compile.compile_source(cuda_compile.read_source("ff_cuda_naive"), "sm_999")


# ---- the sources --------------------------------------------------------------------------------


def test_every_source_has_its_kernel() -> None:
    """Each `.cu` is a known kernel and each kernel has its `.cu`."""
    assert sorted(p.stem for p in cuda_compile.source_folder().glob("*.cu")) == sorted(KERNELS)


def test_an_installed_package_holds_the_sources(tmp_path: Path) -> None:
    """A build puts the kernels and their headers beside the modules, where an installation looks first."""
    pytest.importorskip("setuptools", "77", reason="the build's own requirement")
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shipped = {p.name: p.read_bytes() for p in (tmp_path / "harness" / "cuda").iterdir()}
    assert shipped == {p.name: p.read_bytes() for p in (ROOT / "native" / "cuda").iterdir()}


def test_golden_file_is_as_its_tool_writes_it() -> None:
    """The golden file is what the tool would write for the same resources, byte for byte."""
    text = cuda_resources.PATH.read_text(encoding="ascii")
    held = json.loads(text)
    golden = cuda_resources.read()
    plain = {n: {a: asdict(r) for a, r in by.items()} for n, by in golden.items()}
    assert held == {"nvrtc": held["nvrtc"], "entries": plain}
    assert text == cuda_resources.format_golden(held["nvrtc"], golden)


def test_cubins_stand_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cubins are kept where the user's system keeps what can be made again."""
    pytest.importorskip("platformdirs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cuda_compile.cache_folder() == tmp_path / "fff-harness" / "cuda"
