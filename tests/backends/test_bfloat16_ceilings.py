"""The ceilings of bfloat16 products: what their loops compute, and where they are unavailable.

Few processors have these units; here their instructions are plain C (bfloat16_units.h), and the compiler's
output is looked at for the real ones.
"""

from __future__ import annotations

import ctypes
import dataclasses
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from harness import native
from harness.backends import registry, torch_library
from harness.backends.registry import Context
from harness.machine import processor
from harness.native import NativeError, Surroundings
from harness.problem import ceilings
from harness.problem.check import check
from harness.problem.operands import make_operands
from harness.problem.problem import Problem

ROOT = Path(__file__).parents[2]
D_IN = {"bfdot": 2, "amx": 32}
FLAGS = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-I", str(ROOT / "native" / "include"), "-I",
         str(ROOT / "native"), "-I", str(ROOT / "tests" / "fabricate")]  # fmt: skip
needs_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("gcc"), reason="the units are of x86-64"
)
DRIVER = """
#include "bfloat16_units.h"
#include "ceilings/ceiling_{name}.c"
static void narrow(int64_t n, const float *from, void *to) {{
    for (int64_t i = 0; i < n; ++i) {{
        uint32_t bits;
        memcpy(&bits, from + i, sizeof bits);
        ((uint16_t *)to)[i] = (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }}
}}
size_t ffk_no_workspace(const ffk_shape *s) {{
    (void)s;
    return 0;
}}
int pass(const ffk_shape *s, void *x, void *w_out, void *y) {{
    const ffk_isa isa = {{.products = {{{{0}}, {{.narrow = narrow}}}}}};
    const ffk_context c = {{.isa = &isa}};
    const ffk_operands o = {{.x = x, .w_out = w_out, .y = y}};
    return ffk_kernel_ceiling_{name}.run(s, &o, &c);
}}
"""


class Shape(ctypes.Structure):
    """The shape of a pass, as ffk.h has it."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in ("batch", "d_in", "d_out", "hidden", "depth", "trees")
        ),
        ("dtype", ctypes.c_int32),
    ]


@pytest.fixture(scope="module", params=D_IN)
def emulated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Return a ceiling's name and its pass, compiled with the instructions in plain C."""
    folder = tmp_path_factory.mktemp("units")
    source, made = folder / "driver.c", folder / "driver.so"
    source.write_text(DRIVER.format(name=request.param), encoding="ascii")
    command = ["gcc", *FLAGS, "-O1", "-Wno-psabi", "-shared", "-fPIC", str(source), "-o", str(made)]
    subprocess.run(command, check=True)
    return request.param, ctypes.CDLL(str(made)).__getattr__("pass")


@needs_x86
@pytest.mark.parametrize("batch", [1, 5, 32, 33])
@pytest.mark.parametrize("d_out", [1, 17, 64, 96])
def test_agrees_with_the_oracle(emulated, batch: int, d_out: int) -> None:
    """Whole and cut blocks give the known answer, which grows with every repetition, and nothing else."""
    name, run = emulated
    problem = Problem(
        layer="ceiling",
        batch=batch,
        d_in=D_IN[name],
        d_out=d_out,
        hidden=40,
        dtype="bfloat16",
        seed=7,
    )
    made = make_operands(problem)
    guarded = np.full((batch + 2, d_out), 42.0, problem.stored)
    operands = dataclasses.replace(made, y=guarded[1:-1])
    shape = Shape(batch, D_IN[name], d_out, 40, 0, 0, 1)
    pointers = (ctypes.c_void_p(a.ctypes.data) for a in (operands.x, operands.w_out, operands.y))
    assert run(ctypes.byref(shape), *pointers) == 0
    verdict = check(problem, operands, implementation=f"ceiling_{name}")
    assert verdict.ok, verdict.reason
    assert (guarded[[0, -1]] == 42.0).all()
    fewer = dataclasses.replace(
        operands, y=(0.9 * operands.y.astype(np.float32)).astype(problem.stored)
    )
    assert not check(problem, fewer, implementation=f"ceiling_{name}").ok


