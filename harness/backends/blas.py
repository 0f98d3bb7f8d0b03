"""Own the BLAS providers: find a library, prove its calling convention, hand its routines over."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

from harness import native
from harness.errors import UnavailableError, UnknownNameError
from harness.records.facts import ProviderFacts, ThreadPool

REQUIRED = ("sdot", "saxpy", "sgemv", "sgemm")
BATCHED = ("sgemv_batch", "saxpy_batch")
DEFAULT = "scipy"

_PRODUCT = (
    512  # of so many rows and columns: 0.1 s of the slowest library, and worth its threads to any
)
_PRODUCTS = 3  # that are timed: one thread of one may be held up
_POOLS_REST_S = (
    0.2  # the threads of another library spin for a tenth of a second when they were made
)

# How builds decorate the Fortran names. Plain OpenBLAS, MKL, BLIS and the reference library use the
# first; PyPI's OpenBLAS wheels put `scipy_` before; 64-bit builds of OpenBLAS put `64_` behind.
_DECORATIONS = (("", "_"), ("scipy_", "_"), ("", ""), ("", "64_"), ("", "_64_"), ("scipy_", "64_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Hold a loaded BLAS library.

    name: what the user asked for, or the file's name where that was a path. path: the file that serves
    the routines. architecture: the kernel set that the library chose for this processor, empty where it
    does not tell. threads: what its pool says after loading, or as many as a product keeps at work, 0 where
    neither tells. routines: those that it has. table: the C function table.
    """

    name: str
    path: str
    version: str
    architecture: str
    threads: int
    threading_layer: str
    int_bits: int
    routines: tuple[str, ...]
    table: Any

    def has(self, routine: str) -> bool:
        """Say whether the provider has a routine."""
        return routine in self.routines

    def facts(self) -> ProviderFacts:
        """Return what a run records of it."""
        return ProviderFacts(
            name=self.name, path=portable_path(self.path), version=self.version,
            architecture=self.architecture, threads=self.threads,
            threading_layer=self.threading_layer, int_bits=self.int_bits,
            routines=list(self.routines),
        )  # fmt: skip

    def describe(self) -> str:
        """Return one line: name, version, kernel architecture, threads."""
        parts = [self.version or "unknown version", self.architecture or "unknown kernels"]
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}" if self.threads else ""
        return f"{self.name} ({', '.join(p for p in [*parts, threads] if p)})"


class _DlInfo(ctypes.Structure):
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _file_of(address: int) -> str:
    """Return the mapped file that an address belongs to, links resolved."""
    dladdr = ctypes.CDLL(None).dladdr
    dladdr.argtypes = (ctypes.c_void_p, ctypes.POINTER(_DlInfo))
    info = _DlInfo()
    if not dladdr(address, ctypes.byref(info)) or not info.file:
        return ""
    return os.path.realpath(os.fsdecode(info.file))


def portable_path(path: str) -> str:
    """Return a path for the record: below the Python environment's own folder it begins with `{prefix}`.

    Where the environment stands says nothing of the library, and who made it is nobody's business.
    """
    prefix = os.path.realpath(sys.prefix)
    inside = os.path.realpath(path).startswith(prefix + os.sep)
    return "{prefix}" + os.path.realpath(path)[len(prefix) :] if inside else path


def _address(library: ctypes.CDLL, symbol: str) -> int:
    function = getattr(library, symbol, None)
    return ctypes.cast(function, ctypes.c_void_p).value or 0 if function is not None else 0


def pools() -> list[ThreadPool]:
    """Return every BLAS and OpenMP pool of this process."""
    found = []
    for told in threadpoolctl.threadpool_info():
        known = {k: v for k, v in told.items() if k in ThreadPool.model_fields}
        found.append(ThreadPool(**{**known, "filepath": portable_path(told["filepath"])}))
    return found


# ---- where the named providers are found -------------------------------------------------------


