"""Comparisons of made-up runs, whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import junitparser
import numpy as np
import pandas as pd
import pytest
from fabricated_runs import Fake, make_cell
from hostile import AFTER_LINE, spoil

from harness import cli
from harness.analysis import compare, compare_interval
from harness.analysis.compare import Comparison, judge
from harness.analysis.stats import Ratio
from harness.errors import UsageError
from harness.problem.axes import DEFAULTS
from harness.records.reader import load_run
from harness.records.schema import LINES
from harness.report import compare as report_compare


def compare_fakes(a: Fake, b: Fake) -> Comparison:
    """Return the comparison of two made-up runs."""
    return compare.compare(a.run(), b.run())


def verdicts(comparison: Comparison) -> dict[str, str]:
    """Return the verdict of each cell."""
    return {change.cell: change.verdict for change in comparison.changes}


def found(comparison: Comparison, start: str) -> compare.Change:
    """Return what became of the first cell whose name begins so."""
    return next(c for c in comparison.changes if c.cell.startswith(start))


def test_same_runs_are_rarely_called_different():
    """Over 200 pairs of runs of one truth at most 1 cell in 20 is called faster or slower."""
    rng = np.random.default_rng(0)
    different = cells = 0
    for _ in range(200):
        # The estimate sees log ratios by process and block: 3 processes of 4 blocks, 6 cells.
        reference = rng.normal(0, 0.01, (2, 3, 4))
        for _ in range(6):
            layout = rng.normal(0, 0.005, (2, 3, 1))
            logs = rng.normal(0, 0.01, (2, 3, 4)) + layout - reference
            verdict = judge(compare_interval.estimate(list(logs[0]), list(logs[1])), 0.01)
            different += verdict in ("faster", "slower")
            cells += 1
    assert different <= cells / 20


def test_a_run_against_a_like_one_is_the_same_or_not_told():
    """Two whole runs of one truth give no cell that is faster or slower, in ten pairs."""
    for i in range(10):
        comparison = compare_fakes(Fake(seed=2 * i), Fake(seed=2 * i + 1))
        assert set(verdicts(comparison).values()) <= {"same", "ambiguous"}
        assert comparison.slower_than(0) == []


@pytest.mark.parametrize("kernel", ["fff_l1_blas", "ff_l3_blas/bert-base-4095", "ff_l1_blas"])
def test_five_percent_is_called_slower(kernel):
    """A kernel planted 5 % slower is called slower, and no other is, be it the fastest FF itself."""
    quiet = {"noise": 0.005, "process_noise": 0.002}
    comparison = compare_fakes(Fake(seed=1, **quiet), Fake(seed=2, factors={kernel: 1.05}, **quiet))
    got = verdicts(comparison)
    assert found(comparison, kernel).verdict == "slower"
    assert [v for c, v in got.items() if not c.startswith(kernel)].count("slower") == 0
    assert found(comparison, kernel).change.value == pytest.approx(1.05, abs=0.02)
    back = compare_fakes(Fake(seed=2, factors={kernel: 1.05}, **quiet), Fake(seed=1, **quiet))
    assert found(back, kernel).verdict == "faster"


@pytest.mark.parametrize("half", [0.5, 0.4], ids=["between blocks", "within a block"])
@pytest.mark.parametrize("factors", [{}, {"fff_l1": 1.05}], ids=["like", "slower"])
def test_drift_changes_no_verdict(half, factors):
    """A machine that is 30 % slower for half a sweep leaves every verdict as it was."""
    quiet = {"noise": 0.003, "process_noise": 0.002}
    a, b = Fake(seed=3, **quiet), Fake(seed=4, factors=factors, **quiet)
    plain = verdicts(compare_fakes(a, b))
    assert ("slower" in plain.values()) == bool(factors)
    drifted = replace(b, drift=lambda done: 1.3 if done >= half else 1.0)
    assert verdicts(compare_fakes(a, drifted)) == plain


def test_without_ceiling_the_fastest_ff_is_the_reference():
    """Runs without the ceiling are taken over their fastest FF, which then has no verdict of its own."""
    comparison = compare_fakes(Fake(seed=1, ceiling=False), Fake(seed=2, ceiling=False))
    assert comparison.references[0].startswith("ff_l3_blas/bert-base-4095")
    assert found(comparison, "ff_l3_blas/bert-base-4095").verdict == "reference"


def test_across_machines_ratios_are_compared():
    """A machine three times as fast throughout shows no change, and the text says that ratios stand there."""
    other = {"processor": "Example 9001", "host": "elsewhere"}
    fast = {name: 1 / 3 for name in ("ff_", "fff_", "ceiling")}
    comparison = compare_fakes(Fake(seed=1), Fake(seed=2, machine=other, factors=fast))
    assert not comparison.same_machine
    assert set(verdicts(comparison).values()) <= {"same", "ambiguous", "reference"}
    assert "ratios are compared, not times" in report_compare.format_comparison(comparison)


def test_across_machines_each_batch_has_its_own_reference():
    """A change of one batch's FF moves the speedups of that batch, and those of no other."""
    made = partial(Fake, more_batches=(16,), noise=0.001, process_noise=0.0003)
    slow = {"ff_l3_blas/bert-base-4095/b16/": 2.0}
    b = made(seed=2, machine={"processor": "Example 9001"}, factors=slow)
    comparison = compare_fakes(made(seed=1), b)
    small, large = (found(comparison, f"fff_l1_blas/ultrafastbert-1x11/b{b}/") for b in (16, 64))
    assert (small.verdict, large.verdict) == ("faster", "same")
    assert small.change.value == pytest.approx(0.5, rel=0.03)


