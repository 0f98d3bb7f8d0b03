"""Own the environment: variables that change a library, what a measuring process gets, the compilers."""

from __future__ import annotations

import os
import shlex
import shutil
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

from harness.records import variables

# They stand before the compiler in CC and CXX; the compiler is what comes behind them.
_WRAPPERS = ("ccache", "sccache", "distcc", "icecc", "buildcache", "env")


def _find_command(words: str) -> str:
    """Return the path of the compiler in a command such as ``ccache gcc -m64``, else empty."""
    for word in shlex.split(words):
        if "=" in word:  # env CCACHE_DIR=... gcc
            continue
        path = shutil.which(word) or ""
        if not path or os.path.basename(word) not in _WRAPPERS:
            return path
    return ""


def find_compiler() -> str:
    """Return the path of the C compiler that a build here would take, empty where there is none."""
    if named := os.environ.get("CC"):
        return _find_command(named)
    return _find_command(sysconfig.get_config_var("CC") or "cc") or shutil.which("cc") or ""


def find_cpp_compiler() -> str:
    """Return the path of the C++ compiler that torch.compile would take, empty where there is none."""
    return _find_command(os.environ.get("CXX") or "g++")


def git_environment() -> dict[str, str]:
    """Return this process's environment without what leads git to another repository than it is asked of."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def relevant_variables(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that can change a library that is measured."""
    here = os.environ if environment is None else environment
    return {name: here[name] for name in sorted(here) if variables.find_family(name)}


def worker_environment(threads: int, *, keep_blas_env: bool) -> tuple[dict[str, str], list[str]]:
    """Return the environment of a measuring process, and the names that were taken out of it.

    The pool sizes and the kind of pages stand before the process starts, since libraries read them when they
    load. Variables that turn a library from what it does by itself (`records.variables`) are taken away
    unless `keep_blas_env`, so that the baseline is not handicapped.
    """
    foreign = variables.find_foreign(sorted(os.environ))
    dropped = [n for n, f in foreign.items() if f.fate == "dropped" and not keep_blas_env]
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "GOTO"):
        environment[f"{name}_NUM_THREADS"] = str(threads)
    environment.update(
        MKL_DYNAMIC="FALSE",
        OMP_DYNAMIC="FALSE",
        MKL_INTERFACE_LAYER="LP64",
        # The PyPI build needs no Intel OpenMP then; with one thread no pool at all.
        MKL_THREADING_LAYER="SEQUENTIAL" if threads == 1 else "GNU",
        # Tensors then lie in huge pages where NumPy's arrays do; without it a model's weights never do.
        THP_MEM_ALLOC_ENABLE="1",
        PYTHONFAULTHANDLER="1",
    )
    return environment, dropped


def overridden_variables(threads: int) -> dict[str, str]:
    """Return the caller's variables that a measuring process gets with another value, as they are here."""
    ours, _ = worker_environment(threads, keep_blas_env=True)
    return {k: v for k, v in relevant_variables().items() if ours[k] != v}


def read_device_variables() -> dict[str, str | None]:
    """Return the variables that choose among several devices, as they are here; None where one is not set."""
    return {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES",)}


def _change(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def put(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables while a block starts processes, None for none; put them back behind it."""
    before = {name: os.environ.get(name) for name in values}
    _change(values)
    try:
        yield
    finally:
        _change(before)


def become(words: Sequence[str], values: Mapping[str, str | None]) -> NoReturn:
    """Run another program in the place of this process, with some variables set; None takes one away."""
    _change(values)
    os.execv(words[0], list(words))
