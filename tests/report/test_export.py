"""The exports: each is loaded by the program that it is for, and says there what the run says."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from fabricated_models import TINY, FakeModels
from fabricated_runs import Fake
from hostile import AFTER_LINE, spoil
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from pytest_benchmark.logger import Logger
from pytest_benchmark.storage.file import FileStorage

from harness import cli
from harness.analysis import stats
from harness.analysis.index import index_run
from harness.analysis.measurements import Measurements, find_measurements
from harness.errors import UnavailableError, UnknownNameError, UsageError
from harness.problem.transformer import PARTS
from harness.records.reader import load_run
from harness.records.schema import HEAD
from harness.report import export

TEXTS = [name for name, made in export.FORMATS.items() if isinstance(made, export.TextFormat)]
WRONG = "fff_l2_blas/ultrafastbert-1x11"
# As documented on bencher.dev/docs/reference/bencher-metric-format.
BENCHER = {
    "type": "object", "patternProperties": {".+": {
        "type": "object", "patternProperties": {".+": {
            "type": "object", "required": ["value"],
            "properties": {
                name: {"type": "number"} for name in ("value", "lower_value", "upper_value")
            },
        }},
    }},
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a made-up run in which one cell is wrong."""
    return Fake(wrong=(WRONG,)).write(tmp_path / "run")


@pytest.fixture
def measured(run: Path) -> Measurements:
    """Return the measurements of that run."""
    return find_measurements(load_run(run))


def make(measured: Measurements, name: str) -> str:
    """Return a run in one of the formats that are texts."""
    chosen = export.FORMATS[name]
    assert isinstance(chosen, export.TextFormat)
    return chosen.make(measured)


# ---- measurements -------------------------------------------------------------------------------


def test_measurements_are_those_of_the_tables(run: Path, measured: Measurements) -> None:
    """Each right cell has the tables' median and interval, around the estimate; a wrong one is left out."""
    index = index_run(load_run(run))
    assert {found.cell for found in measured.found} == set(index.samples)
    for found in measured.found:
        assert found.median_ns == stats.pass_ns(index.samples, found.cell)
        assert (found.low_ns, found.high_ns) == stats.pass_interval_ns(index.samples, found.cell)
        assert found.low_99_ns < found.low_ns < found.mean_ns < found.high_ns < found.high_99_ns
        assert len(found.block_ns) == len(found.block_loops) == 12
    assert [cell.startswith(WRONG) for cell, _ in measured.left_out] == [True]
    assert measured.found[-1].record.role == "ceiling"


def test_one_block_has_no_interval(tmp_path: Path) -> None:
    """Where one block leaves no interval no format makes one up, and all of them can be made."""
    folder = Fake(processes=1, blocks=1).write(tmp_path / "run")
    measured = find_measurements(load_run(folder))
    assert not any(found.has_interval for found in measured.found)
    assert "nan" not in "".join(make(measured, name) for name in TEXTS).lower()
    assert "lower_value" not in make(measured, "bencher")
    assert "fff_pass_low_seconds{" not in make(measured, "openmetrics")


@pytest.mark.parametrize(
    ("label", "commit", "dirty"),
    [("0123456789", "0123456789", False), ("0123456789-dirty", "0123456789", True), ("0.1.0", "", False)],
)  # fmt: skip
def test_commit_is_told_from_a_release(
    tmp_path: Path, label: str, commit: str, dirty: bool
) -> None:
    """The label of the code in a record is a commit, one with changes, or a release."""
    folder = Fake(machine={"commit": label}).write(tmp_path / "run")
    measured = find_measurements(load_run(folder))
    assert (measured.commit, measured.is_dirty) == (commit, dirty)


# ---- each in its own program --------------------------------------------------------------------


def test_pytest_benchmark_loads_it(measured: Measurements, tmp_path: Path) -> None:
    """The storage behind `pytest-benchmark compare` finds a benchmark a cell, with its samples in seconds."""
    (tmp_path / "0001_run.json").write_text(make(measured, "pytest-benchmark"))
    loaded = list(
        FileStorage(tmp_path, Logger(Logger.QUIET)).load_benchmarks(str(tmp_path / "0001_run.json"))
    )
    assert [bench["fullname"] for bench in loaded] == [found.cell for found in measured.found]
    for bench, found in zip(loaded, measured.found, strict=True):
        assert bench["median"] == pytest.approx(found.median_ns / 1e9)
        assert bench["rounds"] == len(bench["data"]) == len(found.samples_ns)
        assert bench["min"] <= bench["q1"] <= bench["median"] <= bench["q3"] <= bench["max"]
        assert bench["ld15iqr"] >= bench["q1"] - 1.5 * bench["iqr"]
        assert bench["extra_info"]["low_s"] < bench["extra_info"]["mean_s"]


