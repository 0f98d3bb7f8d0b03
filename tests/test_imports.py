"""The edges of the import graph, as the design draws them."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

import harness

ROOT = Path(harness.__file__).parent

# What each module may import of the package, at any depth of its code. `errors` is open to all.
ALLOWED: dict[str, set[str]] = {
    "__init__": {"api", "reader"},
    "__main__": {"entry"},
    "api": {"blas", "plugin", "problem", "registry"},
    "axes": {"problem", "recipes"},
    "blas": {"native"},
    "budget": {"cell", "gate", "journal", "plan", "sampling"},
    "by_batch": {"canvas", "conditions", "reader", "rows", "stats", "view"},
    "canvas": {"reader"},
    "ceilings": {"oracle", "problem"},
    "cell": {"blas", "ceilings", "clock", "conditions", "problem", "records", "registry", "seat"},
    "change": {"problem", "reader", "stats"},
    "check": {"ceilings", "oracle", "problem"},
    "cli": {
        "axes", "blas", "compare", "compare_table", "console", "device_probe", "doctor", "explain",
        "ladder", "locality", "machine", "merge", "notation", "plan", "plot", "plugin", "problem",
        "process", "reader", "recipes", "records", "registry", "resume", "spec", "sweep", "table",
    },
    "climb": {"axes", "ladder", "reader", "stats"},
    "clock": {"machine"},
    "compare": {"axes", "change", "controls", "problem", "reader", "stats"},
    "compare_table": {"compare", "notation", "reader", "stats", "table_head"},
    "conditions": {"problem", "reader", "recipes", "stats"},
    "console": {"axes", "conditions", "notation", "records"},
    "controls": {"change", "limits", "measured", "reader", "stats"},
    "crew": {"cell", "journal", "process", "records", "spec"},
    "cuda_clock": {"clock", "device", "machine"},
    "cuda_compile": set(),
    "cuda_driver": {"cuda_launch"},
    "cuda_launch": {"problem"},
    "data": set(),
    "device": {"facts", "problem"},
    "device_probe": {"facts", "torch_device"},
    "device_rows": {"conditions", "measured", "published", "reader", "rows", "stats", "view"},
    "device_table": {"conditions", "device_rows", "notation", "reader", "rows", "view"},
    "doctor": {
        "blas", "facts", "inspection", "judge_blas", "judge_processor", "judge_system", "machine",
        "process", "records",
    },
    "entry": {"cli"},
    "errors": set(),
    "explain": {
        "axes", "canvas", "climb", "explain_words", "ladder", "notation", "published", "reader", "stats",
        "table_head", "waterfall", "writer",
    },
    "explain_words": {"climb", "ladder", "notation", "published", "reader"},
    "facts": set(),
    "faulty": {"check", "clock", "native", "oracle", "problem"},
    "frames": {"axes", "conditions", "ledger", "notation", "published", "reader", "rows", "stats", "view"},
    "gate": {"cell", "clock", "crew", "journal", "process"},
    "gpu": {"facts"},
    "implementations": {
        "blas", "clock", "cuda_compile", "cuda_driver", "cuda_launch", "device_probe", "machine", "native",
        "probe", "problem", "registry",
    },
    "inspection": {"facts", "records"},
    "journal": {"cell", "records", "spec", "writer"},
    "judge_blas": {"facts", "inspection", "records", "vector_width"},
    "judge_processor": {"facts", "inspection"},
    "judge_system": {"facts", "inspection"},
    "ladder": {"axes", "cell", "machine", "native", "plan", "problem", "reader", "spec", "stats", "view"},
    "ledger": {"axes", "device_rows", "published", "reader", "rows", "stats", "view"},
    "limits": {"measured", "reader", "roofline", "stats"},
    "locality": {"check", "clock", "placed", "problem", "recipes", "registry"},
    "lock": set(),
    "machine": {"native", "probe", "records"},
    "measured": {"ceilings", "reader", "stats"},
    "merge": {"frames", "notation", "reader", "rows", "stats", "view"},
    "native": {"_native", "problem"},
    "nn": {"implementations", "registry"},
    "notation": {"published", "stats"},
    "nvml": {"device"},
    "on_device": {
        "ceilings", "cell", "device", "device_probe", "facts", "locality", "problem", "registry", "spec",
    },
    "oracle": {"problem"},
    "pipe": set(),
    "placed": {"check", "device", "problem"},
    "plan": {
        "axes", "blas", "ceilings", "cell", "facts", "locality", "machine", "on_device", "problem",
        "registry", "seat", "spec", "unfit",
    },
    "plot": {
        "axes", "by_batch", "canvas", "conditions", "notation", "reader", "rows", "stats", "table", "view",
    },
    "plugin": {"clock", "native", "problem", "registry"},
    "probe": {"facts", "gpu", "native"},
    "problem": {"recipes"},
    "process": {"machine", "seat"},
    "published": {"axes", "data"},
    "published_protocol": {"cell", "crew", "journal", "plan", "process", "records"},
    "reader": {"records"},
    "recipes": set(),
    "records": {"facts"},
    "registry": {"clock", "device", "implementations", "problem"},
    "resume": {"axes", "plan", "reader", "records", "spec"},
    "roofline": {"ceilings", "measured", "problem", "reader", "stats"},
    "routing": {"problem"},
    "rows": {"published", "stats"},
    "sampling": {"cell", "crew", "gate", "journal", "process", "resume"},
    "seat": {"plugin", "registry"},
    "spec": {"axes", "records"},
    "stability": {"stats"},
    "stats": {"problem"},
    "store": {"device", "locality", "placed", "problem"},
    "sweep": {
        "budget", "cell", "crew", "doctor", "gate", "journal", "machine", "on_device", "plan", "process",
        "published_protocol", "reader", "records", "resume", "sampling", "spec", "writer",
    },
    "table": {
        "axes", "conditions", "device_table", "frames", "ledger", "measured", "notation", "reader", "rows",
        "stats", "table_head", "view", "writer",
    },
    "table_head": {"device_table", "notation", "reader", "records", "stability", "vector_width", "view"},
    "timing": {"clock", "cuda_clock", "device", "locality", "machine", "registry"},
    "torch_device": {"device", "facts", "nvml", "problem"},
    "unfit": {"cell", "facts", "on_device", "registry", "spec"},
    "vector_width": set(),
    "view": {
        "axes", "conditions", "limits", "measured", "published", "reader", "roofline", "rows", "stability",
        "stats",
    },
    "waterfall": {"canvas", "climb", "explain_words", "ladder", "reader"},
    "worker": {
        "blas", "check", "clock", "cuda_clock", "device", "faulty", "locality", "machine", "native",
        "oracle", "pipe", "placed", "plugin", "problem", "registry", "routing", "seat", "store", "timing",
        "torch_device",
    },
    "writer": {"lock", "records"},
}  # fmt: skip

# Packages that only these modules may import.
RESERVED: dict[str, set[str]] = {
    "torch": {"implementations", "nn", "torch_device"},
    "pynvml": {"nvml"},
    "triton": {"implementations"},
    "matplotlib": {"by_batch", "canvas", "plot", "explain", "waterfall"},
    "typer": {"cli"},
    "cffi": set(),
}
# probe gathers the facts that machine records.
ENVIRONMENT_READERS = {"machine", "probe", "cli"}


def _name(path: Path) -> str:
    """Return the module's name below the package; all of a subpackage is one."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def _trees() -> list[tuple[str, Path, ast.Module]]:
    paths = sorted(ROOT.rglob("*.py"))
    return [(_name(p), p, ast.parse(p.read_text(encoding="utf-8"))) for p in paths]


