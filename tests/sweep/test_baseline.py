"""The baseline that every ratio is over: the paper's, or another FF by name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_machines import GIB, SMALL

from harness import cli
from harness.analysis import merge
from harness.analysis.analysis import analyse
from harness.cli import grammar
from harness.errors import UsageError
from harness.machine import facts
from harness.problem.models import parse_model, speedup_limit
from harness.problem.problem import Problem
from harness.records.reader import Run, load_run
from harness.report import csv as report_csv
from harness.report import figure_by_batch, formats, table

SWEEP = ["sweep", "--width", "24", "--levels", "1,3", "--models", "1x3", "--processes", "1", "--passes", "2",
         "--skip", "ceiling_*,*torch*", "--no-figures"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a tiny run whose ratios are over an FF of 64 neurons."""
    folder = tmp_path_factory.mktemp("baseline") / "run"
    arguments = [*SWEEP, "--batch", "1,8", "--baseline", "FF-64", "--out", str(folder)]
    assert cli.run(arguments) == 0
    return load_run(folder)


def test_limit_of_gpt3s_shape() -> None:
    """49152 neurons against a tree of depth 15, of whose 65535 nodes 16 are used: 3072 times fewer."""
    assert speedup_limit("1x15", "ff-49152") == 3072
    assert formats.format_limit("ultrafastbert-1x15", "ff-49152") == "3072.00x"
    tree = parse_model("1x15").problem(batch=1, width=12288, seed=0)
    assert (tree.n_nodes, tree.used_neurons) == (65535, 16)
    dense = parse_model("ff-49152").problem(batch=1, width=12288, seed=0)
    assert dense.flops() / tree.flops() == 3072


def test_baseline_is_measured_and_every_ratio_is_over_it(run: Run) -> None:
    """The named FF is added to the models, and tables, ratios and limits are over it."""
    assert run.head.sweep.baseline == "ff-64"
    assert analyse(run).models == ["ff-64", "ultrafastbert-1x3"]
    assert "bert-base-4095" not in set(run.cells["model"])
    assert set(run.cells.loc[run.cells["role"] == "aa", "model"]) == {"ff-64"}
    for point in analyse(run).points:
        assert point.fastest.split("/")[1] == "ff-64"
        assert all(v.ratio is not None for v in point.versus)
    text = table.format_markdown(analyse(run))
    assert "Speedup over FF-64 at the same BLAS level, provider scipy:" in text
    assert "| UltraFastBERT-1x3 | 16.00x" in text
    frame = report_csv.csv_frame(analyse(run))
    assert set(frame["limit"]) == {1.0, 16.0}
    assert set(frame.loc[frame["column"] == "level 1", "baseline"]) == {"ff-64"}
    labels = [t.get_text() for t in figure_by_batch.draw(analyse(run)).axes[0].texts]
    assert labels == ["limit\n16.00x"]


def test_published_ratios_are_over_the_papers_baseline_alone(run: Run) -> None:
    """Beside ratios over another FF no published one stands, and the ledger says why."""
    for point in analyse(run).points:
        assert all(e.published is None for entries in point.entries.values() for e in entries)
        assert all(v.published is None for v in point.versus)
    assert all(e.finding != "reproduced" for e in analyse(run).ledger if e.device == "cpu")


def test_ledger_takes_no_ratio_over_another_baseline(golden_run: Path) -> None:
    """At the paper's own batch and width too, ratios over another FF are not set against the paper's."""
    path = golden_run / "records.jsonl"
    text = path.read_text(encoding="utf-8").replace('"batch":64', '"batch":16384')
    path.write_text(text.replace('"batch": 64', '"batch": 16384'), encoding="utf-8")
    own = load_run(golden_run)
    measured = [e for e in analyse(own).ledger if e.measured is not None]
    assert measured
    sweep = own.head.sweep.model_copy(update={"baseline": "bert-base-3072"})
    other = own._replace(head=own.head.model_copy(update={"sweep": sweep}))
    for entry in analyse(other).ledger:
        if entry.measured is not None:
            assert entry.finding == "not comparable here"
            assert entry.reason == "its ratios are over BERT-base-3072"


@pytest.mark.slow
def test_runs_over_different_baselines_do_not_mix(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One table does not hold ratios over two baselines."""
    folder = tmp_path / "other"
    assert cli.run([*SWEEP, "--batch", "1", "--baseline", "ff-32", "--out", str(folder)]) == 0
    capsys.readouterr()
    with pytest.raises(UsageError, match="baseline is 'ff-64' in the one and 'ff-32' in the other"):
        merge.check_mix([run, load_run(folder)])


@pytest.mark.parametrize(
    ("name", "message"),
    [("1x11", "^--baseline: need an FF"), ("gpt", "^unknown model 'gpt'"),
     ("ff-0", "^--baseline: hidden must be at least 1")],
)  # fmt: skip
def test_unfit_baseline(name: str, message: str) -> None:
    """An FFF, or a name that is none, is refused."""
    with pytest.raises(UsageError, match=message):
        grammar.parse_baseline(name)


def test_gpt3s_shape_is_planned_or_refused_by_its_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dry run names what memory GPT-3's layers take: the weights of both, held once.

    A machine that has less says so in one line.
    """
    dense = Problem(layer="ff", batch=1, d_in=12288, d_out=12288, hidden=49152)
    tree = Problem(layer="fff", batch=1, d_in=12288, d_out=12288, depth=15, trees=1)
    weights = (dense.weight_bytes() + tree.weight_bytes()) / 2**30
    assert weights == pytest.approx(10.5, abs=0.01)
    arguments = [
        "sweep", "--dry-run", "--width", "12288", "--models", "1x15", "--baseline", "ff-49152", "--batch",
        "1,256", "--only", "ff_l3_tiled,fff_l1_blas", "--skip", "ceiling_*",
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"the operands need 10\.7 GiB and 8\.0 GiB are available"):
        cli.run(arguments)
    large = replace(SMALL, available_bytes=16 * GIB)
    monkeypatch.setattr(facts, "read_machine", lambda **_: large)
    assert cli.run(arguments) == 0
    found = re.search(r"and (\d+) MiB in the measuring processes", capsys.readouterr().out)
    assert found
    told = int(found[1]) / 1024
    assert weights < told < weights + 0.6
