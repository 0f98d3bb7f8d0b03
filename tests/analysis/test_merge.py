"""Tables of several runs, from made-up ones."""

from __future__ import annotations

import itertools
import shutil

import pandas as pd
import pytest
from fabricated_runs import Fake

from harness import cli
from harness.analysis import merge
from harness.errors import UsageError
from harness.records.reader import load_run
from harness.report import merge as report_merge

SMALL = {"processes": 2, "blocks": 2}
OTHER = {"processor": "Example 9001", "host": "elsewhere"}


@pytest.fixture
def runs(tmp_path):
    """Return the folders of runs on two machines."""
    return [
        Fake(seed=1, **SMALL).write(tmp_path / "a"),
        Fake(seed=2, machine=OTHER, **SMALL).write(tmp_path / "b"),
    ]


def test_each_machine_has_its_row(runs, tmp_path, capsys):
    """Every model has one row a machine, printed and written as Markdown and CSV."""
    out = tmp_path / "merged"
    assert cli.run(["merge", *map(str, runs), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith("| Example")]
    assert len(rows) == 6
    assert [r.split("|")[1].split(",")[0].strip() for r in rows[:2]] == [
        "Example 9000",
        "Example 9001",
    ]
    assert (out / "merged.md").read_text(encoding="utf-8").startswith("# Speedups on 2 machines")
    frame = pd.read_csv(out / "merged.csv")
    assert len(frame) == 6
    fff = frame[frame["model"] == "ultrafastbert-1x11"]
    assert fff["level 1 speedup"].between(190, 210).all()
    assert fff["level 1, over the fastest FF speedup"].between(24, 26).all()
    assert (fff["level 1 low"] <= fff["level 1 speedup"]).all()


@pytest.mark.parametrize(("name", "start"), [("t.md", "# Speedups"), ("t.csv", "machine,run,")])
def test_out_may_be_a_file(runs, tmp_path, name, start):
    """A file ending in .md or .csv gets that form alone."""
    loaded = [load_run(r) for r in runs]
    written = report_merge.write_merged(loaded, merge.merged_rows(loaded), tmp_path / "sub" / name)
    assert written == [tmp_path / "sub" / name]
    assert written[0].read_text(encoding="utf-8").startswith(start)


def test_other_shapes_stand_in_rows_of_their_own(runs, tmp_path):
    """Runs of other batch, width or threads are put in, each in its own rows, and the text says so."""
    more = [
        Fake(seed=3, batch=128, **SMALL).write(tmp_path / "batch"),
        Fake(seed=4, threads=2, **SMALL).write(tmp_path / "threads"),
        Fake(seed=5, width=64, quick=True, **SMALL).write(tmp_path / "width"),
    ]
    loaded = [load_run(r) for r in (*runs, *more)]
    rows = merge.merged_rows(loaded)
    text = report_merge.format_merged(loaded, rows)
    assert "batch differs (64, 128)" in text
    assert "threads differs (1, 2)" in text
    assert "width differs (64, 32)" in text
    assert "(quick)" in text
    at = [(r["width"], r["batch"], r["threads"]) for r in rows]
    assert len(rows) == 15
    assert len(set(at)) == 4
    # Rows of one shape stand together.
    assert sum(x != y for x, y in itertools.pairwise(at)) == 3


def test_a_run_given_twice_is_refused(runs, tmp_path):
    """The same folder twice, or a copy of it, would count one machine double."""
    copy = tmp_path / "copy"
    shutil.copytree(runs[0], copy)
    with pytest.raises(UsageError, match="given twice"):
        merge.check_mix([load_run(runs[0]), load_run(runs[0])])
    with pytest.raises(UsageError, match="is a copy of"):
        merge.check_mix([load_run(runs[0]), load_run(copy)])


def test_another_data_recipe_is_refused(runs):
    """Figures of zeros can't stand beside figures of random data; both are named."""
    a, b = map(load_run, runs)
    b = b._replace(cells=b.cells.assign(data="zeros"))
    with pytest.raises(UsageError, match=r"data is 'random' in the one and 'zeros' in the other"):
        merge.check_mix([a, b])


def test_a_run_without_samples_is_refused(runs, tmp_path):
    """A run that was cut before its first sample has no row."""
    empty = Fake(processes=0).write(tmp_path / "empty")
    with pytest.raises(UsageError, match="has no samples"):
        merge.check_mix([load_run(runs[0]), load_run(empty)])


def test_a_wrong_cell_has_no_figure(runs, tmp_path):
    """A cell that failed its gate leaves an empty place, and a cut run says that it ended early."""
    cut = Fake(seed=9, wrong=("fff_l1_blas/ultrafastbert-1x11",), end=None, **SMALL)
    loaded = [load_run(runs[0]), load_run(cut.write(tmp_path / "cut"))]
    rows = merge.merged_rows(loaded)
    frame = report_merge.merged_frame(rows)
    of_cut = frame[(frame["run"] == "cut") & (frame["model"] == "ultrafastbert-1x11")]
    assert of_cut["level 1 speedup"].isna().all()
    assert of_cut["level 2 speedup"].notna().all()
    assert "ended early" in report_merge.format_merged(loaded, rows)


def test_out_that_cannot_be_is_refused(runs, tmp_path):
    """Another ending, or a folder under a file, is a usage error."""
    loaded = [load_run(r) for r in runs[:1]]
    rows = merge.merged_rows(loaded)
    with pytest.raises(UsageError, match=r"\.md or \.csv"):
        report_merge.write_merged(loaded, rows, tmp_path / "t.xlsx")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="can't write"):
        report_merge.write_merged(loaded, rows, tmp_path / "file" / "sub")