def test_across_machines_each_condition_has_its_own_reference():
    """So does a change of the FF from cold caches: it is none of the speedups from hot ones."""
    both = (DEFAULTS, DEFAULTS._replace(weights="flushed"))
    made = partial(Fake, conditions=both, noise=0.001, process_noise=0.0003)
    slow = {"ff_l3_blas/bert-base-4095/b64/w32/scipy/flushed": 2.0}
    comparison = compare_fakes(
        made(), made(seed=2, machine={"processor": "Example 9001"}, factors=slow)
    )
    tree = {c.cell: c.verdict for c in comparison.changes if c.cell.startswith("fff_l1_blas")}
    assert {"flushed" in cell: said for cell, said in tree.items()} == {
        False: "same",
        True: "faster",
    }


def test_across_machines_nothing_is_said_without_an_ff_of_the_section():
    """Where the runs share no FF at a batch there is no speedup there, and the cell says so."""
    a = Fake(seed=1, more_batches=(16,)).run()
    b = Fake(seed=2, more_batches=(16,), machine={"processor": "Example 9001"}).run()
    lost = (b.cells["layer"] == "ff") & (b.cells["batch"] == 16)
    cells = b.cells.assign(status=np.where(lost, "unavailable", b.cells["status"]))
    comparison = compare.compare(a, b._replace(cells=cells))
    change = found(comparison, "fff_l1_blas/ultrafastbert-1x11/b16/")
    assert (change.verdict, change.change) == ("ambiguous", None)
    assert "no FF of its batch" in change.reason


def test_host_name_alone_is_the_same_machine():
    """A container's new host name does not make another machine."""
    assert compare_fakes(Fake(), Fake(seed=1, machine={"host": "again"})).same_machine


def test_builds_of_other_sources_are_named():
    """Two builds that differ in what both record are told apart, though the commit is the same."""
    build = {"isa": "avx2", "compiler": "gcc 14", "digest": "aaaa"}
    one, other = {"build": build}, {"build": {**build, "digest": "bbbb"}}
    text = report_compare.format_comparison(
        compare_fakes(Fake(machine=one), Fake(seed=1, machine=other))
    )
    assert "our own kernels were built otherwise: digest aaaa in a, bbbb in b" in text.lower()
    for same in (one, {}):  # a run of an older harness tells no digest
        comparison = compare_fakes(Fake(machine=one), Fake(seed=1, machine=same))
        assert "built otherwise" not in report_compare.format_comparison(comparison)


