"""The command `compare` over more runs than two."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import junitparser
import pytest
from fabricated_runs import Fake

from harness import cli
from harness.errors import UsageError
from harness.records.schema import HEAD, LINES

SLOWER = {3: {"fff_l1": 1.2}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three runs, in the newest of which a kernel is 20 % slower, and of other things."""
    folder = tmp_path_factory.mktemp("runs")
    for day in (1, 2, 3):
        fake = Fake(
            seed=day, started=f"2026-01-0{day}T00:00:00+00:00", noise=0.004, process_noise=0.002,
            factors=SLOWER.get(day, {}), machine={"commit": f"abc{day}"},
        )  # fmt: skip
        fake.write(folder / f"run{day}")
    (folder / "notes.md").write_text("of no run", encoding="utf-8")
    (folder / "damaged").mkdir()
    (folder / "damaged" / HEAD).write_text("{", encoding="utf-8")
    shutil.copytree(folder / "run1", folder / "twice")
    (folder / "bare").mkdir()
    shutil.copy(folder / "run1" / HEAD, folder / "bare" / HEAD)
    (folder / "bare" / LINES).touch()
    return folder


def test_a_folder_of_runs_is_their_history(made, capsys):
    """What lies there and is no run to compare is named with why; looking at a history fails nothing."""
    assert cli.run(["compare", str(made)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# 3 runs, by time")
    for said in (
        "damaged/run.json can't be read",
        "twice: it is a copy of",
        "bare: it has no samples",
    ):
        assert f"{said}" in out
    assert "notes.md" not in out


def test_the_newest_is_judged(made, capsys):
    """A named baseline, or a limit, ends in 1 where the newest run is slower; a wide limit does not."""
    words = ["compare", str(made)]
    assert cli.run([*words, "--baseline", "run1"]) == 1
    assert (
        "error: fff_l1_blas/ultrafastbert-1x11/b64/w32/scipy is slower: +2"
        in capsys.readouterr().err
    )
    assert cli.run([*words, "--baseline", "abc2"]) == 1
    assert cli.run([*words, "--fail-on-slower", "5"]) == 1
    assert cli.run([*words, "--baseline", "run1", "--fail-on-slower", "50"]) == 0
    one, two, three = (str(made / f"run{day}") for day in (1, 2, 3))
    assert cli.run(["compare", one, two, three, "--baseline", "run2"]) == 1
    assert cli.run(["compare", one, two, "--baseline", one]) == 0


def test_formats(made, capsys):
    """Each format of two runs is one of many; JUnit's has the judgement."""
    assert cli.run(["compare", str(made), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 3
    assert cli.run(["compare", str(made), "--csv"]) == 0
    assert capsys.readouterr().out.startswith("kind,cell,line,run,")
    assert cli.run(["compare", str(made), "--format", "junit", "--fail-on-slower", "5"]) == 1
    [suite] = junitparser.JUnitXml.fromstring(capsys.readouterr().out.encode())
    assert (suite.tests, suite.failures) == (6, 1)


def test_a_folder_that_cannot_be_written_is_said(made, tmp_path, capsys):
    """Where --out is no folder the history is printed all the same, and the status is 1."""
    (tmp_path / "file").touch()
    assert cli.run(["compare", str(made), "--out", str(tmp_path / "file")]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("# 3 runs")
    assert "can't write all of the history" in printed.err


@pytest.mark.slow
def test_files(made, tmp_path, capsys):
    """--out has the texts, the judgement as JUnit's XML, and both figures, each in every format."""
    out = tmp_path / "new" / "folder"
    assert cli.run(["compare", str(made), "--out", str(out)]) == 0
    figures = {
        f"history_{what}.{kind}" for what in ("times", "speedups") for kind in ("png", "svg", "pdf")
    }
    texts = {"history.md", "history.csv", "history.json", "junit.xml"}
    assert {path.name for path in out.iterdir()} == figures | texts
    assert capsys.readouterr().out == (out / "history.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RUNS/run1"], "needs two runs or more"),
        (["RUNS/none"], "none is no folder"),
        (["RUNS/damaged", "RUNS"], "can't be read"),
        (["RUNS", "--baseline", "x"], r"unknown baseline 'x'; known: run1 \(abc1\), run2"),
        (["RUNS", "--baseline", "abc"], "the name of several runs"),
        (["RUNS", "--baseline", "run3"], "is the newest run itself"),
        (["RUNS/run1", "RUNS/run2", "--out", "x"], "two runs have no history"),
        (["RUNS", "--style", "x"], "unknown"),
    ],
)
def test_mistakes(made, words, said):
    """What can't be compared, or is no name of a run, is a usage error that says what was needed."""
    with pytest.raises(UsageError, match=said):
        cli.run(["compare", *(word.replace("RUNS", str(made)) for word in words)])
