"""The shipped traces: whole, of the shape and range that is written down, and what a sweep makes of them."""

from __future__ import annotations

import csv
import hashlib
import tomllib
from fnmatch import fnmatchcase

import numpy as np
import pytest
from made_machines import SMALL

from harness import package
from harness.cli.sweep_options import make_spec
from harness.errors import UsageError
from harness.problem import routing, trained
from harness.problem.axes import AXES, DEFAULTS, suffix
from harness.problem.operands import make_leaves
from harness.problem.problem import Problem
from harness.sweep.plan import Plan, make_plan
from tools.traces import leaves

TRACES = trained.provenance()["traces"]


@pytest.mark.parametrize("told", TRACES, ids=lambda told: told["file"])
def test_a_trace_is_what_is_written_of_it(told: dict[str, object]) -> None:
    """Each file has the digest, tokens, range and balance that its line of the provenance says."""
    path = trained.FOLDER / str(told["file"])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == told["sha256"]
    found = np.load(path, allow_pickle=False)
    assert (found.dtype, found.shape) == (np.uint16, (told["tokens"],))
    depth = int(str(told["depth"]))
    assert found.max() < 2**depth
    assert leaves.describe(found, depth).items() <= told.items()


def test_nothing_is_shipped_without_a_line() -> None:
    """The folder holds the traces that are written down, and no others; each layer has one of each kind."""
    files = {path.name for path in trained.FOLDER.glob("*.npy")}
    assert files == {told["file"] for told in TRACES}
    layers = range(trained.provenance()["encoder"]["layers"])
    assert sorted((t["layer"], t["drawn"]) for t in TRACES) == [
        (layer, drawn) for layer in layers for drawn in (False, True)
    ]
    assert {"text", "encoder", "students", "script_sha256", "made_utc"} <= set(trained.provenance())


def test_every_file_goes_into_the_wheel() -> None:
    """The package's data name each file of the folder: what is installed has what a checkout has."""
    root = package.FOLDER.parent
    built = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    assert "harness.data.traces" in built["packages"]
    patterns = built["package-data"]["harness.data.traces"]
    for path in trained.FOLDER.iterdir():
        assert any(fnmatchcase(path.name, pattern) for pattern in patterns), path.name


def test_the_layer_is_the_median_one() -> None:
    """`trained` is neither the most nor the least even layer: its leaf entropy is the lower median."""
    bits = {t["layer"]: t["entropy_bits"][-1] for t in TRACES if not t["drawn"]}
    layer = trained.provenance()["trained_layer"]
    assert leaves.choose_median(bits) == layer
    assert trained.find_file(1, 11).name == f"layer{layer}-1x11.npy"


def test_students_are_of_each_layer() -> None:
    """Each kind of student has an error for each layer and seed, or for one layer alone, and none twice."""
    with trained.STUDENTS.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    layers, seeds = (
        trained.provenance()["encoder"]["layers"],
        trained.provenance()["students"]["seeds"],
    )
    for name in {row["student"] for row in rows}:
        own = [(int(row["layer"]), int(row["seed"])) for row in rows if row["student"] == name]
        assert len(own) == len(set(own))
        assert len(own) == 1 or set(own) == {(n, s) for n in range(layers) for s in range(seeds)}
    assert all(0 < float(row["error"]) < 1.5 for row in rows)


# ---- as an axis value ---------------------------------------------------------------------------


def make(models: str = "1x11", batch: str = "64", **asked: str) -> Plan:
    """Return the plan of a sweep under trained and uniform routing."""
    spec = make_spec(
        models=models, batch=batch, width="32", blas_names=None, seed=0, passes=1, budget=None,
        processes=1, quick=False, out=None, routing="uniform,trained", only=["f*_l1_blas"],
        baseline="ff-16", **asked,
    )  # fmt: skip
    return make_plan(spec, SMALL)


def test_a_plan_has_it_as_any_other_routing() -> None:
    """FF and FFF have a cell under it, whose id names the traces by their digest; the FF is routed too."""
    cells = [c for c in make().cells if c.conditions.routing == "trained"]
    assert {c.problem.layer for c in cells} == {"ff", "fff"}
    assert all(c.id.endswith(f"/trained-{trained.digest()}") for c in cells)
    assert {(p.router().trees, p.router().depth) for c in cells if (p := c.problem).router()} == {
        (1, 11)
    }
    axis = next(axis for axis in AXES if axis.name == "routing")
    assert suffix(DEFAULTS._replace(routing="trained")) == [axis.label("trained")]


def test_tokens_go_where_the_trace_says() -> None:
    """The leaves of a problem are the head of the trace, those of a smaller batch the head of a larger's."""
    problem = Problem(layer="fff", batch=50, d_in=24, d_out=8, depth=11, trees=1, routing="trained")
    found = np.load(trained.find_file(1, 11))
    assert (make_leaves(problem)[:, 0] == found[:50]).all()
    read = routing.read_recorded("trained", batch=len(found), trees=1, depth=11)
    assert (read[:, 0] == found).all()


@pytest.mark.parametrize(
    ("models", "batch", "says"),
    [
        ("1x9", "64", "^--routing: routing trained: no 1x9 was trained, the traces here are of 1x11; "),
        ("2x11", "64", "no 2x11 was trained"),
        ("1x11", "16385", "need a row a token, 16385, got 16384"),
    ],
)  # fmt: skip
def test_what_has_no_trace_is_refused(models: str, batch: str, says: str) -> None:
    """Another depth, more trees or more tokens than there are end as one line that says what there is."""
    with pytest.raises(UsageError, match=says) as caught:
        make(models, batch)
    assert "\n" not in str(caught.value)
