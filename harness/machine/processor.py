"""Own what the processor says of itself: its name and its vector extensions."""

from __future__ import annotations

import platform
import re

from harness.machine.resources import Files

# Of the flags of x86 and the features of Arm: vectors, matrix units, fused and narrow arithmetic.
_VECTORS = re.compile(
    r"avx|fma|f16c|s?sse\d|amx|asimd|s[mv]e(?!p)|neon|vfp|bf16|i8mm|fp(hp)?$|fcma"
)

# By the implementer and part that /proc/cpuinfo has, as the kernel's arch/arm64/include/asm/cputype.h and
# util-linux's lscpu name them: an Arm processor doesn't say its name itself.
_IMPLEMENTERS = {
    0x41: "Arm", 0x42: "Broadcom", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA",
    0x50: "APM", 0x51: "Qualcomm", 0x53: "Samsung", 0x61: "Apple", 0x6D: "Microsoft", 0x70: "Phytium",
    0xC0: "Ampere",
}  # fmt: skip
_PARTS = {
    (0x41, 0xD03): "Cortex-A53", (0x41, 0xD04): "Cortex-A35", (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57", (0x41, 0xD08): "Cortex-A72", (0x41, 0xD09): "Cortex-A73",
    (0x41, 0xD0A): "Cortex-A75", (0x41, 0xD0B): "Cortex-A76", (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77", (0x41, 0xD40): "Neoverse-V1", (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE", (0x41, 0xD44): "Cortex-X1", (0x41, 0xD46): "Cortex-A510",
    (0x41, 0xD47): "Cortex-A710", (0x41, 0xD48): "Cortex-X2", (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4A): "Neoverse-E1", (0x41, 0xD4B): "Cortex-A78C", (0x41, 0xD4C): "Cortex-X1C",
    (0x41, 0xD4D): "Cortex-A715", (0x41, 0xD4E): "Cortex-X3", (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD80): "Cortex-A520", (0x41, 0xD81): "Cortex-A720", (0x41, 0xD82): "Cortex-X4",
    (0x41, 0xD83): "Neoverse-V3AE", (0x41, 0xD84): "Neoverse-V3", (0x41, 0xD85): "Cortex-X925",
    (0x41, 0xD87): "Cortex-A725", (0x41, 0xD8E): "Neoverse-N3", (0x43, 0x0A1): "ThunderX",
    (0x43, 0x0AF): "ThunderX2", (0x46, 0x001): "A64FX", (0x48, 0xD01): "TSV110",
    (0x51, 0x001): "Oryon", (0x51, 0xC00): "Falkor",
    (0x61, 0x022): "M1-Icestorm", (0x61, 0x023): "M1-Firestorm", (0x61, 0x032): "M2-Blizzard",
    (0x61, 0x033): "M2-Avalanche", (0x6D, 0xD49): "Azure-Cobalt-100", (0xC0, 0xAC3): "Ampere-1",
    (0xC0, 0xAC4): "Ampere-1a",
}  # fmt: skip


def _read_blocks(files: Files) -> list[dict[str, str]]:
    """Return the fields of each processor in /proc/cpuinfo."""
    blocks = []
    for text in files.text("proc/cpuinfo").split("\n\n"):
        pairs = (line.partition(":") for line in text.splitlines())
        blocks.append({name.strip(): value.strip() for name, _, value in pairs if name.strip()})
    return [block for block in blocks if block]


def read_isa(files: Files) -> list[str]:
    """Return the vector extensions that all processors report, sorted; empty where none are told."""
    told = [
        {f for f in f"{b.get('flags', '')} {b.get('Features', '')}".split() if _VECTORS.match(f)}
        for b in _read_blocks(files)
        if "flags" in b or "Features" in b
    ]
    return sorted(set.intersection(*told)) if told else []


def _name_of_part(block: dict[str, str]) -> str:
    """Return the name of an Arm core, empty for a block that says neither implementer nor part."""
    try:
        implementer, part = (int(block[f"CPU {field}"], 16) for field in ("implementer", "part"))
    except (KeyError, ValueError):
        return ""
    who = _IMPLEMENTERS.get(implementer, f"implementer {implementer:#04x}")
    return _PARTS.get((implementer, part), f"{who} part {part:#05x}")


def read_name(files: Files) -> str:
    """Return the processor's name; family and model tell the generation where a hypervisor hides it.

    An Arm machine is called by its cores: Neoverse-V1, or Cortex-A55 and Cortex-A76.
    """
    blocks = _read_blocks(files)
    if cores := sorted({_name_of_part(block) for block in blocks} - {""}):
        return " and ".join(cores)
    first = blocks[0] if blocks else {}
    name = first.get("model name") or platform.processor()
    family, model = first.get("cpu family"), first.get("model")
    return f"{name}, family {family} model {model}" if family and model else name


def read_cores(files: Files) -> dict[int, str]:
    """Return the name of each processor's core by its number, where an Arm processor tells its part."""
    blocks = [b for b in _read_blocks(files) if b.get("processor", "").isdigit()]
    named = {int(block["processor"]): _name_of_part(block) for block in blocks}
    return {number: name for number, name in named.items() if name}