def test_pytest_benchmark_compares_two(
    measured: Measurements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Its command line prints the cells of two exported runs side by side."""
    from pytest_benchmark.cli import main

    b = find_measurements(load_run(Fake(seed=1).write(tmp_path / "b")))
    files = [tmp_path / "0001_a.json", tmp_path / "0002_b.json"]
    for file, found in zip(files, (measured, b), strict=True):
        file.write_text(make(found, "pytest-benchmark"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest-benchmark", "compare", *map(str, files)])
    main()
    printed = capsys.readouterr().out
    assert f"{len(measured.found) + len(b.found)} tests" in printed
    assert printed.count("ff_l3_blas/bert-base-3072/b64/w32/scipy") == 2


def test_google_benchmark_has_what_its_tools_compare(measured: Measurements) -> None:
    """Its compare.py takes what has a name, both times and their unit; repetitions are the blocks."""
    document = json.loads(make(measured, "google-benchmark"))
    assert document["context"]["json_schema_version"] == 1
    rows = document["benchmarks"]
    assert all(
        {"name", "run_type", "real_time", "cpu_time", "time_unit"} <= set(row) for row in rows
    )
    assert {row["time_unit"] for row in rows} == {"ns"}
    for found in measured.found:
        own = [row for row in rows if row["run_name"] == found.cell]
        single = [row for row in own if row["run_type"] == "iteration"]
        assert {row["name"] for row in single} == {found.cell}
        assert [row["repetition_index"] for row in single] == list(range(single[0]["repetitions"]))
        times = np.array([row["real_time"] for row in single])
        assert times == pytest.approx(found.block_ns)
        whole = {row["aggregate_name"]: row for row in own if row["run_type"] == "aggregate"}
        assert whole["mean"]["real_time"] == pytest.approx(times.mean())
        assert whole["cv"]["real_time"] == pytest.approx(times.std(ddof=1) / times.mean())


def test_bencher_schema_holds(measured: Measurements) -> None:
    """The text follows the schema of Bencher's format; latencies are in ns, inside their intervals."""
    document = json.loads(make(measured, "bencher"))
    jsonschema.validate(document, BENCHER)
    assert list(document) == [found.cell for found in measured.found]
    for found in measured.found:
        latency = document[found.cell]["latency"]
        assert latency["value"] == found.mean_ns
        assert latency["lower_value"] < latency["value"] < latency["upper_value"]


def test_github_action_benchmark_entries(measured: Measurements) -> None:
    """Each entry has the name, value and unit that the action asks for, and texts beside them."""
    entries = json.loads(make(measured, "github-action-benchmark"))
    assert [entry["name"] for entry in entries] == [found.cell for found in measured.found]
    for entry, found in zip(entries, measured.found, strict=True):
        assert (entry["unit"], entry["value"]) == ("ns", found.mean_ns)
        assert float(entry["range"].removeprefix("± ")) == pytest.approx(
            found.high_ns - found.mean_ns, rel=1e-5
        )
        assert "commit: 0123456789" in entry["extra"]


def test_prometheus_parses_it(measured: Measurements) -> None:
    """Prometheus's own parser of OpenMetrics reads each gauge in its unit, and the run's facts."""
    families = {f.name: f for f in text_string_to_metric_families(make(measured, "openmetrics"))}
    assert families["fff_run"].samples[0].labels["processor"] == "Example 9000"
    assert families["fff_run"].samples[0].labels["commit"] == "0123456789"
    assert families["fff_pass_seconds"].unit == "seconds"
    values = {"fff_pass_seconds": "mean_ns", "fff_pass_low_seconds": "low_ns",
              "fff_pass_high_seconds": "high_ns", "fff_pass_median_seconds": "median_ns"}  # fmt: skip
    for name, value in values.items():
        samples = {s.labels["cell"]: s.value for s in families[name].samples}
        assert samples == {f.cell: getattr(f, value) / 1e9 for f in measured.found}


def _asv(folder: Path) -> Any:
    """Return asv's configuration for a folder of results; skip where asv is not installed."""
    config = pytest.importorskip("asv.config").Config()
    config.results_dir = str(folder)
    return config


def test_asv_loads_it(measured: Measurements, tmp_path: Path) -> None:
    """asv's loaders find the machine, a benchmark a cell, and its result with interval and samples."""
    config = _asv(tmp_path / "asv")
    from asv.benchmarks import Benchmarks
    from asv.machine import Machine
    from asv.results import iter_results_for_machine_and_hash

    export.write_export(measured, "asv", tmp_path / "asv")
    machine = json.loads((tmp_path / "asv" / "bench" / "machine.json").read_text())
    assert {name for name, _ in Machine.fields} == set(machine) - {"version"}
    benchmarks = Benchmarks.load(config)
    [results] = iter_results_for_machine_and_hash(config.results_dir, "bench", measured.commit)
    assert results.get_result_keys(benchmarks) == {found.cell for found in measured.found}
    for found in measured.found:
        assert results.get_result_value(found.cell, []) == [found.mean_ns / 1e9]
        [own] = results.get_result_stats(found.cell, [])
        assert own["ci_99_a"] < found.low_ns / 1e9 < found.high_ns / 1e9 < own["ci_99_b"]
        assert results.get_result_samples(found.cell, []) == [(found.block_ns / 1e9).tolist()]


def test_asv_compares_two_commits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """asv's own comparison marks the one cell that was made slower between two exported commits."""
    config = _asv(tmp_path / "asv")
    from asv.commands.compare import Compare

    slow = "fff_l1_blas/ultrafastbert-1x11"
    runs = {"a" * 10: Fake(machine={"commit": "a" * 10}),
            "b" * 10: Fake(seed=1, machine={"commit": "b" * 10}, factors={slow: 1.5})}  # fmt: skip
    for commit, fake in runs.items():
        folder = fake.write(tmp_path / commit)
        export.write_export(find_measurements(load_run(folder)), "asv", tmp_path / "asv")
    Compare.print_table(config, *runs, factor=1.1, split=False, machine="bench", only_changed=True)
    marked = [line for line in capsys.readouterr().out.splitlines() if "blas" in line]
    assert len(marked) == 1
    assert f"{slow}/b64/w32/scipy" in marked[0]


def test_parquet_holds_all_samples(measured: Measurements, run: Path, tmp_path: Path) -> None:
    """Arrow and pandas read a row a sample, of the types of the records, and the head beside them."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pandas as pd

    [path] = export.write_export(measured, "parquet", tmp_path / "run.parquet")
    frame, table = pd.read_parquet(path), parquet.read_table(path)
    own = load_run(run).samples
    assert frame["order"].tolist() == sorted(own["order"])
    assert frame["pass_ns"].sum() == pytest.approx(own["pass_ns"].sum())
    assert {"cell", "process", "block", "elapsed_ns", "loops", "batch", "dtype", "status"} <= set(
        frame
    )
    assert str(table.schema.field("throttle").type) == "list<element: string>"
    assert str(table.schema.field("parts_ns").type).startswith("map<string, int64")
    head = json.loads(table.schema.metadata[b"fff_harness_run"])
    assert head == json.loads((run / HEAD).read_text())


def test_parquet_holds_the_parts_of_whole_models(tmp_path: Path) -> None:
    """Of a run of whole models each sample holds the time of each part of a pass, and what the model is."""
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = FakeModels().write(tmp_path / "run")
    [path] = export.write_export(
        find_measurements(load_run(folder)), "parquet", tmp_path / "run.parquet"
    )
    rows = parquet.read_table(path).select(["parts_ns", "transformer"]).to_pylist()
    spent = [dict(row["parts_ns"]) for row in rows if row["parts_ns"]]
    assert spent
    assert all(set(parts) == set(PARTS) for parts in spent)
    assert {json.loads(row["transformer"])["architecture"]["name"] for row in rows} == {TINY.name}


def test_parquet_without_pyarrow_says_what_to_install(
    measured: Measurements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pyarrow is missing one line names the extra that brings it."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnavailableError, match=r"pip install 'fff-harness\[parquet\]'"):
        export.write_export(measured, "parquet", tmp_path / "run.parquet")


# ---- what lies there, and strangers --------------------------------------------------------------


def test_asv_results_of_others_stay(measured: Measurements, tmp_path: Path) -> None:
    """Benchmarks and a machine that asv wrote itself are kept beside those of the run."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "machine.json").write_text('{"machine": "bench", "version": 1}')
    (tmp_path / "benchmarks.json").write_text(
        '{"mine.time_it": {"name": "mine.time_it"}, "version": 2}'
    )
    export.write_export(measured, "asv", tmp_path)
    known = json.loads((tmp_path / "benchmarks.json").read_text())
    assert {"mine.time_it", measured.found[0].cell, "version"} <= set(known)
    assert json.loads((tmp_path / "bench" / "machine.json").read_text())["version"] == 1
    assert "cpu" not in (tmp_path / "bench" / "machine.json").read_text()


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}', '"a"'])
def test_asv_benchmarks_that_are_none(measured: Measurements, tmp_path: Path, text: str) -> None:
    """A file that is none of asv's is a mistake of the caller and stays as it is."""
    (tmp_path / "benchmarks.json").write_text(text)
    with pytest.raises(UsageError, match=r"benchmarks\.json"):
        export.write_export(measured, "asv", tmp_path)
    assert (tmp_path / "benchmarks.json").read_text() == text


