"""Own what the NVIDIA driver tells of the GPUs, asked through nvidia-smi; a driver that hangs is given up."""

from __future__ import annotations

import shutil
import subprocess

from harness.records.facts import GpuFacts

_GPU_TIMEOUT_S = 10.0
_GPU_FIELDS = (
    "name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "power.limit",
    "persistence_mode",
)  # fmt: skip
# The name that drivers before 535 know, and its successor.
_GPU_SLOWED = ("clocks_throttle_reasons.active", "clocks_event_reasons.active")


def _ask_driver() -> tuple[str, str]:
    """Return what nvidia-smi prints, or why it prints nothing."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return "", "none: there is no nvidia-smi, so no NVIDIA driver"
    reason = ""
    for slowed in _GPU_SLOWED:
        fields = ",".join((*_GPU_FIELDS, slowed))
        try:
            done = subprocess.run(
                [command, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
                capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "", f"nvidia-smi did not answer within {_GPU_TIMEOUT_S:.0f} s"
        except OSError as error:
            return "", f"nvidia-smi can't be run: {error.strerror}"
        if done.returncode == 0:
            return done.stdout, ""
        lines = (done.stdout + done.stderr).strip().splitlines()
        reason = f"nvidia-smi failed: {lines[0] if lines else f'exit status {done.returncode}'}"
        if "not a valid field" not in reason:
            break
    return "", reason


def parse_gpus(text: str) -> list[GpuFacts]:
    """Return the GPUs of nvidia-smi's CSV; a field that the driver does not tell reads as 0."""

    def number(field: str) -> float:
        try:
            return float(field)
        except ValueError:
            return 0.0

    found = []
    for line in text.strip().splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(_GPU_FIELDS) + 1:
            continue
        name, driver, memory, sm, sm_max, power, persistence, throttle = fields
        found.append(
            GpuFacts(
                name=name, driver=driver, memory_mib=int(number(memory)),
                sm_clock_mhz=int(number(sm)), sm_clock_max_mhz=int(number(sm_max)),
                power_limit_w=number(power), persistence=persistence, throttle_reasons=throttle,
            )
        )  # fmt: skip
    return found


def list_gpus() -> tuple[list[GpuFacts], str]:
    """Return the GPUs, and the reason where there is none."""
    text, reason = _ask_driver()
    found = parse_gpus(text)
    return found, reason or ("" if found else "none: the driver lists no GPU")