def _in_distribution(distribution: str, *starts: str) -> str:
    """Return a shared library that an installed Python package carries, or an empty string."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    for start in starts:
        for file in files:
            if file.name.startswith(start) and ".so" in file.name:
                return os.path.realpath(str(file.locate()))
    return ""


def _installed(stem: str) -> str:
    """Return a shared library of the Python environment, else of the system, or an empty string.

    conda puts libraries beside the interpreter, where no package lists them and the loader does not look.
    """
    for prefix in dict.fromkeys((sys.prefix, sys.base_prefix)):
        for file in sorted(Path(prefix, "lib").glob(f"lib{stem}.so*")):
            return os.path.realpath(file)
    return find_library(stem) or ""


def _find_openblas() -> str:
    return _installed("openblas") or _in_distribution("scipy-openblas32", "libscipy_openblas")


def _find_mkl() -> str:
    return _in_distribution("mkl", "libmkl_rt.so") or _installed("mkl_rt")


def _find_aocl() -> str:
    return _in_distribution("aoclda", "libblis", "libaocl") or _installed("blis-mt")


_NAMED: dict[str, tuple[Callable[[], str], str]] = {
    "mkl": (_find_mkl, "pip install mkl"),
    "openblas": (_find_openblas, "apt install libopenblas0, or pip install scipy-openblas32"),
    "blis": (lambda: _installed("blis"), "apt install libblis4"),
    "aocl": (_find_aocl, "pip install aoclda"),
}


def names() -> list[str]:
    """Return the names that a provider can be asked for by; any path to a library works too."""
    return [DEFAULT, *_NAMED]


def locate(name: str) -> str:
    """Return the file of a provider, without loading it; empty for SciPy's, which is known when loaded.

    Raises UnknownNameError for a name that is neither known nor a path, UnavailableError where the library
    is not on this machine.
    """
    if name == DEFAULT:
        return ""
    if name in _NAMED:
        find, remedy = _NAMED[name]
        path = find()
        if not path:
            raise UnavailableError(f"BLAS provider {name!r} is not on this machine; {remedy}")
        return path
    if "/" in name or ".so" in name:
        if not Path(name).is_file():
            raise UnavailableError(f"BLAS provider: there is no file {name!r}")
        return str(Path(name).resolve())
    raise UnknownNameError("BLAS provider", name, known=[*names(), "or a path to a .so"])


# ---- loading ------------------------------------------------------------------------------------


def _scipy_addresses() -> tuple[dict[str, int], str]:
    """Return SciPy's routines through its supported C interface, and the library that serves them."""
    from scipy.linalg import cython_blas

    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, (ctypes.py_object,)
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype = ctypes.c_void_p
    get_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    capsules = cython_blas.__pyx_capi__
    addresses = {r: int(get_pointer(capsules[r], get_name(capsules[r]))) for r in REQUIRED}
    # A symbol looked up through the module's handle is found in the libraries that it is linked with.
    handle = ctypes.CDLL(cython_blas.__file__)
    behind = (_address(handle, f"{pre}sgemm{post}") for pre, post in _DECORATIONS)
    return addresses, _file_of(next((a for a in behind if a), addresses["sgemm"]))


def _library_addresses(path: str) -> tuple[dict[str, int], str]:
    """Return the routines of a library under the first decoration that has all required ones."""
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise UnavailableError(f"BLAS provider {path!r} can't be loaded: {error}") from None
    for prefix, suffix in _DECORATIONS:
        found = {r: _address(library, f"{prefix}{r}{suffix}") for r in (*REQUIRED, *BATCHED)}
        if all(found[r] for r in REQUIRED):
            return {r: a for r, a in found.items() if a}, _file_of(found["sgemm"])
    missing = [r for r in REQUIRED if not _address(library, f"{r}_")]
    raise UnavailableError(
        f"BLAS provider {path!r} lacks {', '.join(missing)} under every known decoration "
        f"({', '.join(f'{p}sgemm{s}' for p, s in _DECORATIONS)})"
    )


def _probe_int_bits(sdot_address: int, path: str) -> int:
    """Return the width of the library's integers, proved by a call; refuse a foreign return convention.

    The length is 2 in its low half and makes a negative number of all 64 bits: a library with 32-bit
    integers sums two products, one with 64-bit integers sees a negative length and returns 0. A library
    of the f2c convention returns a double, which is not 11 when read as float.
    """
    sdot = ctypes.CFUNCTYPE(ctypes.c_float, *[ctypes.c_void_p] * 5)(sdot_address)
    x, y = np.array([1, 2], np.float32), np.array([3, 4], np.float32)
    one = ctypes.c_int64(1)

    def dot(length: int) -> float:
        n = ctypes.c_int64(length)
        at = ctypes.byref
        return float(sdot(at(n), x.ctypes.data, at(one), y.ctypes.data, at(one)))

    if dot(2 - (1 << 32)) == 11.0:
        return 32
    if dot(2) == 11.0:
        return 64
    raise UnavailableError(
        f"BLAS provider {path!r}: sdot does not return a float by the Fortran convention of gfortran"
    )


