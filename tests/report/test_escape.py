"""A run's texts in each format: shown as they stand, never obeyed."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.analysis import Analysis, analyse
from harness.problem import models
from harness.records.reader import load_run
from harness.records.schema import HEAD, LINES
from harness.report import escape, files, latex, table

# What is code to one of the formats: a column and HTML, TeX's commands and a comment's end, a formula.
HOSTILE = (
    "a|b",
    "<script>alert(1)</script>",
    "[a](javascript:b) ![c](http://d)",
    "`a` **b** ~c~ # d",
    "\\input{/etc/passwd} % a & b ^ c_d",
    "$\\frac{$ and $",
    "a\n\\immediate\\write18{b}\n| c |",
    "=cmd()",
    "- a",
    "*",
)


def _plant(folder: Path, text: str) -> Analysis:
    """Return a run whose provider, processor and host are a text, analysed."""
    head = json.loads((folder / HEAD).read_text(encoding="utf-8"))
    head["machine"] |= {"processor": text, "host": text}
    (folder / HEAD).write_text(json.dumps(head), encoding="utf-8")
    lines = [json.loads(line) for line in (folder / LINES).read_text("utf-8").splitlines()]
    for line in lines:
        if line.get("provider"):
            line["provider"] = text
        if line["kind"] == "provider":
            line |= {"name": text, "version": text, "path": text}
    (folder / LINES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return analyse(load_run(folder))


def _columns(text: str) -> list[int]:
    """Return how many columns each row of Markdown's tables has."""
    return [line.count("|") for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_changes_no_structure_of_a_table(golden_run: Path, text: str) -> None:
    """Whatever a provider is called, Markdown keeps its rows and columns, and no HTML or link comes in."""
    before = _columns(table.format_markdown(analyse(load_run(golden_run))))
    found = table.format_markdown(_plant(golden_run, text))
    assert _columns(found) == before
    assert "<script" not in found
    assert not re.search(r"(?<!\\)\]\(javascript", found)
    assert "\n\\immediate" not in found


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_no_command_of_latex(golden_run: Path, text: str) -> None:
    """Outside of a comment no command stands but those that are there for every run."""
    found = latex.format_latex(_plant(golden_run, text))
    code = [line for line in found.splitlines() if not line.startswith("%")]
    assert not [line for line in code if "\\input" in line or "\\immediate" in line]
    assert not [line for line in code if "\\frac" in line]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_drawn(golden_run: Path, text: str) -> None:
    """Every figure of such a run is drawn: no text in it is a formula."""
    assert len(files.write_plots(_plant(golden_run, text))) == 2 * len(files.FIGURES)


def test_no_text_of_csv_is_a_formula(golden_run: Path) -> None:
    """A spreadsheet that opens a CSV file finds texts in it, and the numbers as they were."""
    analysis = _plant(golden_run, "=cmd()")
    files.write_tables(analysis)
    for name in ("table.csv", "speeds.csv"):
        frame = pd.read_csv(io.StringIO((golden_run / name).read_text(encoding="utf-8")))
        texts = [v for column in frame for v in frame[column] if isinstance(v, str)]
        assert "'=cmd()" in texts
        assert not [v for v in texts if v.startswith("=")]


@given(st.text())
def test_each_format_makes_one_line(text: str) -> None:
    """No text spans lines in any format, and none begins a formula or a tag."""
    formats = (escape.markdown, escape.latex, escape.latex_comment, escape.figure)
    for shown in (form(text) for form in (*formats, escape.comma_separated)):
        assert shown.isprintable()
    assert "<" not in escape.markdown(text)
    assert "|" not in escape.markdown(text)
    assert escape.figure(text).count("$") == escape.figure(text).count("\\$")


@pytest.mark.parametrize("word", [models.BASELINE, "fff_l3_blas", "ultrafastbert-1x11", "ok"])
def test_own_words_are_the_same_in_markdown(word: str) -> None:
    """What tables are looked up by is no other word when it is escaped."""
    assert escape.markdown(word) == word
