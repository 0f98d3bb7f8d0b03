"""Own the compiled extension: arrays go in, exceptions come out; nothing else imports it."""

from __future__ import annotations

import ctypes
import json
import os
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UnavailableError, UnknownNameError
from harness.problem.operands import Operands
from harness.problem.problem import Array, Problem

try:
    from harness._native import ffi as _ffi
    from harness._native import lib as _lib
except ImportError as error:
    raise UnavailableError(
        f"the compiled part of harness is missing in {Path(__file__).parent}: "
        "run `pip install -e .` in the source folder, or change to another folder to use an installed "
        f"harness ({error})"
    ) from None


def _text(pointer: Any) -> str:
    return str(_ffi.string(pointer).decode("ascii"))


def _read_build() -> dict[str, str]:
    """Return what the build recorded of itself.

    Raises UnavailableError where the sources that stand beside this package are not those it was made from:
    a run would else name a state of the code that was never compiled.
    """
    built: dict[str, str] = {}
    if hasattr(_lib, "ffk_build_record"):
        built = json.loads(_text(_lib.ffk_build_record()))
    script = Path(__file__).parents[1] / "native" / "build_record.py"
    if script.is_file() and runpy.run_path(str(script))["digest"]() != built.get("digest"):
        raise UnavailableError(
            "the compiled part of harness was built from other sources than those in "
            f"{script.parent}: run `pip install -e .` in the source folder"
        )
    return built


_BUILD = _read_build()


class NativeError(RuntimeError):
    """Say which kernel refused which problem, and with what status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Describe one entry of the kernel table. alive: what an entry made here must not outlive."""

    id: str
    layer: str
    level: int | None
    batches_gemv: bool
    batches_axpy: bool
    needs_blas: bool
    token_block: int
    dtypes: tuple[str, ...]
    handle: Any
    alive: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward:
    """Describe one entry of the table of backward passes."""

    id: str
    layer: str
    dtypes: tuple[str, ...]
    handle: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """Say what an object was compiled against: the version of ffk.h and the bytes of its structures."""

    version: int
    sizes: Mapping[str, int]


def _interface(record: Any) -> Interface:
    values = {name: int(getattr(record, name)) for name, _ in _ffi.typeof("ffk_api").fields}
    return Interface(version=values.pop("version"), sizes=values)


# That of this harness, and the oldest version of a plugin whose places it has kept.
INTERFACE = _interface(_lib.ffk_build_api())
OLDEST_INTERFACE = int(_lib.FFK_API_OLDEST)

_STATUS = {
    value: name.removeprefix("FFK_").lower().replace("_", " ")
    for value, name in _ffi.typeof("ffk_status").elements.items()
}
# The name of each dtype of ffk.h.
_DTYPES = {"float32": _lib.FFK_FLOAT32, "bfloat16": _lib.FFK_BFLOAT16}
_ACTIVATIONS = {"gelu": _lib.FFK_GELU, "relu": _lib.FFK_RELU}
_ROUTINES = ("sdot", "saxpy", "sgemv", "sgemm", "sgemv_batch", "saxpy_batch")


def _dtype_names(bits: int) -> tuple[str, ...]:
    """Return the dtypes of a kernel's bit mask; none set means float32 alone."""
    mask = bits or _lib.FFK_TAKES_FLOAT32
    return tuple(name for name, value in _DTYPES.items() if mask & (1 << value))


def _read_kernels(count: Callable[[], int], at: Callable[[int], Any]) -> dict[str, Kernel]:
    found = {}
    for i in range(count()):
        entry = at(i)
        kernel = Kernel(
            id=_text(entry.id), layer=_text(entry.layer), level=entry.level or None,
            batches_gemv=bool(entry.routines & _lib.FFK_BATCHES_SGEMV),
            batches_axpy=bool(entry.routines & _lib.FFK_BATCHES_SAXPY),
            needs_blas=entry.routines != 0, token_block=entry.token_block,
            dtypes=_dtype_names(entry.dtypes), handle=entry,
        )  # fmt: skip
        found[kernel.id] = kernel
    return found


