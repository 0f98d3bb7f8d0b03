"""What a C plugin was compiled against: refused where this harness has something else in its places."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import api, native, plugin
from harness.backends import registry
from harness.errors import UsageError
from harness.problem.operands import Operands, make_aligned, make_operands, make_weights
from harness.problem.problem import Array, Problem

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "native" / "include" / "ffk.h"
# The header as it was before it had a version: what plugins without a record were compiled with.
HEADER_1 = ROOT / "tests" / "data" / "ffk_1.h"
CC = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")

PROBLEM = Problem(layer="fff", batch=6, d_in=5, d_out=7, depth=2, trees=2, seed=1)

# Correct, in two files, each of which includes the header. C11 and C++ alike.
KERNEL = r"""
#include "ffk.h"
#ifdef __cplusplus
extern "C" {
#endif
#define EXPORTED __attribute__((visibility("default")))
void token(const ffk_shape *s, const ffk_operands *o, const ffk_context *c, int64_t b);
EXPORTED ffk_status mine(const ffk_shape *s, const ffk_operands *o, const ffk_context *c);
EXPORTED ffk_status surroundings(const ffk_shape *s, const ffk_operands *o, const ffk_context *c);

typedef struct {
    const ffk_shape *s;
    const ffk_operands *o;
    const ffk_context *c;
} job;

static void unit(void *state, int64_t b) {
    const job *j = (const job *)state;
    token(j->s, j->o, j->c, b);
}

/* A token is a unit of work, shared among the caller's threads. */
ffk_status mine(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    job j;
    j.s = s, j.o = o, j.c = c;
    if (c->team != NULL)
        c->team->share(c->team->state, s->batch, unit, &j);
    else
        for (int64_t b = 0; b < s->batch; ++b)
            unit(&j, b);
    return FFK_OK;
}

/* Write what the context holds. */
ffk_status surroundings(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    for (int64_t i = 0; i < s->batch * s->d_out; ++i)
        o->y[i] = 0.0f;
    o->y[0] = c->team != NULL ? (float)c->team->threads : 1.0f;
    o->y[1] = (float)c->l2_bytes;
    o->y[2] = (float)c->l3_bytes;
#if defined(FFK_API_VERSION) && FFK_API_VERSION >= 5
    o->y[3] = (float)c->far_weights;
#endif
    return FFK_OK;
}
#ifdef __cplusplus
}
#endif
"""

TOKEN = r"""
#include "ffk.h"
#ifdef __cplusplus
extern "C"
#endif
void token(const ffk_shape *s, const ffk_operands *o, const ffk_context *c, int64_t b);

void token(const ffk_shape *s, const ffk_operands *o, const ffk_context *c, int64_t b) {
    const int64_t n_nodes = ((int64_t)2 << s->depth) - 1;
    float *y = o->y + b * s->d_out;
    for (int64_t j = 0; j < s->d_out; ++j)
        y[j] = 0.0f;
    for (int64_t k = 0; k < s->trees; ++k)
        for (int64_t d = 0, node = 0; d <= s->depth; ++d) {
            const int64_t row = k * n_nodes + node;
            float z = 0.0f;
            for (int64_t i = 0; i < s->d_in; ++i)
                z += o->x[b * s->d_in + i] * o->w_in[row * s->d_in + i];
            node = 2 * node + 1 + (z >= 0.0f);
            c->isa->gelu(1, &z);
            for (int64_t j = 0; j < s->d_out; ++j)
                y[j] += z * o->w_out[row * s->d_out + j];
        }
}
"""

DECLARE = """from harness.plugin import register_c
for name in ("mine", "surroundings"):
    register_c(id="fff_cpu_" + name, layer="fff", library="mine.so", symbol=name)
"""


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget, after each test, what its plugins registered."""
    registry.all()
    plugin.load_installed()
    for owner, name in ((registry, "_known"), (plugin, "_origins"), (plugin, "_loaded")):
        monkeypatch.setattr(owner, name, getattr(owner, name).copy())


def build(
    folder: Path, *, header: str = "", compiler: str = CC, suffix: str = "c",
    flags: tuple[str, ...] = ("-std=c11",),
) -> Path:  # fmt: skip
    """Compile the plugin in a folder against a header of a text, ours by default; return its declaration."""
    (folder / "ffk.h").write_text(header or HEADER.read_text(encoding="ascii"), encoding="ascii")
    objects = []
    for name, text in (("kernel", KERNEL), ("token", TOKEN)):
        (folder / f"{name}.{suffix}").write_text(text, encoding="ascii")
        subprocess.run(
            [compiler, *flags, *STRICT, "-O1", "-fPIC", "-I.", "-c", f"{name}.{suffix}"],
            cwd=folder, check=True,
        )  # fmt: skip
        objects.append(f"{name}.o")
    linked = [compiler, *flags, "-shared", "-o", "mine.so", *objects]
    subprocess.run(linked, cwd=folder, check=True)
    (folder / "mine.py").write_text(DECLARE, encoding="ascii")
    return folder / "mine.py"


def changed(old: str, new: str) -> str:
    """Return our header with a passage changed."""
    text = HEADER.read_text(encoding="ascii")
    assert text.count(old) == 1
    return text.replace(old, new)


