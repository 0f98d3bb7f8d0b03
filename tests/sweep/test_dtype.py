"""The second dtype: bfloat16 operands from the problem to the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import planted
import pytest
from made_machines import SMALL

from harness import api, cli, native, plugin
from harness.analysis.analysis import analyse
from harness.backends import blas, registry
from harness.cli import grammar
from harness.errors import UsageError
from harness.measure import locality
from harness.problem import check, working_set
from harness.problem.axes import lists
from harness.problem.models import parse_models
from harness.problem.operands import Operands, make_aligned, make_operands, make_weights
from harness.problem.oracle import Truth
from harness.problem.problem import Array, Problem
from harness.records.reader import load_run
from harness.report import csv as report_csv
from harness.report import table
from harness.sweep import plan, spec

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FFF = Problem(layer="fff", batch=40, d_in=24, d_out=16, depth=3, trees=2, dtype="bfloat16")
FF = Problem(layer="ff", batch=40, d_in=24, d_out=16, hidden=17, dtype="bfloat16")


def bits(array: Array) -> Array:
    """Return an array's own bits, so that NaNs compare."""
    return array.view(np.uint16)


@pytest.mark.parametrize(
    "problem", [FF, FFF, replace(FFF, routing="zipf"), replace(FF, rows="same")]
)
def test_operands_are_the_float32_ones_rounded(problem: Problem) -> None:
    """Weights and free rows are float32's, rounded to nearest; every array is aligned and of one dtype."""
    made, exact = make_operands(problem), make_operands(replace(problem, dtype="float32"))
    for array in (made.x, made.w_in, made.w_out, made.y):
        assert array.dtype == BFLOAT16
        assert array.ctypes.data % 64 == 0
    np.testing.assert_array_equal(made.w_in, exact.w_in.astype(BFLOAT16))
    np.testing.assert_array_equal(made.w_out, exact.w_out.astype(BFLOAT16))
    if problem.routing == "uniform":
        np.testing.assert_array_equal(made.x, exact.x.astype(BFLOAT16))


@pytest.mark.parametrize("turn", [0, 1])
def test_chosen_paths_are_taken_by_the_rounded_rows(turn: int) -> None:
    """Rows that are steered to one leaf reach it after rounding, through every set of weights."""
    problem = replace(FFF, batch=300, d_in=64, depth=6, routing="single")
    operands = make_operands(problem)
    w_in, w_out = make_weights(problem, turn)
    truth = check.find_truth(problem, replace(operands, w_in=w_in, w_out=w_out), np.arange(300))
    assert len(np.unique(truth.nodes[:, 0, -1])) == 1
    assert (truth.margin > check.NEAR_TIE["bfloat16"]).all()


def test_half_the_bytes() -> None:
    """All counts of bytes are half of float32's, the operations the same."""
    for problem in (FF, FFF):
        exact = replace(problem, dtype="float32")
        assert 2 * problem.weight_bytes() == exact.weight_bytes()
        assert 2 * problem.bytes_moved() == exact.bytes_moved()
        assert problem.flops() == exact.flops()
        assert problem.input_key() != exact.input_key()
        assert locality.weight_key(problem) != locality.weight_key(exact)


def test_touched_nodes_are_those_of_the_oracle() -> None:
    """The statistics of the routing follow the stored values."""
    operands = make_operands(FFF)
    truth = check.find_truth(FFF, operands, np.arange(FFF.batch))
    distinct = sum(len(np.unique(truth.nodes[:, k])) for k in range(FFF.trees))
    touched = working_set.count_nodes(FFF, operands)
    assert touched.nodes == distinct
    assert touched.working_set_bytes == distinct * (24 + 16) * 2


def test_ceilings_of_the_cpu_take_one_dtype() -> None:
    """Each of the processor's ceilings is of one dtype, and each dtype has a loop and a product."""
    ceilings = [i for i in registry.all() if i.layer == "ceiling" and "cpu" in i.devices]
    taken: dict[tuple[str, ...], set[str]] = {}
    for ceiling in ceilings:
        taken.setdefault(ceiling.dtypes, set()).add(ceiling.id)
    assert set(taken) == {("float32",), ("bfloat16",)}
    assert taken["float32",] >= {"ceiling_fma", "ceiling_sgemm"}
    assert taken["bfloat16",] == {"ceiling_bfdot", "ceiling_amx", "ceiling_torch_matmul"}


UNITS = {"ceiling_bfdot": 2, "ceiling_amx": 32, "ceiling_torch_matmul": 2048}


