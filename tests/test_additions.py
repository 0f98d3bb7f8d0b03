"""The worked additions: each patch applies to this tree, touches what docs/adding.md says, and works."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "additions"
PATCHES = sorted(path.stem for path in FOLDER.glob("*.patch"))
# The most files that an addition of a kind may touch; pages that list what there is are not counted.
MOST = {
    "axis": 4, "c-kernel": 2, "ceiling": 3, "command": 2, "cuda-kernel": 2, "derived-figure": 2,
    "torch-layer": 1,
}  # fmt: skip
RENEW = """\
{name}.patch no longer applies. With nothing else changed in the checkout:
    git apply --3way examples/additions/{name}.patch     and mend what conflicts, then `git add` it
    git diff --cached -U1 --output=examples/additions/{name}.patch
    git restore --staged --worktree harness native docs
{why}"""

Tree = Callable[..., Path]


def run(tree: Path, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in a copy of the tree; its output is in the failure where it must end well."""
    # What git finds above the copy is none of it: it would take the patch for one of that repository.
    # What is built there is run on small problems alone: -Og compiles it in a quarter of the time.
    own = {"GIT_CEILING_DIRECTORIES": str(tree.parent), "FFK_CFLAGS": "-Og"}
    done = subprocess.run(
        list(map(str, words)), cwd=tree, env=dict(os.environ, **own), capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def run_python(tree: Path, *words: str | Path) -> str:
    """Run Python in a copy of the tree, and return what it printed."""
    return run(tree, sys.executable, *words).stdout


def apply(tree: Path, name: str) -> None:
    """Apply a patch to a copy of the tree."""
    done = run(tree, "git", "apply", FOLDER / f"{name}.patch", check=False)
    assert done.returncode == 0, RENEW.format(name=name, why=done.stderr)


@pytest.fixture
def patched(tmp_path: Path) -> Tree:
    """Return what copies the tree, with further parts of it, and applies patches to the copy."""
    if shutil.which("git") is None:
        pytest.skip("there is no git to apply patches with")

    def copy(*names: str, further: tuple[str, ...] = ()) -> Path:
        ignore = shutil.ignore_patterns("*.so", "__pycache__", "build")
        tree = tmp_path / "tree"
        for folder in ("harness", "native", "docs", *further):
            shutil.copytree(ROOT / folder, tree / folder, ignore=ignore)
        for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / file, tree)
        for name in names:
            apply(tree, name)
        return tree

    return copy


def lend_extension(tree: Path) -> None:
    """Give a copy whose native sources are this tree's the extension that was built from them."""
    spec = importlib.util.find_spec("harness._native")
    assert spec is not None
    assert spec.origin is not None
    shutil.copy(spec.origin, tree / "harness")


def read_table() -> dict[str, tuple[list[str], list[str]]]:
    """Return what docs/adding.md says that each patch touches: files that count, pages with a line."""
    text = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\|[^|]+\|([^|]+)\|([^|]+)\| \[\S+\]\(\.\./examples/additions/([\w-]+)\.patch\) \|$",
        text,
        flags=re.M,
    )
    return {
        name: (re.findall(r"`([^`]+)`", files), re.findall(r"`([^`]+)`", pages))
        for files, pages, name in rows
    }


def test_the_page_names_every_patch() -> None:
    """docs/adding.md has one row for each patch, and there is one of every kind of addition."""
    assert sorted(read_table()) == PATCHES == sorted(MOST)


@pytest.mark.parametrize("name", PATCHES)
def test_applies(patched: Tree, name: str) -> None:
    """The patch applies to the tree as it stands."""
    patched(name)


