"""Own torch as a library: whether it is here, what it was built with, and NumPy's arrays as its tensors."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.backends import blas
from harness.backends.registry import Context, Library
from harness.backends.timer import TimePasses
from harness.problem.problem import Array
from harness.records.facts import ProviderFacts

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


def load() -> ProviderFacts:
    """Import torch and return the facts of it that a run records of a BLAS provider.

    torch reads the sizes of its pools from the environment when it loads; what it took is said. Its BLAS
    is linked into it: which kernels that chose is not told, the instruction set of torch's own code is.
    """
    import torch

    return ProviderFacts(
        name="torch",
        path=blas.portable_path(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")),
        version=describe(),
        architecture=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        threading_layer="openmp" if torch.backends.openmp.is_available() else "native",
        int_bits=32,
        routines=[],
    )


TORCH = Library(name="torch", load=load, resident_bytes=420 << 20, start_s=1.5)


def make_timer(context: Context, passes: Sequence[Callable[[], None]]) -> TimePasses:
    """Return the context's timer of passes; on a CPU one that keeps oneDNN switched on."""
    timer = context.timer(*passes)
    return keep_onednn(timer) if context.device == "cpu" else timer


def keep_onednn(time: TimePasses) -> TimePasses:
    """Return a timer of passes which fails where they make torch switch oneDNN off, and switches it on again.

    When a product fails in oneDNN, for want of memory above all, torch computes it by a plain loop, switches
    oneDNN off for the rest of the process and says so in a warning. Every product of bfloat16 that follows,
    the baseline's too, would then take a hundred times as long.

    The returned timer raises RuntimeError.
    """
    import torch

    onednn = torch.backends.mkldnn

    def kept(loops: int) -> int:
        was_on = onednn.enabled
        elapsed = time(loops)
        if was_on and not onednn.enabled:
            onednn.set_flags(True)
            raise RuntimeError(
                "a product failed in oneDNN and torch fell back to a plain loop: smaller chunks are needed"
            )
        return elapsed

    return kept