def test_what_is_wrong_now_is_broken():
    """A cell that was right in A and is wrong in B is broken, and fails every limit."""
    comparison = compare_fakes(Fake(), Fake(wrong=("fff_l1_blas/ultrafastbert-1x11",)))
    assert found(comparison, "fff_l1").verdict == "broken"
    assert [c.cell for c in comparison.slower_than(50)] == [found(comparison, "fff_l1").cell]


def test_different_threads_do_not_match():
    """Cells of other thread counts are never compared: with nothing in common that is a usage error."""
    with pytest.raises(UsageError, match=r"no cell in common.*threads=1.*threads=2"):
        compare_fakes(Fake(), Fake(threads=2))


def test_unmatched_cells_are_named():
    """A cell of one run alone is reported with the run that has it."""
    a, b = Fake().run(), Fake(seed=1).run()
    b = b._replace(cells=b.cells[~b.cells["cell"].str.startswith("fff_l2")])
    comparison = compare.compare(a, b)
    assert len(comparison.unmatched) == 1
    assert comparison.unmatched[0].startswith("only in A: fff_l2_blas/ultrafastbert-1x11")
    assert "1 not in both runs" in report_compare.summarize(comparison)


def test_provider_files_match_without_their_version():
    """A provider given by path is matched by its file's name without folder and version."""
    run = Fake().run()
    old, new, other = (
        run._replace(cells=run.cells.assign(provider=label))
        for label in ("libopenblas.so.0.3.20", "libopenblas.so.0.3.21", "openblas")
    )
    comparison = compare.compare(old, new)
    assert (len(comparison.changes), comparison.unmatched) == (6, [])
    with pytest.raises(UsageError, match="no cell in common"):
        compare.compare(old, other)


def test_two_versions_of_a_provider_stay_two():
    """A run that has two versions of one library loses neither: each is matched with its own version."""
    labels = ("libopenblas.so.0.3.20", "libopenblas.so.0.3.21")
    run = Fake().run()
    layers = run.cells[run.cells["role"] == "layer"]
    several = [layers.assign(provider=p, cell=layers["cell"] + f".{p}") for p in labels]
    samples = [run.samples.assign(cell=run.samples["cell"] + f".{p}") for p in labels]
    both = run._replace(cells=pd.concat(several), samples=pd.concat(samples))
    one = run._replace(cells=several[1], samples=samples[1])
    assert len(compare.compare(both, both).changes) == 12
    comparison = compare.compare(both, one)
    assert {c.cell.rsplit(".", 1)[1] for c in comparison.changes} == {"21"}
    assert (len(comparison.changes), len(comparison.unmatched)) == (6, 6)


def test_nothing_to_take_the_drift_out_with():
    """Runs without ceiling and baseline have no reference, which is a usage error."""
    runs = [Fake(seed=i, ceiling=False).run() for i in (1, 2)]
    runs = [r._replace(cells=r.cells[r.cells["layer"] == "fff"]) for r in runs]
    with pytest.raises(UsageError, match="nothing to take their drift out with"):
        compare.compare(*runs)


def test_cells_that_neither_run_measured_are_left_out():
    """A cell that is wrong in both runs has not changed."""
    bad = ("fff_l1_blas/ultrafastbert-1x11",)
    comparison = compare_fakes(Fake(wrong=bad), Fake(seed=1, wrong=bad))
    assert len(comparison.changes) == 5


def test_one_block_gives_no_verdict():
    """A run of a single block is too little: the change is shown without interval, as ambiguous."""
    comparison = compare_fakes(Fake(processes=1, blocks=1), Fake(processes=1, blocks=1, seed=1))
    assert set(verdicts(comparison).values()) == {"ambiguous"}
    assert not comparison.changes[0].change.known
    assert report_compare.format_change(comparison.changes[0].change).startswith("~")


