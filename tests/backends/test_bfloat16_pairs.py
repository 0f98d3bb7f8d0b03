"""Products of bfloat16 by pairs: right with the instructions in plain C, to the last bit the processor's.

Few processors have AVX512_BF16. Where this one has it, the conformance suite judges the set of that name
as any other; here its code is compiled with bfloat16_pairs.h on all, and both are compared where they can be.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conformance import Case, judge, judge_ties
from extents import EXTENTS

from harness import native
from harness.backends import registry
from harness.problem.problem import Array, Layer, Problem

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "native"
PAIRS = "avx512_bf16"
INCLUDED = (NATIVE / "include", NATIVE, ROOT / "tests" / "fabricate")
FLAGS = [
    "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-ffp-contract=off", "-Wno-psabi", "-shared", "-fPIC",
    *(f"-I{folder}" for folder in INCLUDED),
]  # fmt: skip
REAL = ["-O1", "-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mavx512bf16", "-mfma"]
EMULATED = """
#include "bfloat16_pairs.h"
#undef __SSE__
#undef __AVX__
#undef __aarch64__
#define __AVX512BF16__ 1
#define FFK_VECTOR_BYTES 64
"""
DRIVER = """
#define FFK_ISA emulated
#include "ffk.h"
#include "isa/names.inc"
#include "vector/vector.inc"
#include "vector/rows_bfloat16.inc"
void dots(int64_t tokens, int64_t rows, int64_t d, const void *x, const int32_t *token, const void *const *w,
          float *z) {
    FFK_NAME(gather_dot_bfloat16)(tokens, rows, d, x, token, 0, w, z, NULL, 0);
}
float dot(int64_t d, const void *x, const void *w) { return FFK_NAME(gather_dot_one_bfloat16)(d, x, w); }
void combine(int64_t tokens, int64_t rows, int64_t d, const float *a, const void *const *w, void *y,
             const int32_t *token, int how) {
    ffk_feed feed = {0};
    FFK_NAME(gather_add_bfloat16)(tokens, rows, d, a, w, y, token, (ffk_how)how, NULL, 0, &feed);
}
const ffk_isa *emulate(const ffk_isa *base) {
    static ffk_isa made;
    ffk_products *p = &made.products[FFK_BFLOAT16];
    made = *base;
    p->dots = FFK_NAME(gather_dot_bfloat16);
    p->combine = FFK_NAME(gather_add_bfloat16);
    p->dot = FFK_NAME(gather_dot_one_bfloat16);
    p->combine_one = FFK_NAME(gather_add_one_bfloat16);
    p->multiply = FFK_NAME(dense_dot_bfloat16);
    p->add = FFK_NAME(dense_add_bfloat16);
    return &made;
}
"""
STORE, PAST, ADD = range(3)

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="compiles with gcc")
needs_unit = pytest.mark.skipif(
    PAIRS not in native.isas() or not shutil.which("gcc"), reason=f"the processor has no {PAIRS}"
)


def _compile(folder: Path, text: str, flags: list[str]) -> ctypes.CDLL:
    source, made = folder / "driver.c", folder / "driver.so"
    source.write_text(text, encoding="ascii")
    subprocess.run(["gcc", *FLAGS, *flags, str(source), "-o", str(made), "-lm"], check=True)
    library = ctypes.CDLL(str(made))
    library.dot.restype = ctypes.c_float
    library.emulate.restype, library.emulate.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    return library


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return the products, with the instructions in plain C."""
    return _compile(tmp_path_factory.mktemp("emulated"), EMULATED + DRIVER, ["-Og"])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return the products of this processor."""
    return _compile(tmp_path_factory.mktemp("real"), DRIVER, REAL)


@pytest.fixture
def isa(emulated: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the kernels have an instruction set whose products are the emulated ones; return its name."""
    ffi = native._ffi
    base = int(ffi.cast("uintptr_t", native._ISAS["generic"]))
    made = ffi.cast("const ffk_isa *", emulated.emulate(base))
    monkeypatch.setitem(native._ISAS, "emulated", made)
    return "emulated"