def _is_type_checking(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def _imported(tree: ast.Module) -> set[str]:
    """Return the dotted names that a module imports, those for type checkers alone left out."""
    names = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if _is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        pending.extend(ast.iter_child_nodes(node))
    return names


def _own(names: set[str]) -> set[str]:
    """Return the modules of the package among dotted names."""
    return {n.split(".")[1] for n in names if n.startswith("harness.")}


MODULES = sorted({name for name, _, _ in _trees()})


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    """Each module imports only what the table of edges allows it."""
    assert module in ALLOWED, f"harness/{module}.py is not in the table of edges"
    for name, path, tree in _trees():
        if name == module:
            extra = _own(_imported(tree)) - ALLOWED[module] - {"errors", module}
            assert not extra, f"{path.relative_to(ROOT)} imports {', '.join(sorted(extra))}"


def test_edges_have_no_cycle() -> None:
    """The allowed edges form no cycle but the registry's, which loads the implementations on first use."""
    edges = {m: set(to) for m, to in ALLOWED.items()}
    edges["registry"] -= {"implementations"}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for other in sorted(edges.get(module, set())):
                visit(other, (*above, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())


def test_reports_never_reach_the_kernels() -> None:
    """Tables and figures are made without sweep, registry or compiled part, however far one follows."""
    reached: set[str] = set()
    pending = ["table", "plot"]
    while pending:
        module = pending.pop()
        if module not in reached:
            reached.add(module)
            pending.extend(ALLOWED[module])
    assert not reached & {
        "sweep",
        "cell",
        "worker",
        "registry",
        "native",
        "blas",
        "implementations",
    }
    for module in ("table", "plot"):
        assert not ALLOWED[module] & {"sweep", "worker", "registry", "native", "blas"}


def test_problem_imports_only_numpy() -> None:
    """The problem and its recipes need NumPy, its bfloat16 and the standard library, nothing else."""
    trees = [tree for name, _, tree in _trees() if name in ("problem", "recipes")]
    assert len(trees) == 2
    tops = {name.split(".")[0] for tree in trees for name in _imported(tree)}
    assert tops <= {*sys.stdlib_module_names, "harness", "ml_dtypes", "numpy"}


def test_only_native_touches_the_extension() -> None:
    """The compiled extension is imported in one module."""
    assert {name for name, _, tree in _trees() if "_native" in _own(_imported(tree))} == {"native"}


@pytest.mark.parametrize("package", sorted(RESERVED))
def test_reserved_packages(package: str) -> None:
    """torch and Triton, the drawing and the command line's packages are imported where they belong."""
    users = {n for n, _, t in _trees() if package in {i.split(".")[0] for i in _imported(t)}}
    assert users <= RESERVED[package]


def test_environment_is_read_in_one_place() -> None:
    """Only the machine's facts and the command line read the process's environment."""
    readers = set()
    for name, _, tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb"):
                readers.add(name)
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                assert not {a.name for a in node.names} & {"environ", "getenv"}
    assert readers <= ENVIRONMENT_READERS


def test_table_of_edges_is_current() -> None:
    """The table names no module that is gone."""
    assert set(ALLOWED) <= set(MODULES)
