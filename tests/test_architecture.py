"""The rooms of the package: who may import whom, and what stands in one place alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

import harness

PACKAGE = Path(harness.__file__).parent
ROOT = PACKAGE.parent
ROOMS = ("analysis", "backends", "cli", "gpu", "machine", "measure", "nn", "paper", "problem",
         "records", "report", "sweep")  # fmt: skip

# Where the big or optional packages may be imported.
RESERVED = {
    "torch": (
        "backends.torch_",
        "backends.cuda_kernels",
        "backends.triton_",
        "gpu.torch_cuda",
        "nn.",
    ),
    "safetensors": ("nn.published",),
    "transformers": ("nn.transformer",),
    "triton": ("backends.triton_",),
    "pandas": ("analysis.", "report.", "records.reader"),
    "matplotlib": ("report.",),
    "rich": ("cli.",),
    "shtab": ("cli.",),
    "typer": ("cli.",),
}
# With the command line, these alone read the process's environment; drawing puts a variable aside.
ENVIRONMENT_READERS = ("machine.environment", "backends.cuda_compile", "report.drawing", "cli.")


@cache
def trees() -> dict[str, ast.Module]:
    """Return the syntax of each module by its dotted name within the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(tree: ast.AST) -> list[tuple[str, str]]:
    """Return what is imported as (module, name), at any depth of the code; no name for `import module`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def room(module: str) -> str:
    """Return the room of a module of the package, empty for the doors at the top."""
    first = module.removeprefix("harness.").split(".")[0]
    return first if first in ROOMS else ""


def test_contracts_hold(capfd: pytest.CaptureFixture[str]) -> None:
    """Each room imports from the rooms below it alone, and a module without a place is no room's."""
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None)
    assert status == EXIT_STATUS_SUCCESS, capfd.readouterr().out


@pytest.mark.parametrize("module", sorted(trees()))
def test_what_crosses_a_door_has_no_underscore(module: str) -> None:
    """No module imports or reaches for a private name of another room."""
    tree, own = trees()[module], room(module)
    aliases = {}
    for source, name in imports(tree):
        if source.split(".")[0] != "harness" or not name:
            continue
        if room(source) != own or not own:
            private = name.startswith("_") and source != "harness._native"
            assert not private, f"{source}.{name}"
        target = f"{source}.{name}".removeprefix("harness.")
        if target in trees():
            aliases[name] = target
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        target = aliases.get(node.value.id)
        if target and node.attr.startswith("_") and not node.attr.startswith("__"):
            assert room(target) == own != "", f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("package", sorted(RESERVED))
def test_reserved_packages(package: str) -> None:
    """The big and the optional packages are imported where they belong."""
    users = {
        name
        for name, tree in trees().items()
        if package in {source.split(".")[0] for source, _ in imports(tree)}
    }
    assert users
    assert all(user.startswith(RESERVED[package]) for user in users), users


def test_problem_imports_numpy_alone() -> None:
    """What is computed needs NumPy, its bfloat16 and the standard library; the oracle SciPy's erf too."""
    for name, tree in trees().items():
        if room(name) != "problem":
            continue
        tops = {source.split(".")[0] for source, _ in imports(tree)}
        allowed = {*sys.stdlib_module_names, "harness", "ml_dtypes", "numpy"}
        assert tops <= allowed | ({"scipy"} if name == "problem.oracle" else set()), name


def test_only_native_touches_the_extension() -> None:
    """The compiled extension is imported in one module."""
    users = {
        name
        for name, tree in trees().items()
        if any("_native" in (source.split(".")[-1], what) for source, what in imports(tree))
    }
    assert users == {"native"}


def test_environment_is_read_in_one_place() -> None:
    """Only the machine's room and the command line read the process's environment."""
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb"):
                assert name.startswith(ENVIRONMENT_READERS), name
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                assert not {alias.name for alias in node.names} & {"environ", "getenv"}, name


def test_planning_loads_no_pandas() -> None:
    """What plans and measures loads no pandas: a plan is there in a blink, a process is small.

    Nor does what the fastest FF is, which a sweep may ask too.
    """
    code = (
        "import sys, harness.sweep.plan, harness.measure.worker, harness.analysis.fastest;"
        "assert not {'pandas', 'matplotlib', 'scipy', 'typer', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("command", ["sweep", "explain"])
def test_a_printed_plan_loads_nothing_that_analyses(command: str) -> None:
    """The command line prints a plan without what reads runs, draws, or computes on a device."""
    code = (
        f"import sys; from harness.cli import run; run(['{command}', '--dry-run'])\n"
        "heavy = {'pandas', 'matplotlib', 'scipy', 'torch', 'triton', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_page_names_every_file() -> None:
    """docs/architecture.md has one line for each file of the package and of the native code, and no other."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- `([\w/.]+)`: \S", text, flags=re.M)
    found = {
        str(path.relative_to(ROOT))
        for folder in (PACKAGE, ROOT / "native")
        for path in folder.rglob("*")
        if path.suffix
        in (".py", ".csv", ".css", ".j2", ".js", ".c", ".h", ".inc", ".cu", ".cuh", ".txt")
    }
    rooms = {f"harness/{name}/__init__.py" for name in (*ROOMS, "report/templates")}
    built = {"harness/_native.c"}  # what cffi writes
    assert len(listed) == len(set(listed))
    assert set(listed) == found - rooms - built


def test_the_page_has_a_heading_for_every_room() -> None:
    """Each room has its part on the page, which begins with the sentence of its own docstring."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name in ROOMS:
        docstring = ast.get_docstring(trees()[f"{name}.__init__"])
        assert f"### `harness/{name}/`\n\n{docstring}\n" in text
