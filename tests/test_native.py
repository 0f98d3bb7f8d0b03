"""The boundary to the compiled part: what it refuses, and what it says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from extents import EXTENTS

from harness import native
from harness.backends import blas
from harness.errors import UnavailableError, UnknownNameError
from harness.native import NativeError
from harness.problem.operands import Operands, make_aligned, make_operands
from harness.problem.problem import Array, Problem

KERNEL, ROOT = "ff_l1_blas", Path(__file__).parents[1]


def _bind(
    problem: Problem, operands: Operands, provider: blas.Provider | None, *, kernel: str = KERNEL,
    isa: str = "", workspace: Array | None = None,
) -> tuple[Callable[[], None], Callable[[int], int]]:  # fmt: skip
    if workspace is None:
        workspace = make_aligned((native.workspace_bytes(kernel, problem),), np.uint8)
    table = provider.table if provider else None
    return native.bind(
        kernel, problem, operands, native.Surroundings(blas=table, isa=isa), workspace
    )


def _fortran(a: Array) -> Array:
    return np.asfortranarray(a)


def _strided(a: Array) -> Array:
    return np.repeat(a, 2, axis=1)[:, ::2]


def _double(a: Array) -> Array:
    return a.astype(np.float64)


def _narrow(a: Array) -> Array:
    return np.ascontiguousarray(a[:, :-1])


def _flat(a: Array) -> Array:
    return a.reshape(-1)


@pytest.mark.parametrize("name", ["x", "w_in", "w_out", "y"])
@pytest.mark.parametrize("spoil", [_fortran, _strided, _double, _narrow, _flat])
def test_bad_arrays(
    scipy_provider: blas.Provider, small_ff: Problem, name: str, spoil: Callable[[Array], Array]
) -> None:
    """An array of wrong order, stride, dtype or shape is refused by name, with what was needed."""
    operands = make_operands(small_ff)
    bad = replace(operands, **{name: spoil(getattr(operands, name))})
    with pytest.raises(ValueError, match=rf"^{name}: need C-contiguous float32 \("):
        _bind(small_ff, bad, scipy_provider)


def test_read_only_output(scipy_provider: blas.Provider, small_ff: Problem) -> None:
    """An output that can't be written is refused; read-only inputs are not."""
    operands = make_operands(small_ff)
    operands.x.flags.writeable = operands.w_in.flags.writeable = False
    _bind(small_ff, operands, scipy_provider)[0]()
    operands.y.flags.writeable = False
    with pytest.raises(ValueError, match=r"^y: need a writable array"):
        _bind(small_ff, operands, scipy_provider)


@pytest.mark.parametrize("kernel", [k for k, v in native.KERNELS.items() if v.layer != "ceiling"])
def test_workspace_too_small(scipy_provider: blas.Provider, kernel: str) -> None:
    """One byte less than the announced workspace is refused, by forward and time, with id and status."""
    layer = native.KERNELS[kernel].layer
    problem = Problem(layer=layer, batch=3, d_in=4, d_out=2, **EXTENTS[layer])  # type: ignore[arg-type]
    size = native.workspace_bytes(kernel, problem)
    if size == 0:
        workspace = make_aligned((0,), np.uint8)
        _bind(problem, make_operands(problem), scipy_provider, kernel=kernel, workspace=workspace)[
            0
        ]()
        return
    workspace = make_aligned((size,), np.uint8)[: size - 1]
    forward, time = _bind(
        problem, make_operands(problem), scipy_provider, kernel=kernel, workspace=workspace
    )
    for run in (forward, lambda: time(1)):
        with pytest.raises(NativeError, match=rf"^{kernel}: workspace too small for Problem\("):
            run()


def test_workspace_misaligned(scipy_provider: blas.Provider, small_ff: Problem) -> None:
    """A workspace that does not begin on a cache line is refused."""
    kernel = "ff_l3_blas"
    size = native.workspace_bytes(kernel, small_ff)
    workspace = make_aligned((size + 4,), np.uint8)[4:]
    forward, _ = _bind(
        small_ff, make_operands(small_ff), scipy_provider, kernel=kernel, workspace=workspace
    )
    with pytest.raises(NativeError, match=rf"^{kernel}: workspace misaligned"):
        forward()