@needs_x86
@pytest.mark.parametrize(
    ("name", "instruction", "least"), [("bfdot", "vdpbf16ps", 16), ("amx", "tdpbf16ps", 4)]
)
def test_the_compiler_keeps_the_loop(
    name: str, instruction: str, least: int, tmp_path: Path
) -> None:
    """The loop holds each of its products once, on registers alone: none folded, none from memory."""
    made = tmp_path / "object.o"
    source = str(ROOT / "native" / "ceilings" / f"ceiling_{name}.c")
    command = ["gcc", *FLAGS, "-O3", "-Wall", "-Wextra", "-Werror", "-c", source, "-o", str(made)]
    subprocess.run(command, check=True)
    listed = subprocess.run(
        ["objdump", "-d", str(made)], capture_output=True, text=True, check=True
    )
    products = [line for line in listed.stdout.splitlines() if instruction in line]
    assert len(products) == least
    assert not any("(" in line.partition(instruction)[2] for line in products)


@pytest.mark.parametrize("name", D_IN)
def test_work_is_counted_by_its_repetitions(name: str) -> None:
    """A pass counts two operations for each product of each repetition."""
    problem = Problem(
        layer="ceiling", batch=32, d_in=D_IN[name], d_out=768, hidden=100, dtype="bfloat16"
    )
    flops, _ = ceilings.count_work(f"ceiling_{name}", problem)
    assert flops == 2 * 32 * D_IN[name] * 768 * 100


@pytest.mark.parametrize(("name", "flag"), [("bfdot", "avx512_bf16"), ("amx", "amx_bf16")])
def test_a_processor_without_the_unit_says_so(
    name: str, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ceiling is available where the processor reports its instructions, else the reason names them."""
    ceiling = registry.get(f"ceiling_{name}")
    monkeypatch.setattr(processor, "read_isa", lambda files: ["avx2", "fma"])
    assert ceiling.unavailable() == f"the processor reports no {flag}"
    monkeypatch.setattr(processor, "read_isa", lambda files: ["avx512f", flag])
    assert ceiling.unavailable() == ""


@pytest.mark.parametrize("name", D_IN)
def test_the_kernel_refuses_what_it_has_no_answer_for(name: str) -> None:
    """Other extents are refused, and so is a processor without the unit, before any instruction of it."""
    around, none = Surroundings(), np.empty(0, np.uint8)
    wrong = Problem(layer="ceiling", batch=4, d_in=3, d_out=4, hidden=40, dtype="bfloat16")
    forward, _ = native.bind(f"ceiling_{name}", wrong, make_operands(wrong), around, none)
    with pytest.raises(NativeError, match="bad shape"):
        forward()
    if registry.get(f"ceiling_{name}").unavailable():
        right = dataclasses.replace(wrong, d_in=D_IN[name])
        forward, _ = native.bind(f"ceiling_{name}", right, make_operands(right), around, none)
        with pytest.raises(NativeError, match="unsupported isa"):
            forward()


@pytest.mark.skipif(bool(torch_library.unavailable()), reason="torch is not installed")
def test_the_product_of_torch_agrees_with_the_oracle() -> None:
    """The product that torch is asked for is x times w_out, in bfloat16, on the operands' own memory."""
    problem = Problem(layer="ceiling", batch=40, d_in=64, d_out=24, hidden=64, dtype="bfloat16")
    operands = make_operands(problem)
    context = Context(provider=None, workspace=lambda size: np.empty(size, np.uint8))
    registry.get("ceiling_torch_matmul").prepare(problem, operands, context).forward()
    verdict = check(problem, operands, implementation="ceiling_torch_matmul")
    assert verdict.ok, verdict.reason
