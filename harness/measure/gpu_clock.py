"""Own the clock of a CUDA device: passes between two events on the current stream, hot, cold or replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.gpu.device import DeviceClock, DeviceState, Event
from harness.machine.disturbance import read_disturbance
from harness.measure import clock

Pass = Callable[[], object]

# A replay is launched like a kernel: passes that are shorter than this share one graph, so that what is
# timed is the layer among others in a captured model, not the launch of its graph.
_REPLAY_NS = 200_000
_MAX_PASSES_OF_GRAPH = 64
_ROUNDS = 4  # that are timed to tell how many passes share a graph
# The last wait and a driver's hiccup stay below this.
_BLIND_NS = 5_000_000
_SEEN_NS, _MOST_WATCHED = 4 * _BLIND_NS, 1 << 16
# A cold pass of a hundred launches is issued in 1 ms, a memset of 256 MiB takes 0.1: this hides 6 ms.
_MOST_FLUSHES = 64
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
    kept: what the calls replay. A graph holds addresses and no memory: what its passes allocated must live
    as long as it.
    """

    device: DeviceClock
    calls: tuple[Pass, ...]
    each: int = 1
    flushed: bool = False
    kept: tuple[Pass, ...] = ()

    def __call__(self, loops: int) -> int:
        """Return the device's time of some passes, in ns."""
        return self.measure(loops).device_ns

    def whole(self, loops: int) -> int:
        """Return the passes of the whole calls that make at least so many."""
        return -(-loops // self.each) * self.each

    def measure(self, loops: int, look: Callable[[], None] | None = None) -> Timing:
        """Return the device's and the host's time of some passes.

        look: called once, when all of them are launched and none is waited for.
        """
        if loops < 1 or loops % self.each:
            raise ValueError(f"loops must be a multiple of {self.each}, got {loops}")
        return (self._alone if self.flushed else self._back_to_back)(loops // self.each, look)

    def _back_to_back(self, calls: int, look: Callable[[], None] | None) -> Timing:
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
        if look:
            look()
        device.synchronise()
        wall_ns = device.host_ns() - began
        return Timing(device_ns=round(start.elapsed_ns(stop)), wall_ns=wall_ns)

    def _alone(self, calls: int, look: Callable[[], None] | None) -> Timing:
        """Time each pass alone, the L2 flushed before it and outside of its events, and sum the times.

        The wall time is taken from passes of its own, each behind a flush that was waited for.
        """
        device = self.device
        device.synchronise()
        pairs, flushes = list[tuple[Event, Event]](), 1
        for i in range(calls):
            start, stop, flushes = self._hidden(self.calls[i % len(self.calls)], flushes)
            pairs.append((start, stop))
        if look:
            look()
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

    def _hidden(self, call: Pass, flushes: int) -> tuple[Event, Event, int]:
        """Launch a pass while the device still flushes, so that its events see no launch.

        A pass is launched anew behind twice the flushes where the device was through with them too early:
        it may have waited for a launch in the middle of the pass. Returns the events, and the flushes that
        were enough. Raises ValueError where none are.
        """
        device = self.device
        while flushes <= _MOST_FLUSHES:
            start, stop = device.make_event(), device.make_event()
            for _ in range(flushes):
                device.flush()
            start.record()
            call()
            stop.record()
            if not start.is_passed():
                return start, stop, flushes
            flushes *= 2
        raise ValueError(
            f"the launches of a cold pass do not hide behind {_MOST_FLUSHES} flushes of the L2: it waits "
            "for the device, or has too many launches to be timed cold"
        )

    def captured(self, pass_ns: float) -> DeviceTimer:
        """Return the timer of the same passes replayed from a graph.

        pass_ns: about how long a pass takes; short ones share a graph, in whole rounds of the sets. Passes
        that are timed alone have a graph each.

        Raises CaptureError where the passes can't be captured.
        """
        if self.flushed:
            graphs = tuple(self.device.capture(_round([call])) for call in self.calls)
            return replace(self, calls=graphs, kept=self.calls)
        sets = len(self.calls)
        rounds = int(_REPLAY_NS // max(1.0, pass_ns * sets))
        rounds = max(1, min(rounds, _MAX_PASSES_OF_GRAPH // sets))
        graph = self.device.capture(_round([*self.calls] * rounds))
        return replace(self, calls=(graph,), each=sets * rounds, kept=self.calls)

    def estimate_ns(self) -> float:
        """Return about how long a pass takes that is not the first; of long ones, one round is run."""
        passes = len(self.calls) * self.each
        once = self(passes)
        return (once if once >= _REPLAY_NS else self(_ROUNDS * passes) / _ROUNDS) / passes

    def watch(self) -> None:
        """See that the events are not blind: that they are on the stream on which the passes launch.

        Passes back to back fill the time between the events, launches and all: the host can't wait for
        them much longer than the device says that they took, once it waits long enough to tell. Cold ones
        are launched by the same calls; alone, they would leave the host waiting for a launch each.

        Raises ValueError.
        """
        timer, calls = replace(self, flushed=False), len(self.calls)
        taken = timer.measure(calls * self.each)
        while taken.wall_ns < _SEEN_NS and calls < _MOST_WATCHED:
            calls *= 2
            taken = timer.measure(calls * self.each)
        require_seen(taken)


def _round(calls: Sequence[Pass]) -> Callable[[], None]:
    def run() -> None:
        for call in calls:
            call()

    return run


def flushed_loops(pass_ns: float, min_sample_ns: int) -> int:
    """Return the passes of a sample of cold ones; few, since each costs a flush and two waits beside it."""
    return max(1, min(_FLUSHED_PASSES, int(min_sample_ns / max(pass_ns, _FLUSH_NS))))


def require_seen(timing: Timing) -> None:
    """Refuse what was timed between events that did not see the work. Raises ValueError."""
    if timing.wall_ns - timing.device_ns > _BLIND_NS and timing.wall_ns > 2 * timing.device_ns:
        raise ValueError(
            f"the events saw {timing.device_ns / 1e6:.3g} ms of {timing.wall_ns / 1e6:.3g} ms: the passes "
            "launch on another stream than the one that is current when they are called"
        )


def sample(timer: DeviceTimer, loops: int, expected_ns: float) -> clock.Sample:
    """Take one sample: the disturbances are those of the host, the state that of the device.

    The state is read while the device works, since it is another a moment later: in the untimed passes
    before the sample, or, where there are none, in its own wait. What held the clock down while the sample
    was taken is told by how long each cause has done so, read before and after it.
    loops: passes asked for, at least; the sample says how many whole replays of this process made. Each
    process measures anew how many passes share a graph, and the loops may be another's.
    expected_ns: about how long one pass takes; short ones are run before, untimed, as on the CPU.
    """
    device, states = timer.device, list[DeviceState | None]()

    def look() -> None:
        states.append(device.read_state())

    loops, warming = timer.whole(loops), clock.count_warming(expected_ns)
    if warming:
        timer.measure(timer.whole(warming), look)
    held, before = device.read_held(), read_disturbance()
    taken = timer.measure(loops, None if warming else look)
    disturbed: dict[str, Any] = read_disturbance().since(before)
    causes = [cause for cause, ns in device.read_held().items() if ns > held.get(cause, 0)]
    (state,) = states
    return clock.Sample(
        loops=loops, elapsed_ns=taken.device_ns, wall_ns=taken.wall_ns,
        sm_clock_mhz=state.sm_clock_mhz if state else 0, power_w=state.power_w if state else 0.0,
        throttle=tuple(dict.fromkeys([*(state.throttle if state else ()), *causes])), **disturbed,
    )  # fmt: skip


def make_timer(device: DeviceClock) -> Callable[..., DeviceTimer]:
    """Return what makes a timer of passes for this device: a context's `timer`."""

    def timer(*passes: Pass) -> DeviceTimer:
        return DeviceTimer(device, passes)

    return timer