def command_line(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return the outcome of a command in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments], cwd=folder, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=120, check=False,
    )  # fmt: skip


def prepare(name: str, operands: Operands, **context: Any) -> registry.Prepared:
    """Return an implementation prepared for operands of the problem."""
    around = registry.Context(
        provider=None, workspace=lambda n: make_aligned((n,), np.uint8), **context
    )
    return registry.get(name).prepare(PROBLEM, operands, around)


def output(name: str, **context: Any) -> Array:
    """Return what an implementation makes of the problem in a context."""
    operands = make_operands(PROBLEM)
    operands.y[:] = np.nan
    prepare(name, operands, **context).forward()
    return operands.y


def assert_right() -> None:
    """Assert that the plugin computes what our own kernel does."""
    o = make_operands(PROBLEM)
    got, want = (api.forward(i, o.x, o.w_in, o.w_out) for i in ("fff_cpu_mine", "fff_cpu_grouped"))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


# ---- the record of a library --------------------------------------------------------------------

CXX = shutil.which("c++")
BUILDS = [
    pytest.param(CC, "c", ("-std=c11",), id="c11"),
    pytest.param(CC, "c", ("-std=c17", "-O3", "-flto", "-fvisibility=hidden",
                           "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"), id="lto"),
]  # fmt: skip
# No test is skipped where there is no C++ compiler: the ledger of skipped tests would call that a fault.
if CXX is not None:
    BUILDS.append(pytest.param(CXX, "cc", ("-std=c++11", "-fvisibility=hidden"), id="c++"))


@pytest.mark.parametrize(("compiler", "suffix", "flags"), BUILDS)
def test_files_of_one_library_carry_one_record(
    tmp_path: Path, compiler: str, suffix: str, flags: tuple[str, ...]
) -> None:
    """Two files that include the header link into one library, whose record is this harness's own."""
    file = build(tmp_path, compiler=compiler, suffix=suffix, flags=flags)
    assert native.read_interface(tmp_path / "mine.so") == native.INTERFACE
    plugin.load(file)
    assert_right()


def test_library_without_a_record_loads(tmp_path: Path) -> None:
    """What was compiled before the header had a version is version 1, and runs as before."""
    file = build(tmp_path, header=HEADER_1.read_text(encoding="ascii"))
    assert native.read_interface(tmp_path / "mine.so") == native.Interface(version=1, sizes={})
    plugin.load(file)
    assert_right()
    assert command_line(tmp_path, "list", "--plugin", "mine.py").returncode == 0


@pytest.mark.parametrize("arguments", [("sweep", "--dry-run"), ("list",)], ids=lambda a: a[0])
def test_newer_interface_ends_with_one_line_and_status_2(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """A plugin of a newer header is refused with both versions and the command that mends it."""
    version = native.INTERFACE.version
    old = f"#define FFK_API_VERSION {version}\n"
    build(tmp_path, header=changed(old, f"#define FFK_API_VERSION {version + 1}\n"))
    done = command_line(tmp_path, *arguments, "--plugin", "mine.py")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        f"error: --plugin: mine.py:3: mine.so was compiled against version {version + 1} of ffk.h, this "
        f"harness has version {version}; compile it again: cc "
    )
    assert done.stderr.endswith(
        f' -I"$(python -m harness include-dir)" -o {tmp_path}/mine.so SOURCES\n'
    )


@pytest.mark.parametrize(
    ("old", "new", "structure"),
    [
        ("int64_t l2_bytes, l3_bytes;", "int64_t l2_bytes, l3_bytes, l4_bytes;", "ffk_context"),
        (
            "    size_t workspace_bytes;\n    const float *router,",
            "    const float *router,",
            "ffk_operands",
        ),
        ("    int64_t threads;\n", "    int64_t threads, more;\n", "ffk_team"),
    ],
)
def test_other_sizes_are_refused(tmp_path: Path, old: str, new: str, structure: str) -> None:
    """Of our own version every structure must have our size: the first that differs is named."""
    file = build(tmp_path, header=changed(old, new))
    with pytest.raises(UsageError, match=rf"with {structure} of \d+ bytes, .*; compile it again"):
        plugin.load(file)


OURS = native.Interface(version=4, sizes={"shape": 56, "isa": 300})


@pytest.mark.parametrize(
    ("version", "sizes", "refused"),
    [
        (4, {"shape": 56, "isa": 300}, ""),
        (3, {"shape": 48, "isa": 300}, ""),  # it knows the head of what has grown since
        (2, {"shape": 48}, ""),  # a structure that it does not know
        (3, {"shape": 64, "isa": 300}, "version 3 of ffk.h with ffk_shape of 64 bytes"),
        (4, {"shape": 48, "isa": 300}, "version 4 of ffk.h with ffk_shape of 48 bytes"),
        (1, {}, "version 1 of ffk.h (it carries no record), this harness has version 4"),
        (0, {}, "version 0 of ffk.h"),
        (5, {"shape": 56, "isa": 300}, "version 5 of ffk.h"),
    ],
)
def test_which_versions_are_taken(version: int, sizes: Mapping[str, int], refused: str) -> None:
    """From the oldest version on whose places are unchanged, up to our own."""
    found = plugin.judge_interface(native.Interface(version=version, sizes=sizes), OURS, oldest=2)
    assert found.startswith(f"was compiled against {refused}") if refused else found == ""