def test_one_process_takes_blocks_as_units():
    """Runs of one process each have intervals, from their blocks."""
    comparison = compare_fakes(Fake(processes=1, blocks=8), Fake(processes=1, blocks=8, seed=1))
    assert all(c.change.known for c in comparison.changes)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.995, 1.01, "same"), (1.012, 1.018, "same"), (1.03, 1.06, "slower"),
        (0.90, 0.95, "faster"), (0.99, 1.06, "ambiguous"), (1.005, 1.06, "ambiguous"),
        (np.nan, np.nan, "ambiguous"),
    ],
)  # fmt: skip
def test_verdict_follows_from_interval(low, high, verdict):
    """same lies within the tolerance, slower and faster beyond the resolution, the rest is ambiguous."""
    assert judge(Ratio(value=1.02, low=low, high=high, blocks=9), 0.01) == verdict


def test_resolution_grows_with_the_aa_pair():
    """An A/A pair that misses 1 by 8 % hides a difference of 5 %."""
    quiet = {"noise": 0.003, "process_noise": 0.001}
    twin = "ff_l3_blas/bert-base-4095/b64/w32/scipy/again"
    b = Fake(seed=2, factors={"fff_l1": 1.05, twin: 1.08}, **quiet)
    comparison = compare_fakes(Fake(seed=1, **quiet), b)
    assert comparison.resolution == pytest.approx(0.08, abs=0.01)
    assert found(comparison, "fff_l1").verdict == "ambiguous"


