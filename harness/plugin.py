"""Own the plugins: implementations of the user's own, from a file or an installed package.

A plugin is a Python module that declares implementations when it is loaded. `--plugin FILE.py` names one;
an installed package offers one under the entry-point group `harness.implementations`. All that a plugin's
author needs is found here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shlex
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from harness import native
from harness.backends import registry, sources, timer
from harness.backends.registry import Context, Implementation, Prepared, register
from harness.errors import UnavailableError, UsageError
from harness.problem.operands import Operands
from harness.problem.problem import DTYPES, LAYERS, Array, Layer, Problem

__all__ = [
    "Context", "Implementation", "Operands", "Prepared", "Problem", "include_dir", "load",
    "load_all", "register", "register_c", "register_python",
]  # fmt: skip

GROUP = "harness.implementations"
Function = Callable[..., object]  # of x, the weights and y
WorkspaceBytes = Callable[[Problem], int]

_loaded: set[str] = set()
_origins: dict[str, str] = {}
_declared: list[Path] = []  # files behind what was registered, in their order
_digests: dict[str, str] = {}  # by source


def include_dir() -> Path:
    """Return the folder of the public header `ffk.h`.

    Raises UnavailableError where the installation lacks it.
    """
    return sources.find_folder("include", "ffk.h")


# ---- declarations -------------------------------------------------------------------------------


def _caller_file() -> Path:
    """Return the file of the module that declares; where there is none, a name in the current folder."""
    return Path(sys._getframe(2).f_globals.get("__file__") or "interactive").resolve()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


# A library's own command may have further flags and files.
_COMPILE = (
    "cc -std=c11 -O3 -march=native -fopenmp-simd -shared -fPIC "
    '-I"$(python -m harness include-dir)" -o'
)


def judge_interface(found: native.Interface, ours: native.Interface, oldest: int) -> str:
    """Return why a library can't be called by this harness, an empty string where it can.

    What is older than `ours` may know structures that have grown since, by the part that it knows.
    """
    said = f"was compiled against version {found.version} of ffk.h"
    has = f"this harness has version {ours.version}"
    if found.version > ours.version:
        return f"{said}, {has}"
    if found.version < oldest:
        carried = "" if found.sizes else " (it carries no record)"
        return f"{said}{carried}, {has} and takes none before {oldest}"
    for name, size in found.sizes.items():
        own = ours.sizes[name]
        if size > own or (found.version == ours.version and size != own):
            return f"{said} with ffk_{name} of {size} bytes, {has} with {own}"
    return ""


def _check_interface(library: Path) -> None:
    """Raise UsageError where a library was compiled against a header whose places are not ours."""
    found = native.read_interface(library)
    if reason := judge_interface(found, native.INTERFACE, native.OLDEST_INTERFACE):
        source = library.with_suffix(".c")
        files = shlex.quote(str(source)) if source.is_file() else "SOURCES"
        raise UsageError(
            f"{library.name} {reason}; compile it again: {_COMPILE} {shlex.quote(str(library))} {files}"
        )


def _prepare_c(
    kernel: native.Kernel, notes: dict[str, str], workspace_bytes: WorkspaceBytes,
    problem: Problem, operands: Operands, context: Context,
) -> Prepared:  # fmt: skip
    workspace = context.workspace(workspace_bytes(problem))
    around = native.Surroundings(
        isa=context.isa,
        threads=context.threads,
        caches=context.caches,
        far_weights=context.far_weights,
    )
    forward, time = native.bind(kernel, problem, operands, around, workspace)
    return Prepared(
        forward=forward, time=time, notes={**notes, "isa": context.isa or native.isas()[0]},
        sets=1 + len(operands.rotation),
    )  # fmt: skip


def register_c(
    *, id: str, layer: Layer, library: str | os.PathLike[str], symbol: str, summary: str = "",
    workspace_bytes: WorkspaceBytes = lambda problem: 0, token_block: int = 0,
    dtypes: tuple[str, ...] = ("float32",),
) -> Implementation:  # fmt: skip
    """Register a C function of a shared library, run and timed by the loop of the native kernels.

    The function is `ffk_status symbol(const ffk_shape *, const ffk_operands *, const ffk_context *)`
    of `ffk.h`. library: path, relative to the file that declares. workspace_bytes: the bytes that it needs
    for a problem; they come aligned to 64 in `operands->workspace`. token_block: tokens that it computes
    together and apart from all others, 0 where the batch is one piece of work; a pass of many seconds over
    whole blocks is sampled in slices. dtypes: of "float32" and "bfloat16", what it takes; it finds which one
    it is given in `shape->dtype`.

    Raises UnavailableError where the library is not there, does not load or lacks the symbol, UsageError
    where it was compiled against a version of `ffk.h` that this harness does not take, ValueError where the
    id is taken or does not begin with its layer, or a dtype is unknown.
    """
    unknown = sorted(set(dtypes) - set(DTYPES))
    if unknown:
        raise ValueError(f"dtypes must be one or more of {DTYPES}, got {unknown[0]!r}")
    path = _caller_file().parent / library
    if not path.is_file():
        raise UnavailableError(f"there is no library {path}; compile it first")
    _declared.append(path)
    _check_interface(path)
    kernel = native.load_kernel(
        id, layer, path, symbol, token_block=token_block, dtypes=tuple(dtypes)
    )
    notes = {"library": f"{path.name} sha256:{_digest(path)}", "timed_by": "C clock and loop"}
    return register(
        Implementation(
            id=id, layer=layer, level=None, devices=("cpu",),
            summary=summary or f"{symbol} of {path.name}",
            prepare=partial(_prepare_c, kernel, notes, workspace_bytes),
            workspace_bytes=workspace_bytes, token_block=token_block, dtypes=tuple(dtypes),
        )
    )  # fmt: skip


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _drop(_: object) -> None:
    """Take what a pass returned: it answers by filling y."""


def _prepare_python(
    function: Function, notes: dict[str, str], problem: Problem, operands: Operands,
    context: Context,
) -> Prepared:  # fmt: skip
    inputs = map(_read_only, (operands.x, *operands.weights()))
    forward = partial(function, *inputs, operands.y)
    overhead = f"Python clock and loop, {timer.python_overhead_ns():.0f} ns a pass of its own"
    return Prepared(
        forward=lambda: _drop(forward()),
        time=timer.make_python_timer(forward),
        notes={**notes, "timed_by": overhead},
    )


def register_python(
    *, id: str, layer: Layer, function: Function, summary: str = "",
    dtypes: tuple[str, ...] = ("float32",),
) -> Implementation:  # fmt: skip
    """Register a Python function `function(x, w_in, w_out, y)` that fills y.

    x (batch, d_in), y (batch, d_out); FF: w_in (hidden, d_in), w_out (hidden, d_out); FFF:
    (trees, n_nodes, ...). A layer with further weights gets them between w_out and y, in the order of
    `Problem.weights`: a leaf FFF router, router_bias, b_in, b_out; peer and moe router. All C-contiguous,
    float32 or another one of `dtypes` ("bfloat16" comes as `ml_dtypes.bfloat16`); all but y are read-only.
    What it returns is ignored.
    A Python loop times it, whose own cost per pass is measured and noted in the record.

    Raises ValueError where the id is taken or does not begin with its layer.
    """
    path = _caller_file()
    if path.is_file():
        _declared.append(path)
    notes = {"plugin": f"{path.name} sha256:{_digest(path)}"} if path.is_file() else {}
    return register(
        Implementation(
            id=id, layer=layer, level=None, devices=("cpu",), summary=summary or "Python function",
            prepare=partial(_prepare_python, function, notes), workspace_bytes=lambda problem: 0,
            dtypes=tuple(dtypes),
        )
    )  # fmt: skip


# ---- loading ------------------------------------------------------------------------------------


def origin(implementation_id: str) -> str:
    """Return the source that an implementation was loaded from, empty for one of our own."""
    return _origins.get(implementation_id, "")


def digests() -> dict[str, str]:
    """Return, for each loaded source, a digest of its file and of every library that it declared."""
    return dict(_digests)


def _where(error: BaseException, file: str) -> str:
    """Return the line of the plugin's own file in which an error arose."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f":{lines[-1]}" if lines else ""


