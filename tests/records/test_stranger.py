"""The run folder of a stranger: whatever stands in it is read as data, shown as text, and never followed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.analysis.analysis import analyse
from harness.errors import UsageError
from harness.records.files import write_whole
from harness.records.reader import load_run
from harness.records.schema import HEAD, LINES, SampleRecord
from harness.records.text import MOST, printable
from harness.records.writer import Writer
from harness.report.formats import format_source
from harness.report.table import format_markdown

STEERING = (
    "\x1b]0;owned\x07",
    "\x1b[2J",
    "\r",
    "\n",
    "\x9b31m",
    "\u202e",
    "\u2028",
    "\x00",
    "\ud800",
)


def _edit(path: Path, **changes: Any) -> None:
    """Write the JSON object of a file anew with other values."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes))


@pytest.mark.parametrize("steering", STEERING, ids=ascii)
def test_no_text_steers_what_shows_it(golden_run: Path, steering: str) -> None:
    """Controls, line ends and marks of direction are escapes in whatever a reader hands on."""
    head = json.loads((golden_run / HEAD).read_text(encoding="utf-8"))
    _edit(golden_run / HEAD, machine=head["machine"] | {"processor": f"Evil{steering}CPU"})
    lines = [json.loads(line) for line in (golden_run / LINES).read_text().splitlines()]
    for line in lines:
        if line["kind"] == "cell":
            line["reason"] = f"because{steering}of"
    (golden_run / LINES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = load_run(golden_run)
    for text in (run.head.machine.processor, *run.cells["reason"]):
        assert text.isprintable()
        assert "Evil" in text or "because" in text


@given(st.text())
def test_printable_text_is_one_line(text: str) -> None:
    """Every text becomes one line of printable characters, and one that was such a line stays as it is."""
    shown = printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable() or len(text) > MOST


def test_long_text_is_cut() -> None:
    """Of a text that fills a screen the beginning is shown, and how long it is."""
    shown = printable("x" * 10**6)
    assert len(shown) < MOST + 50
    assert "1000000 characters" in shown


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 200_000 + "]" * 200_000, id="deep"),
        pytest.param('{"schema_version": ' + "1" * 5000 + "}", id="a number of 5000 digits"),
        pytest.param('{"schema_version": 1, "machine": ' + "[" * 100_000, id="deep and cut"),
        pytest.param('{"schema_version": true}', id="a version that is a truth value"),
        pytest.param('{"schema_version": 1e400}', id="an infinite version"),
    ],
)
def test_head_that_breaks_a_reader_is_one_line(golden_run: Path, text: str) -> None:
    """Whatever JSON can do to a reader, its head is refused with one line that is not long."""
    (golden_run / HEAD).write_text(text)
    with pytest.raises(UsageError) as refused:
        load_run(golden_run)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("change", [{"loops": 0}, {"elapsed_ns": 0}, {"elapsed_ns": -5}], ids=str)
def test_impossible_sample_is_refused(golden_run: Path, change: dict[str, int]) -> None:
    """A sample without a pass, or of no time or less, is a damaged line and enters no ratio."""
    lines = (golden_run / LINES).read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] == "sample")
    before = len(load_run(golden_run).samples)
    sample = json.loads(lines[at]) | change
    with pytest.raises(ValidationError):
        SampleRecord.model_validate(sample)
    lines[at] = json.dumps(sample)
    (golden_run / LINES).write_text("\n".join(lines) + "\n")
    run = load_run(golden_run)
    assert len(run.samples) == before - 1
    assert any("damaged" in warning for warning in run.warnings)


def test_damage_everywhere_is_counted(golden_run: Path) -> None:
    """Of many damaged lines the first are named and the rest counted; one without an end is not quoted."""
    with (golden_run / LINES).open("a") as file:
        file.write("{broken\n" * 5000)
        file.write('{"kind": "' + "x" * (9 << 20))
    run = load_run(golden_run)
    assert len(run.warnings) < 10
    assert sum(map(len, run.warnings)) < 5000
    assert "more lines are damaged" in run.warnings[-1]


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link that lies where a file is to be written is replaced; what it names stays as it was."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("table.md", "table.md.part", ".table.md.part"):
        (tmp_path / name).symlink_to(victim)
    write_whole(tmp_path / "table.md", "theirs")
    assert victim.read_text() == "mine"
    assert (tmp_path / "table.md").read_text() == "theirs"
    assert not (tmp_path / "table.md").is_symlink()
    write_whole(tmp_path / "picture.png", b"\x89PNG")
    assert (tmp_path / "picture.png").read_bytes() == b"\x89PNG"


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    """Where a file can't take its place, the part that was written is gone and the place is as it was."""
    (tmp_path / "table.md").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "table.md", "text")
    assert os.listdir(tmp_path) == ["table.md"]


def test_records_without_a_head_are_not_added_to(golden_run: Path) -> None:
    """A folder whose head is lost takes no other run."""
    head = load_run(golden_run).head
    (golden_run / HEAD).unlink()
    with pytest.raises(UsageError, match=r"without run\.json"):
        Writer(golden_run, head)


@pytest.mark.parametrize(
    ("name", "values"),
    [("batches", []), ("widths", []), ("levels", [0]), ("levels", [1, 4])],
    ids=str,
)
def test_head_that_asked_for_nothing_known_is_refused(
    golden_run: Path, name: str, values: list[int]
) -> None:
    """A run was asked for some batch and width, and for the paper's levels alone; no other head is one."""
    head = json.loads((golden_run / HEAD).read_text(encoding="utf-8"))
    _edit(golden_run / HEAD, sweep=head["sweep"] | {name: values})
    with pytest.raises(UsageError, match=rf"sweep\.{name}"):
        load_run(golden_run)


def test_value_that_is_none_of_its_axis_is_a_damaged_line(golden_run: Path) -> None:
    """A cell under a condition that no axis has is left out, and the line says which are known."""
    lines = [json.loads(line) for line in (golden_run / LINES).read_text().splitlines()]
    at = next(i for i, line in enumerate(lines) if line["kind"] == "cell")
    lines[at]["routing"] = "sideways"
    (golden_run / LINES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert any(
        "routing 'sideways' is none of uniform" in text for text in load_run(golden_run).warnings
    )


def test_build_that_tells_nothing_is_shown(golden_run: Path) -> None:
    """A record that does not tell what our own kernels were built with is shown as one that does not."""
    head = json.loads((golden_run / HEAD).read_text(encoding="utf-8"))
    _edit(golden_run / HEAD, machine=head["machine"] | {"build": {}})
    assert "unknown kernels, unknown compiler" in format_markdown(analyse(load_run(golden_run)))


def test_implementation_of_one_word_has_a_source() -> None:
    """An id that is one word, which none of ours is, has no library in it: it is our own code's."""
    assert format_source("peak", "") == "own code"
