"""The text of a run."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.analysis import analyse
from harness.analysis.stats import Ratio
from harness.problem.models import BASELINE
from harness.records.reader import load_run
from harness.report import csv as report_csv
from harness.report import formats, frames, latex, table
from harness.report.files import TABLE_FILES, write_tables


def _ratio(value: float, low: float, high: float) -> Ratio:
    return Ratio(value=value, low=low, high=high, blocks=4)


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (_ratio(91.234, 88.1, 94.4), "91x [88, 94]"),
        (_ratio(91.234, 91.1, 91.4), "91.2x [91.1, 91.4]"),
        (_ratio(812.3, 700.0, 930.0), "800x [700, 900]"),
        (_ratio(1.3333, 1.329, 1.338), "1.333x [1.329, 1.338]"),
        (_ratio(1.0004, 0.9999, 1.0009), "1.000x [1.000, 1.001]"),
        (_ratio(0.9312, 0.91, 0.95), "0.93x [0.91, 0.95]"),
        (_ratio(5.0, 5.0, 5.0), "5.000x [5.000, 5.000]"),
        (_ratio(22.6, 16.2, 29.0), "23x [16, 29]"),
        (_ratio(3.0, 0.4, 22.0), "3x [0.4, 22]"),
        (_ratio(8.0, 1.8, 36.0), "8x [1.8, 36]"),
        (_ratio(13.4, 6.7, 26.8), "13x [6.7, 27]"),
        (_ratio(15321.0, 1234.0, 190123.0), "15000x [1200, 190000]"),
        (_ratio(0.0042, 0.0031, 0.0057), "0.0042x [0.0031, 0.0057]"),
        (Ratio(value=91.234, low=np.nan, high=np.nan, blocks=1), "~91x"),
        (Ratio(value=1.234, low=np.nan, high=np.nan, blocks=1), "~1.2x"),
        (None, "–"),
    ],
)
def test_format_ratio(ratio: Ratio | None, text: str) -> None:
    """Digits stop where the interval does; one block shows two digits and no interval."""
    assert formats.format_ratio(ratio) == text


@given(st.floats(-4, 6), st.floats(1e-4, 8))
def test_an_interval_is_true_to_its_digits(place: float, spread: float) -> None:
    """Whatever its scale and width, no end is printed as 0, the value stands between the ends, and each
    number is off by less than half of itself and by less than the arm beside it."""
    value, factor = 10.0**place, math.exp(spread)
    ratio = _ratio(value, value / factor, value * factor)
    text = re.fullmatch(r"(\S+)x \[(\S+), (\S+)\]", formats.format_ratio(ratio))
    assert text is not None
    printed = [float(number) for number in text.groups()]
    assert printed[1] <= printed[0] <= printed[2]
    arm = min(ratio.value - ratio.low, ratio.high - ratio.value)
    for number, true in zip(printed, (ratio.value, ratio.low, ratio.high), strict=True):
        assert abs(number - true) <= max(0.051 * true, min(arm, 0.5 * true), 0.0005 * (true >= 0.1))


@pytest.mark.parametrize("scale", [0.3, 1.0, 7.0, 42.0, 340.0, 12345.0])
@pytest.mark.parametrize("half", [0.0004, 0.003, 0.02, 0.1, 0.4])
def test_digits_stop_where_the_interval_does(scale: float, half: float) -> None:
    """The last digit printed is of the order of the interval's half width, and never below 0.001."""
    text = formats.format_ratio(_ratio(scale, scale * (1 - half), scale * (1 + half)))
    number = text.split("x")[0]
    step = 10.0 ** -len(number.partition(".")[2]) if "." in number else 1.0
    width = scale * half
    assert step <= max(width, 1.0)
    assert step > width / 10.0001 or step == 1.0
    assert abs(float(number) - scale) <= max(width, step)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (1.5, "1.5 ns"), (999.0, "999 ns"), (1000.0, "1 us"), (1234.5, "1.23 us"), (2.5e6, "2.5 ms"),
        (9.5e8, "950 ms"), (3.21e9, "3.21 s"), (np.nan, "–"), (np.inf, "–"),
    ],
)  # fmt: skip
def test_format_time(ns: float, text: str) -> None:
    """A time has three digits and its unit."""
    assert formats.format_time(ns) == text


