"""The way of a CUDA implementation to the GPU, as it is up to the driver: a driver that runs the shim.

NVRTC compiles, the cubin is cached and loaded, cuda-bindings lay out the arguments and launch on torch's
current stream. The library that they find as the driver is built from the kernels and the shim, so the
launches compute, on torch tensors of the CPU. It is known to a process of its own alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import shim

from harness import cuda_compile
from harness.cuda_launch import KERNELS

pytest.importorskip("torch")
_REASON = shim.unavailable() or cuda_compile.unavailable()
pytestmark = pytest.mark.skipif(bool(_REASON), reason=_REASON)

# Two sets of weights, in turn: the output after n passes is that of set n modulo 2.
_SCRIPT = """
import ctypes, sys
from dataclasses import replace
from types import SimpleNamespace
import torch
from harness import check, cuda_compile, problem, registry
from harness.clock import make_python_timer
from harness.torch_device import as_tensor
from pathlib import Path

kernel_id, dtype, cache = sys.argv[1:]
cuda_compile.cache_folder = lambda: Path(cache)
facts = SimpleNamespace(major=9, minor=0, multi_processor_count=4)
torch.cuda.get_device_properties = lambda device: facts
torch.cuda.current_stream = lambda device: SimpleNamespace(cuda_stream=0xABC0)
implementation = registry.get(kernel_id)
shape = {"depth": 3, "trees": 2} if implementation.layer == "fff" else {"hidden": 17}
for d_in, d_out in ((256, 264), (37, 9)):
    p = problem.Problem(
        layer=implementation.layer, batch=13, d_in=d_in, d_out=d_out, dtype=dtype, **shape
    )
    host = problem.make_operands(p)
    pairs = [(host.w_in, host.w_out), problem.make_weights(p, 1)]
    tensors = [tuple(map(as_tensor, pair)) for pair in pairs]
    operands = replace(
        host, x=as_tensor(host.x), y=as_tensor(host.y), w_in=tensors[0][0], w_out=tensors[0][1],
        rotation=(tensors[1],),
    )
    context = registry.Context(
        provider=None, workspace=None, device="cuda", timer=make_python_timer
    )
    prepared = implementation.prepare(p, operands, context)
    assert prepared.sets == 2
    for passes in (1, 2, 3):
        check.poison(host.y)
        prepared.time(passes)
        w_in, w_out = pairs[(passes - 1) % 2]
        verdict = check.check(p, replace(host, w_in=w_in, w_out=w_out))
        assert verdict.ok, verdict
    check.poison(host.y)
    prepared.forward()
    assert check.check(p, host).ok
    print(prepared.notes)
driver = ctypes.CDLL("libcuda.so.1")
assert ctypes.c_void_p.in_dll(driver, "last_stream").value == 0xABC0
"""


_REFUSED = """
from harness import cuda_driver
from harness.cuda_launch import Launch

def fails(call):
    try:
        call()
    except cuda_driver.CudaError as error:
        print(error)

image = b"\\x7fELF" + bytes(60)
fails(lambda: cuda_driver.load(b"not a cubin"))
def bind(entry, block):
    launch = Launch(entry=entry, grid=(1, 1), block=block, extents=())
    return cuda_driver.bind(cuda_driver.load(image), launch, ())
fails(lambda: bind("unknown", 32))
fails(lambda: bind("ff_cuda_naive_float32", 4096)(0))
"""


def _run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, LD_LIBRARY_PATH=str(folder))
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def driver() -> Path:
    """Return the folder of the driver that runs the shim."""
    return shim.build_driver()


@pytest.mark.parametrize(
    ("kernel_id", "dtype"), [(k.id, dtype) for k in KERNELS.values() for dtype in k.dtypes]
)
def test_prepared_passes_compute(driver: Path, tmp_path: Path, kernel_id: str, dtype: str) -> None:
    """A prepared implementation computes on the current stream, with each set of weights in its turn."""
    done = _run(driver, _SCRIPT, kernel_id, dtype, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "'arch': 'sm_90'" in done.stdout
    assert len(list(tmp_path.glob(f"{kernel_id}.cu-sm_90-*.cubin"))) == 1


def test_what_the_driver_refuses_is_named(driver: Path) -> None:
    """A refused call is an error that names the call and the driver's reason."""
    done = _run(driver, _REFUSED)
    assert done.stdout.splitlines() == [
        "cuModuleLoadData: CUDA_ERROR_INVALID_IMAGE",
        "cuModuleGetFunction: CUDA_ERROR_NOT_FOUND",
        "cuLaunchKernel of ff_cuda_naive_float32: CUDA_ERROR_NOT_SUPPORTED",
    ], done.stderr
