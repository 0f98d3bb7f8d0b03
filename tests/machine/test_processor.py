"""What a processor says of itself, on made-up machines."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_system import write_tree

from harness.machine import processor
from harness.machine.resources import Files

ZEN5 = (
    "processor : 0\nvendor_id : AuthenticAMD\ncpu family : 26\nmodel : 2\nmodel name : AMD EPYC\n"
    "flags : fpu sse smep smap sse4_1 avx avx2 fma avx512f avx512_bf16 avx512_vnni avx_vnni hypervisor"
)


def _arm(*parts: str, features: str = "fp asimd sve") -> str:
    return "\n\n".join(
        f"processor : {n}\nFeatures : {features}\nCPU implementer : {part[:4]}\nCPU part : {part[5:]}"
        for n, part in enumerate(parts)
    )


def test_isa_is_what_the_processor_reports(tmp_path: Path) -> None:
    """Every vector extension among the flags is told, bfloat16's too, and nothing else."""
    files = write_tree(tmp_path, {"proc/cpuinfo": ZEN5})
    assert processor.read_isa(files) == [
        "avx", "avx2", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "fma", "sse4_1",
    ]  # fmt: skip
    arm = write_tree(
        tmp_path, {"proc/cpuinfo": _arm("0x41 0xd40", features="fp aes asimd sve sme2 bf16 i8mm")}
    )
    assert processor.read_isa(arm) == ["asimd", "bf16", "fp", "i8mm", "sme2", "sve"]
    assert processor.read_isa(Files(tmp_path / "empty")) == []


def test_isa_is_what_all_cores_have(tmp_path: Path) -> None:
    """Where the cores differ, an extension counts that each has."""
    text = "processor : 0\nflags : avx avx512f\n\nprocessor : 1\nflags : avx"
    assert processor.read_isa(write_tree(tmp_path, {"proc/cpuinfo": text})) == ["avx"]


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (ZEN5, "AMD EPYC, family 26 model 2"),
        (_arm("0x41 0xd40", "0x41 0xd40"), "Neoverse-V1"),
        (_arm("0x41 0xd0b", "0x41 0xd05"), "Cortex-A55 and Cortex-A76"),
        (_arm("0xc0 0xac3"), "Ampere-1"),
        (_arm("0x41 0xeee"), "Arm part 0xeee"),
        (_arm("0x99 0x001"), "implementer 0x99 part 0x001"),
        (_arm("0x4g 0x001"), "as the interpreter says"),
        ("", "as the interpreter says"),
    ],
)  # fmt: skip
def test_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, name: str) -> None:
    """x86 says its name, Arm an implementer and a part; an unknown part is told by its numbers."""
    monkeypatch.setattr("platform.processor", lambda: "as the interpreter says")
    assert processor.read_name(write_tree(tmp_path, {"proc/cpuinfo": cpuinfo})) == name
