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

from harness.backends import cuda_compile
from harness.backends.cuda_launch import KERNELS

pytest.importorskip("torch")
_REASON = shim.unavailable() or cuda_compile.unavailable()
pytestmark = pytest.mark.skipif(bool(_REASON), reason=_REASON)

ROOT = Path(__file__).parents[2]
JUDGE = ROOT / "tests" / "fabricate" / "shim_torch.py"
_REFUSED = """
from harness.backends import cuda_driver
from harness.backends.cuda_launch import Launch

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


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, LD_LIBRARY_PATH=str(folder), PYTHONPATH=str(ROOT))
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def driver() -> Path:
    """Return the folder of the driver that runs the shim."""
    return shim.build_driver()


@pytest.mark.parametrize(
    ("kernel_id", "dtype"), [(k.id, dtype) for k in KERNELS.values() for dtype in k.dtypes]
)
def test_prepared_passes_compute(driver: Path, tmp_path: Path, kernel_id: str, dtype: str) -> None:
    """An implementation is right on the current stream: with each set of weights in its turn where it is
    prepared for them, and on tensors that come with each call, wherever they begin."""
    done = _run(driver, str(JUDGE), kernel_id, dtype, str(tmp_path))
    assert done.stdout.splitlines() == ["", "", "", str(0xABC0)], done.stdout + done.stderr
    assert len(list(tmp_path.glob(f"{kernel_id}.cu-sm_90-*.cubin"))) == 1


def test_what_the_driver_refuses_is_named(driver: Path) -> None:
    """A refused call is an error that names the call and the driver's reason."""
    done = _run(driver, "-c", _REFUSED)
    assert done.stdout.splitlines() == [
        "cuModuleLoadData: CUDA_ERROR_INVALID_IMAGE",
        "cuModuleGetFunction: CUDA_ERROR_NOT_FOUND",
        "cuLaunchKernel of ff_cuda_naive_float32: CUDA_ERROR_NOT_SUPPORTED",
    ], done.stderr
