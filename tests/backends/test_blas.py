"""BLAS providers: where they are found, how their convention is proved."""

from __future__ import annotations

import ctypes
import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.backends import blas
from harness.errors import UnavailableError, UnknownNameError

INT32, INT64, REAL = ctypes.c_int32, ctypes.c_int64, ctypes.c_float


def _sdot(integer: Any, result: Any) -> Callable[..., float]:
    """Return a Fortran sdot of an integer width and a return type, as a C callback."""
    kind = ctypes.CFUNCTYPE(
        result, ctypes.POINTER(integer), ctypes.POINTER(REAL), ctypes.POINTER(integer),
        ctypes.POINTER(REAL), ctypes.POINTER(integer),
    )  # fmt: skip

    def sdot(n: Any, x: Any, incx: Any, y: Any, incy: Any) -> float:
        return sum(x[i * incx[0]] * y[i * incy[0]] for i in range(max(0, n[0])))

    return kind(sdot)


@pytest.mark.parametrize(("integer", "bits"), [(INT32, 32), (INT64, 64)])
def test_integer_width_is_proved_by_a_call(integer: Any, bits: int) -> None:
    """A library's integer width is found by what its sdot makes of a length."""
    function = _sdot(integer, REAL)
    address = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    assert blas._probe_int_bits(address or 0, "a.so") == bits


@pytest.mark.parametrize("integer", [INT32, INT64])
def test_a_double_result_is_refused(integer: Any) -> None:
    """A library of the f2c convention, whose sdot returns a double, is refused by name."""
    function = _sdot(integer, ctypes.c_double)
    address = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    with pytest.raises(UnavailableError, match=r"'a\.so': sdot does not return a float"):
        blas._probe_int_bits(address or 0, "a.so")


def test_scipy_is_always_there(scipy_provider: blas.Provider) -> None:
    """SciPy's own BLAS has every required routine and says which file serves it."""
    assert set(scipy_provider.routines) == set(blas.REQUIRED)
    assert Path(scipy_provider.path).is_file()
    assert scipy_provider.int_bits == 32
    assert scipy_provider.has("sgemm")
    assert not scipy_provider.has("sgemv_batch")
    assert blas.locate("scipy") == ""
    assert blas.find_missing(["scipy"]) == {}


def test_describe(scipy_provider: blas.Provider) -> None:
    """A provider describes itself in one line, with what is unknown said so."""
    text = scipy_provider.describe()
    assert text.startswith("scipy (")
    assert "\n" not in text
    bare = blas.Provider(
        name="x", path="/x.so", version="", architecture="", threads=0, threading_layer="",
        int_bits=32, routines=(), table=None,
    )  # fmt: skip
    assert bare.describe() == "x (unknown version, unknown kernels)"
    for threads, words in ((1, "1 thread)"), (2, "2 threads)")):
        full = blas.Provider(
            name="x", path="/x.so", version="MKL 1", architecture="avx2", threads=threads,
            threading_layer="", int_bits=32, routines=(), table=None,
        )  # fmt: skip
        assert full.describe() == f"x (MKL 1, avx2, {words}"


def test_what_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider without a file is missing, and the reason says what to install; one with a file is not."""
    for name, (_, remedy) in blas._NAMED.items():
        file = "" if name == "mkl" else f"/lib/{name}.so"
        monkeypatch.setitem(blas._NAMED, name, (lambda file=file: file, remedy))
    missing = blas.find_missing([*blas.names(), "/no/lib.so"])
    assert list(missing) == ["mkl", "/no/lib.so"]
    assert "pip install mkl" in missing["mkl"]
    assert "there is no file '/no/lib.so'" in missing["/no/lib.so"]
    with pytest.raises(UnknownNameError, match="known: scipy"):
        blas.find_missing(["abacus"])


@pytest.mark.parametrize("name", ["abacus", "SciPy", ""])
def test_unknown_name(name: str) -> None:
    """A name that is neither known nor a path is an error that lists the known ones."""
    with pytest.raises(
        UnknownNameError, match=r"known: scipy, mkl, openblas, blis, aocl, or a path"
    ):
        blas.locate(name)


def test_library_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known library that this machine lacks is unavailable, with what to install."""
    monkeypatch.setitem(blas._NAMED, "blis", (lambda: "", "apt install libblis4"))
    with pytest.raises(
        UnavailableError, match=r"'blis' is not on this machine; apt install libblis4"
    ):
        blas.load("blis")


