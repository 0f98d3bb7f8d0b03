"""What the CUDA kernels make once where tensors come with each call: modules by device, launches by shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from harness.backends import cuda_compile, cuda_driver, cuda_kernels, registry
from harness.backends.cuda_launch import Launch
from harness.backends.registry import Context
from harness.problem.problem import Problem

torch = pytest.importorskip("torch")

FFF = Problem(layer="fff", batch=2, d_in=8, d_out=8, depth=2, trees=1)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return a list that gets the modules as they are loaded; nothing is compiled, and nothing launched."""
    found: list[str] = []

    def load(image: str) -> str:
        found.append(f"{image} on {torch.cuda.current_device()}")
        return found[-1]

    monkeypatch.setattr(
        torch.cuda, "get_device_properties",
        lambda device: SimpleNamespace(major=9, minor=0, multi_processor_count=4),
    )  # fmt: skip
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=100 + device)
    )
    monkeypatch.setattr(cuda_compile, "read_source", lambda kernel_id: kernel_id)
    monkeypatch.setattr(cuda_compile, "cache_folder", lambda: None)
    monkeypatch.setattr(cuda_compile, "cached_image", lambda name, arch, folder: f"{name} {arch}")
    monkeypatch.setattr(cuda_driver, "load", load)
    cuda_kernels._load.cache_clear()
    yield found
    cuda_kernels._load.cache_clear()


def test_each_device_has_modules_of_its_own(
    monkeypatch: pytest.MonkeyPatch, loads: list[str]
) -> None:
    """A kernel is loaded once on each device, and bound once for aligned rows and once for others."""
    bound: list[tuple[str, str]] = []
    launched: list[tuple[tuple[int, ...], int]] = []

    def bind(module: str, launch: Launch, count: int) -> Callable[[Any, int], None]:
        bound.append((module, launch.entry))
        assert count == 4
        return lambda pointers, stream: launched.append((pointers, stream))

    monkeypatch.setattr(cuda_driver, "bind_shape", bind)
    tensor_pass = registry.get("fff_cuda_fused").tensor_pass
    assert tensor_pass is not None
    memory = torch.empty(64)
    for device in (1, 0, 1):
        monkeypatch.setattr(torch.cuda, "current_device", lambda device=device: device)
        run = tensor_pass(FFF, Context(provider=None, workspace=torch.empty, device="cuda"))
        for first in (0, 1, 0, 4):
            run(*(memory[first:],) * 4)
        assert launched[-1] == ((memory[4:].data_ptr(),) * 4, 100 + device)
    assert loads == ["fff_cuda_fused sm_90 on 1", "fff_cuda_fused sm_90 on 0"]
    on = ["fff_cuda_fused sm_90 on 1", "fff_cuda_fused sm_90 on 0", "fff_cuda_fused sm_90 on 1"]
    entries = ("fff_cuda_fused_float32_aligned", "fff_cuda_fused_float32_any")
    assert bound == [(module, entry) for module in on for entry in entries]
