"""A device that keeps time: a queue with a clock, an L2 cache, memory and a throttle, without hardware.

Launches return at once and take effect when they are waited for, so that a clock or a gate that does not
wait shows. `log` holds what happened, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.gpu.device import CaptureError, DeviceState
from harness.problem.problem import Array
from harness.records.facts import DeviceFacts

LAUNCH_NS, SYNC_NS, FLUSH_NS = 5_000, 10_000, 50_000
QUIET = DeviceState(sm_clock_mhz=1800, power_w=200.0)


@dataclass(frozen=True, slots=True)
class FakeTensor:
    """Hold memory of the device: the host reads and writes it through the device alone."""

    memory: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the extents."""
        return self.memory.shape

    def __len__(self) -> int:
        """Return the first extent."""
        return len(self.memory)

    def __getitem__(self, tokens: slice) -> FakeTensor:
        """Return a view of some rows."""
        return FakeTensor(self.memory[tokens])

    def __array__(self, *_: Any, **__: Any) -> Array:
        """Refuse: the host can't read a device's memory."""
        raise TypeError("this memory is on the device")


@dataclass(eq=False)
class FakeEvent:
    """Mark a point of the queue."""

    device: FakeDevice
    at: float | None = None
    passed: bool = False

    def record(self) -> None:
        """Queue the mark on the current stream."""
        self.passed = False
        self.at = self.device.enqueue("record", 0.0)
        self.device.unpassed.append(self)

    def is_passed(self) -> bool:
        """Say whether the device's time has reached the mark."""
        return self.at is not None and self.device.now >= self.at

    def elapsed_ns(self, later: FakeEvent) -> float:
        """Return the time to a later event; both must have been waited for."""
        for event in (self, later):
            if event.at is None or not event.passed:
                raise RuntimeError("an event was read before the device had passed it")
        self.device.log.append("elapsed")
        return float(later.at) - float(self.at)  # type: ignore[arg-type]


@dataclass(kw_only=True)
class FakeDevice:
    """Keep the host's and the device's time in ns. capacity: bytes of memory."""

    capacity: int = 8 << 30
    now: float = 0.0
    streams: dict[str, float] = field(default_factory=lambda: {"main": 0.0})  # busy until
    current: str = "main"
    cold: bool = True
    math: str = "ieee"
    throttle: Callable[[float], DeviceState | None] = lambda now: QUIET
    held: Callable[[float], dict[str, int]] = lambda now: {}
    log: list[str] = field(default_factory=list)
    unpassed: list[FakeEvent] = field(default_factory=list)
    effects: list[Callable[[], None]] = field(default_factory=list)
    capturing: list[tuple[str, Callable[[bool], float], Callable[[], None]]] | None = None
    used: int = 0

    @property
    def facts(self) -> DeviceFacts:
        """Return what it is."""
        return DeviceFacts(
            name="Fake 1", capability="8.6", memory_bytes=self.capacity, free_bytes=self.free_bytes(),
            l2_bytes=1 << 20, multiprocessors=4, uuid="fake", torch="2.99", cuda="13.0",
            driver="580.1", nvrtc="13.1", triton="3.99",
        )  # fmt: skip

    # ---- the queue ----

    def enqueue(self, name: str, duration: float) -> float:
        """Queue work on the current stream; return when it ends."""
        self.log.append(name)
        if name != "record":
            self.now += LAUNCH_NS
        ends = max(self.now, self.streams[self.current]) + duration
        self.streams[self.current] = ends
        return ends

    def launch(
        self, name: str, hot_ns: float, cold_ns: float, effect: Callable[[], None] = lambda: None
    ) -> None:
        """Launch a kernel: it takes `cold_ns` where the L2 was flushed since the last, else `hot_ns`."""
        if self.capturing is not None:
            self.capturing.append((name, lambda cold: cold_ns if cold else hot_ns, effect))
            return
        self.enqueue(name, cold_ns if self.cold else hot_ns)
        self.cold = False
        self.effects.append(effect)

    @contextmanager
    def stream(self, name: str) -> Iterator[None]:
        """Make another stream the current one."""
        self.streams.setdefault(name, 0.0)
        before, self.current = self.current, name
        yield
        self.current = before

    # ---- the clock ----

    def make_event(self) -> FakeEvent:
        """Return an event."""
        return FakeEvent(self)

    def host_ns(self) -> int:
        """Read the host's clock."""
        return int(self.now)

    def synchronise(self) -> None:
        """Wait for all streams; queued effects happen."""
        if self.capturing is not None:
            raise CaptureError("a wait can't be captured")
        self.log.append("synchronise")
        self.now = max(self.now, *self.streams.values()) + SYNC_NS
        for event in self.unpassed:
            event.passed = True
        # A pass has the same effect each time: of many, only the last can be seen.
        for effect in reversed(dict.fromkeys(reversed(self.effects))):
            effect()
        self.unpassed, self.effects = [], []

    def flush(self) -> None:
        """Queue a memset of the L2's size."""
        self.enqueue("flush", FLUSH_NS)
        self.cold = True

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """Capture launches; a replay costs one launch."""
        self.log.append("capture")
        self.capturing = []
        try:
            run()
            graph = self.capturing
        finally:
            self.capturing = None
        if not graph:
            raise CaptureError("nothing was launched")

        def replay() -> None:
            durations = [duration(self.cold and i == 0) for i, (_, duration, _) in enumerate(graph)]
            self.enqueue("replay", sum(durations))
            self.cold = False
            self.effects.extend(effect for _, _, effect in graph)

        return replay

    def read_state(self) -> DeviceState | None:
        """Return the state of this moment."""
        self.log.append("state")
        return self.throttle(self.now)

    def read_held(self) -> dict[str, int]:
        """Return how long each cause has held the clock down."""
        return self.held(self.now)

    def is_busy(self) -> bool:
        """Say whether work is queued that the device is not through with."""
        return self.now < max(self.streams.values())

    # ---- memory ----

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FakeTensor:
        """Return memory that holds old bytes."""
        array = np.full(shape, 0x5A, np.uint8) if dtype == np.uint8 else np.full(shape, 7, dtype)
        if self.used + array.nbytes > self.capacity:
            raise MemoryError(f"{array.nbytes} bytes asked for, {self.free_bytes()} are free")
        self.used += array.nbytes
        return FakeTensor(array)

    def fill(self, tensor: FakeTensor, byte: int) -> None:
        """Set every byte, in the order of the queue."""
        self.effects.append(lambda: tensor.memory.fill(byte))

    def write(self, tensor: FakeTensor, array: Array) -> None:
        """Copy to the device, in the order of the queue."""
        held = array.copy()
        self.effects.append(lambda: np.copyto(tensor.memory, held))

    def read(self, tensor: FakeTensor, array: Array) -> None:
        """Copy to the host, once what was queued is done."""
        self.synchronise()
        np.copyto(array, tensor.memory)

    def free_bytes(self) -> int:
        """Return what is free."""
        return self.capacity - self.used

    def set_math(self, math: str) -> None:
        """Choose how float32 products are computed."""
        self.math = math
