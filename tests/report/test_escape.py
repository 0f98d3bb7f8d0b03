"""The texts of a stranger's run in each format: shown as they stand, never marks of what shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hostile import AFTER_LINE, spoil
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness import cli
from harness.analysis.analysis import analyse
from harness.records.reader import load_run
from harness.records.schema import HEAD, LINES
from harness.report import escape, table

RENDER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


@pytest.fixture
def evil_run(golden_run: Path) -> Path:
    """Return a run every text of which is written in the language of what shows it."""
    spoil(golden_run, AFTER_LINE)
    return golden_run


def _check_html(markdown: str) -> str:
    """Return the HTML that Markdown becomes, in which no mark is the run's."""
    html = RENDER.render(markdown)
    assert not re.search(r"<(script|img|a|em)\b", html), html
    assert "alert(1)" in html
    return html


def _count_columns(markdown: str) -> set[tuple[int, ...]]:
    """Return, of each table, the distinct numbers of columns of its rows as they stand in the text."""
    found = []
    for part in re.findall(r"(?m)(?:^\|.*\n?)+", markdown):
        found.append(tuple(sorted({line.count("|") for line in part.splitlines()})))
    return set(found)


def test_no_text_is_a_mark_of_markdown(evil_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns, HTML, links, emphasis, code and formulas of a run's texts are shown, not followed."""
    assert cli.run(["table", str(evil_run)]) == 0
    text = (evil_run / "table.md").read_text(encoding="utf-8")
    html = _check_html(text)
    assert "<script" not in text
    assert all(len(counts) == 1 for counts in _count_columns(text))
    assert html.count("<h1>") == 1
    assert not re.search(r"(?<!\\)\$", text)
    assert capsys.readouterr().out.startswith(text)


def test_no_text_is_a_command_of_latex(evil_run: Path) -> None:
    """Outside of comments every command of the file is one that the harness writes itself."""
    cli.run(["table", str(evil_run)])
    text = (evil_run / "table.tex").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    commands = set(re.findall(r"\\([A-Za-z]+)", "\n".join(lines)))
    assert commands <= {
        "begin", "end", "caption", "centering", "toprule", "midrule", "bottomrule", "textbackslash",
        "textasciitilde", "textasciicircum",
    }  # fmt: skip
    assert "textbackslash{}input" in text
    for line in lines:  # a comment would take the end of its row away
        assert not re.search(r"(?<!\\)%", line)


@pytest.mark.slow
def test_no_text_is_a_formula_of_a_figure(evil_run: Path) -> None:
    """Every figure is drawn with its texts as they stand."""
    assert cli.run(["plot", str(evil_run)]) == 0
    assert "frac" in (evil_run / "time_per_token.svg").read_text(encoding="utf-8")


def test_pages_of_several_runs_and_of_the_ladder(
    evil_run: Path, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comparison, a merged table and the ladder's page show texts as a table does."""
    assert cli.run(["compare", str(evil_run), str(evil_run)]) == 0
    _check_html(capsys.readouterr().out)
    assert cli.run(["merge", str(evil_run), "--out", str(tmp_path / "m.md")]) == 0
    merged = (tmp_path / "m.md").read_text(encoding="utf-8")
    _check_html(merged)
    assert all(len(counts) == 1 for counts in _count_columns(merged))
    ladder = tmp_path / "ladder"
    ladder.mkdir()
    for name in (HEAD, LINES):
        (ladder / name).write_text((data_folder / "run-ladder" / name).read_text())
    head = json.loads((ladder / HEAD).read_text())
    head["machine"]["processor"] = AFTER_LINE
    (ladder / HEAD).write_text(json.dumps(head))
    assert cli.run(["explain", str(ladder)]) == 0
    page = (ladder / "explain.md").read_text(encoding="utf-8")
    assert "<script" not in page
    html = RENDER.render(page)
    assert not re.search(r"<(script|a)\b", html)


def test_no_text_is_a_formula_of_a_spreadsheet(golden_run: Path) -> None:
    """A cell of CSV that begins as a formula does begins with an apostrophe."""
    spoil(golden_run, "=HYPERLINK(1)")
    cli.run(["table", str(golden_run)])
    text = (golden_run / "table.csv").read_text(encoding="utf-8")
    assert "'=HYPERLINK(1)" in text
    assert not re.search(r"(^|,)=", text, re.MULTILINE)


@given(st.text())
def test_markdown_shows_any_text(text: str) -> None:
    """What is shown of an escaped text is the text as one visible line, in a paragraph and in a table."""
    shown = escape.printable(text)
    for page in (f"x {escape.markdown(text)} y", f"|a|b|\n|-|-|\n|x {escape.markdown(text)} y|z|"):
        tokens = RENDER.parse(page)
        inline = [t for t in tokens if t.type == "inline"][-2 if "|" in page else -1]
        assert {child.type for child in inline.children or []} <= {"text", "text_special"}
        assert inline.children is not None
        found = "".join(child.content for child in inline.children)
        assert found.split() == f"x {shown} y".split()


@given(st.text(alphabet="[]()!:^a <>/", max_size=12), st.text(alphabet="[]()!:^a <>/", max_size=12))
def test_no_brackets_make_a_link(first: str, second: str) -> None:
    """Brackets of two texts, with what the harness writes around them, define nothing and link to nothing."""
    one, two = escape.markdown(first), escape.markdown(second)
    page = f"- x: {one}\n- {one or 'x'}: {two}\n- {two or 'x'} ({one})\n\n{one}{two} (x)\n"
    assert not re.search(r"<(a|img|em)\b", RENDER.render(page))
    assert not RENDER.parse(page, env := {}) or not env.get("references")


def test_a_command_can_be_copied() -> None:
    """The remedy for what is missing stands in a table as it is typed."""
    command = "pip install 'fff-harness[torch]'"
    assert escape.markdown(command) == command


def test_words_of_the_harness_are_found_again(golden_run: Path) -> None:
    """What is looked up by a name of the harness's own is found after escaping, and numbers stay."""
    analysis = analyse(load_run(golden_run))
    escaped = escape.each_text(analysis, escape.markdown)
    assert [e.finding for e in escaped.ledger] == [e.finding for e in analysis.ledger]
    assert list(escaped.cells) == list(analysis.cells)
    assert escaped.points[0].conditions == analysis.points[0].conditions
    assert table.format_place(escaped.points[0]) == table.format_place(analysis.points[0])
    for word in ("ff_l1_blas", "bert-base-4095", "not comparable here"):
        assert escape.markdown(word) == escape.figure(word) == word
