"""The Triton kernels without a GPU: interpreted against the oracle, and compiled ahead of time.

Each in a process of its own: Triton decides at import whether it interprets.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tests" / "fabricate"
GOLDEN = ROOT / "tests" / "data" / "triton_resources.json"
# Another version of the compiler schedules otherwise; more than this is another kernel.
REGISTERS, SHARED = 16, 8192
# The kernels whose work is products, on tensor cores where the dtype has some.
PRODUCTS = ("route_kernel", "hidden_kernel", "output_kernel")
# What rows that begin anywhere may spill: ptxas trades a register or two for a higher occupancy.
ODD_STACK = 16

Usage = dict[str, dict[str, int]]


def _run(words: list[str], **variables: str) -> str:
    """Run Python from the root of the sources; return what it printed, or fail with it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")} | variables
    paths = [str(SCRIPTS), str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False, timeout=900,
    )  # fmt: skip
    if done.returncode:
        pytest.fail(f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}", pytrace=False)
    return done.stdout


@pytest.mark.parametrize(
    ("script", "least"), [("triton_interpreted.py", 55), ("triton_leaf_interpreted.py", 35)]
)
def test_interpreted_kernels_conform(script: str, least: int) -> None:
    """Every Triton kernel passes the conformance suite under the interpreter, and planted faults fail it."""
    words = ["-m", "pytest", str(SCRIPTS / script), "-p", "no:cacheprovider"]
    told = _run(words, TRITON_INTERPRET="1").strip().splitlines()[-1]
    passed = re.fullmatch(r"(\d+) passed in .*", told)
    assert passed, f"some did not run: {told}"
    assert int(passed.group(1)) > least


def find_growth(found: Usage, golden: Usage, *, same: bool = True) -> list[str]:
    """Return what spills, takes more than was recorded, left the tensor cores, or is not in both.

    same: compiled by the version of the record; another one shares registers and memory out otherwise.
    """
    grown = [f"{key}: only in one of both" for key in sorted(found.keys() ^ golden.keys())]
    for key in sorted(found.keys() & golden.keys()):
        now, then = found[key], golden[key]
        if now["stack"] > (ODD_STACK if " odd " in key else 0):
            grown.append(f"{key}: spills {now['stack']} bytes")
        for name, slack in (("registers", REGISTERS), ("shared", SHARED)):
            if same and now[name] > then[name] + slack:
                grown.append(f"{key}: {now[name]} {name}, {then[name]} before")
        if bool(now["products"]) != bool(then["products"]):
            grown.append(
                f"{key}: {now['products']} tensor-core products, {then['products']} before"
            )
    return grown


def test_compiled_kernels(tmp_path: Path) -> None:
    """Every launch compiles for sm_80 and sm_90 and takes what it took; a product too wide is seen to spill.

    Whole pieces spill nothing. The grouped products of bfloat16 and TF32 run on tensor cores, those of
    float32 on none. One test, since all is compiled for it: that takes minutes.
    """
    told = _run([str(SCRIPTS / "triton_compiled.py")], TRITON_CACHE_DIR=str(tmp_path))
    compiled: dict[str, Any] = json.loads(told)
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    same = compiled["triton"] == golden["triton"]
    assert find_growth(compiled["launches"], golden["launches"], same=same) == []
    launches: Usage = compiled["launches"]
    grouped = {k: u for k, u in launches.items() if k.endswith(PRODUCTS)}
    for key, usage in grouped.items():
        assert bool(usage["products"]) == (" bfloat16 " in key or " tf32 " in key), key
    for architecture in ("sm_80", "sm_90"):
        assert sum(key.startswith(f"{architecture} bfloat16") for key in grouped) > 10
    usage = compiled["spilling"]
    assert usage["stack"] > 0
    assert find_growth({"x": usage}, {"x": usage}) == [f"x: spills {usage['stack']} bytes"]


def test_growth_is_found() -> None:
    """More registers or shared memory than the slack, a lost tensor core and a missing launch all fail."""
    then = {"registers": 40, "stack": 0, "shared": 1024, "products": 4}
    assert find_growth({"x": then}, {"x": then}) == []
    for change in ({"registers": 57}, {"shared": 9217}, {"products": 0}):
        assert len(find_growth({"x": then | change}, {"x": then})) == 1
    assert find_growth({"x": then | {"registers": 56}}, {"x": then}) == []
    assert find_growth({"x": then | {"registers": 99}}, {"x": then}, same=False) == []
    for change in ({"stack": 8}, {"products": 0}):
        assert len(find_growth({"x": then | change}, {"x": then}, same=False)) == 1
    assert len(find_growth({"x": then}, {"z": then})) == 2