def _draw(seed: int, rows: int, d: int) -> Array:
    """Return rows of bfloat16 of many magnitudes, a few of them too small to be normal."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, d)) * 2.0 ** rng.integers(-12, 12, (rows, d))
    values[rng.random((rows, d)) < 0.02] *= 2.0**-120
    return values.astype(ml_dtypes.bfloat16)


def _rows(w: Array) -> Any:
    return (ctypes.c_void_p * len(w))(*(row.ctypes.data for row in w))


def dots(library: ctypes.CDLL, x: Array, w: Array) -> Array:
    """Return z (tokens, rows), the tokens taken backwards."""
    token = np.arange(len(x), dtype=np.int32)[::-1].copy()
    z = np.empty((len(x), len(w)), np.float32)
    n = [ctypes.c_int64(v) for v in (len(x), len(w), x.shape[1])]
    library.dots(*n, *(ctypes.c_void_p(a.ctypes.data) for a in (x, token)), _rows(w),
                 ctypes.c_void_p(z.ctypes.data))  # fmt: skip
    return z[::-1]


def combine(library: ctypes.CDLL, a: Array, w: Array, how: int) -> Array:
    """Return what became of y (tokens + 2, columns): of its first and last row nothing may."""
    tokens, columns = len(a), w.shape[1]
    dtype = np.float32 if how == ADD else ml_dtypes.bfloat16
    memory = np.full((tokens + 2) * columns * 4 + 128, 1, np.uint8)
    first = -(memory.ctypes.data + columns * np.dtype(dtype).itemsize) % 64
    y = memory[first:][: (tokens + 2) * columns * np.dtype(dtype).itemsize].view(dtype)
    y = y.reshape(tokens + 2, columns)
    y[...] = 0.5
    token = np.arange(1, tokens + 1, dtype=np.int32)
    n = [ctypes.c_int64(v) for v in (tokens, w.shape[0], columns)]
    library.combine(*n, ctypes.c_void_p(a.ctypes.data), _rows(w), ctypes.c_void_p(y.ctypes.data),
                    ctypes.c_void_p(token.ctypes.data), how)  # fmt: skip
    return y


def _normal(v: Array) -> Array:
    """Return values as float64, those that are not normal as zeros."""
    wide = v.astype(np.float64)
    return np.where(np.abs(wide) < np.finfo(np.float32).tiny, 0.0, wide)


TOKENS = (1, 2, 3, 4, 5, 8, 11)
WIDTHS = (1, 31, 32, 33, 63, 64, 100, 256, 300)


@needs_gcc
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("tokens", TOKENS)
def test_dots_are_sums_of_exact_products(emulated: ctypes.CDLL, tokens: int, rows: int) -> None:
    """Dots of any width miss the truth by no more than float32 sums of exact products may."""
    for d in WIDTHS:
        x, w = _draw(tokens, tokens, d), _draw(rows, rows, d)
        z = dots(emulated, x, w)
        scale = np.abs(_normal(x)) @ np.abs(_normal(w)).T
        assert (np.abs(z - _normal(x) @ _normal(w).T) <= 4e-7 * scale).all()
        exact = [emulated.dot(ctypes.c_int64(d), *(ctypes.c_void_p(v.ctypes.data) for v in (x[0], row)))
                 for row in w]  # fmt: skip
        np.testing.assert_allclose(z[0], exact, rtol=0, atol=4e-7 * scale[0].max())


@needs_gcc
@pytest.mark.parametrize("how", [STORE, PAST, ADD])
@pytest.mark.parametrize("rows", [1, 2, 5, 12, 64, 65])
def test_outputs_take_rounded_factors(emulated: ctypes.CDLL, rows: int, how: int) -> None:
    """Outputs are sums of products of factors rounded to bfloat16, or of whole ones where they are many."""
    for tokens in TOKENS:
        for d in WIDTHS:
            w = _draw(rows, rows, d)
            a = np.random.default_rng(d).standard_normal((tokens, rows)).astype(np.float32)
            factors = a if rows > 64 else a.astype(ml_dtypes.bfloat16)
            y = combine(emulated, a, w, how)
            truth = _normal(factors) @ _normal(w) + (0.5 if how == ADD else 0.0)
            scale = np.abs(_normal(factors)) @ np.abs(_normal(w)) + 0.5
            rounding = 0.0 if how == ADD else 2.0**-8 * np.abs(truth)
            sums = 2e-7 * np.sqrt(rows) * scale
            assert (np.abs(y[1:-1].astype(np.float64) - truth) <= sums + rounding).all()
            assert (y[[0, -1]] == 0.5).all()


def _small(layer: Layer, batch: int, d_in: int, d_out: int, **more: int) -> Problem:
    shape = {**EXTENTS[layer], **more}
    return Problem(
        layer=layer, batch=batch, d_in=d_in, d_out=d_out, dtype="bfloat16", seed=d_in, **shape
    )


@needs_gcc
@pytest.mark.parametrize(
    "implementation", [i.id for i in registry.layers() if i.library is None and not i.needs_provider
                       and "bfloat16" in i.dtypes and i.devices == ("cpu",) and i.layer != "ceiling"]
)  # fmt: skip
def test_kernels_conform_with_them(implementation: str, isa: str) -> None:
    """Each kernel that takes bfloat16 is right with the emulated products, within the gate of all others."""
    chosen = registry.get(implementation)
    case = Case(implementation=chosen, provider="", isa=isa, dtype="bfloat16")
    problems = [_small(chosen.layer, batch, 65, 34) for batch in (1, 7, 70)]
    if chosen.layer == "fff":
        problems += [
            _small("fff", 300, 32, 64, depth=6, trees=1),
            _small("fff", 9, 40, 33, trees=40),
        ]
        assert judge_ties(case)
    for problem in problems:
        assert judge(case, problem) == "", problem


@needs_unit
def test_the_processor_does_the_same(emulated: ctypes.CDLL, real: ctypes.CDLL) -> None:
    """Emulated and real instructions give the same bytes, in whatever way a vector's lanes are summed."""
    for d in WIDTHS:
        x, w = _draw(1, 8, d), _draw(2, 12, d)
        assert np.array_equal(dots(emulated, x[:1], w[:3]), dots(real, x[:1], w[:3]))
        assert np.array_equal(dots(emulated, x[:3], w[:1]), dots(real, x[:3], w[:1]))
        scale = np.abs(_normal(x)) @ np.abs(_normal(w[:3])).T
        assert (np.abs(dots(emulated, x, w[:3]) - dots(real, x, w[:3])) <= 4e-7 * scale).all()
        a = np.random.default_rng(d).standard_normal((8, 12)).astype(np.float32)
        for how in (STORE, PAST, ADD):
            mine, theirs = (combine(library, a, w, how) for library in (emulated, real))
            assert mine.tobytes() == theirs.tobytes(), (d, how)


@needs_unit
def test_all_but_the_products_of_bfloat16_are_those_of_avx512() -> None:
    """A table's further entries are the same functions, so that float32 needs no judging twice."""
    ffi = native._ffi
    size = 16 + 8 * 6  # a name, a question and what the ceilings take, before the products
    tables = [ffi.buffer(native._ISAS[name], size + 16 * 8)[:] for name in (PAIRS, "avx512")]
    words = [np.frombuffer(table, np.uintp) for table in tables]
    same = words[0] == words[1]
    assert not same[:2].any()  # each has a name and a question of its own
    assert same[2:16].all()
    assert same[16:].tolist() == [False] * 6 + [True] * 2
