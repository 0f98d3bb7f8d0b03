"""Claims on the ladder: its faulty kernels, its arithmetic, its page."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scripted
from made_machines import SMALL
from scipy.special import erf

from harness import cli, native
from harness.analysis import ladder as analysis_ladder
from harness.analysis.analysis import analyse
from harness.analysis.stats import Ratio
from harness.backends import blas, registry
from harness.errors import UsageError
from harness.measure import faults
from harness.measure.protocol import PublishedRequest
from harness.paper import faults as paper_faults
from harness.paper import ladder as paper_ladder
from harness.problem.check import compare
from harness.problem.operands import Operands, make_aligned, make_operands
from harness.problem.problem import Array, Problem
from harness.records.reader import Run, load_run
from harness.report import figures, ladder_figure, ladder_words, table
from harness.report import ladder as report_ladder
from harness.sweep import ceilings as sweep_ceilings
from harness.sweep import defaults, plan
from harness.sweep import ladder as sweep_ladder

FAULTY = tuple(native.LADDER)

# Seconds a pass, by implementation and protocol: round numbers, so that the factors can be told.
TIMES = {
    ("ff_l3_alloc", "never written"): 2.0, ("ff_l3_alloc", "written"): 3.0,
    ("ff_l3_blas", "written"): 2.4, ("ff_l3_blas", "strict"): 2.0, ("ff_l3_tiled", "strict"): 1.5,
    ("fff_l1_output_rows", "never written"): 0.02, ("fff_l1_output_rows", "written"): 0.05,
    ("fff_l1_blas", "written"): 0.08, ("fff_l1_blas", "strict"): 0.06,
    ("fff_l2_same_row", "never written"): 0.025, ("fff_l2_same_row", "written"): 0.04,
    ("fff_l2_unit_scale", "written"): 0.1, ("fff_l2_blas", "written"): 0.11,
    ("fff_l2_blas", "strict"): 0.09, ("ff_l1_erfc", "written"): 0.2, ("ff_l1_blas", "written"): 0.1,
    ("ceiling_sgemm", "strict"): 0.1,
}  # fmt: skip


def by_table(implementation: str, protocol: str) -> float:
    """Return the table's time; an implementation that is registered elsewhere takes a second."""
    return TIMES.get((implementation, protocol), 1.0)


def make_run(folder: Path, monkeypatch: pytest.MonkeyPatch, script: scripted.Script = by_table,
             **changes: Any) -> Run:  # fmt: skip
    """Return a ladder's run of scripted times."""
    spec = sweep_ladder.ask(scripted.make_spec(folder, **changes))
    made = sweep_ladder.make_ladder(spec, SMALL)
    only = [c for c in made.cells if (c.implementation, "strict") in TIMES]
    return scripted.run(monkeypatch, replace(made, cells=only), script)


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a complete run of the ladder."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return make_run(tmp_path_factory.mktemp("ladder") / "run", monkeypatch)


@pytest.fixture(scope="module")
def bench() -> faults.Bench:
    """Return a bench with SciPy's BLAS."""
    return faults.Bench(
        table=blas.load("scipy").table, operands=make_operands,
        workspace=lambda size: make_aligned((size,), np.uint8),
    )  # fmt: skip


def make_problem(kernel: str, batch: int, d_in: int, d_out: int, depth: int, trees: int) -> Problem:
    """Return a problem of the kernel's layer."""
    if native.LADDER[kernel].layer == "ff":
        return Problem(layer="ff", batch=batch, d_in=d_in, d_out=d_out, hidden=17, seed=3)
    return Problem(layer="fff", batch=batch, d_in=d_in, d_out=d_out, depth=depth, trees=trees,
                   seed=3)  # fmt: skip


def gelu(z: float) -> float:
    """Return the exact GELU."""
    return 0.5 * z * (1.0 + float(erf(z / 2**0.5)))


def walk(problem: Problem, o: Operands, b: int) -> list[tuple[int, int, float]]:
    """Return tree, node and pre-activation along the paths of token b, step by step."""
    found = []
    for k in range(problem.trees):
        node = 0
        for _ in range(problem.depth + 1):
            z = float(o.w_in[k, node].astype(np.float64) @ o.x[b].astype(np.float64))
            found.append((k, node, z))
            node = 2 * node + 1 + (z >= 0)
    return found