def test_format_limit() -> None:
    """Limits print as the paper prints them."""
    names = ("bert-base-4095", "bert-base-3072", "ultrafastbert-1x11")
    assert [formats.format_limit(name) for name in names] == ["1.00x", "1.33x", "341.25x"]


def test_golden_markdown(golden_run: Path, data_folder: Path) -> None:
    """The hand-made run prints exactly the report that stands beside it."""
    # Meant to change? `python -m harness table` on a copy of tests/data/run-v1 writes the new one.
    expected = (data_folder / "run-v1" / "table.md").read_text(encoding="utf-8")
    assert table.format_markdown(analyse(load_run(golden_run))) == expected


def test_every_status_is_shown(golden_run: Path) -> None:
    """A wrong, failed or unavailable cell is in the report with its reason and has no figure."""
    run = load_run(golden_run)
    text = table.format_markdown(analyse(run))
    for words in (
        "WRONG: the largest error is 12.5",
        "FAILED: the measuring process",
        "unavailable: ff_l3_tiled: needs",
    ):
        assert words in text
    entries = {(e.model, e.level): e for e in analyse(run).points[0].entries["scipy"]}
    assert frames.format_entry(entries["ultrafastbert-1x11", 2]) == "WRONG"
    assert frames.format_entry(entries["bert-base-3072", 2]) == "FAILED"
    assert frames.format_entry(entries["ultrafastbert-1x11", 3]) == "–"


def test_unconfirmed_figures_are_marked(golden_run: Path) -> None:
    """Published cells that no source confirms carry the mark, others do not."""
    entries = analyse(load_run(golden_run)).points[0].entries["scipy"]
    frame = frames.paper_frame(entries, BASELINE)
    tree = frame.set_index("model").loc["UltraFastBERT-1x11"]
    assert tree["paper, level 1"] == "130.7x†"
    assert tree["paper, level 2"] == "255.1x"
    assert tree["paper, level 3"] == "–"


def test_csv(golden_run: Path) -> None:
    """The CSV's columns parse as numbers, and speedups lie inside their intervals."""
    write_tables(analyse(load_run(golden_run)))
    frame = pd.read_csv(golden_run / "table.csv")
    for name in ("batch", "width", "limit", "speedup", "low", "high", "blocks", "published"):
        assert pd.api.types.is_numeric_dtype(frame[name]), name
    measured = frame[frame["speedup"].notna()]
    assert len(measured) == 7
    assert (measured["low"] <= measured["speedup"]).all()
    assert (measured["speedup"] <= measured["high"]).all()
    tree = frame[(frame["model"] == "ultrafastbert-1x11") & (frame["column"] == "level 1")].iloc[0]
    assert tree["speedup"] == pytest.approx(200.0)
    assert set(frame["status"]) == {"ok", "wrong", "failed", "none"}


def test_speeds_csv(golden_run: Path) -> None:
    """Every cell, the ceiling too, has its absolute figures as plain numbers."""
    text = report_csv.speeds_csv_frame(analyse(load_run(golden_run))).to_csv(index=False)
    frame = pd.read_csv(io.StringIO(text)).set_index("cell")
    base = frame.loc["ff_l3_blas/bert-base-4095/b64/w768/scipy"]
    assert base["pass_ns"] == pytest.approx(20.1e6)
    assert base["gflops"] == pytest.approx(2 * 64 * 4095 * 1536 / 20.1e6)
    assert base["token_ns"] == pytest.approx(20.1e6 / 64)
    assert "ceiling_sgemm/b64/w64/scipy" in frame.index