def test_asv_needs_a_commit(tmp_path: Path) -> None:
    """A run of a release has no place among results that are ordered by commit."""
    folder = Fake(machine={"commit": "0.1.0"}).write(tmp_path / "run")
    with pytest.raises(UsageError, match=r"release 0\.1\.0"):
        export.write_export(find_measurements(load_run(folder)), "asv", tmp_path / "asv")


def test_a_hostile_run_leaves_every_format_whole(golden_run: Path, tmp_path: Path) -> None:
    """Whatever the texts of a run are, the formats parse, and no file lies outside of its folder."""
    spoil(golden_run, AFTER_LINE)
    head = json.loads((golden_run / HEAD).read_text())
    head["machine"] |= {"host": "../../evil", "commit": "0123456789"}
    (golden_run / HEAD).write_text(json.dumps(head))
    measured = find_measurements(load_run(golden_run))
    for name in TEXTS:
        text = make(measured, name)
        if name == "openmetrics":
            families = {f.name: f for f in text_string_to_metric_families(text)}
            assert len(families["fff_pass_seconds"].samples) == len(measured.found)
            assert "<script>" in families["fff_run"].samples[0].labels["processor"]
        else:
            json.loads(text)
    for path in export.write_export(measured, "asv", tmp_path / "asv"):
        assert path.resolve().is_relative_to((tmp_path / "asv").resolve())


