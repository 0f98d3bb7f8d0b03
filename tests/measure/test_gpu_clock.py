"""The clock of a CUDA device, on a device that keeps time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
from fake_device import FLUSH_NS, LAUNCH_NS, QUIET, SYNC_NS, FakeDevice

from harness.backends.registry import Prepared
from harness.gpu.device import CaptureError, DeviceState
from harness.measure.gpu_clock import DeviceTimer, make_timer, sample
from harness.measure.timing import DeviceTiming

HOT_NS, COLD_NS = 100_000, 300_000


def _kernel(device: FakeDevice, name: str = "kernel", hot_ns: float = HOT_NS) -> Callable[[], None]:
    return lambda: device.launch(name, hot_ns, 3 * hot_ns)


def _timer(device: FakeDevice, hot_ns: float = HOT_NS, sets: int = 1) -> DeviceTimer:
    timer = make_timer(device)(*(_kernel(device, f"set {i}", hot_ns) for i in range(sets)))
    assert isinstance(timer, DeviceTimer)
    return timer


def test_order_of_events() -> None:
    """A sample waits for the stream to be empty, marks, launches, marks, waits, and then reads."""
    device = FakeDevice()
    _timer(device)(3)
    assert device.log == [
        "synchronise", "record", "set 0", "set 0", "set 0", "record", "synchronise", "elapsed",
    ]  # fmt: skip


def test_only_the_passes_are_timed() -> None:
    """What was queued before a sample is not in it; the wall time holds the launches and the last wait."""
    device = FakeDevice(cold=False)
    device.launch("older", 10 * HOT_NS, 10 * HOT_NS)
    taken = _timer(device).measure(4)
    assert taken.device_ns == 4 * HOT_NS + LAUNCH_NS  # the device waits for the first launch alone
    assert taken.wall_ns == 4 * HOT_NS + LAUNCH_NS + SYNC_NS


def test_launch_bound_passes_show_their_launches() -> None:
    """Where a pass is shorter than its launch, the device's time of eager passes is that of the launches."""
    device = FakeDevice(cold=False)
    assert _timer(device, hot_ns=100)(50) == pytest.approx(50 * LAUNCH_NS, rel=0.05)


def test_no_sample_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that does not wait for the device gets an error from its events and no figure."""
    device = FakeDevice()
    monkeypatch.setattr(FakeDevice, "synchronise", lambda self: None)
    for flushed in (False, True):
        with pytest.raises(RuntimeError, match="before the device had passed it"):
            replace(_timer(device), flushed=flushed).measure(1)


def test_flush_is_outside_of_the_window() -> None:
    """Each cold pass is timed alone between two marks, its flush before the first of them."""
    device = FakeDevice()
    taken = replace(_timer(device), flushed=True).measure(2)
    first = device.log[: device.log.index("elapsed")]
    assert first[:9] == [
        "synchronise", *["flush", "record", "set 0", "record"] * 2,
    ]  # fmt: skip
    assert taken.device_ns == 2 * COLD_NS
    assert FLUSH_NS > LAUNCH_NS  # the launch hides behind the flush: no latency in the window
    assert taken.wall_ns == 2 * (COLD_NS + LAUNCH_NS + SYNC_NS)


def test_cold_is_slower_than_hot() -> None:
    """Hot passes find what the last one left; a flush takes it away from every cold one."""
    device = FakeDevice()
    timer = _timer(device)
    timer(1)
    hot = timer(10)
    assert replace(timer, flushed=True)(10) == pytest.approx(3 * hot, rel=0.05)


def test_sets_come_in_turn() -> None:
    """Several passes are taken one after the other, from the first on, in every way of timing."""
    device = FakeDevice()
    timer = _timer(device, sets=3)
    timer(6)
    assert [name for name in device.log if name.startswith("set")] == [
        "set 0",
        "set 1",
        "set 2",
    ] * 2
    device.log.clear()
    replace(timer, flushed=True)(3)
    assert [n for n in device.log if n.startswith("set")] == ["set 0", "set 1", "set 2"] * 2


def test_a_graph_hides_the_launches() -> None:
    """Short passes share a graph of whole rounds: its replay costs one launch for all of them."""
    device = FakeDevice(cold=False)
    eager = _timer(device, hot_ns=1000, sets=3)
    graph = eager.captured(pass_ns=1000)
    assert graph.each == 63
    per_pass = graph(630) / 630
    assert per_pass < 1100 < eager(630) / 630
    assert device.log.count("replay") == 10


def test_a_long_pass_has_a_graph_of_its_own() -> None:
    """A pass that is long against its launch is captured once; sets still come in turn."""
    device = FakeDevice()
    assert _timer(device).captured(pass_ns=1e7).each == 1
    assert _timer(device, sets=2).captured(pass_ns=1e7).each == 2


def test_cold_passes_are_replayed_alone() -> None:
    """Under flushed caches each replay holds one pass, and all of it is cold."""
    device = FakeDevice()
    timer = replace(_timer(device, hot_ns=1000, sets=2), flushed=True)
    graph = timer.captured(pass_ns=1000)
    assert graph.each == 1
    assert graph(4) == 4 * 3000


def test_what_waits_can_not_be_captured() -> None:
    """A pass that waits for the device is refused as a graph, with the reason."""
    device = FakeDevice()
    timer = make_timer(device)(device.synchronise)
    with pytest.raises(CaptureError, match="can't be captured"):
        timer.captured(pass_ns=1e6)


@pytest.mark.parametrize("loops", [0, 5])
def test_loops_are_whole_replays(loops: int) -> None:
    """A number of passes that no whole number of replays makes is a caller's mistake."""
    device = FakeDevice()
    graph = _timer(device, sets=2).captured(pass_ns=1e7)
    with pytest.raises(ValueError, match="multiple of 2"):
        graph.measure(loops)


