"""torch's CUDA device: what can be told of it without one, and marked `gpu` what can't."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_device import FakeDevice

from harness.backends import registry
from harness.backends.registry import Context
from harness.errors import UnavailableError
from harness.gpu.device import CaptureError
from harness.measure.gpu_clock import DeviceTimer, make_timer
from harness.problem import check
from harness.problem.operands import Operands, make_operands, make_weights
from harness.problem.problem import Problem

torch = pytest.importorskip("torch")

from harness.gpu import torch_cuda  # noqa: E402 - it imports torch
from harness.gpu.torch_cuda import as_tensor  # noqa: E402

MIB = 1 << 20


@pytest.fixture
def device() -> Iterator[torch_cuda.TorchDevice]:
    """Return the real device, with ieee products before and after."""
    opened = torch_cuda.TorchDevice()
    yield opened
    opened.set_math("ieee")


def test_no_driver_call_before_torch_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch finds no device nothing else of CUDA is called: a driver call could hang."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a driver call")

    for name in ("current_device", "get_device_properties", "mem_get_info", "Event", "init"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="is_available"):
        torch_cuda.TorchDevice()


def test_a_build_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that was built without CUDA is the reason, with what to do."""
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UnavailableError, match="built without CUDA: install a build with it"):
        torch_cuda.TorchDevice()


def test_tensors_share_the_arrays_bytes() -> None:
    """A tensor over an array sees what is written to it, in float32 and in bfloat16."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    for dtype, kind in ((np.float32, torch.float32), (bfloat16, torch.bfloat16)):
        array = np.zeros((2, 3), dtype)
        tensor = torch_cuda.as_tensor(array)
        array[1, 2] = 1.5
        assert tensor.dtype == kind
        assert tensor.shape == (2, 3)
        assert float(tensor[1, 2]) == 1.5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["ff_torch_native", "ff_torch_bmm", "fff_torch_bmm"])
def test_the_layers_take_what_a_device_hands_them(name: str, dtype: str) -> None:
    """Given tensors, a tensor as workspace and the device's timer, the layers in torch fill y rightly, with
    each of several sets of weights in turn, and are timed by nothing else."""
    shape = {"hidden": 70} if name.startswith("ff_") else {"depth": 4, "trees": 2}
    problem = Problem(
        layer=name.split("_")[0], batch=33, d_in=24, d_out=16, dtype=dtype, seed=5, **shape
    )  # type: ignore[arg-type]
    device, host = FakeDevice(), make_operands(problem)
    other = make_weights(problem, 1)
    own = Operands(
        x=as_tensor(host.x), w_in=as_tensor(host.w_in), w_out=as_tensor(host.w_out),
        y=as_tensor(host.y), rotation=(tuple(map(as_tensor, other)),),
    )  # fmt: skip
    context = Context(
        provider=None, device="cuda", timer=make_timer(device),
        workspace=lambda size: torch.empty(size, dtype=torch.uint8),
    )  # fmt: skip
    prepared = registry.get(name).prepare(problem, own, context)
    assert isinstance(prepared.time, DeviceTimer)
    assert prepared.sets == 2
    for passes, weights in ((1, (host.w_in, host.w_out)), (2, other)):
        check.poison(host.y)
        prepared.time(passes)
        verdict = check.check(problem, replace(host, w_in=weights[0], w_out=weights[1]))
        assert verdict.ok, verdict.reason
    assert device.log.count("synchronise") == 4


class _Cuda:
    """Stand in for what of torch.cuda a capture touches; it ends as torch's does: not at all, if it fails."""

    def __init__(self, end: str = "") -> None:
        self.current, self.open, self.released, self.end = "main", set[str](), list[str](), end

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the place of torch's own."""
        stream = SimpleNamespace(wait_stream=lambda other: None)
        self.main = SimpleNamespace(wait_stream=lambda other: None)
        self.current = self.main  # type: ignore[assignment]
        for name, stand_in in {
            "Stream": lambda: stream, "current_stream": lambda: self.current,
            "stream": lambda chosen: nullcontext(), "set_stream": self.set_stream,
            "synchronize": lambda: None, "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
            "graph_pool_handle": lambda: "pool", "graph": self.graph, "current_device": lambda: 0,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, stand_in)
        for name, stand_in in {
            "_cuda_endAllocateToPool": self.end_pool,
            "_cuda_releasePool": lambda device, pool: self.released.append(pool),
        }.items():
            monkeypatch.setattr(torch._C, name, stand_in, raising=False)

    def set_stream(self, chosen: Any) -> None:
        """Make a stream the current one."""
        self.current = chosen

    def end_pool(self, device: int, pool: str) -> None:
        """End what is open, and refuse what is not."""
        if pool not in self.open:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.open.remove(pool)

    @contextmanager
    def graph(self, graph: Any, pool: str) -> Iterator[None]:
        """Capture; the stream and the pool are as before only where the end of the capture succeeds."""
        self.current = SimpleNamespace()  # type: ignore[assignment]
        self.open.add(pool)
        try:
            yield
        finally:
            if self.end:
                raise RuntimeError(self.end)
            self.open.remove(pool)
            self.current = self.main  # type: ignore[assignment]