def test_a_start_that_is_no_time_is_one_line(run: Path) -> None:
    """A head whose time can't be read ends the formats that need one with a line."""
    head = json.loads((run / HEAD).read_text()) | {"started_utc": "yesterday"}
    (run / HEAD).write_text(json.dumps(head))
    with pytest.raises(UsageError, match="started_utc is no time: 'yesterday'"):
        make(find_measurements(load_run(run)), "openmetrics")


# ---- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_command_prints_what_it_writes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A text goes to standard output or whole into a file, and what is left out is named beside it."""
    assert cli.run(["export", str(run), "--format", name]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(f"left out: {WRONG}")
    path = tmp_path / "sub" / "out.txt"
    assert cli.run(["export", str(run), "--format", name, "--out", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == printed.out
    assert str(path) in capsys.readouterr().out


MISTAKES: dict[str, tuple[Callable[[Path], list[str]], type[UsageError], str]] = {
    "unknown": (lambda run: ["--format", "xml"], UnknownNameError, "unknown format 'xml'; known: pyt"),
    "asv": (lambda run: ["--format", "asv"], UsageError, "--out: --format asv needs the folder"),
    "parquet": (lambda run: ["--format", "parquet"], UsageError, "--out: --format parquet needs a"),
    "folder": (
        lambda run: ["--format", "bencher", "--out", str(run)], UsageError, "--out: can't write to",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(run: Path, mistake: str) -> None:
    """A format that is not known, or a place that it can't go to, is named."""
    words, error, says = MISTAKES[mistake]
    with pytest.raises(error, match=says):
        cli.run(["export", str(run), *words(run)])


def test_a_run_without_samples_has_nothing_to_export(tmp_path: Path) -> None:
    """Where no cell was sampled the command says so."""
    folder = Fake(blocks=0).write(tmp_path / "run")
    with pytest.raises(UsageError, match="nothing to export"):
        cli.run(["export", str(folder), "--format", "bencher"])


def test_processor_time_is_of_a_pass(tmp_path: Path) -> None:
    """The processor's time of a block is that of one pass of the whole batch, as the time is."""
    run = Fake(processes=2, blocks=2).run()
    run.samples["cpu_ns"] = 2 * run.samples["elapsed_ns"]
    run.samples["loops"] = 4
    for found in find_measurements(run).found:
        assert found.block_cpu_ns == pytest.approx(found.block_ns / 2)
        assert math.isfinite(found.mean_ns)
