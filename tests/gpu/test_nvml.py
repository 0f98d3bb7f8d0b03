"""What the driver tells of a GPU, from a driver that is made up."""

from __future__ import annotations

import builtins
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from harness.gpu import nvml
from harness.gpu.device import DeviceState


class _Error(Exception):
    """Stand in for NVMLError."""


def _driver(asked: list[str], **changes: Any) -> SimpleNamespace:
    def handle(uuid: str) -> str:
        asked.append(uuid)
        return "handle"

    functions: dict[str, Any] = {
        "NVML_CLOCK_SM": 1, "NVMLError": _Error, "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": handle,
        "nvmlDeviceGetClockInfo": lambda handle, clock: 1410,
        "nvmlDeviceGetPowerUsage": lambda handle: 251_500,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 0x44,
        "nvmlDeviceGetViolationStatus": lambda handle, policy: SimpleNamespace(
            violationTime=1000 + policy, referenceTime=5
        ),
    }  # fmt: skip
    return SimpleNamespace(**{**functions, **changes})


def _fail(*_: Any) -> Any:
    raise _Error("Driver Not Loaded")


def test_state_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clock, power in watts and the named reasons are read from the GPU of that UUID."""
    asked: list[str] = []
    monkeypatch.setitem(sys.modules, "pynvml", _driver(asked))
    meter, reason = nvml.open_meter("ab-cd")
    assert (asked, reason) == (["GPU-ab-cd"], "")
    assert meter is not None
    assert meter.read() == DeviceState(
        sm_clock_mhz=1410, power_w=251.5, throttle=("power cap", "heat, by the hardware")
    )


@pytest.mark.parametrize("mask", [0x0, 0x1, 0x2, 0x100, 0x103])
def test_idle_and_chosen_clocks_do_not_throttle(mask: int) -> None:
    """A GPU that idles, or whose clock a user set, is not called throttled."""
    assert nvml.name_throttles(mask) == ()


def test_all_throttles_have_a_name() -> None:
    """Every bit that slows the device down has a name of its own."""
    names = [nvml.name_throttles(1 << bit) for bit in range(2, 8)]
    assert len({name for found in names for name in found}) == 6


def test_a_driver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where NVML fails there is no meter, and the reason is its own."""
    monkeypatch.setitem(sys.modules, "pynvml", _driver([], nvmlInit=_fail))
    assert nvml.open_meter("x") == (None, "NVML does not answer: Driver Not Loaded")


def test_a_state_that_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that hides its power reads as no state, not as zero, and says so at the start."""
    monkeypatch.setitem(sys.modules, "pynvml", _driver([], nvmlDeviceGetPowerUsage=_fail))
    meter, reason = nvml.open_meter("GPU-x")
    assert meter is not None
    assert meter.read() is None
    assert "does not tell" in reason


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nvidia-ml-py the reason names it and how it is installed."""
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    load = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "pynvml":
            raise ImportError(name)
        return load(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    meter, reason = nvml.open_meter("x")
    assert meter is None
    assert "nvidia-ml-py is not installed" in reason
    assert "fff-harness[cuda]" in reason


def test_what_held_the_clock_down_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of each cause is read; a cause that the driver does not tell of is left out."""
    monkeypatch.setitem(sys.modules, "pynvml", _driver([]))
    meter, _ = nvml.open_meter("x")
    assert meter is not None
    told = meter.read_held()
    assert told["power cap"] == 1000
    assert told["heat"] == 1001

    def only_power(handle: str, policy: int) -> SimpleNamespace:
        return SimpleNamespace(violationTime=3) if policy == 0 else _fail()

    monkeypatch.setitem(sys.modules, "pynvml", _driver([], nvmlDeviceGetViolationStatus=only_power))
    meter, _ = nvml.open_meter("x")
    assert meter is not None
    assert meter.read_held() == {"power cap": 3}