def _opened() -> torch_cuda.TorchDevice:
    return object.__new__(torch_cuda.TorchDevice)  # a capture needs nothing that opening one sets


def _raise() -> None:
    raise RuntimeError("a pass failed")


@pytest.mark.parametrize(
    ("end", "run"), [("invalidated by a wait", lambda: None), ("", _raise), ("invalidated", _raise)]
)
def test_after_a_failed_capture_all_is_as_before(
    monkeypatch: pytest.MonkeyPatch, end: str, run: Callable[[], None]
) -> None:
    """Where a capture fails, in its passes or in its end, the stream is the one before and no pool of memory
    is left open."""
    cuda, captured = _Cuda(end), False
    cuda.install(monkeypatch)

    def passes() -> None:  # torch has the first run outside of the capture
        nonlocal captured
        if captured:
            run()
        captured = True

    with pytest.raises(CaptureError):
        _opened().capture(passes)
    assert cuda.current is cuda.main
    assert not cuda.open
    assert cuda.released == (["pool"] if end else [])


def test_a_capture_that_succeeds_keeps_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph's memory is its own: nothing is ended or given back behind a capture that succeeded."""
    cuda = _Cuda()
    cuda.install(monkeypatch)
    _opened().capture(lambda: None)()
    assert cuda.current is cuda.main
    assert (cuda.open, cuda.released) == (set(), [])


@pytest.mark.gpu
def test_bytes_go_there_and_back(device: torch_cuda.TorchDevice) -> None:
    """What is written to the device is read back bit for bit, a NaN's payload included."""
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    array.view(np.uint32)[1, 1] = 0x7FC0DEAD
    tensor, back = device.empty((3, 4), array.dtype), np.zeros_like(array)
    device.write(tensor, array)
    device.read(tensor, back)
    assert (back.view(np.uint32) == array.view(np.uint32)).all()


@pytest.mark.gpu
def test_events_time_the_device(device: torch_cuda.TorchDevice) -> None:
    """Many passes of a copy take the device longer than few, and the wall clock at least as long."""
    a, b = (device.empty((64 * MIB,), np.dtype(np.uint8)) for _ in range(2))
    timer = make_timer(device)(lambda: b.copy_(a))
    timer(3)
    few, many = timer.measure(5), timer.measure(100)
    assert many.device_ns > 5 * few.device_ns
    assert many.wall_ns >= many.device_ns


@pytest.mark.gpu
def test_a_flush_makes_a_small_set_cold(device: torch_cuda.TorchDevice) -> None:
    """A pass over a set that fits the L2 is slower behind a flush than behind itself."""
    size = max(MIB, device.facts.l2_bytes // 8)
    a, b = (device.empty((size,), np.dtype(np.uint8)) for _ in range(2))
    timer = make_timer(device)(lambda: b.copy_(a)).captured(1e9)
    timer(3)
    hot = min(timer(1) for _ in range(20))
    cold = min(replace(timer, flushed=True)(1) for _ in range(20))
    assert cold > hot


@pytest.mark.gpu
def test_a_graph_replays_what_was_captured(device: torch_cuda.TorchDevice) -> None:
    """A captured pass writes its output again at each replay."""
    a, b = (device.empty((1000,), np.dtype(np.float32)) for _ in range(2))
    a.fill_(2.0)
    graph = make_timer(device)(lambda: torch.mul(a, 3.0, out=b)).captured(1e9)
    b.zero_()
    graph(graph.each)
    assert (b == 6.0).all()


@pytest.mark.gpu
def test_a_wait_is_not_captured(device: torch_cuda.TorchDevice) -> None:
    """A pass that reads back from the device is refused as a graph, and the device goes on working."""
    a = device.empty((4,), np.dtype(np.float32))
    with pytest.raises(CaptureError):
        make_timer(device)(lambda: a.sum().item()).captured(1e9)
    assert float(a.fill_(1.0).sum()) == 4.0
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert make_timer(device)(lambda: a.add_(1.0)).captured(1e9)(1) > 0


@pytest.mark.gpu
def test_tf32_is_off_until_asked_for(device: torch_cuda.TorchDevice) -> None:
    """Products are float32's own by default; with tf32 their error is that of 10 bits."""
    rng = torch.Generator(device="cuda").manual_seed(0)
    a, b = (torch.rand(512, 512, generator=rng, device="cuda") for _ in range(2))
    want = a.double() @ b.double()
    exact = ((a @ b).double() - want).abs().max()
    device.set_math("tf32")
    rounded = ((a @ b).double() - want).abs().max()
    if int(device.facts.capability.split(".")[0]) >= 8:
        assert rounded > 10 * exact
    assert exact < 1e-3


@pytest.mark.gpu
def test_too_much_memory_is_refused_with_the_figure(device: torch_cuda.TorchDevice) -> None:
    """More memory than the device has is refused with what was asked for and what is free."""
    with pytest.raises(MemoryError, match="GiB are free on"):
        device.empty((device.facts.memory_bytes * 2,), np.dtype(np.uint8))
