"""Register one implementation for each CUDA kernel; nothing here names a kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from harness.backends import cuda_compile, cuda_driver, cuda_launch
from harness.backends.registry import Context, Implementation, Prepared, TensorPass, register
from harness.gpu import probe
from harness.problem.operands import Operands
from harness.problem.problem import Problem


def _unavailable() -> str:
    """Return why no CUDA kernel runs here. The device comes first, asked as safely as it can be."""
    return probe.why_not("cuda") or cuda_compile.unavailable()


@cache
def _load(kernel_id: str, arch: str, device: int) -> Any:
    """Return a kernel's module on a device, compiled once for its architecture."""
    source = cuda_compile.read_source(kernel_id)
    image = cuda_compile.cached_image(source, arch, cuda_compile.cache_folder())
    return cuda_driver.load(image)


def _prepare(
    kernel: cuda_launch.Kernel, problem: Problem, operands: Operands, context: Context
) -> Prepared:
    import torch

    device = operands.x.device
    facts = torch.cuda.get_device_properties(device)
    arch = f"sm_{facts.major}{facts.minor}"
    module = _load(kernel.id, arch, device.index)
    sets = ((operands.w_in, operands.w_out), *operands.rotation)
    entries = set()

    def make(w_in: Any, w_out: Any) -> Callable[[], None]:
        arrays: tuple[Any, ...] = (operands.x, w_in, w_out, operands.y)
        pointers = tuple(array.data_ptr() for array in arrays)
        aligned = cuda_launch.is_aligned(problem, pointers)
        launch = kernel.plan(problem, aligned, facts.multi_processor_count)
        entries.add(launch.entry)
        run = cuda_driver.bind(module, launch, pointers)

        def forward(_alive: Any = arrays) -> None:
            run(torch.cuda.current_stream(device).cuda_stream)

        return forward

    passes = [make(*pair) for pair in sets]
    notes = {"arch": arch, "nvrtc": cuda_compile.nvrtc_version(), "entry": ", ".join(entries)}
    return Prepared(
        forward=passes[0], time=context.timer(*passes), notes=notes, sets=len(passes)
    )  # fmt: skip


def _tensor_pass(kernel: cuda_launch.Kernel, problem: Problem, context: Context) -> TensorPass:
    """Return a pass on the device that is current now, which has to be current at each call, too."""
    import torch

    device = torch.cuda.current_device()
    facts = torch.cuda.get_device_properties(device)
    module = _load(kernel.id, f"sm_{facts.major}{facts.minor}", device)

    @cache
    def bind(aligned: bool) -> Callable[[tuple[int, ...], int], None]:
        launch = kernel.plan(problem, aligned, facts.multi_processor_count)
        return cuda_driver.bind_shape(module, launch, 4)

    def forward(*tensors: Any) -> None:
        pointers = tuple(tensor.data_ptr() for tensor in tensors)
        run = bind(cuda_launch.is_aligned(problem, pointers))
        run(pointers, torch.cuda.current_stream(device).cuda_stream)

    return forward


for _kernel in cuda_launch.KERNELS.values():
    register(
        Implementation(
            id=_kernel.id,
            layer=_kernel.layer,
            level=None,
            devices=("cuda",),
            summary=_kernel.summary,
            prepare=partial(_prepare, _kernel),
            tensor_pass=partial(_tensor_pass, _kernel),
            workspace_bytes=lambda problem: 0,
            dtypes=_kernel.dtypes,
            unavailable=_unavailable,
        )
    )