@pytest.mark.parametrize("name", PATCHES)
def test_touches_what_the_page_says(name: str) -> None:
    """The patch touches the files that its row names and no others, and no more than its kind may."""
    text = (FOLDER / f"{name}.patch").read_text(encoding="utf-8")
    touched = re.findall(r"^diff --git a/\S+ b/(\S+)$", text, flags=re.M)
    files, pages = read_table()[name]
    assert sorted(touched) == sorted([*files, *pages])
    # The page that explains the values of an axis is part of the addition; elsewhere pages list it.
    counted = files + [page for page in pages if name == "axis"]
    assert len(counted) <= MOST[name]
    assert all(page.startswith("docs/") for page in pages)
    assert not any(file.startswith(("docs/", "tests/")) for file in files)


# ---- what they add --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source"),
    [("c-kernel", "native/ff/ff_l3_neurons.c"), ("ceiling", "native/ceilings/ceiling_dot.c")],
)
def test_the_kernel_is_sound_c(patched: Tree, name: str, source: str) -> None:
    """A C compiler takes the new kernel without a warning, and the list of kernels names it."""
    compiler = shutil.which("cc") or pytest.skip("there is no C compiler")
    tree = patched(name)
    strict = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Inative", "-Inative/include"]
    run(tree, compiler, "-fsyntax-only", *strict, source)
    listed = (tree / "native" / "kernels.inc").read_text(encoding="ascii")
    assert f"FFK_KERNEL({Path(source).stem})\n" in listed


def test_the_ceiling_is_defined(patched: Tree) -> None:
    """The new ceiling has its truth, the bytes that it moves, and a set in every place of the memory."""
    found = run_python(
        patched("ceiling"), "-c",
        "import numpy as np\n"
        "from harness.problem.ceilings import CEILINGS, count_work, find_truth\n"
        "from harness.problem.operands import make_operands\n"
        "from harness.problem.problem import Problem\n"
        "problem = Problem(layer='ceiling', batch=6, d_in=8, d_out=1, hidden=2)\n"
        "operands, tokens = make_operands(problem), np.arange(6)\n"
        "y = find_truth('ceiling_dot', problem, operands, tokens).y[:, 0]\n"
        "x = operands.x.astype(np.float64)\n"
        "assert np.allclose(y, (x * np.roll(x, -3, axis=0)).sum(1))\n"
        "print(CEILINGS['ceiling_dot'].places, *count_work('ceiling_dot', problem))",
    )  # fmt: skip
    assert found.split() == ["every", "0", str(8 * 2 * 6 * 8)]


def test_the_cuda_kernel_is_launched(patched: Tree) -> None:
    """The registry lists the new CUDA kernel, and its launch has a block for each token."""
    tree = patched("cuda-kernel")
    found = run_python(
        tree, "-c",
        "from harness.backends import cuda_compile, cuda_launch\n"
        "from harness.problem.problem import Problem\n"
        "problem = Problem(layer='ff', batch=5, d_in=3, d_out=4, hidden=300)\n"
        "kernel = cuda_launch.KERNELS['ff_cuda_neurons']\n"
        "launch = kernel.plan(problem, False, 1)\n"
        "assert launch.entry in kernel.entries\n"
        "assert launch.entry in cuda_compile.read_source(kernel.id).text\n"
        "print(*launch.grid, *launch.extents)",
    )  # fmt: skip
    assert found.split() == ["5", "1", "5", "3", "4", "300"]


def test_the_torch_layer_is_listed(patched: Tree) -> None:
    """The registry lists the new layer, whether torch is here or not."""
    tree = patched("torch-layer")
    lend_extension(tree)
    found = run_python(
        tree, "-c",
        "from harness.backends import registry; print(registry.get('fff_torch_dense').summary)",
    )  # fmt: skip
    assert found == "torch: the whole tree by one product, then the paths\n"


def test_the_axis_acts(patched: Tree) -> None:
    """The new axis is an option, has a place in ids, and makes x eight times as large."""
    found = run_python(
        patched("axis"), "-c",
        "from dataclasses import replace\n"
        "from harness.problem import axes\n"
        "from harness.problem.operands import make_x\n"
        "from harness.problem.problem import Problem\n"
        "unit = Problem(layer='fff', batch=5, d_in=24, d_out=4, depth=3, trees=1, routing='zipf')\n"
        "wide = replace(unit, spread='wide')\n"
        "assert (make_x(wide) == 8 * make_x(unit)).all()\n"
        "assert wide.input_key() != unit.input_key()\n"
        "print(*axes.suffix(wide.conditions()))",
    )  # fmt: skip
    assert found == "wide zipf\n"