@pytest.mark.parametrize("elsewhere", [1608, 1, 11, 1_000_003])
def test_loops_of_another_process_are_sampled(elsewhere: int) -> None:
    """A sample of loops that another process chose is of whole replays of this one's graph, and says how
    many passes it timed."""
    device = FakeDevice(cold=False)
    graph = _timer(device, hot_ns=15_500).captured(pass_ns=15_500)
    assert graph.each == 12
    taken = sample(graph, elsewhere, expected_ns=15_500)
    assert taken.loops % graph.each == 0
    assert 0 <= taken.loops - elsewhere < graph.each
    assert taken.elapsed_ns == pytest.approx(15_500 * taken.loops, rel=0.05)


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("hot_ns", [50_000, 1_000_000, 2_000_000_000])
def test_work_on_another_stream_is_refused(flushed: bool, hot_ns: int) -> None:
    """Passes that launch beside the stream of the events are refused, hot and cold, short and long."""
    device = FakeDevice()

    def aside() -> None:
        with device.stream("side"):
            device.launch("aside", hot_ns, hot_ns)

    prepared = Prepared(forward=aside, time=make_timer(device)(aside))
    timing = DeviceTiming(device)  # type: ignore[arg-type]

    def begin() -> None:
        if flushed:
            timing.flushed(prepared, 20_000_000, {}, 1)
        else:
            timing.calibrate(prepared, 20_000_000)

    with pytest.raises(ValueError, match="another stream"):
        begin()


@pytest.mark.parametrize("launches", [1, 9, 80, 400])
def test_no_launch_in_a_cold_pass(launches: int) -> None:
    """A cold pass of many launches takes what its kernels take: all are launched while the device still
    flushes."""
    device = FakeDevice()

    def many() -> None:
        for _ in range(launches):
            device.launch("short", 1000, 1000)

    timer = replace(make_timer(device)(many), flushed=True)  # type: ignore[type-var]
    assert timer(7) == 7 * launches * 1000


def test_a_cold_pass_that_waits_is_refused() -> None:
    """A pass that waits for the device can't be launched ahead of it, and has no cold time."""
    device = FakeDevice()

    def waits() -> None:
        device.launch("short", 1000, 1000)
        device.synchronise()

    timer = replace(make_timer(device)(waits), flushed=True)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="do not hide behind"):
        timer(1)


@pytest.mark.parametrize("flushed", [False, True])
def test_a_graph_keeps_what_it_replays(flushed: bool) -> None:
    """What the captured passes hold lives as long as the timer that replays them, for every set."""
    device = FakeDevice()

    class Memory:
        pass

    def make_pass(memory: Memory) -> Callable[[], None]:
        return lambda: device.launch(f"{memory}", HOT_NS, HOT_NS)

    held = [Memory() for _ in range(3)]
    seen = [weakref.ref(memory) for memory in held]
    timer = make_timer(device)(*map(make_pass, held))
    graph = replace(timer, flushed=flushed).captured(1e6)  # type: ignore[type-var]
    del timer
    held.clear()
    gc.collect()
    assert all(memory() is not None for memory in seen)
    assert graph(graph.each) > 0


BUSY = DeviceState(sm_clock_mhz=1200, power_w=650.0, throttle=("heat",))


@pytest.mark.parametrize("expected_ns", [HOT_NS, 1e18])
@pytest.mark.parametrize("flushed", [False, True])
def test_the_state_is_that_of_work(flushed: bool, expected_ns: float) -> None:
    """Clock, power and what throttles are read while the device works, and the reading is in no figure."""
    device = FakeDevice(cold=False)
    device.throttle = lambda now: BUSY if device.is_busy() else QUIET
    timer = replace(_timer(device), flushed=flushed)
    taken = sample(timer, 5, expected_ns)
    assert (taken.sm_clock_mhz, taken.power_w, taken.throttle) == (1200, 650.0, ("heat",))
    assert taken.elapsed_ns == pytest.approx(timer(5), rel=0.02)


def test_what_held_the_clock_down_in_between_is_told() -> None:
    """A cause that held the clock down during a sample marks it, though it holds it at neither end; one that
    did so before does not."""
    device = FakeDevice(cold=False)
    device.held = lambda now: {"heat": 7, "power cap": int(now) // 2}
    assert sample(_timer(device), 5, HOT_NS).throttle == ("power cap",)
    device.held = lambda now: {"heat": 7}
    assert sample(_timer(device), 5, HOT_NS).throttle == ()
    device.held = lambda now: {}
    assert sample(_timer(device), 5, HOT_NS).throttle == ()


def test_few_long_passes_before_a_capture() -> None:
    """What a long pass takes is told by one that is run; a short one is run some times more."""
    device = FakeDevice(cold=False)
    assert _timer(device, hot_ns=2_000_000_000).estimate_ns() == pytest.approx(2e9, rel=0.01)
    assert device.log.count("set 0") == 1
    device.log.clear()
    assert _timer(device, hot_ns=20_000).estimate_ns() == pytest.approx(20_000, rel=0.1)
    assert 1 < device.log.count("set 0") < 10
