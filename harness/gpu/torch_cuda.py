"""Own torch's CUDA device: the real thing behind `device.Device`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import perf_counter_ns
from typing import Any

import numpy as np
import torch

from harness.errors import UnavailableError
from harness.gpu import compilers, nvml
from harness.gpu.device import CaptureError, DeviceState, flush_bytes
from harness.problem.problem import Array
from harness.records.facts import DeviceFacts

_PRECISION = {"ieee": "highest", "tf32": "high"}


def why_unavailable() -> str:
    """Return why torch has no CUDA device here, or an empty string. Asks torch before any driver call."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA: install a build with it"
    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} finds no NVIDIA GPU that it can use "
            "(torch.cuda.is_available() is false)"
        )
    return ""


def _facts() -> DeviceFacts:
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    free, total = torch.cuda.mem_get_info()
    return DeviceFacts(
        name=properties.name, capability=f"{properties.major}.{properties.minor}",
        memory_bytes=int(total), free_bytes=int(free),
        l2_bytes=int(getattr(properties, "L2_cache_size", 0)),
        multiprocessors=int(properties.multi_processor_count),
        uuid=str(getattr(properties, "uuid", "")), torch=torch.__version__,
        cuda=str(torch.version.cuda), nvrtc=compilers.find_nvrtc(), triton=compilers.find_triton(),
    )  # fmt: skip


def _close_pool(pool: Any) -> None:
    """End a pool of memory that a failed capture may have left open, and give its memory back.

    torch has no public name for either. It refuses to end what is not open, where the passes failed and the
    end of their capture did not: then it has done both itself.
    """
    device = torch.cuda.current_device()
    with suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(device, pool)
        torch._C._cuda_releasePool(device, pool)


class TorchEvent:
    """Mark a point of torch's current stream."""

    def __init__(self) -> None:
        """Make an event that keeps its time."""
        self._event = torch.cuda.Event(enable_timing=True)

    def record(self) -> None:
        """Queue the mark on the current stream."""
        self._event.record(torch.cuda.current_stream())

    def is_passed(self) -> bool:
        """Say whether the device has passed the mark by now, without a wait."""
        return bool(self._event.query())

    def elapsed_ns(self, later: TorchEvent) -> float:
        """Return the device's time to a later event, in ns."""
        return float(self._event.elapsed_time(later._event)) * 1e6


def as_tensor(array: Array) -> Any:
    """Return a CPU tensor over the same bytes; torch knows no NumPy type for bfloat16."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


class TorchDevice:
    """Hold the current CUDA device of torch."""

    def __init__(self) -> None:
        """Open the device. Raises UnavailableError with the reason where there is none."""
        if reason := why_unavailable():
            raise UnavailableError(reason)
        self.facts = _facts()
        self._meter, reason = nvml.open_meter(self.facts.uuid)
        driver = self._meter.read_driver() if self._meter else ""
        self.facts = self.facts.model_copy(update={"unmetered": reason, "driver": driver})
        self._flush: Any = None
        self.set_math("ieee")

    def make_event(self) -> TorchEvent:
        """Return a fresh event."""
        return TorchEvent()

    def host_ns(self) -> int:
        """Read the host's clock."""
        return perf_counter_ns()

    def synchronise(self) -> None:
        """Wait for all streams of the device."""
        torch.cuda.synchronize()

    def flush(self) -> None:
        """Queue a memset of at least twice the L2's size."""
        if self._flush is None:
            size = flush_bytes(self.facts.l2_bytes)
            self._flush = torch.empty(size, dtype=torch.uint8, device="cuda")
        self._flush.zero_()

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """Capture launches as a graph, after one run on a side stream as torch asks for.

        Raises CaptureError where something in them can't be captured; the stream and the allocator are then
        as they were. torch leaves both as a capture has them where its end fails.
        """
        side, before = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(before)
        with torch.cuda.stream(side):
            run()
        before.wait_stream(side)
        torch.cuda.synchronize()
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(graph, pool=pool):
                run()
        except RuntimeError as error:
            torch.cuda.set_stream(before)
            _close_pool(pool)
            raise CaptureError(str(error).splitlines()[0]) from None
        replay: Callable[[], None] = graph.replay
        return replay

    def read_state(self) -> DeviceState | None:
        """Return clock, power and throttle reasons; None where NVML does not tell."""
        return self._meter.read() if self._meter else None

    def read_held(self) -> dict[str, int]:
        """Return for how many ns each cause has held the clock down so far; empty where NVML is silent."""
        return self._meter.read_held() if self._meter else {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return a tensor whose bytes are not set. Raises MemoryError naming what is free."""
        try:
            return torch.empty(shape, dtype=getattr(torch, dtype.name), device="cuda")
        except torch.cuda.OutOfMemoryError:
            asked = int(np.prod(shape)) * dtype.itemsize
            raise MemoryError(
                f"{asked / 2**30:.2f} GiB asked for, {self.free_bytes() / 2**30:.2f} GiB of "
                f"{self.facts.memory_bytes / 2**30:.2f} GiB are free on {self.facts.name}"
            ) from None

    def fill(self, tensor: Any, byte: int) -> None:
        """Set every byte of a tensor of bytes."""
        tensor.fill_(byte)

    def write(self, tensor: Any, array: Array) -> None:
        """Copy a host array into a tensor."""
        tensor.copy_(as_tensor(array))

    def read(self, tensor: Any, array: Array) -> None:
        """Copy a tensor into a host array, once what was queued is done."""
        torch.cuda.synchronize()
        as_tensor(array).copy_(tensor)

    def free_bytes(self) -> int:
        """Return what new tensors can have: the driver's free memory and what torch holds unused."""
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0] + unused)

    def set_math(self, math: str) -> None:
        """Choose how float32 products are computed from here on: `ieee`, or `tf32` on tensor cores."""
        torch.set_float32_matmul_precision(_PRECISION[math])
