"""Own torch as a library: whether it is here, what it was built with, and NumPy's arrays as its tensors."""

from __future__ import annotations

import importlib.util
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness import blas
from harness.problem import Array
from harness.registry import Library

INSTALL = "torch is not installed: pip install 'fff-harness[torch]'"


@cache
def unavailable() -> str:
    """Return why torch can't be used here, or an empty string; torch itself is not imported."""
    return "" if importlib.util.find_spec("torch") else INSTALL


def view(array: Array) -> Any:
    """Return a tensor over an array's own memory; bfloat16 goes through its bits."""
    import torch

    with warnings.catch_warnings():
        # The caller's operands may be read-only. Nothing here writes to any but y.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)


def as_tensor(operand: Any) -> Any:
    """Return an operand as a tensor: an array's memory itself, or the tensor that it is already."""
    return view(operand) if isinstance(operand, np.ndarray) else operand


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match.group(1) if match else ""


def describe() -> str:
    """Return torch's version, the BLAS and oneDNN that it was built with, as it says itself."""
    import torch

    told = torch.__config__.show()
    mkl = _found(r"Math Kernel Library Version ([\d.]+)", told)
    other = _found(r"BLAS_INFO=(\w+)", told) or "unknown"
    built_on = f"MKL {mkl}" if mkl else f"BLAS {other}"
    onednn = _found(r"MKL-DNN v([\d.]+)", told)
    parts = [str(torch.__version__), built_on, f"oneDNN {onednn}" if onednn else "no oneDNN"]
    return ", ".join(parts)


def load() -> dict[str, Any]:
    """Import torch and return the facts of it that a run records of a BLAS provider.

    torch reads the sizes of its pools from the environment when it loads; what it took is said. Its BLAS
    is linked into it: which kernels that chose is not told, the instruction set of torch's own code is.
    """
    import torch

    return {
        "name": "torch",
        "path": blas.portable_path(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")),
        "version": describe(),
        "architecture": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "threading_layer": "openmp" if torch.backends.openmp.is_available() else "native",
        "int_bits": 32,
        "routines": [],
    }


TORCH = Library(name="torch", load=load, resident_bytes=420 << 20, start_s=1.5)