def test_the_figure_is_printed(patched: Tree, golden_run: Path) -> None:
    """The table of a run has the new column: a token that takes 314 us at 76 % of its ceiling, 238 us."""
    text = run_python(patched("derived-figure"), "-m", "harness", "table", golden_run)
    rows = [[part.strip() for part in line.split("|")] for line in text.splitlines()]
    head = next(row for row in rows if "at its ceiling" in row)
    row = next(row for row in rows if row[1:2] == ["ff_l3_blas"] and len(row) == len(head))
    shown = dict(zip(head, row, strict=True))
    assert (shown["a token"], shown["at its ceiling"]) == ("314 us", "238 us")


def test_the_command_runs(patched: Tree, golden_run: Path) -> None:
    """The new command is in the list of all and says what a run was measured on, without the extension."""
    tree = patched("command")
    assert "  cite  " in run_python(tree, "-m", "harness", "--help")
    assert run_python(tree, "-m", "harness", "cite", golden_run) == (
        "Measured 2025-01-02 on Example CPU @ 2 GHz (1 of 2 processors) with scipy OpenBLAS 0.3.30; "
        "fff-harness 0.1.0, commit 0123456789, seed 0; 32 samples in 4 blocks.\n"
    )


# ---- through the gate -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_torch_layer_passes_the_gate(patched: Tree) -> None:
    """The new layer agrees with the oracle, in both dtypes."""
    pytest.importorskip("torch")
    tree = patched("torch-layer")
    lend_extension(tree)
    only = ["--only", "fff_torch_dense", "--models", "3x4", "--width", "24", "--batch", "5"]
    text = run_python(tree, "-m", "harness", "check", *only, "--dtype", "float32,bfloat16")
    assert "2 cells: 2 ok." in text


@pytest.mark.slow
def test_the_cuda_kernel_passes_the_suite(patched: Tree) -> None:
    """The suites find the new CUDA kernel by themselves: on the CPU behind the shim it is right."""
    shim = pytest.importorskip("shim")
    if reason := shim.unavailable():
        pytest.skip(reason)
    tree = patched("cuda-kernel", further=("tests", "benchmarks"))
    lend_extension(tree)
    files = [f"tests/backends/test_{part}.py" for part in ("kernels", "cuda_shim", "cuda_compile")]
    text = run_python(
        tree, "-m", "pytest", "-p", "no:cacheprovider", *files, "-k", "ff_cuda_neurons"
    )
    assert re.search(r"\d+ passed", text)


@pytest.mark.slow
def test_all_together_pass_the_gate(patched: Tree) -> None:
    """All patches in one tree: it builds, its kernel and ceiling are right, the suites find them."""
    pytest.importorskip("setuptools", "77", reason="the build's own requirement")
    tree = patched(*PATCHES, further=("tests", "benchmarks"))
    run(tree, sys.executable, "setup.py", "-q", "build_ext", "--inplace")
    only = ["--only", "ff_l3_neurons,ceiling_dot", "--models", "ff-600", "--width", "24"]
    more = ["--baseline", "ff-600", "--batch", "5", "--spread", "unit,wide"]
    text = run_python(tree, "-m", "harness", "check", *only, *more)
    assert "ok ff_l3_neurons/ff-600/b5/w24/scipy/wide: 5 tokens compared" in text
    assert "ok ceiling_dot/L1/" in text
    files = [f"tests/{name}.py" for name in ("test_architecture", "backends/test_kernels",
                                             "backends/test_ceilings", "sweep/test_axes")]  # fmt: skip
    chosen = "ff_l3_neurons or ceiling_dot or spread or page_names"
    run_python(tree, "-m", "pytest", "-p", "no:cacheprovider", *files, "-k", chosen)
