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


def _lay_out(
    module: Any, launch: Launch, count: int
) -> tuple[list[ctypes.c_void_p], Callable[[int], None]]:
    """Return a launch's pointers, to be set, and what launches with those that are set on a stream."""
    driver = _driver()
    name = launch.entry.encode("ascii")
    function = _ok("cuModuleGetFunction", driver.cuModuleGetFunction(module, name))
    pointers = [ctypes.c_void_p() for _ in range(count)]
    values = [*pointers, *map(ctypes.c_int, launch.extents)]
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

    return pointers, run


def bind(module: Any, launch: Launch, pointers: Sequence[int]) -> Callable[[int], None]:
    """Return what launches an entry of a module on a stream, given by its handle.

    The arguments are laid out once, as the driver reads them at every launch: the pointers, then the extents
    as C `int`. What the pointers lead to must be kept alive by the caller.

    Raises CudaError where the module lacks the entry, and at a launch that the driver refuses.
    """
    slots, run = _lay_out(module, launch, len(pointers))
    for slot, pointer in zip(slots, pointers, strict=True):
        slot.value = pointer
    return run


def bind_shape(module: Any, launch: Launch, count: int) -> Callable[[Sequence[int], int], None]:
    """Return what launches an entry on `count` pointers that come with each call, and on a stream.

    One call at a time: the driver has read the arguments when a launch returns, so that the next may set
    them anew. Raises CudaError as `bind` does.
    """
    slots, run = _lay_out(module, launch, count)

    def run_on(pointers: Sequence[int], stream: int) -> None:
        for slot, pointer in zip(slots, pointers, strict=True):
            slot.value = pointer
        run(stream)

    return run_on