def test_latex_escapes(golden_run: Path) -> None:
    """Underscores, percent signs and the like can't break the LaTeX, in cells and in captions."""
    for name in ("run.json", "records.jsonl"):
        path = golden_run / name
        path.write_text(
            path.read_text(encoding="utf-8").replace('"scipy"', '"my_blas&co%1#.so"'),
            encoding="utf-8",
        )
    text = latex.format_latex(analyse(load_run(golden_run)))
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert any(r"my\_blas\&co\%1\#.so" in line and line.startswith(r"\caption") for line in body)
    assert any(r"fff\_l1\_blas & my\_blas\&co\%1\#.so" in line for line in body)
    for line in body:
        bare = line
        for escaped in (r"\_", r"\%", r"\&", r"\#", r"\\"):
            bare = bare.replace(escaped, "")
        assert "%" not in bare
        assert "_" not in bare
        assert "#" not in bare
        assert bare.count("&") in (0, 5, 7)  # the columns of the two tables
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert "†" not in text.replace("% ", "")


def test_a_run_that_did_not_end(golden_run: Path) -> None:
    """A killed run says so in its head, and so does a damaged one."""
    path = golden_run / "records.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + "{", encoding="utf-8")
    text = table.format_markdown(analyse(load_run(golden_run)))
    assert "The run did not end: it was killed" in text
    assert "**Record damaged**: records.jsonl:54" in text


def test_an_interrupted_run(golden_run: Path) -> None:
    """An early end is named with its reason."""
    path = golden_run / "records.jsonl"
    text = path.read_text(encoding="utf-8").replace('"reason":"complete"', '"reason":"interrupted"')
    path.write_text(text, encoding="utf-8")
    assert "The run ended early (interrupted)" in table.format_markdown(
        analyse(load_run(golden_run))
    )


def test_quick_is_marked(golden_run: Path) -> None:
    """A quick run's report can't be mistaken for a full one."""
    path = golden_run / "run.json"
    head = json.loads(path.read_text(encoding="utf-8"))
    head["sweep"]["quick"] = True
    path.write_text(json.dumps(head), encoding="utf-8")
    first = table.format_markdown(analyse(load_run(golden_run))).splitlines()[0]
    assert "QUICK" in first
    assert "not for quoting" in first


def test_a_forced_kernel_is_marked(golden_run: Path) -> None:
    """A BLAS kernel forced by the environment stands in the head of the report."""
    path = golden_run / "records.jsonl"
    text = path.read_text(encoding="utf-8")
    text = text.replace('"OPENBLAS_NUM_THREADS":"1"', '"OPENBLAS_CORETYPE":"Haswell"')
    path.write_text(text, encoding="utf-8")
    report = table.format_markdown(analyse(load_run(golden_run)))
    assert "**The environment reached the measuring processes: " in report
    assert "OPENBLAS_CORETYPE=Haswell" in report


def test_nothing_measured(golden_run: Path) -> None:
    """A run without any record still gives a report, and one that says that it did not end."""
    (golden_run / "records.jsonl").unlink()
    run = load_run(golden_run)
    assert "did not end" in table.format_markdown(analyse(run))
    assert len(write_tables(analyse(run))) == len(TABLE_FILES)


def test_writing_twice_gives_the_same_bytes(golden_run: Path, tmp_path: Path) -> None:
    """The tables are a function of the samples."""
    first = {p.name: p.read_bytes() for p in write_tables(analyse(load_run(golden_run)))}
    copy = tmp_path / "copy"
    shutil.copytree(golden_run, copy)
    assert {p.name: p.read_bytes() for p in write_tables(analyse(load_run(copy)))} == first
    assert set(first) == set(TABLE_FILES)


def test_source_is_the_provider_or_the_library_of_the_id() -> None:
    """A figure is labelled with the provider, else with the library that computes, else as our own code."""
    assert formats.format_source("ff_l3_blas", "scipy") == "scipy"
    assert formats.format_source("fff_torch_bmm", "") == "torch"
    assert formats.format_source("fff_triton_fused", "") == "Triton"
    assert formats.format_source("fff_cpu_auto", "") == "own code"
