"""Own what the CUDA kernels use of a multiprocessor: read from the compiler, kept in a golden file.

python tests/fabricate/cuda_resources.py      renew the file, after a change that is meant
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.backends import cuda_compile
from harness.backends.cuda_launch import KERNELS

PATH = Path(__file__).parents[1] / "data" / "cuda_resources.json"
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
_MORE_REGISTERS = 8  # the granule in which a warp gets them


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Hold what one entry uses: registers and stack of a thread, shared memory of a block, spilled bytes."""

    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_bytes: int


_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_NUMBERS = {
    "registers": re.compile(r"Used (\d+) registers"),
    "shared_bytes": re.compile(r"(\d+) bytes smem"),
    "stack_bytes": re.compile(r"(\d+) bytes stack frame"),
    "spill_bytes": re.compile(r"(\d+) bytes spill (?:stores|loads)"),
}


def parse(log: str) -> dict[str, Resources]:
    """Return the resources of each entry that a log of `ptxas -v` tells of."""
    parts = _ENTRY.split(log)[1:]
    return {
        name: Resources(
            **{what: sum(map(int, found.findall(text))) for what, found in _NUMBERS.items()}
        )
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


def find_fault(used: Resources, golden: Resources, *, same_compiler: bool = True) -> str:
    """Return in what an entry uses more than it may, or an empty string.

    Spills are never allowed; registers are compared where the same compiler has coloured them.
    """
    if used.spill_bytes > golden.spill_bytes:
        return f"spills {used.spill_bytes} bytes, {golden.spill_bytes} in the golden file"
    if used.stack_bytes > golden.stack_bytes:
        return f"{used.stack_bytes} bytes of stack, {golden.stack_bytes} in the golden file"
    if used.shared_bytes != golden.shared_bytes:
        return (
            f"{used.shared_bytes} bytes of shared memory, {golden.shared_bytes} in the golden file"
        )
    if same_compiler and used.registers > golden.registers + _MORE_REGISTERS:
        return f"{used.registers} registers, {golden.registers} in the golden file"
    return ""


Golden = dict[str, dict[str, Resources]]


def compiler() -> str:
    """Return the version of NVRTC that made the golden file."""
    return str(json.loads(PATH.read_text(encoding="ascii"))["nvrtc"])


def read() -> Golden:
    """Return the golden resources by entry and architecture."""
    held = json.loads(PATH.read_text(encoding="ascii"))["entries"]
    return {
        name: {arch: Resources(**numbers) for arch, numbers in by_arch.items()}
        for name, by_arch in held.items()
    }


def format_golden(nvrtc: str, golden: Golden) -> str:
    """Return the golden file's text: one line for each entry and architecture."""
    lines = [f'{{\n "nvrtc": {json.dumps(nvrtc)},\n "entries": {{']
    for i, (name, by_arch) in enumerate(golden.items()):
        rows = [f"   {json.dumps(arch)}: {json.dumps(asdict(r))}" for arch, r in by_arch.items()]
        comma = "," if i + 1 < len(golden) else ""
        lines.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(rows) + "}" + comma)
    return "\n".join(lines) + "\n }\n}\n"


def main() -> None:
    """Compile every kernel for every architecture and write the golden file."""
    golden: Golden = {entry: {} for kernel in KERNELS.values() for entry in kernel.entries}
    for kernel_id in KERNELS:
        for arch in ARCHITECTURES:
            log = cuda_compile.compile_source(cuda_compile.read_source(kernel_id), arch).log
            for name, resources in parse(log).items():
                golden[name][arch] = resources
    PATH.write_text(format_golden(cuda_compile.nvrtc_version(), golden), encoding="ascii")


if __name__ == "__main__":
    main()
