"""Own what a device is to the harness: memory, events on its stream, and what it says of its own state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from harness.problem.problem import Array
from harness.records.facts import DeviceFacts

# A buffer of exactly the L2's size leaves some of what was there before: its replacement is not strictly by
# age, its halves may hold a line twice, and it may hold zeros in less room than they take.
_FLUSH_FACTOR = 2
_LEAST_FLUSH_BYTES = 256 << 20
_ASSUMED_L2_BYTES = 64 << 20


def flush_bytes(l2_bytes: int) -> int:
    """Return the size of the memset that empties an L2. l2_bytes: its own, 0 where that is not told."""
    return max(_LEAST_FLUSH_BYTES, _FLUSH_FACTOR * (l2_bytes or _ASSUMED_L2_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """Hold what a device tells of one moment. throttle: what holds its clock down, empty for nothing."""

    sm_clock_mhz: int
    power_w: float
    throttle: tuple[str, ...] = ()


class Event(Protocol):
    """Mark a point of a stream. Its time is known once the device has passed it."""

    def record(self) -> None:
        """Queue the mark on the stream that is current now."""

    def is_passed(self) -> bool:
        """Say whether the device has passed the mark by now, without a wait."""

    def elapsed_ns(self, later: Any) -> float:
        """Return the time on the device from this mark to a later one of the same kind.

        Both must have been passed: `DeviceClock.synchronise` comes before.
        """


class DeviceClock(Protocol):
    """What timing needs of a device. Launches are queued; only `synchronise` waits for them."""

    def make_event(self) -> Event:
        """Return a fresh event."""

    def host_ns(self) -> int:
        """Read the host's clock."""

    def synchronise(self) -> None:
        """Wait until everything that was queued is done."""

    def flush(self) -> None:
        """Queue a memset that pushes everything older out of the L2 cache."""

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """Capture what `run` launches as one graph and return what replays it.

        Raises CaptureError where it can't be captured.
        """

    def read_state(self) -> DeviceState | None:
        """Return the clock, the power and what throttles now; None where the driver does not tell."""

    def read_held(self) -> Mapping[str, int]:
        """Return for how many ns each cause has held the clock down so far; empty where it is not told."""


class CaptureError(RuntimeError):
    """Say why launches can't be captured as a graph."""


class Device(DeviceClock, Protocol):
    """A device with its memory. Two things meet this: torch's CUDA device, and that of the tests."""

    facts: DeviceFacts

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return a contiguous tensor whose bytes are not set. Raises MemoryError naming what is free."""

    def fill(self, tensor: Any, byte: int) -> None:
        """Set every byte of a tensor of bytes."""

    def write(self, tensor: Any, array: Array) -> None:
        """Copy a host array into a tensor of its shape and dtype."""

    def read(self, tensor: Any, array: Array) -> None:
        """Copy a tensor into a host array of its shape and dtype, once what was queued is done."""

    def free_bytes(self) -> int:
        """Return the memory that new tensors can have."""

    def set_math(self, math: str) -> None:
        """Choose how float32 products are computed from here on: `ieee`, or `tf32` on tensor cores."""