# What each version had, on a 64-bit processor.
SIZES = {
    2: {"shape": 56, "operands": 48, "blas": 56, "feed": 48, "products": 64, "isa": 208, "team": 24,
        "context": 40},
    3: {"shape": 56, "operands": 48, "blas": 56, "feed": 48, "products": 64, "isa": 216, "team": 24,
        "context": 40},
    4: {"shape": 72, "operands": 80, "blas": 56, "feed": 48, "products": 64, "isa": 224, "team": 24,
        "context": 40},
    5: {"shape": 72, "operands": 80, "blas": 56, "feed": 48, "products": 64, "isa": 224, "team": 24,
        "context": 48},
}  # fmt: skip


def test_growth_raises_the_version() -> None:
    """The structures have the sizes that are noted for this version: what grows gets a new one."""
    assert native.INTERFACE.sizes == SIZES[native.INTERFACE.version]


# ---- the places of version 1 --------------------------------------------------------------------

FIELDS = {
    "ffk_shape": "batch d_in d_out hidden depth trees dtype",
    "ffk_operands": "x w_in w_out y workspace workspace_bytes",
    "ffk_blas": "int_bits sdot saxpy sgemv sgemm sgemv_batch saxpy_batch",
    "ffk_feed": "at end token left x row_bytes",
    "ffk_products": "dots combine dot combine_one multiply add widen narrow",
    "ffk_isa": "name supported gelu fma sum dot fill scale products settle stream",
    "ffk_team": "threads share state",
    "ffk_context": "blas isa team l2_bytes l3_bytes",
}
# Two of the first stand in an ffk_isa, and a plugin makes the second: neither may even grow.
FIXED = ("ffk_products", "ffk_feed")


def places(folder: Path, header: Path) -> list[str]:
    """Return where a header has the fields of version 1, and what its statuses are."""
    folder.mkdir()
    asked = [
        f'printf("{s}.{f} %zu %zu\\n", offsetof({s}, {f}), sizeof((({s} *)0)->{f}));'
        for s, fields in FIELDS.items()
        for f in fields.split()
    ]
    asked += [f'printf("{s} %zu\\n", sizeof({s}));' for s in FIXED]
    asked += [
        f'printf("{name} %d\\n", (int){name});'
        for name in re.findall(r"FFK_[A-Z]\w+(?=[,\n =])", HEADER_1.read_text(encoding="ascii"))
        if name != "FFK_H"
    ]
    shutil.copy(header, folder / "ffk.h")
    body = '#include "ffk.h"\n#include <stdio.h>\nint main(void) {\n' + "\n".join(asked) + "}\n"
    (folder / "places.c").write_text(body, encoding="ascii")
    subprocess.run([CC, "-std=c11", "-o", "places", "places.c"], cwd=folder, check=True)
    done = subprocess.run([folder / "places"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_version_1_stands_where_it_stood(tmp_path: Path) -> None:
    """While version 1 is taken, each of its fields and constants has its old place, size and value."""
    assert native.OLDEST_INTERFACE == 1
    then, now = places(tmp_path / "1", HEADER_1), places(tmp_path / "now", HEADER)
    assert len(then) > 70
    assert then == now


# ---- surroundings -------------------------------------------------------------------------------


def test_plugin_has_the_threads_and_caches_that_our_own_kernels_have(tmp_path: Path) -> None:
    """A C plugin finds the threads, the caches and where the weights lie in its context, and can use them."""
    plugin.load(build(tmp_path))
    caches = {"L1d": 32768, "L2": 1 << 19, "L3": 1 << 23}
    assert output("fff_cpu_surroundings").ravel()[:4].tolist() == [1, 0, 0, 0]
    around = output("fff_cpu_surroundings", threads=3, caches=caches, far_weights=True)
    assert around.ravel()[:4].tolist() == [3, 1 << 19, 1 << 23, 1]
    np.testing.assert_array_equal(
        output("fff_cpu_mine", threads=3, caches=caches), output("fff_cpu_mine")
    )


def test_plugin_takes_several_sets_of_weights_in_turn(tmp_path: Path) -> None:
    """Pass i over several sets of weights takes set i, as with our own kernels."""
    plugin.load(build(tmp_path))
    operands = make_operands(PROBLEM)
    rotation = tuple(make_weights(PROBLEM, turn) for turn in (1, 2))
    prepared = prepare("fff_cpu_mine", replace(operands, rotation=rotation))
    assert prepared.sets == 3
    for passes, (w_in, w_out) in enumerate(((operands.w_in, operands.w_out), *rotation), start=1):
        operands.y[:] = np.nan
        prepared.time(passes)
        want = api.forward("fff_cpu_grouped", operands.x, w_in, w_out)
        np.testing.assert_allclose(operands.y, want, rtol=1e-5, atol=1e-6)
