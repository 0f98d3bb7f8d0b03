"""Own the calls into the CUDA driver: a cubin becomes functions, a function with its arguments a launch.

Called only once a CUDA device is known to be there, with its context current: torch has seen to both.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from harness.backends.cuda_launch import Launch


class CudaError(RuntimeError):
    """Say which call into the driver failed, and how."""


def _driver() -> Any:
    from cuda.bindings import driver

    return driver


def _ok(call: str, result: tuple[Any, ...]) -> Any:
    status, *values = result
    if int(status):
        raise CudaError(f"{call}: {status.name}")
    return values[0] if values else None


def load(image: bytes) -> Any:
    """Load a cubin into the current context; it stays loaded as long as the process lives."""
    return _ok("cuModuleLoadData", _driver().cuModuleLoadData(image))


def bind(module: Any, launch: Launch, pointers: Sequence[int]) -> Callable[[int], None]:
    """Return what launches an entry of a module on a stream, given by its handle.

    The arguments are laid out once, as the driver reads them at every launch: the pointers, then the extents
    as C `int`. What the pointers lead to must be kept alive by the caller.

    Raises CudaError where the module lacks the entry, and at a launch that the driver refuses.
    """
    driver = _driver()
    name = launch.entry.encode("ascii")
    function = _ok("cuModuleGetFunction", driver.cuModuleGetFunction(module, name))
    values = [*map(ctypes.c_void_p, pointers), *map(ctypes.c_int, launch.extents)]
    arguments = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    address = ctypes.addressof(arguments)
    columns, rows = launch.grid
    block = launch.block

    def run(stream: int, _alive: Any = (values, arguments, module)) -> None:
        (status,) = driver.cuLaunchKernel(
            function, columns, rows, 1, block, 1, 1, 0, stream, address, 0
        )
        if int(status):
            raise CudaError(f"cuLaunchKernel of {launch.entry}: {status.name}")

    return run
