"""Own what the driver tells of a GPU while it is measured: its clock, its power and what throttles it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.gpu.device import DeviceState

# Bits of nvml.h's clocks event reasons that hold the clock below what was asked for. Idle (0x1), and clocks
# that a user set (0x2, 0x100), are no throttling.
_THROTTLES = {
    0x04: "power cap", 0x08: "hardware slowdown", 0x10: "sync boost", 0x20: "heat, by the driver",
    0x40: "heat, by the hardware", 0x80: "power brake",
}  # fmt: skip
# Policies of nvml.h whose violations are added up; the others are of what a user set, or of too little work.
_POLICIES = {0: "power cap", 1: "heat", 2: "sync boost", 3: "board limit", 5: "reliability"}


def name_throttles(mask: int) -> tuple[str, ...]:
    """Return what a mask of clocks event reasons says that slows the device down; empty for nothing."""
    return tuple(name for bit, name in _THROTTLES.items() if mask & bit)


@dataclass(frozen=True, slots=True)
class Meter:
    """Read one GPU through NVML."""

    nvml: Any
    handle: Any

    def read(self) -> DeviceState | None:
        """Return the state of this moment; None where the driver does not tell it."""
        try:
            clock = self.nvml.nvmlDeviceGetClockInfo(self.handle, self.nvml.NVML_CLOCK_SM)
            milliwatts = self.nvml.nvmlDeviceGetPowerUsage(self.handle)
            mask = self.nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self.handle)
        except self.nvml.NVMLError:
            return None
        return DeviceState(
            sm_clock_mhz=int(clock), power_w=milliwatts / 1000, throttle=name_throttles(int(mask))
        )

    def read_driver(self) -> str:
        """Return the driver's version, empty where it is not told."""
        try:
            return str(self.nvml.nvmlSystemGetDriverVersion())
        except self.nvml.NVMLError:
            return ""

    def read_held(self) -> dict[str, int]:
        """Return for how many ns each cause has held the clock down since the driver was loaded.

        Unlike the reasons of a moment, it does not forget when the GPU idles. Causes of which the driver
        does not tell are left out.
        """
        found = {}
        for policy, cause in _POLICIES.items():
            try:
                told = self.nvml.nvmlDeviceGetViolationStatus(self.handle, policy)
            except self.nvml.NVMLError:
                continue
            found[cause] = int(told.violationTime)
        return found


def open_meter(uuid: str) -> tuple[Meter | None, str]:
    """Return the meter of a GPU by its UUID, or None and why there is none.

    By UUID, since NVML numbers all GPUs and CUDA only those that CUDA_VISIBLE_DEVICES leaves.
    """
    try:
        import pynvml
    except ImportError:
        return None, "nvidia-ml-py is not installed (pip install 'fff-harness[cuda]')"
    name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    try:
        pynvml.nvmlInit()
        meter = Meter(pynvml, pynvml.nvmlDeviceGetHandleByUUID(name))
    except pynvml.NVMLError as error:
        return None, f"NVML does not answer: {error}"
    return meter, "" if meter.read() else "NVML does not tell clock, power and throttle reasons"
