"""Own the clock of a CUDA device: passes between two events on the current stream, hot, cold or replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.gpu.device import DeviceClock
from harness.machine.disturbance import read_disturbance
from harness.measure import clock

Pass = Callable[[], object]

# A replay is launched like a kernel: passes that are shorter than this share one graph, so that what is
# timed is the layer among others in a captured model, not the launch of its graph.
_REPLAY_NS = 200_000
_MAX_PASSES_OF_GRAPH = 64
# The last wait and a driver's hiccup stay below this.
_BLIND_NS = 5_000_000
# A flush costs about as much as a short pass: a sample of cold passes takes no more than these.
_FLUSHED_PASSES = 200
_FLUSH_NS = 50_000


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
    flushed: whether every pass is timed alone, from a flushed L2.
    """

    device: DeviceClock
    calls: tuple[Pass, ...]
    each: int = 1
    flushed: bool = False

    def __call__(self, loops: int) -> int:
        """Return the device's time of some passes, in ns."""
        return self.measure(loops).device_ns

    def measure(self, loops: int) -> Timing:
        """Return the device's and the host's time of some passes."""
        if loops < 1 or loops % self.each:
            raise ValueError(f"loops must be a multiple of {self.each}, got {loops}")
        return (self._alone if self.flushed else self._back_to_back)(loops // self.each)

    def _back_to_back(self, calls: int) -> Timing:
        """Time passes as one interval between two events.

        The wait before the start empties the stream, so that nothing older is timed; the time is read
        behind a wait for the stop.
        """
        device = self.device
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

    def _alone(self, calls: int) -> Timing:
        """Time each pass alone, the L2 flushed before it and outside of its events, and sum the times.

        While the flush runs, the pass behind it is launched: its events see no launch. The wall time is
        taken from passes of its own, each behind a flush that was waited for.
        """
        device = self.device
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

    def captured(self, pass_ns: float) -> DeviceTimer:
        """Return the timer of the same passes replayed from a graph.

        pass_ns: about how long a pass takes; short ones share a graph, in whole rounds of the sets. Passes
        that are timed alone have a graph each.

        Raises CaptureError where the passes can't be captured.
        """
        if self.flushed:
            graphs = tuple(self.device.capture(_round([call])) for call in self.calls)
            return replace(self, calls=graphs)
        sets = len(self.calls)
        rounds = int(_REPLAY_NS // max(1.0, pass_ns * sets))
        rounds = max(1, min(rounds, _MAX_PASSES_OF_GRAPH // sets))
        graph = self.device.capture(_round([*self.calls] * rounds))
        return replace(self, calls=(graph,), each=sets * rounds)


def _round(calls: Sequence[Pass]) -> Callable[[], None]:
    def run() -> None:
        for call in calls:
            call()

    return run


def flushed_loops(pass_ns: float, min_sample_ns: int) -> int:
    """Return the passes of a sample of cold ones; few, since each costs a flush and two waits beside it."""
    return max(1, min(_FLUSHED_PASSES, int(min_sample_ns / max(pass_ns, _FLUSH_NS))))


def require_seen(timing: Timing) -> None:
    """Refuse a clock that is blind: its events are on another stream than the work.

    Passes back to back fill the time between the events, launches and all: the host can't wait for them
    much longer than the device says that they took. Raises ValueError.
    """
    if timing.wall_ns - timing.device_ns > _BLIND_NS and timing.wall_ns > 2 * timing.device_ns:
        raise ValueError(
            f"the events saw {timing.device_ns / 1e6:.3g} ms of {timing.wall_ns / 1e6:.3g} ms: the passes "
            "launch on another stream than the one that is current when they are called"
        )


def sample(timer: DeviceTimer, loops: int, expected_ns: float) -> clock.Sample:
    """Take one sample: the disturbances are those of the host, the state that of the device.

    The state is read before the first launch and behind the wait for the last, never in between: the reading
    would stand in the wall time. Throttling at either end marks the sample.
    expected_ns: about how long one pass takes; short ones are run before, untimed, as on the CPU.
    """
    if warming := clock.count_warming(expected_ns):
        timer(-(-warming // timer.each) * timer.each)
    device, before = timer.device, read_disturbance()
    earlier = device.read_state()
    taken = timer.measure(loops)
    state = device.read_state()
    disturbed: dict[str, Any] = read_disturbance().since(before)
    states = [s for s in (earlier, state) if s is not None]
    return clock.Sample(
        loops=loops, elapsed_ns=taken.device_ns, wall_ns=taken.wall_ns,
        sm_clock_mhz=state.sm_clock_mhz if state else 0, power_w=state.power_w if state else 0.0,
        throttle=tuple(dict.fromkeys(name for s in states for name in s.throttle)), **disturbed,
    )  # fmt: skip


def make_timer(device: DeviceClock) -> Callable[..., DeviceTimer]:
    """Return what makes a timer of passes for this device: a context's `timer`."""

    def timer(*passes: Pass) -> DeviceTimer:
        return DeviceTimer(device, passes)

    return timer