def by_hand(kernel: str, problem: Problem, o: Operands, before: Array) -> Array:
    """Return what a faulty kernel leaves in the output, written once more and by single steps."""
    y = before.astype(np.float64)
    if problem.layer == "ff":
        for b in range(problem.batch):
            z = o.w_in.astype(np.float64) @ o.x[b].astype(np.float64)
            y[b] = np.array([gelu(v) for v in z]) @ o.w_out.astype(np.float64)
        return y
    if kernel == "fff_l2_same_row":
        y[0] = sum(o.w_out[k, n].astype(np.float64) for k, n, _ in walk(problem, o, 0))
        y[0] *= problem.batch
        return y
    for b in range(problem.batch):
        y[b] = 0.0
        for k, node, z in walk(problem, o, b):
            if kernel == "fff_l2_unit_scale":
                y[b] += o.w_out[k, node]
            else:
                y[b] += gelu(z) * y[(k * problem.n_nodes + node) % problem.batch]
    return y


@pytest.mark.parametrize(
    ("batch", "d_in", "d_out", "depth", "trees"),
    [(1, 1, 1, 0, 1), (5, 9, 7, 3, 2), (70, 8, 33, 2, 1), (130, 31, 5, 4, 3), (3, 16, 16, 5, 1)],
)
@pytest.mark.parametrize("kernel", FAULTY)
def test_faulty_kernel_does_what_it_says(
    kernel: str, batch: int, d_in: int, d_out: int, depth: int, trees: int
) -> None:
    """A faulty kernel computes its stated fault, as does the definition that gates it, and no more."""
    problem = make_problem(kernel, batch, d_in, d_out, depth, trees)
    operands = make_operands(problem)
    before = np.random.default_rng(1).standard_normal((batch, d_out), dtype=np.float32)
    guarded = np.full((batch + 2, d_out), np.float32(77.0))
    guarded[1:-1] = before
    y = np.ascontiguousarray(before)
    operands = replace(operands, y=guarded[1:-1])
    copies = [a.copy() for a in (operands.x, operands.w_in, operands.w_out)]
    space = make_aligned((native.workspace_bytes(kernel, problem),), np.uint8)
    around = native.Surroundings(blas=blas.load("scipy").table)
    forward, _ = native.bind(kernel, problem, operands, around, space)
    forward()
    wanted = by_hand(kernel, problem, operands, y)
    np.testing.assert_allclose(operands.y, wanted, rtol=2e-4, atol=2e-4)
    defined = paper_faults.find_definition(kernel, problem, operands, y)
    np.testing.assert_allclose(defined.y, wanted, rtol=1e-9, atol=1e-9)
    assert compare(operands.y, defined, problem).ok
    assert (guarded[[0, -1]] == 77.0).all()
    for array, copy in zip((operands.x, operands.w_in, operands.w_out), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("kernel", [k for k in FAULTY if k.startswith("fff")])
def test_gate_tells_a_fault_from_the_layer(
    kernel: str, bench: faults.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that computes the layer rightly fails the gate of a faulty one: the gate checks the fault."""
    problem = make_problem(kernel, 40, 9, 7, 3, 2)
    assert bench.gate(kernel, problem).ok
    right = {"fff_l1_output_rows": "fff_l1_blas"}.get(kernel, "fff_l2_blas")
    bind = native.bind
    bench = replace(bench, known={})
    monkeypatch.setattr(native, "bind", lambda _, *rest: bind(right, *rest))
    assert not bench.gate(kernel, problem).ok


@pytest.mark.parametrize("unwritten", [True, False])
@pytest.mark.parametrize("kernel", [*FAULTY, "ff_l3_blas", "fff_l1_blas", "fff_l2_blas"])
def test_cold_sample_is_checked(kernel: str, unwritten: bool, bench: faults.Bench) -> None:
    """Each published cell gates its kernel, times the passes asked for and passes the check behind them."""
    layer = (native.LADDER.get(kernel) or native.KERNELS[kernel]).layer
    shape = {"hidden": 33} if layer == "ff" else {"depth": 4, "trees": 1}
    problem = Problem(layer=layer, batch=80, d_in=9, d_out=7, seed=5, **shape)
    request = PublishedRequest(kernel=kernel, problem=problem, loops=3, unwritten=unwritten)
    answer = bench.run(request)
    assert answer.verdict.ok, answer.verdict.reason
    assert answer.sample is not None
    assert answer.sample.loops == 3
    assert answer.notes["buffers"] == ("never written" if unwritten else "written")


def test_output_that_should_be_zero_is_looked_at(bench: faults.Bench) -> None:
    """An unwritten layer whose output is not zero is called wrong."""
    problem = Problem(layer="ff", batch=4, d_in=3, d_out=2, hidden=5)
    operands = make_operands(problem)
    operands.y[2, 1] = 1.0
    verdict = bench._check_timed("ff_l3_alloc", problem, operands, None, unwritten=True)
    assert verdict is not None
    assert not verdict.ok
    assert "1 output elements are not 0" in verdict.reason


def test_unwritten_pages_are_untouched() -> None:
    """Unwritten buffers read as zeros and take no memory of their own, however large they are."""

    def resident_kib() -> int:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1])
        raise AssertionError("no RssAnon")

    before = resident_kib()
    array = faults._unwritten((1 << 14, 1 << 10))  # 64 MiB
    assert not array[:: 1 << 7].any()
    assert resident_kib() - before < 16 << 10


def test_faulty_kernels_cannot_be_chosen(tmp_path: Path) -> None:
    """No faulty kernel is registered, and a sweep that asks for one is refused with one line."""
    assert FAULTY
    known = {i.id for i in registry.all()}
    assert not known & set(FAULTY)
    assert not set(native.KERNELS) & set(FAULTY)
    for kernel in FAULTY:
        with pytest.raises(UsageError, match="unknown implementation"):
            cli.run(["sweep", "--only", kernel, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_faulty_kernel_without_definition() -> None:
    """Every faulty kernel has a definition, and an unknown one is refused rather than trusted."""
    problem = Problem(layer="fff", batch=2, d_in=3, d_out=2, depth=1, trees=1)
    operands = make_operands(problem)
    with pytest.raises(LookupError, match="no definition of kernel 'fff_new'"):
        paper_faults.find_definition("fff_new", problem, operands, operands.y)


# ---- the arithmetic -----------------------------------------------------------------------------


def rungs_of(run: Run, level: int) -> list[analysis_ladder.Rung]:
    """Return the rungs of a run's ladder at one level."""
    return analyse(run).require_ladder().climbs[level]


@pytest.mark.parametrize("level", paper_ladder.LEVELS)
def test_steps_multiply_to_the_whole(level: int, climbed: Run) -> None:
    """The first speedup times the factors is the last one, and each factor is the quotient of its two."""
    rungs = rungs_of(climbed, level)
    assert [r.step.key for r in rungs] == [s.key for s in paper_ladder.STEPS]
    last = rungs[-1].speedup
    whole = analysis_ladder.product(rungs)
    assert last is not None
    assert whole == pytest.approx(last.value, rel=1e-12)
    for before, after in pairwise(rungs):
        assert before.speedup is not None
        assert after.speedup is not None
        assert after.factor is not None
        quotient = after.speedup.value / before.speedup.value
        assert after.factor.value == pytest.approx(quotient, rel=1e-12)
        assert after.factor.low <= after.factor.value <= after.factor.high


@pytest.mark.parametrize(
    ("level", "speedups"),
    [(1, [100, 60, 60, 37.5, 37.5, 30, 33.3, 25, 25]), (2, [80, 75, 30, 27.3, 27.3, 21.8, 22.2, 16.7, 16.7])],
)  # fmt: skip
def test_each_step_takes_its_own_cells(level: int, speedups: list[float], climbed: Run) -> None:
    """Each step's speedup is that of the kernels and buffers that the step names."""
    for rung, wanted in zip(rungs_of(climbed, level), speedups, strict=True):
        assert rung.speedup is not None
        assert rung.speedup.value == pytest.approx(wanted, rel=0.03), rung.step.key


def test_steps_that_change_nothing_are_exactly_one(climbed: Run) -> None:
    """A step that changes neither side has the factor 1 with no width, and says so."""
    for level, keys in ((1, {"rows", "activation", "own"}), (2, {"activation", "own"})):
        same = {r.step.key for r in rungs_of(climbed, level) if r.same}
        assert same == keys
    rung = next(r for r in rungs_of(climbed, 1) if r.same)
    assert rung.factor == Ratio(value=1.0, low=1.0, high=1.0, blocks=rung.factor.blocks)


@pytest.mark.parametrize("level", paper_ladder.LEVELS)
def test_stated_changes_match_the_cells(level: int, climbed: Run) -> None:
    """A step that says which side it changes changes the cell of that side and of no other."""
    rungs = rungs_of(climbed, level)
    for before, after in pairwise(rungs):
        if after.step.key == "own":  # there are none in this run
            continue
        sides = {(True, True): "both", (True, False): "FF", (False, True): "FFF",
                 (False, False): "neither"}  # fmt: skip
        changed = sides[(before.ff != after.ff, before.fff != after.fff)]
        assert after.step.changes[level] == changed, after.step.key


def test_own_kernels_are_the_last_step(climbed: Run) -> None:
    """An FFF that is not built on BLAS makes the last step, and the product still holds."""
    cells, samples = climbed.cells, climbed.samples
    of = cells[(cells["implementation"] == "fff_l1_blas") & (cells["role"] == "layer")]
    own = of.assign(cell="fff_own/x", implementation="fff_own", provider="")
    times = samples[samples["cell"] == of["cell"].iloc[0]]
    times = times.assign(
        cell="fff_own/x", implementation="fff_own", provider="", pass_ns=times["pass_ns"] / 4
    )
    run = climbed._replace(
        cells=pd.concat([cells, own], ignore_index=True),
        samples=pd.concat([samples, times], ignore_index=True),
    )
    assert analyse(run).require_ladder().own_fff == "fff_own/x"
    for level in paper_ladder.LEVELS:
        rungs = rungs_of(run, level)
        assert rungs[-1].fff == "fff_own/x"
        assert not rungs[-1].same
        assert analysis_ladder.product(rungs) == pytest.approx(rungs[-1].speedup.value, rel=1e-12)
    assert rungs[-1].speedup.value == pytest.approx(100, rel=0.03)
    page = report_ladder.format_page(analyse(run))
    assert "`fff_own` (own code)" in page
    first = page.split("\n\n")[1]
    assert f"bring it to **{ladder_words.format_speedup(rungs[-1])}**" in first
    assert "Kernels of our own" not in report_ladder.format_page(analyse(climbed)).split("\n\n")[1]


def test_quotient_of_independent_ratios() -> None:
    """The interval of a quotient is wider than either part's and holds what the parts' centres say."""
    over = Ratio(value=10.0, low=8.0, high=12.5, blocks=4)
    under = Ratio(value=5.0, low=4.0, high=6.25, blocks=3)
    got = analysis_ladder.quotient(over, under)
    assert got.value == pytest.approx(2.0)
    assert got.low == pytest.approx(2.0 / 1.25 ** (2**0.5))
    assert got.high == pytest.approx(2.0 * 1.25 ** (2**0.5))
    assert got.blocks == 3


# ---- the plan and the page ----------------------------------------------------------------------


def test_published_cells_run_in_fixed_order(climbed: Run) -> None:
    """The published protocol samples FF before FFF in the same order in each process, never interleaved."""
    own = climbed.samples[climbed.samples["role"] == "ladder"].sort_values("order")
    assert set(own["block"]) == {-1}
    orders = [list(g["cell"]) for _, g in own.groupby(["process", "block"])]
    assert len(orders) == 2
    assert all(o == orders[0] for o in orders)
    assert orders[0][0].startswith("ff_l3_alloc")
    assert (climbed.samples.loc[climbed.samples["role"] != "ladder", "block"] >= 0).all()


def test_ladder_leaves_the_slow_ff_out(tmp_path: Path) -> None:
    """FF at level 1 is measured over a few tokens only, at level 2 not at all."""
    made = sweep_ladder.make_ladder(sweep_ladder.ask(scripted.make_spec(tmp_path)), SMALL)
    slow = [
        c for c in (*made.cells, *made.published) if c.implementation.startswith(("ff_l1", "ff_l2"))
    ]
    assert {c.implementation for c in slow} == {"ff_l1_erfc", "ff_l1_blas"}
    assert max(c.problem.batch for c in slow) <= 64
    assert {c.role for c in made.published} == {"ladder"}


def test_default_ladder_fits_its_time(tmp_path: Path) -> None:
    """By prediction the default ladder needs at most four minutes and two GiB."""
    spec = sweep_ladder.ask(
        scripted.make_spec(
            tmp_path, passes=None, budget=defaults.LADDER_BUDGET_S, processes=defaults.PROCESSES
        )
    )
    made = sweep_ladder.make_ladder(spec, SMALL)
    assert made.predicted_s() <= 240
    assert made.blocks() > spec.processes
    assert made.memory_bytes() + 8 * 16384 * 4095 <= 2 << 30


def test_page_says_both_figures(climbed: Run) -> None:
    """The first paragraph names the claim, the figure by the published protocol and the strict one."""
    text = report_ladder.format_page(analyse(climbed))
    first = text.split("\n\n")[1]
    rungs = rungs_of(climbed, 2)
    for rung in (rungs[0], rungs[7]):
        assert ladder_words.format_speedup(rung) in first
    assert "78 times" in first
    assert "341 times" in first
    rows = [line for line in text.splitlines() if re.match(r"\| \d \|", line)]
    assert len(rows) == len(paper_ladder.STEPS)
    assert all(line.count("|") == 7 for line in rows)
    assert "the level-1 FF takes 2" in text  # 0.2 s with erfc, 0.1 s without


@pytest.mark.slow
def test_page_is_made_anew_from_records(climbed: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """`explain RUN` writes the same page, figures and CSV again from the samples alone."""
    first = {p.name: p.read_bytes() for p in report_ladder.write_page(analyse(climbed))}
    assert set(first) == {f"explain.{kind}" for kind in ("md", "csv", "png", "svg", "pdf")}
    for name in first:
        (climbed.folder / name).unlink()
    assert cli.run(["explain", str(climbed.folder)]) == 0
    assert "Is it 78 times faster?" in capsys.readouterr().out
    assert {name: (climbed.folder / name).read_bytes() for name in first} == first


def test_csv_multiplies_too(climbed: Run) -> None:
    """The CSV's factors multiply to its last speedup, and it names the cells of each step."""
    frame = report_ladder.csv_frame(analyse(climbed))
    for _, own in frame.groupby("level"):
        whole = own["speedup"].iloc[0] * own["factor"].iloc[1:].prod()
        assert whole == pytest.approx(own["speedup"].iloc[-1], rel=1e-12)
        assert own["ff"].str.len().min() > 0
    assert len(frame) == 2 * len(paper_ladder.STEPS)


def test_wrong_cell_leaves_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that fails its gate is never timed: its step says so, and no product is claimed."""

    def script(implementation: str, protocol: str) -> float:
        return -1.0 if implementation == "fff_l2_unit_scale" else by_table(implementation, protocol)

    run = make_run(tmp_path / "run", monkeypatch, script)
    rungs = rungs_of(run, 2)
    assert rungs[2].speedup is None
    assert rungs[3].factor is None
    assert ladder_words.format_factor(rungs[3]) == "not measured"
    assert analysis_ladder.product(rungs) is None
    assert not (run.samples["implementation"] == "fff_l2_unit_scale").any()
    text = report_ladder.format_page(analyse(run))
    assert "not measured: no right FFF was sampled" in text
    assert "WRONG: fff_l2_unit_scale" in text
    assert "there is no product" in text
    figure = ladder_figure.ladder_figure(analyse(run))
    assert "not measured" in [t.get_text() for t in figure.axes[1].texts]


def test_providers_compete_for_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every provider's FF is a candidate for the last baseline; the published steps keep to the first."""
    run = make_run(tmp_path / "run", monkeypatch, blas_names=["scipy", "mkl"])
    assert set(run.cells.loc[run.cells["role"] == "ladder", "provider"]) == {"scipy"}
    assert set(run.cells.loc[run.cells["role"] == "layer", "provider"]) == {"scipy", "mkl"}
    for rung in rungs_of(run, 1)[:7]:
        assert "/scipy" in rung.ff
        assert "/scipy" in rung.fff
    assert "(providers: scipy, mkl)" in report_ladder.format_page(analyse(run))


def test_only_a_ladder_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`explain` on the run of a sweep says in one line what to do."""
    spec = scripted.make_spec(tmp_path / "run")
    run = scripted.run(monkeypatch, plan.make_plan(spec, SMALL), by_table)
    with pytest.raises(UsageError, match="not a run of the ladder"):
        report_ladder.format_page(analyse(run))


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--batch", "4,8"], "stands at one value"), (["--blas", "nonsense"], "unknown BLAS provider"),
     (["--batch", "0"], "at least 1"), (["--processes", "0"], "above 0")],
)  # fmt: skip
def test_bad_words_are_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    """A mistake on the command line is a usage error before anything is measured."""
    with pytest.raises(UsageError, match=message):
        cli.run(["explain", *words, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_tables_of_a_ladder_show_its_strict_part(climbed: Run) -> None:
    """`table` and `plot` on a ladder's run show the interleaved cells and none of the faulty ones."""
    text = table.format_markdown(analyse(climbed))
    assert "fff_l2_blas" in text
    assert not any(kernel in text for kernel in FAULTY)
    assert figures.speedup_figure(analyse(climbed)).axes[0].patches


@pytest.mark.slow
def test_explain_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command measures in real processes, at a tiny size, and writes a page without a gap."""
    monkeypatch.setattr(sweep_ladder, "PUBLISHED_SAMPLE_S", 0.001)
    monkeypatch.setattr(sweep_ceilings, "_CEILING_EXTENT", 64)
    words = ["--batch", "8", "--width", "24", "--passes", "1", "--processes", "1"]
    assert cli.run(["explain", *words, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "not measured" not in printed
    run = load_run(tmp_path / "run")
    for level in paper_ladder.LEVELS:
        rungs = rungs_of(run, level)
        assert analysis_ladder.product(rungs) == pytest.approx(rungs[-1].speedup.value, rel=1e-12)
    assert set(run.cells.loc[run.cells["role"] == "ladder", "status"]) == {"ok"}
