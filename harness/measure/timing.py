"""Own how a prepared cell is timed in a measuring process: by the host's clock, or by a device's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter_ns
from typing import Protocol

from harness.backends.registry import Prepared
from harness.gpu.device import Device
from harness.measure import clock, gpu_clock, locality
from harness.measure.clock import Calibration
from harness.measure.gpu_clock import DeviceTimer


class Timing(Protocol):
    """Calibrate and sample what was prepared. `loops` are passes of one sample."""

    def watched(self, prepared: Prepared) -> Prepared:
        """Return the preparation with a clock that can be believed.

        Raises TypeError where it brings one of its own to a device.
        """

    def calibrate(self, prepared: Prepared, min_sample_ns: int) -> Calibration:
        """Return the loops that make a sample long enough; this is the warm-up too."""

    def flushed(
        self, prepared: Prepared, min_sample_ns: int, caches: Mapping[str, int], threads: int
    ) -> tuple[Prepared, Calibration]:
        """Return the preparation with every pass timed alone from flushed caches, and its loops.

        caches: bytes of those of the host's cores, empty where the system does not tell. threads: of a pass.
        """

    def captured(self, prepared: Prepared, *, flushed: bool) -> Prepared:
        """Return the preparation with its passes replayed from a graph. Raises CaptureError."""

    def sample(self, prepared: Prepared, loops: int, expected_ns: float) -> clock.Sample:
        """Take one sample. expected_ns: about how long a pass takes."""


class HostTiming:
    """Time passes by the host's clock."""

    def __init__(self, wall_ns: Callable[[], int] = perf_counter_ns) -> None:
        """Begin without a flusher: its buffer is twice the last-level cache. wall_ns: the host's clock."""
        self._flusher: locality.Flusher | None = None
        self._wall_ns = wall_ns

    def watched(self, prepared: Prepared) -> Prepared:
        """Return the preparation with its timer compared with the wall clock around each call."""
        return replace(prepared, time=clock.watch(prepared.time, self._wall_ns))

    def calibrate(self, prepared: Prepared, min_sample_ns: int) -> Calibration:
        """Return the loops that make a sample long enough; this is the warm-up too."""
        return clock.calibrate(prepared.time, min_sample_ns)

    def flushed(
        self, prepared: Prepared, min_sample_ns: int, caches: Mapping[str, int], threads: int
    ) -> tuple[Prepared, Calibration]:
        """Return the preparation with every pass timed alone from flushed caches, and its loops."""
        if self._flusher is None:
            self._flusher = locality.Flusher.make(max(caches.values(), default=0), threads)
        time = self._flusher.singles(prepared.time)
        pass_ns = max(1.0, time(2) / 2)
        notes = {**prepared.notes, "weights": self._flusher.note(pass_ns)}
        loops = locality.flushed_loops(pass_ns, min_sample_ns)
        found = Calibration(loops=loops, pass_ns=pass_ns)
        return replace(prepared, time=time, notes=notes), found

    def captured(self, prepared: Prepared, *, flushed: bool) -> Prepared:
        """Refuse: there are no graphs on the host."""
        raise ValueError("graphs are a device's: the host has none")

    def sample(self, prepared: Prepared, loops: int, expected_ns: float) -> clock.Sample:
        """Take one sample. expected_ns: about how long a pass takes."""
        return clock.sample(prepared.time, loops, expected_ns)


class DeviceTiming:
    """Time passes by the events of a device."""

    def __init__(self, device: Device) -> None:
        """Time on this device."""
        self._device = device

    def watched(self, prepared: Prepared) -> Prepared:
        """Return the preparation: its timer must be the device's."""
        return replace(prepared, time=self._timer(prepared))

    def _timer(self, prepared: Prepared) -> DeviceTimer:
        if not isinstance(prepared.time, DeviceTimer):
            raise TypeError("on a device the time of a pass comes from the context's `timer`")
        return prepared.time

    def calibrate(self, prepared: Prepared, min_sample_ns: int) -> Calibration:
        """Return the loops that make a sample long enough, and see that the events are not blind."""
        timer = self._timer(prepared)
        timer.watch()
        found = clock.calibrate(lambda n: timer(n * timer.each), min_sample_ns)
        loops = locality.rotate_loops(found.loops * timer.each, prepared.sets)
        return Calibration(loops=loops, pass_ns=found.pass_ns / timer.each)

    def flushed(
        self, prepared: Prepared, min_sample_ns: int, caches: Mapping[str, int], threads: int
    ) -> tuple[Prepared, Calibration]:
        """Return the preparation with every pass timed alone from a flushed L2, and its loops."""
        timer = replace(self._timer(prepared), flushed=True)
        timer.watch()
        pass_ns = timer.estimate_ns()
        loops = gpu_clock.flushed_loops(pass_ns, min_sample_ns)
        notes = {**prepared.notes, "weights": "the L2 flushed by a memset before each pass"}
        found = Calibration(loops=loops, pass_ns=pass_ns)
        return replace(prepared, time=timer, notes=notes), found

    def captured(self, prepared: Prepared, *, flushed: bool) -> Prepared:
        """Return the preparation with its passes replayed from a graph. Raises CaptureError."""
        timer = self._timer(prepared)
        graph = replace(timer, flushed=flushed).captured(timer.estimate_ns())
        notes = {**prepared.notes, "launch": f"graph of {graph.each} passes"}
        sets = max(graph.each, prepared.sets)
        return replace(prepared, time=graph, notes=notes, sets=sets)

    def sample(self, prepared: Prepared, loops: int, expected_ns: float) -> clock.Sample:
        """Take one sample. expected_ns: about how long a pass takes."""
        return gpu_clock.sample(self._timer(prepared), loops, expected_ns)