def test_missing_provider_and_routine(scipy_provider: blas.Provider, small_ff: Problem) -> None:
    """A kernel that needs BLAS says so where no provider, or not all of it, is given."""
    forward, _ = _bind(small_ff, make_operands(small_ff), None)
    with pytest.raises(NativeError, match=rf"^{KERNEL}: null pointer"):
        forward()
    partial = replace(scipy_provider, table=native.blas_table({"saxpy": 1}, 32))
    forward, _ = _bind(small_ff, make_operands(small_ff), partial)
    with pytest.raises(NativeError, match=rf"^{KERNEL}: missing routine"):
        forward()


@pytest.mark.parametrize("loops", [0, -1])
def test_no_loops(scipy_provider: blas.Provider, small_ff: Problem, loops: int) -> None:
    """Timing fewer than one pass is refused."""
    _, time = _bind(small_ff, make_operands(small_ff), scipy_provider)
    with pytest.raises(NativeError, match="bad shape"):
        time(loops)


def test_unknown_isa(scipy_provider: blas.Provider, small_ff: Problem) -> None:
    """An instruction set that this processor lacks is refused, and the known ones are listed."""
    with pytest.raises(UnknownNameError, match="generic"):
        _bind(small_ff, make_operands(small_ff), scipy_provider, isa="vax")


def test_wrong_layer(scipy_provider: blas.Provider, small_fff: Problem) -> None:
    """A kernel of one layer refuses the other's problem."""
    workspace = make_aligned((1 << 16,), np.uint8)
    forward, _ = _bind(small_fff, make_operands(small_fff), scipy_provider, workspace=workspace)
    with pytest.raises(NativeError, match=rf"^{KERNEL}: bad shape"):
        forward()
    assert native.workspace_bytes(KERNEL, small_fff) == 0


def test_operands_are_kept_alive(scipy_provider: blas.Provider, small_ff: Problem) -> None:
    """What bind returns keeps the arrays alive after the caller let go of them."""
    import gc
    import weakref

    operands = make_operands(small_ff)
    watched = weakref.ref(operands.x)
    forward, time = _bind(small_ff, operands, scipy_provider)
    del operands
    gc.collect()
    assert watched() is not None
    forward()
    del forward, time
    gc.collect()
    assert watched() is None


def test_kernels_match_their_ids() -> None:
    """Each kernel's id begins with its layer, and its level stands in it."""
    for name, kernel in native.KERNELS.items():
        assert name == kernel.id
        assert name.startswith(f"{kernel.layer}_")
        if kernel.layer != "ceiling" and kernel.level:
            assert f"_l{kernel.level}_" in name


def test_build_record() -> None:
    """The build names its compiler, its flags and an instruction set that the processor has."""
    record = native.build_record()
    assert record["compiler"]
    assert "-O3" in record["flags"]
    assert "-ffast-math" not in record["flags"]
    assert "-shared" in record["link_flags"]
    assert len(record["digest"]) == 16
    assert record["isa"] == native.isas()[0]
    assert native.isas()[-1] == "generic"


def test_an_extension_of_other_sources_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside sources that it was not built from, and only there, the extension is refused in one line."""
    monkeypatch.setattr(native, "__file__", str(tmp_path / "harness" / "native.py"))
    assert native._read_build()["digest"] == native.build_record()["digest"]
    shutil.copytree(ROOT / "native", tmp_path / "native")
    assert native._read_build()["digest"] == native.build_record()["digest"]
    (tmp_path / "native" / "isa" / "generic.c").write_text("/* another */", encoding="ascii")
    with pytest.raises(
        UnavailableError, match=r"built from other sources.*pip install -e"
    ) as caught:
        native._read_build()
    assert "\n" not in str(caught.value)