@pytest.mark.parametrize("threads", [1, 2])
def test_ceilings_of_bfloat16_are_planned_where_it_is_asked_for(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep of bfloat16 has its loops and product where the processor has them, else says why not."""
    own = planted.make("ff", name="ff_test_both")
    monkeypatch.setitem(registry._known, own.id, own)
    reasons = dict.fromkeys(UNITS, "")
    for name in UNITS:
        there = replace(registry.get(name), unavailable=lambda name=name: reasons[name])
        monkeypatch.setitem(registry._known, name, there)
    asked = replace(_spec("bfloat16", only=["ff_test_both"]), threads=threads)
    made = plan.make_plan(asked, SMALL)
    cells = {c.implementation: c for c in made.cells if c.implementation in UNITS}
    assert {name: c.problem.d_in for name, c in cells.items()} == UNITS
    assert {c.problem.dtype for c in cells.values()} == {"bfloat16"}
    assert cells["ceiling_amx"].problem.batch == 32 * threads
    assert all(c.predicted_s() < 0.5 for c in cells.values())
    reasons["ceiling_amx"] = "the processor reports no amx_bf16"
    lacking = plan.make_plan(asked, SMALL)
    assert {c.implementation for c in lacking.cells} & {*UNITS} == {*UNITS} - {"ceiling_amx"}
    assert [why for c, why in lacking.unavailable if c.implementation == "ceiling_amx"] == [
        reasons["ceiling_amx"]
    ]
    plain = plan.make_plan(_spec("float32", only=["ff_l3_blas"]), SMALL)
    assert not {c.implementation for c in plain.cells} & {*UNITS}


# ---- the verdict --------------------------------------------------------------------------------


def test_poison_is_a_nan_that_is_counted() -> None:
    """The poison is a NaN, it is not the default one, and what is left of it is counted."""
    y = make_aligned((3, 5), BFLOAT16)
    check.poison(y)
    assert np.isnan(y.astype(np.float32)).all()
    default = np.array(np.nan, np.float32).astype(BFLOAT16)
    assert not (bits(y) == bits(default)).any()
    y[1] = 0
    assert check.count_unwritten(y) == 10


def test_tolerance_of_one_rounding() -> None:
    """One rounding of y passes; one and a half do not where nothing hidden was rounded."""
    shape = (4, 3)
    truth = Truth(
        y=np.full(shape, 1.0), scale=np.ones(shape), rounding=np.zeros(shape),
        margin=np.full(4, np.inf), nodes=np.zeros((4, 0, 0), np.int64),
    )  # fmt: skip
    problem = replace(FF, batch=4, d_out=3)
    for roundings, ok in ((1.0, True), (1.5, False)):
        assert check.compare(np.full(shape, 1 + roundings * 2.0**-8), truth, problem).ok is ok


def test_missing_neuron_of_4095_is_caught() -> None:
    """The tolerance that lets hidden values be rounded does not let one neuron of 4095 be missing."""
    problem = Problem(layer="ff", batch=16, d_in=64, d_out=64, hidden=4095, dtype="bfloat16")
    operands = make_operands(problem)
    tokens = np.arange(problem.batch)
    truth = check.find_truth(problem, operands, tokens)
    assert check.compare(truth.y.astype(BFLOAT16), truth, problem).worst < 0.5
    short = replace(operands, w_in=operands.w_in[1:], w_out=operands.w_out[1:])
    without = check.find_truth(replace(problem, hidden=4094), short, tokens)
    assert check.compare(without.y.astype(BFLOAT16), truth, problem).worst > 1.5


# ---- the boundary -------------------------------------------------------------------------------


def test_kernel_refuses_what_it_does_not_take(scipy_provider: blas.Provider) -> None:
    """A float32 kernel refuses bfloat16 by status; arrays of another dtype than the problem's by name."""
    kernel = "ff_l3_tiled"
    workspace = make_aligned((1 << 20,), np.uint8)

    def bind(problem: Problem, operands: Operands) -> None:
        native.bind(
            kernel, problem, operands, native.Surroundings(blas=scipy_provider.table), workspace
        )[0]()

    with pytest.raises(native.NativeError, match=rf"^{kernel}: unsupported dtype for Problem"):
        bind(FF, make_operands(FF))
    with pytest.raises(ValueError, match=r"^x: need C-contiguous float32"):
        bind(replace(FF, dtype="float32"), make_operands(FF))
    with pytest.raises(ValueError, match=r"^x: need C-contiguous bfloat16"):
        bind(FF, make_operands(replace(FF, dtype="float32")))
    assert native.workspace_bytes(kernel, FF) == 0


def test_implementation_names_its_dtypes() -> None:
    """An implementation of no dtype, or of one that no problem has, can't be made."""
    right = planted.make("ff")
    for dtypes in ((), ("float16",)):
        with pytest.raises(ValueError, match="dtypes must be"):
            replace(right, dtypes=dtypes)


def test_forward_names_the_dtypes() -> None:
    """A caller's arrays of a dtype that the implementation does not take, or of two, are refused."""
    operands = make_operands(FF)
    with pytest.raises(ValueError, match="ff_l3_blas takes float32, got bfloat16"):
        api.forward("ff_l3_blas", operands.x, operands.w_in, operands.w_out)
    with pytest.raises(ValueError, match="w_in: need the dtype of x, float32, got bfloat16"):
        api.forward("ff_l3_blas", operands.x.astype(np.float32), operands.w_in, operands.w_out)


# ---- the sweep ----------------------------------------------------------------------------------

PLUGIN = """
import numpy as np
from scipy.special import erf
from harness.plugin import register_python


def forward(x, w_in, w_out, y):
    x, total = x.astype(np.float32), np.zeros(y.shape, np.float32)
    trees, n_nodes, _ = w_in.shape
    for k in range(trees):
        node = np.zeros(len(x), np.int64)
        for _ in range((n_nodes + 1).bit_length() - 1):
            z = np.einsum("bi,bi->b", x, w_in[k, node].astype(np.float32))
            total += (0.5 * z * (1 + erf(z / 2**0.5)))[:, None] * w_out[k, node].astype(np.float32)
            node = 2 * node + 1 + (z >= 0)
    y[...] = total


register_python(
    id="fff_test_both", layer="fff", function=forward, dtypes=("float32", "bfloat16")
)
"""
SWEEP = [
    "sweep", "--batch", "32", "--width", "24", "--models", "ff-17,1x3", "--passes", "2", "--processes", "1",
    "--only", "ff_l3_tiled,fff_test_both", "--skip", "ceiling_*", "--no-figures",
]  # fmt: skip


@pytest.fixture
def plugin_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of an FFF that takes both dtypes; what it registers is forgotten in the end."""
    registry.all()
    for module, name in ((registry, "_known"), (plugin, "_origins"), (plugin, "_loaded")):
        monkeypatch.setattr(module, name, getattr(module, name).copy())
    path = tmp_path / "both.py"
    path.write_text(PLUGIN)
    return path


@pytest.mark.slow
def test_ff_of_float32_stands_in(
    plugin_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no FF takes bfloat16, the float32 FF stands in for it, and the table says why."""
    folder = tmp_path / "run"
    arguments = [*SWEEP, "--plugin", str(plugin_file), "--dtype", "bfloat16", "--out", str(folder)]
    assert cli.run(arguments) == 0
    run = load_run(folder)
    status = {row.cell: row.status for row in run.cells.itertuples()}
    assert status["fff_test_both/ultrafastbert-1x3/b32/w24/bfloat16"] == "ok"
    assert status["ff_l3_tiled/bert-base-4095/b32/w24/scipy"] == "ok"
    assert status["ff_l3_tiled/bert-base-4095/b32/w24/scipy/bfloat16"] == "unavailable"
    assert not any(cell.startswith("fff_test_both") and "bfloat16" not in cell for cell in status)
    text = table.format_markdown(analyse(run))
    assert "## Batch 32, width 24, dtype bfloat16" in text
    assert "no FF of bfloat16 was measured (ff_l3_tiled: takes float32 alone, not bfloat16)" in text
    frame = report_csv.csv_frame(analyse(run))
    versus = frame[frame["column"] == "fff_test_both"]
    assert versus["dtype"].tolist() == ["bfloat16"]
    assert versus["speedup"].gt(0).all()
    assert versus["baseline"].tolist() == ["ff_l3_tiled/bert-base-4095/b32/w24/scipy"]
    layers = run.cells[run.cells["role"] == "layer"]
    assert (layers["dtype"] == "bfloat16").sum() == 3
    capsys.readouterr()


def test_ff_of_the_same_dtype_is_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an FF takes bfloat16 it is the baseline, and no float32 cell is added."""
    own = planted.make("ff", name="ff_test_both")
    monkeypatch.setitem(registry._known, own.id, own)
    made = plan.make_plan(_spec("bfloat16", only=["ff_l3_*", "ff_test_both"]), SMALL)
    assert {c.problem.dtype for c in made.cells if c.role == "layer"} == {"bfloat16"}
    assert {c.implementation for c in made.cells if c.role == "layer"} == {"ff_test_both"}
    assert all(
        "takes float32 alone" in reason for cell, reason in made.unavailable if cell.role == "layer"
    )


def _spec(*dtypes: str, only: list[str]) -> spec.SweepSpec:
    return spec.SweepSpec(
        levels=[1, 2, 3], device="cpu", models=parse_models("bert-base-4095"), batches=[8],
        widths=[24], only=only, skip=[], blas=["scipy"], threads=1, seed=0, passes=1, budget_s=10.0,
        processes=1, quick=False, keep_blas_env=False, out=None, axes=lists(dtype=dtypes),
    )  # fmt: skip


def test_dtype_that_nothing_takes() -> None:
    """A dtype that no chosen implementation takes ends the command with one line."""
    with pytest.raises(
        UsageError, match="--dtype: no chosen implementation that runs here takes bf"
    ):
        plan.make_plan(_spec("float32", "bfloat16", only=["fff_l1_blas", "ff_l3_blas"]), SMALL)


def test_unknown_dtype() -> None:
    """An unknown dtype is refused with the known ones."""
    with pytest.raises(UsageError, match="--dtype: unknown value 'half'; known: float32, bfloat16"):
        grammar.parse_axes("cpu", {"dtype": "half"})