def test_formats_agree(tmp_path, capsys):
    """The command prints Markdown, CSV or JSON of the same cells; --fail-on-slower decides the status."""
    quiet = {"noise": 0.003, "process_noise": 0.001}
    a = Fake(seed=1, **quiet).write(tmp_path / "a")
    b = Fake(seed=2, factors={"fff_l1": 1.10}, **quiet).write(tmp_path / "b")
    assert cli.run(["compare", str(a), str(b)]) == 0
    text = capsys.readouterr().out
    assert text.count("SLOWER") == 1
    assert text.splitlines()[-1].startswith("6 cells: 1 slower")
    assert cli.run(["compare", str(a), str(b), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [c["verdict"] for c in document["cells"]].count("slower") == 1
    assert cli.run(["compare", str(a), str(b), "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert cli.run(["compare", str(a), str(b), "--fail-on-slower", "5"]) == 1
    assert "fff_l1_blas/ultrafastbert-1x11" in capsys.readouterr().err
    assert cli.run(["compare", str(a), str(b), "--fail-on-slower", "20"]) == 0
    assert cli.run(["compare", str(b), str(a), "--fail-on-slower", "0"]) == 0


def test_junit_fails_what_the_status_fails(tmp_path, capsys):
    """JUnit's XML has a test case a cell; what the status is 1 for fails there, each with why."""
    quiet = {"noise": 0.003, "process_noise": 0.001}
    a = Fake(seed=1, **quiet).write(tmp_path / "a")
    broken = "fff_l2_blas/ultrafastbert-1x11"
    b = Fake(seed=2, factors={"fff_l1": 1.10}, wrong=(broken,), **quiet).write(tmp_path / "b")

    def suite(*more):
        status = cli.run(["compare", str(a), str(b), "--format", "junit", *more])
        return status, next(iter(junitparser.JUnitXml.fromstring(capsys.readouterr().out.encode())))

    def failures(cases):
        results = {case.name: case.result for case in cases}
        return {n: r[0] for n, r in results.items() if r and isinstance(r[0], junitparser.Failure)}

    status, cases = suite()
    assert (status, cases.tests, cases.failures) == (0, 6, 2)
    found = failures(cases)
    assert {name.split("/")[0]: failure.type for name, failure in found.items()} == {
        "fff_l1_blas": "slower", "fff_l2_blas": "broken",
    }  # fmt: skip
    messages = [failure.message for failure in found.values()]
    assert any(
        m.startswith("fff_l1_blas/ultrafastbert-1x11/b64/w32/scipy is slower: +") for m in messages
    )
    status, cases = suite("--fail-on-slower", "20")
    assert (status, cases.failures) == (1, 1)
    _change_cells(b, "ff_l1_blas", lambda line: None)
    status, cases = suite("--fail-on-slower", "20")
    assert (status, cases.failures) == (1, 2)
    assert "ff_l1_blas/bert-base-4095/b64/w32/scipy is not in B" in failures(cases)
    assert suite("--fail-on-slower", "20", "--allow-missing")[1].failures == 1


def test_junit_is_whole_whatever_the_texts(tmp_path, capsys):
    """No text of a run is markup in the XML, nor a character that XML has no place for."""
    run = Fake(processes=1, blocks=2).write(tmp_path / "b & <b> \x0b")
    spoil(run, AFTER_LINE)
    assert cli.run(["compare", str(run), str(run), "--format", "junit"]) == 0
    [suite] = junitparser.JUnitXml.fromstring(capsys.readouterr().out.encode())
    assert suite.tests == len(list(suite)) > 0
    assert any("<script>" in found.value for found in suite.properties())


def _change_cells(folder, name, change):
    """Write a run's lines anew: those of one implementation as `change` returns them, None to leave out."""
    lines = [json.loads(line) for line in (folder / LINES).read_text().splitlines()]
    own = [line.get("cell", "").startswith(name) for line in lines]
    found = [change(line) if is_own else line for line, is_own in zip(lines, own, strict=True)]
    (folder / LINES).write_text("".join(json.dumps(line) + "\n" for line in found if line))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda line: None, "is not in B", id="vanished"),
        pytest.param(
            lambda line: line | {"status": "unavailable", "reason": "no such library"}
            if line["kind"] == "cell" else None,
            "is unavailable in B: no such library", id="unavailable",
        ),
        pytest.param(
            lambda line: line if line["kind"] == "cell" else None, "is not sampled in B", id="cut"
        ),
    ],
)  # fmt: skip
def test_a_cell_that_is_lost_fails(tmp_path, capsys, change, said):
    """What A measured and B did not has no verdict, so --fail-on-slower fails unless that is allowed."""
    a = Fake(seed=1, processes=2, blocks=2).write(tmp_path / "a")
    b = Fake(seed=1, processes=2, blocks=2).write(tmp_path / "b")
    _change_cells(b, "fff_l1_blas", change)
    words = ["compare", str(a), str(b), "--fail-on-slower", "50"]
    assert cli.run(words) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "fff_l1_blas/ultrafastbert-1x11" in error
    assert said in error
    assert cli.run([*words, "--allow-missing"]) == 0
    assert cli.run(["compare", str(b), str(a), "--fail-on-slower", "50"]) == 0


def test_usage_mistakes(tmp_path):
    """A folder that is no run, two formats at once and a negative limit are usage errors."""
    a = str(Fake(processes=1, blocks=2).write(tmp_path / "a"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty is not a run, and holds none"):
        cli.run(["compare", a, str(tmp_path / "empty")])
    with pytest.raises(UsageError, match="--csv and --json"):
        cli.run(["compare", a, a, "--csv", "--json"])
    with pytest.raises(UsageError, match="--json and --format"):
        cli.run(["compare", a, a, "--json", "--format", "csv"])
    with pytest.raises(UsageError, match="unknown format 'xml'; known: table, csv, json, junit"):
        cli.run(["compare", a, a, "--format", "xml"])
    with pytest.raises(UsageError, match="--fail-on-slower"):
        cli.run(["compare", a, a, "--fail-on-slower", "-1"])


def test_made_up_runs_read_like_written_ones(tmp_path):
    """The runs that these tests make in memory hold the samples that the same runs hold on disk."""
    fake = Fake(processes=2, blocks=2)
    read, made = load_run(fake.write(tmp_path / "run")), fake.run()
    assert read.warnings == []
    columns = ["cell", "process", "block", "order", "pass_ns"]
    assert read.samples[columns].equals(made.samples[columns])
    assert make_cell("fff_l1_blas/ultrafastbert-1x11/b1/w1/scipy").trees == 1