def _what(error: BaseException) -> str:
    """Return an error in one line; the kinds that our own declarations raise speak for themselves."""
    text = " ".join(str(error).split())
    if type(error) in (UnavailableError, UsageError, ValueError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Compile a plugin from its file each time.

    Python takes bytecode that it kept for that of a file of the same size and second. What is measured
    would then be another source than the one whose digest the run records.
    """

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _run_file(path: str) -> None:
    if not path.endswith(".py"):
        raise UsageError("need a Python file, *.py")
    name = f"harness_plugin_{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    loader = _SourceLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # a loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up by name
    loader.exec_module(module)


def _run_entry_point(source: str) -> None:
    distribution, _, name = source.partition(":")
    for entry in importlib.metadata.entry_points(group=GROUP, name=name):
        if _distribution(entry) == distribution:
            declared = entry.load()
            if callable(declared):
                declared()
            return
    raise UsageError("no installed package offers it")


def _distribution(entry: importlib.metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else ""


def _load_source(source: str, label: str, declare: Callable[[str], None]) -> None:
    """Run a plugin's declarations and remember which implementations are its own."""
    if source in _loaded:
        return
    known, before = {i.id for i in registry.all()}, len(_declared)
    try:
        declare(source)
        own = [i for i in registry.all() if i.id not in known]
        for i in own:
            i.unavailable()
    # Whatever the user's code raises on loading, sys.exit included, is the user's to read in one line.
    except (Exception, SystemExit) as error:
        raise UsageError(f"{label}{_where(error, source)}: {_what(error)}") from error
    if not own:
        raise UsageError(f"{label}: it registers no implementation")
    for i in own:
        if i.layer not in LAYERS:
            layers = ", ".join(LAYERS)
            raise UsageError(f"{label}: {i.id}: layer must be one of {layers}, got {i.layer!r}")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", i.id):
            raise UsageError(f"{label}: an id has letters, digits, and _.- alone, got {i.id!r}")
        _origins[i.id] = source
    files = {Path(source), *_declared[before:]}
    _digests[source] = "+".join(_digest(path) for path in sorted(files) if path.is_file())
    _loaded.add(source)


def load(source: str | os.PathLike[str]) -> None:
    """Load a plugin, once: a Python file, or `DISTRIBUTION:NAME` of the entry-point group.

    Raises UsageError, in one line, where it is not there, raises, or declares what can't be registered.
    """
    text = os.fspath(source)
    if not text.endswith(".py") and ":" in text and not Path(text).exists():
        _load_source(text, f"entry point {text} of {GROUP}", _run_entry_point)
        return
    path = Path(text).resolve()
    if not path.is_file():
        raise UsageError(f"--plugin: there is no file {text!r}")
    _load_source(str(path), f"--plugin: {text}", _run_file)


@cache
def load_installed() -> None:
    """Load what installed packages offer, once. Raises UsageError as `load` does."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        load(f"{_distribution(entry)}:{entry.name}")


def load_all(files: Sequence[Path]) -> None:
    """Load what installed packages offer, then the given files. Raises UsageError as `load` does."""
    load_installed()
    for file in files:
        load(file)