@pytest.mark.parametrize(
    ("name", "file"),
    [("mkl", "libmkl_rt.so.2"), ("openblas", "libopenblas.so.0"), ("blis", "libblis.so"),
     ("aocl", "libblis-mt.so.4")],
)  # fmt: skip
@pytest.mark.parametrize("where", ["prefix", "base_prefix"])
def test_library_of_the_python_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str, where: str
) -> None:
    """A library that conda put beside the interpreter is found before the system's, under any version."""

    def no_package(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", no_package)
    monkeypatch.setattr(blas, "find_library", lambda stem: f"lib{stem}.so.of.the.system")
    for prefix in ("prefix", "base_prefix"):
        monkeypatch.setattr(sys, prefix, str(tmp_path / prefix))
        (tmp_path / prefix / "lib").mkdir(parents=True)
    assert blas.locate(name).endswith(".so.of.the.system")
    library = tmp_path / where / "lib" / file
    library.touch()
    assert blas.locate(name) == str(library)


def test_path_to_nothing(tmp_path: Path) -> None:
    """A path to no file, or to a folder, is unavailable."""
    for path in (tmp_path / "libx.so", tmp_path):
        with pytest.raises(UnavailableError, match="there is no file"):
            blas.locate(str(path))


def test_file_that_is_no_library(tmp_path: Path) -> None:
    """A file that the loader refuses is unavailable with the loader's reason."""
    path = tmp_path / "libtext.so"
    path.write_text("not a library", encoding="utf-8")
    with pytest.raises(UnavailableError, match=r"libtext\.so' can't be loaded: "):
        blas.load(str(path))


def _compile(folder: Path, source: str) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the tests need the C compiler that the kernels were built with"
    (folder / "blas.c").write_text(source, encoding="utf-8")
    path = folder / "libtiny.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, folder / "blas.c"], check=True)
    return str(path)


def test_library_that_lacks_symbols(tmp_path: Path) -> None:
    """A library without all required routines is refused, and the missing ones are named."""
    path = _compile(tmp_path, "float sdot_(void) { return 0; }\nvoid sgemm_(void) {}\n")
    with pytest.raises(
        UnavailableError, match=r"libtiny\.so' lacks saxpy, sgemv under every"
    ) as caught:
        blas.load(path)
    assert "\n" not in str(caught.value)


_TINY = """
typedef INT I;
float NAME(sdot)(const I *n, const float *x, const I *ix, const float *y, const I *iy) {
    float s = 0;
    for (I i = 0; i < *n; ++i) s += x[i * *ix] * y[i * *iy];
    return s;
}
void NAME(saxpy)(const I *n, const float *a, const float *x, const I *ix, float *y, const I *iy) {
    for (I i = 0; i < *n; ++i) y[i * *iy] += *a * x[i * *ix];
}
void NAME(sgemv)(void) {}
void NAME(sgemm)(void) {}
"""


@pytest.mark.parametrize(
    ("decoration", "integer", "bits"),
    [("r##_", "int", 32), ("scipy_##r##_", "int", 32), ("r", "int", 32), ("r##64_", "long long", 64),
     ("r##_64_", "long long", 64), ("scipy_##r##64_", "long long", 64)],
)  # fmt: skip
def test_decorations_and_widths(tmp_path: Path, decoration: str, integer: str, bits: int) -> None:
    """A library by path is used under any known decoration, with either width: a level-1 pass is right."""
    import harness

    source = f"#define INT {integer}\n#define NAME(r) {decoration}\n{_TINY}"
    path = _compile(tmp_path, source)
    provider = blas.load(path)
    assert provider.int_bits == bits
    assert provider.path == str(Path(path).resolve())
    assert provider.name == Path(path).name
    rng = np.random.default_rng(0)
    x, w_in, w_out = (rng.standard_normal(s, dtype=np.float32) for s in ((3, 5), (7, 5), (7, 4)))
    for implementation in ("ff_l1_blas", "fff_l1_blas"):
        y = harness.forward(implementation, x, w_in, w_out, blas=path)
        expected = harness.forward(implementation, x, w_in, w_out)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


_WORKS = """
#include <pthread.h>
static void *work(void *unused) { for (volatile long i = 0; i < 100000000; ++i) {} return 0; }
void NAME(sgemm)(void) {
    pthread_t helpers[THREADS];
    for (int i = 1; i < THREADS; ++i) pthread_create(&helpers[i], 0, work, 0);
    work(0);
    for (int i = 1; i < THREADS; ++i) pthread_join(helpers[i], 0);
}
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_of_a_library_that_no_tool_knows(tmp_path: Path, threads: int) -> None:
    """Where no tool knows a library's pool, the threads at work in a product are counted."""
    tiny = _TINY.replace("void NAME(sgemm)(void) {}", _WORKS)
    source = f"#define THREADS {threads}\n#define INT int\n#define NAME(r) r##_\n{tiny}"
    assert blas.load(_compile(tmp_path, source)).threads == threads


def test_recorded_paths_tell_nothing_of_the_environments_place(tmp_path: Path) -> None:
    """A library inside the environment is recorded below {prefix}, any other by its own path."""
    inside = Path(sys.prefix).resolve() / "lib" / "libx.so"
    assert blas.portable_path(str(inside)) == "{prefix}/lib/libx.so"
    assert blas.portable_path(str(tmp_path / "libx.so")) == str(tmp_path / "libx.so")
