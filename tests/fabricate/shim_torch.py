"""Own torch's CUDA device where there is none: tensors of the CPU, the shim's driver behind cuda-bindings.

    LD_LIBRARY_PATH=FOLDER python shim_torch.py KERNEL DTYPE CACHE

FOLDER holds the driver (shim.build_driver). The kernel is prepared and judged as on a GPU, and then called
on tensors as torch's operator calls it; a line for each problem says what is wrong, or nothing. Run in a
process of its own, since torch is patched.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from device_conformance import judge_on

from harness.backends import cuda_compile, registry
from harness.backends.registry import Context, Implementation
from harness.gpu.device import DeviceState
from harness.gpu.torch_cuda import as_tensor
from harness.problem.check import check, poison
from harness.problem.operands import make_operands
from harness.problem.problem import Array, Problem
from harness.records.facts import DeviceFacts

STREAM = 0xABC0


class HostEvent:
    """Mark a time of the host: what was launched before is done."""

    at: int = 0

    def record(self) -> None:
        """Take the time."""
        self.at = perf_counter_ns()

    def elapsed_ns(self, later: HostEvent) -> float:
        """Return the time to a later mark."""
        return float(later.at - self.at)


class HostDevice:
    """Stand in for a device: its memory is the host's, and launches are done when they return."""

    facts = DeviceFacts(name="shim", capability="9.0", multiprocessors=4)

    def make_event(self) -> HostEvent:
        """Return a fresh event."""
        return HostEvent()

    def host_ns(self) -> int:
        """Read the clock."""
        return perf_counter_ns()

    def synchronise(self) -> None:
        """Wait for nothing: all is done."""

    def flush(self) -> None:
        """Flush nothing: no time is taken here."""

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """Return the launches themselves."""
        return run

    def read_state(self) -> DeviceState | None:
        """Tell nothing."""
        return None

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return a tensor of the CPU, aligned as the GPU's are to 16 bytes and more."""
        return torch.empty(shape, dtype=getattr(torch, dtype.name))

    def write(self, tensor: Any, array: Array) -> None:
        """Copy an array into a tensor."""
        tensor.copy_(as_tensor(array))

    def read(self, tensor: Any, array: Array) -> None:
        """Copy a tensor into an array."""
        as_tensor(array).copy_(tensor)

    def free_bytes(self) -> int:
        """Return enough."""
        return 1 << 40

    def set_math(self, math: str) -> None:
        """Compute float32 products as they are."""


def judge_tensors(implementation: Implementation, problem: Problem) -> str:
    """Return the first fault of a pass whose tensors come with each call, or an empty string."""
    assert implementation.tensor_pass is not None
    context = Context(provider=None, workspace=torch.empty, device="cuda")
    run = implementation.tensor_pass(problem, context)
    for seed, offset in ((1, 0), (2, 1), (3, 0)):  # by one element rows are no longer whole pieces
        posed = replace(problem, seed=seed)
        operands = make_operands(posed)
        poison(operands.y)
        x = as_tensor(operands.x)
        x = torch.cat([x.new_empty(offset), x.flatten()])[offset:].view(x.shape)
        run(x, *(as_tensor(a) for a in (operands.w_in, operands.w_out, operands.y)))
        verdict = check(posed, operands)
        if not verdict.ok:
            return verdict.reason
    return ""


def main(kernel_id: str, dtype: str, cache: str) -> None:
    """Judge a kernel and print a line for each problem, then the stream of the last launch."""
    facts = SimpleNamespace(major=9, minor=0, multi_processor_count=4)
    torch.cuda.get_device_properties = lambda device: facts  # type: ignore[assignment]
    torch.cuda.current_stream = lambda device: SimpleNamespace(cuda_stream=STREAM)  # type: ignore[assignment]
    torch.cuda.current_device = lambda: 0  # type: ignore[assignment]
    cuda_compile.cache_folder = lambda: Path(cache)  # type: ignore[assignment]
    implementation = registry.get(kernel_id)
    more = {"depth": 3, "trees": 2} if implementation.layer == "fff" else {"hidden": 17}
    for batch, d_in, d_out in ((13, 256, 264), (13, 37, 9), (1, 8, 780)):
        problem = Problem(
            layer=implementation.layer, batch=batch, d_in=d_in, d_out=d_out, dtype=dtype, **more
        )  # type: ignore[arg-type]
        faults = (
            judge_on(HostDevice(), implementation, problem),
            judge_tensors(implementation, problem),
        )
        print("; ".join(filter(None, faults)))
    driver = ctypes.CDLL("libcuda.so.1")
    print(ctypes.c_void_p.in_dll(driver, "last_stream").value)


if __name__ == "__main__":
    main(*sys.argv[1:])