def _mapped(start: str) -> list[str]:
    """Return the names of mapped files that begin with `start`."""
    found: set[str] = set()
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        name = line.rsplit("/", 1)[-1]
        if "/" in line and name.startswith(start):
            found.add(name)
    return sorted(found)


def _mkl_architecture() -> str:
    """Return MKL's kernel library by what is mapped: it does not tell otherwise."""
    for name in _mapped("libmkl_"):
        kernels = name.removeprefix("libmkl_").split(".")[0]
        if kernels in ("def", "mc3", "avx", "avx2", "avx512", "avx10"):
            return kernels
    return ""


def _pool_of(path: str) -> dict[str, Any]:
    """Return what threadpoolctl knows of the pool in a file."""
    folder = os.path.dirname(path)
    pools = [p for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]
    for pool in pools:
        if os.path.realpath(pool["filepath"]) == path:
            return dict(pool)
    for pool in pools:  # MKL's routines live in a library beside the one with the interface
        if pool["internal_api"] == "mkl" and os.path.dirname(pool["filepath"]) == folder:
            return dict(pool)
    return {}


def _count_threads(sgemm_address: int, int_bits: int) -> int:
    """Return how many threads a product of matrices keeps at work, for a library of which no tool tells.

    Processor time against the calling thread's own: each thread of a product does an equal part of it. The
    median of several products, since on a shared machine a thread may be slower than its neighbours.
    """
    integer = ctypes.c_int64 if int_bits == 64 else ctypes.c_int32
    n, one, no = integer(_PRODUCT), ctypes.c_float(1.0), ctypes.c_char(b"N")
    a = np.ones((_PRODUCT, _PRODUCT), np.float32)
    c = np.zeros_like(a)
    arguments = (no, no, n, n, n, one, a, n, a, n, one, c, n)
    at = [v.ctypes.data if isinstance(v, np.ndarray) else ctypes.addressof(v) for v in arguments]
    sgemm = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(at))(sgemm_address)
    time.sleep(_POOLS_REST_S)
    ratios = []
    for _ in range(_PRODUCTS):
        everybodys, own = time.process_time_ns(), time.thread_time_ns()
        sgemm(*at)
        everybodys, own = time.process_time_ns() - everybodys, time.thread_time_ns() - own
        if not own:
            return 0
        ratios.append(everybodys / own)
    return max(1, round(statistics.median(ratios)))


def load(name: str = DEFAULT) -> Provider:
    """Load a provider by name or path, prove its integer width and return it.

    Raises UnknownNameError for an unknown name, UnavailableError for a library that is not there,
    does not load, or lacks a required routine.
    """
    location = locate(name)
    addresses, path = _library_addresses(location) if location else _scipy_addresses()
    int_bits = _probe_int_bits(addresses["sdot"], path)
    pool = _pool_of(path)
    is_mkl = os.path.basename(path).startswith("libmkl")
    return Provider(
        name=name if name in names() else Path(name).name,
        path=path,
        version=_version(pool),
        architecture=_mkl_architecture() if is_mkl else str(pool.get("architecture") or ""),
        threads=int(pool.get("num_threads") or _count_threads(addresses["sgemm"], int_bits)),
        threading_layer=str(pool.get("threading_layer") or ""),
        int_bits=int_bits,
        routines=tuple(addresses),
        table=native.blas_table(addresses, int_bits),
    )


def _version(pool: dict[str, Any]) -> str:
    api = {"openblas": "OpenBLAS", "mkl": "MKL", "blis": "BLIS"}.get(
        pool.get("internal_api", ""), ""
    )
    return f"{api} {pool.get('version') or ''}".strip()


def find_missing(wanted: Iterable[str]) -> dict[str, str]:
    """Return why providers are not on this machine, by name; those that are here stay out.

    Raises UnknownNameError for a name that is neither known nor a path.
    """
    missing = {}
    for name in wanted:
        try:
            locate(name)
        except UnavailableError as error:
            missing[name] = str(error)
    return missing
