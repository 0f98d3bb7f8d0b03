"""Own the clock of a CUDA device: passes between two events on the current stream, hot, cold or replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.device import DeviceClock

Pass = Callable[[], object]

# A replay is launched like a kernel: passes that are shorter than this share one graph, so that what is
# timed is the layer among others in a captured model, not the launch of its graph.
_REPLAY_NS = 200_000
_MAX_PASSES_OF_GRAPH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Hold the time of some passes: on the device, between events, and on the host.

    wall_ns: from before the first launch to after the wait for the last: launches included.
    """

    device_ns: int
    wall_ns: int


@dataclass(frozen=True, slots=True)
class DeviceTimer:
    """Time passes that launch on the current stream; several passes (sets of weights) come in turn.

    each: passes that one call of `calls` makes; more than one where it replays a graph.
    """

    device: DeviceClock
    calls: tuple[Pass, ...]
    each: int = 1

    def __call__(self, loops: int) -> int:
        """Return the device's time of some passes, in ns."""
        return self.measure(loops).device_ns

    def _calls_of(self, loops: int) -> int:
        if loops < 1 or loops % self.each:
            raise ValueError(f"loops must be a multiple of {self.each}, got {loops}")
        return loops // self.each

    def measure(self, loops: int) -> Timing:
        """Time passes back to back, as one interval between two events.

        The wait before the start empties the stream, so that nothing older is timed; the time is read
        behind a wait for the stop.
        """
        calls, device = self._calls_of(loops), self.device
        start, stop = device.make_event(), device.make_event()
        device.synchronise()
        began = device.host_ns()
        start.record()
        for i in range(calls):
            self.calls[i % len(self.calls)]()
        stop.record()
        device.synchronise()
        wall_ns = device.host_ns() - began
        return Timing(device_ns=round(start.elapsed_ns(stop)), wall_ns=wall_ns)

    def measure_flushed(self, loops: int) -> Timing:
        """Time each pass alone, the L2 flushed before it and outside of its events, and sum the times.

        While the flush runs, the pass behind it is launched: its events see no launch. The wall time is
        taken from passes of its own, each behind a flush that was waited for.
        """
        calls, device = self._calls_of(loops), self.device
        pairs = [(device.make_event(), device.make_event()) for _ in range(calls)]
        device.synchronise()
        for i, (start, stop) in enumerate(pairs):
            device.flush()
            start.record()
            self.calls[i % len(self.calls)]()
            stop.record()
        device.synchronise()
        device_ns = sum(start.elapsed_ns(stop) for start, stop in pairs)
        wall_ns = 0
        for i in range(calls):
            device.flush()
            device.synchronise()
            began = device.host_ns()
            self.calls[i % len(self.calls)]()
            device.synchronise()
            wall_ns += device.host_ns() - began
        return Timing(device_ns=round(device_ns), wall_ns=wall_ns)

    def captured(self, pass_ns: float, *, alone: bool = False) -> DeviceTimer:
        """Return the timer of the same passes replayed from one graph.

        pass_ns: about how long a pass takes; short ones share a graph, in whole rounds of the sets.
        alone: one pass in each graph, for passes that are timed one by one.

        Raises CaptureError where the passes can't be captured.
        """
        if alone:
            graphs = tuple(self.device.capture(_round([call])) for call in self.calls)
            return DeviceTimer(self.device, graphs)
        sets = len(self.calls)
        rounds = int(_REPLAY_NS // max(1.0, pass_ns * sets))
        rounds = max(1, min(rounds, _MAX_PASSES_OF_GRAPH // sets))
        graph = self.device.capture(_round([*self.calls] * rounds))
        return DeviceTimer(self.device, (graph,), each=sets * rounds)


def _round(calls: Sequence[Pass]) -> Callable[[], None]:
    def run() -> None:
        for call in calls:
            call()

    return run


def make_timer(device: DeviceClock) -> Callable[..., DeviceTimer]:
    """Return what makes a timer of passes for this device: a context's `timer`."""

    def timer(*passes: Pass) -> DeviceTimer:
        return DeviceTimer(device, passes)

    return timer