KERNELS: Mapping[str, Kernel] = _read_kernels(_lib.ffk_kernel_count, _lib.ffk_kernel_at)
# Faulty on purpose: they model the published benchmark and are never registered.
LADDER: Mapping[str, Kernel] = _read_kernels(_lib.ffk_ladder_count, _lib.ffk_ladder_at)
BACKWARD: Mapping[str, Backward] = {
    _text(entry.id): Backward(
        id=_text(entry.id), layer=_text(entry.layer), dtypes=_dtype_names(entry.dtypes), handle=entry
    )
    for entry in map(_lib.ffk_backward_at, range(_lib.ffk_backward_count()))
}  # fmt: skip
_NO_WORKSPACE = _ffi.addressof(_lib, "ffk_no_workspace")
_ISAS = {_text(_lib.ffk_isa_at(i).name): _lib.ffk_isa_at(i) for i in range(_lib.ffk_isa_count())}


def _open(library: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise UnavailableError(f"{library} can't be loaded: {error}") from None


def read_interface(library: Path) -> Interface:
    """Return what a shared library was compiled against; one without a record is of version 1.

    Raises UnavailableError where it does not load.
    """
    try:
        record = ctypes.c_uint32.in_dll(_open(library), "ffk_plugin_api")
    except ValueError:
        return Interface(version=1, sizes={})
    return _interface(_ffi.cast("ffk_api *", ctypes.addressof(record)))


def load_kernel(
    kernel_id: str, layer: str, library: Path, symbol: str, *, token_block: int = 0,
    dtypes: tuple[str, ...] = ("float32",),
) -> Kernel:  # fmt: skip
    """Return an entry for a kernel of the one signature that stands in a shared library.

    The entry is run and timed by the same loop and clock as those of the table. The caller sizes its
    workspace.

    Raises UnavailableError where the library is not there, does not load, or lacks the symbol.
    """
    try:
        function = getattr(_open(library), symbol)
    except AttributeError:
        raise UnavailableError(f"{library} has no symbol {symbol!r}") from None
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    names = [_ffi.new("char[]", text.encode("ascii")) for text in (kernel_id, layer)]
    run = _ffi.cast("ffk_kernel_run_fn", address)
    mask = sum(1 << _DTYPES[name] for name in dtypes)
    entry = _ffi.new(
        "ffk_kernel *", (*names, 0, 0, mask, token_block, _NO_WORKSPACE, run, _ffi.NULL)
    )
    return Kernel(
        id=kernel_id, layer=layer, level=None, batches_gemv=False, batches_axpy=False,
        needs_blas=False, token_block=token_block, dtypes=dtypes, handle=entry, alive=names,
    )  # fmt: skip


def build_record() -> dict[str, str]:
    """Return the compiler, all flags and the digest of the sources that the kernels were built with."""
    return {"compiler": _text(_lib.ffk_build_compiler()), **_BUILD, "isa": isas()[0]}


def flush_to_zero() -> list[str]:
    """Return what this thread flushes to zero: `results` (FTZ), `operands` (DAZ), `unknown`; or nothing."""
    bits = _lib.ffk_flush_to_zero()
    if bits < 0:
        return ["unknown"]
    flags = {"results": _lib.FFK_FLUSHES_RESULTS, "operands": _lib.FFK_FLUSHES_OPERANDS}
    return [name for name, flag in flags.items() if bits & flag]


def isas() -> list[str]:
    """Return the instruction sets of our own vector code that this processor has, fastest first."""
    return [name for name, entry in _ISAS.items() if entry.supported()]


def blas_table(addresses: Mapping[str, int], int_bits: int) -> Any:
    """Return the C table of a provider from the addresses of its routines (0 where it has none)."""
    table = _ffi.new("ffk_blas *")
    table.int_bits = int_bits
    for name in _ROUTINES:
        setattr(table, name, _ffi.cast("ffk_function", addresses.get(name, 0)))
    return table


def _shape(problem: Problem) -> Any:
    extents = (problem.batch, problem.d_in, problem.d_out, problem.hidden, problem.depth)
    kinds = (_DTYPES[problem.dtype], _ACTIVATIONS[problem.activation])
    chosen = (problem.experts, problem.active)
    return _ffi.new("ffk_shape *", (*extents, problem.trees, *kinds, *chosen))


def _pointer(
    name: str, array: Array, shape: tuple[int, ...], dtype: np.dtype[Any], *, writable: bool = False
) -> Any:
    """Return the address of an array that is exactly what a kernel may be given."""
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(
            f"{name}: need C-contiguous {dtype} {shape}, got {array.dtype} {array.shape} "
            f"(contiguous={array.flags.c_contiguous})"
        )
    if writable and not array.flags.writeable:
        raise ValueError(f"{name}: need a writable array")
    return _ffi.cast("float *", array.ctypes.data)


def _kernel(kernel_id: str) -> Kernel:
    return LADDER[kernel_id] if kernel_id in LADDER else KERNELS[kernel_id]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Hold what a pass runs in beside its operands.

    blas: the table of a provider, or None. isa: the instruction set by name, empty for the fastest.
    threads: that kernels of our own may use, the calling one included. caches: bytes of L2 and L3 as one
    core sees them, where the system tells. far_weights: the weights come from memory, not from a cache, as
    far as the caller knows: kernels of our own then fetch whole rows ahead. team: so many threads of
    `make_team`, which passes share, one at a time; without it a pass has some of its own.
    """

    blas: Any = None
    isa: str = ""
    threads: int = 1
    caches: Mapping[str, int] = field(default_factory=dict)
    far_weights: bool = False
    team: Any = None


def _end_team(process: int, team: Any) -> None:
    # A fork copies no threads: its child would wait for ever for those of its parent to end.
    if os.getpid() == process:
        _lib.ffk_pool_end(team)


def make_team(threads: int) -> Any:
    """Return a team of threads, the calling one included, which passes may share, one at a time.

    They sleep between passes, and end when nothing holds the team any more. The child of a fork has none of
    them, and must not use a team that it got from its parent.

    Raises NativeError where the system refuses so many.
    """
    team = _lib.ffk_pool_make(threads)
    if team == _ffi.NULL:
        raise NativeError(f"the system refuses {threads} threads")
    return _ffi.gc(team, partial(_end_team, os.getpid()))


def _make_context(around: Surroundings) -> tuple[Any, Any]:
    """Return the C context, and the team of its threads, which has to be held as long as it."""
    names = isas()
    if around.isa and around.isa not in names:
        raise UnknownNameError("instruction set of this processor", around.isa, known=names)
    context = _ffi.new("ffk_context *")
    context.blas = _ffi.NULL if around.blas is None else around.blas
    context.isa = _ISAS[around.isa or names[0]]
    context.l2_bytes = around.caches.get("L2", 0)
    context.l3_bytes = around.caches.get("L3", 0)
    context.far_weights = around.far_weights
    team = around.team
    if team is None and around.threads > 1:
        team = make_team(around.threads)
    context.team = _ffi.NULL if team is None else team
    return context, team


def choice(kernel_id: str, problem: Problem, around: Surroundings) -> str:
    """Return the kernel that a kernel leaves a problem to, an empty string where it computes itself."""
    choose = _kernel(kernel_id).handle.choose
    if choose == _ffi.NULL:
        return ""
    # No thread is started to ask.
    context, _ = _make_context(replace(around, threads=1, team=None))
    return _text(choose(_shape(problem), context).id)


def _raise_for(status: int, entry: Kernel | Backward, problem: Problem) -> None:
    if status != _lib.FFK_OK:
        reason = _STATUS.get(status, f"status {status}")
        raise NativeError(f"{entry.id}: {reason} for {problem}")


def workspace_bytes(kernel_id: str, problem: Problem) -> int:
    """Return the bytes of workspace that a kernel needs for a problem."""
    return int(_lib.ffk_kernel_workspace(_kernel(kernel_id).handle, _shape(problem)))


def bind(
    kernel_id: str | Kernel, problem: Problem, operands: Operands, around: Surroundings,
    workspace: Array,
) -> tuple[Callable[[], None], Callable[[int], int]]:  # fmt: skip
    """Return ``forward()`` and ``time(loops) -> ns`` of a kernel over fixed operands.

    The operands and the workspace are kept alive by what is returned. ``time`` makes one call into C,
    where the clock and the loop stand; pass i takes set i of the operands' rotation, in turn from the first.

    Raises ValueError for arrays that are not C-contiguous of the problem's shapes and dtype, NativeError
    where the kernel refuses.
    """
    kernel = kernel_id if isinstance(kernel_id, Kernel) else _kernel(kernel_id)
    shape, stored = _shape(problem), problem.stored
    sets, shapes = operands.sets(), problem.weights()
    arguments = _ffi.new("ffk_operands[]", len(sets))
    for argument, weights in zip(arguments, sets, strict=True):
        argument.x = _pointer("x", operands.x, (problem.batch, problem.d_in), stored)
        for (name, of), array in zip(shapes.items(), weights, strict=True):
            setattr(argument, name, _pointer(name, array, of, stored))
        shape_y = (problem.batch, problem.d_out)
        argument.y = _pointer("y", operands.y, shape_y, stored, writable=True)
        argument.workspace = _ffi.cast("void *", workspace.ctypes.data)
        argument.workspace_bytes = workspace.nbytes
    context, team = _make_context(around)
    alive = (operands, workspace, around, team)

    def forward(_alive: Any = alive) -> None:
        status = _lib.ffk_kernel_run(kernel.handle, shape, arguments, context)
        _raise_for(status, kernel, problem)

    def time(loops: int, _alive: Any = alive) -> int:
        elapsed = _ffi.new("int64_t *")
        status = _lib.ffk_kernel_time(
            kernel.handle, shape, arguments, len(sets), context, loops, elapsed
        )
        _raise_for(status, kernel, problem)
        return int(elapsed[0])

    return forward, time


def bind_shape(
    kernel_id: str, problem: Problem, around: Surroundings, workspace: Array
) -> Callable[[int, int, int, int], None]:
    """Return ``forward(x, w_in, w_out, y)`` of a kernel over arrays that come with each call.

    It takes the addresses of C-contiguous arrays of the problem's shapes and dtype; whoever calls sees to
    that, and to one call at a time: the workspace and the team are the pass's own.
    Raises NativeError where the kernel refuses.
    """
    kernel, shape = _kernel(kernel_id), _shape(problem)
    context, team = _make_context(around)
    arguments = _ffi.new("ffk_operands *")
    arguments.workspace = _ffi.cast("void *", workspace.ctypes.data)
    arguments.workspace_bytes = workspace.nbytes
    run, handle = _lib.ffk_kernel_run_at, kernel.handle

    def forward(
        x: int, w_in: int, w_out: int, y: int, _alive: Any = (workspace, around, team)
    ) -> None:
        if status := run(handle, shape, arguments, context, x, w_in, w_out, y):
            _raise_for(status, kernel, problem)

    return forward


# ---- backward passes ----------------------------------------------------------------------------


def backward_workspace_bytes(backward_id: str, problem: Problem) -> int:
    """Return the bytes of workspace that a backward pass needs for a problem."""
    return int(_lib.ffk_backward_workspace(BACKWARD[backward_id].handle, _shape(problem)))


def bind_backward(
    backward_id: str, problem: Problem, around: Surroundings, workspace: Array
) -> Callable[[int, int, int, int, int, int, int], None]:
    """Return ``backward(x, w_in, w_out, dy, dx, dw_in, dw_out)`` over arrays that come with each call.

    Addresses as for `bind_shape`; 0 for a gradient that is not wanted. dy is of y's shape, each gradient of
    the shape of what it is taken by. Raises NativeError where the pass refuses.
    """
    backward, shape = BACKWARD[backward_id], _shape(problem)
    context, team = _make_context(around)
    arguments = _ffi.new("ffk_gradients *")
    arguments.workspace = _ffi.cast("void *", workspace.ctypes.data)
    arguments.workspace_bytes = workspace.nbytes
    run, handle = _lib.ffk_backward_run_at, backward.handle

    def fill(*addresses: int, _alive: Any = (workspace, around, team)) -> None:
        if status := run(handle, shape, arguments, context, *addresses):
            _raise_for(status, backward, problem)

    return fill
