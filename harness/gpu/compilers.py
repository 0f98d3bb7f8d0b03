"""Own which compilers of kernels for a GPU are here: NVRTC and Triton."""

from __future__ import annotations

import importlib.metadata
from typing import Any


def nvrtc() -> Any:
    """Return the bindings of NVRTC. Raises ImportError where they are not installed."""
    from cuda.bindings import nvrtc

    return nvrtc


def find_nvrtc() -> str:
    """Return NVRTC's version, like "13.0", empty where there is none."""
    try:
        status, major, minor = nvrtc().nvrtcVersion()
    # The bindings look for the library on its first use, and have an exception of their own for none.
    except (ImportError, RuntimeError):
        return ""
    return "" if int(status) else f"{major}.{minor}"


def find_triton() -> str:
    """Return Triton's version, empty where it is not installed; it is not imported, which takes long."""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return ""
