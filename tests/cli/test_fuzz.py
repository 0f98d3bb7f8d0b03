"""Damaged runs in the commands that read them: shown or refused, no traceback, nothing written elsewhere."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fabricated_runs import Fake
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from harness import cli
from harness.analysis.analysis import analyse
from harness.errors import UsageError
from harness.problem.axes import DEFAULTS
from harness.records.reader import load_run
from harness.records.schema import HEAD, LINES
from harness.report import ladder as report_ladder
from harness.report import table
from harness.report.files import TABLE_FILES

DATA = Path(__file__).parents[1] / "data"
MADE_UP = "made up"
# Of a run, its first cells and lines: so thousands are read within a minute.
CELLS, SHORT = 3, 16

EVIL = "\x1b[2J\n|<script>`$\\input{x}\u202e\ud800../../x"
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([EVIL, "x" * 5000, "nan", 2**63, -(2**63), 1e308, 1e-308, "ok", "wrong", "ceiling_sgemm",
                     "ff-7", "ff_l3_blas", "fff_", "", "trace:", "trace:/x", "2x3"]),
)  # fmt: skip
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner,
                                                                      max_size=2), max_leaves=4,
)  # fmt: skip
# Numbers that lead into JSON: each picks a child of what the last one led to.
PATHS = st.lists(st.integers(0, 60), min_size=1, max_size=4)
KINDS = ("replace", "replace", "replace", "remove", "add", "copy", "bytes")
# Of which file, of what kind, where, and the new value.
Change = tuple[str, str, list[int], Any]
CHANGES = st.lists(
    st.tuples(st.sampled_from([HEAD, LINES]), st.sampled_from(KINDS), PATHS, VALUES),
    min_size=1, max_size=4,
)  # fmt: skip


def _change(data: Any, path: list[int], value: Any, kind: str) -> None:
    """Replace, take out or add what a path leads to, in place; where it ends before, what is there."""
    while True:
        names = list(data) if isinstance(data, dict) else list(range(len(data)))
        if not names:
            return
        name, path = names[path[0] % len(names)], path[1:]
        if not path or not isinstance(data[name], dict | list) or not data[name]:
            break
        data = data[name]
    if kind == "remove":
        del data[name]
    elif kind == "add" and isinstance(data, list):
        data.append(value)
    elif kind == "add":
        data[f"{name}x"] = value
    else:
        data[name] = data[names[names.index(name) - 1]] if kind == "copy" else value


def _damage(data: bytes, path: list[int], value: Any) -> bytes:
    """Write a value's text over the bytes at a place, or cut them there."""
    at = sum(number * 61**i for i, number in enumerate(path)) % (len(data) + 1)
    if value is None:
        return data[:at]
    text = str(value).encode("utf-8", "surrogatepass")[:40]
    return data[:at] + text + data[at + len(text) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Hold the head and the lines of a run that is sound, and a folder for it in one of its own."""

    head: Any = field(repr=False)
    lines: list[Any] = field(repr=False)
    folder: Path

    def write(self, changes: list[Change]) -> None:
        """Write the run with some changes: those of JSON first, then those of bytes."""
        parsed = deepcopy({HEAD: self.head, LINES: self.lines})
        for name, kind, path, value in changes:
            if kind != "bytes":
                _change(parsed[name], path, value, kind)
        compact = json.JSONEncoder(separators=(",", ":"))  # as a harness writes them
        lines = "".join(compact.encode(line) + "\n" for line in parsed[LINES])
        for name, text in {HEAD: compact.encode(parsed[HEAD]), LINES: lines}.items():
            data = text.encode()
            for of, kind, path, value in changes:
                if (of, kind) == (name, "bytes"):
                    data = _damage(data, path, value)
            (self.folder / name).write_bytes(data)


def make_source(name: str, folder: Path) -> Source:
    """Return the first cells of a run of the tests' data, or of one that is made up under two dtypes."""
    known = DATA / name
    if name == MADE_UP:
        ways = (DEFAULTS, DEFAULTS._replace(dtype="bfloat16"))
        known = Fake(processes=2, blocks=2, conditions=ways).write(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = (known / LINES).read_text(encoding="utf-8").splitlines()
    lines = [json.loads(text) for text in texts]
    kept = list(dict.fromkeys(line["cell"] for line in lines if "cell" in line))[:CELLS]
    lines = [line for line in lines if line.get("cell", kept[0]) in kept][:SHORT]
    return Source(head=json.loads((known / HEAD).read_text("utf-8")), lines=lines, folder=folder)


# ---- what reads a run ---------------------------------------------------------------------------


def _print_table(folder: Path) -> None:
    """Print what `table` prints, without the files that it writes: a third of its time."""
    print(table.format_markdown(analyse(load_run(folder))))


def _run(*words: str) -> Callable[[Path], None]:
    """Return what gives a command a damaged run, for the word RUN, and a sound one, for SOUND."""

    def run(folder: Path) -> None:
        places = {
            "RUN": str(folder),
            "SOUND": str(DATA / "run-v1"),
            "OUT": str(folder / "merged.md"),
        }
        assert cli.run([places.get(word, word) for word in words]) == 0

    return run


def _print_page(folder: Path) -> None:
    """Print what `explain` prints, without its figure, which takes twenty times as long."""
    print(report_ladder.format_page(analyse(load_run(folder))))


COMMANDS = {
    "table": _run("table", "RUN"), "compare": _run("compare", "RUN", "SOUND"),
    "compared": _run("compare", "SOUND", "RUN", "--json"),
    "merge": _run("merge", "RUN", "SOUND", "--out", "OUT"), "explain": _print_page,
}  # fmt: skip
WRITTEN = {HEAD, LINES, "run.lock", *TABLE_FILES, "merged.md"}


def check(source: Source, read: Callable[[Path], None], changes: list[Change]) -> None:
    """Let something read a damaged run, and look at all that came of it."""
    source.write(changes)
    folder, out = source.folder, io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            read(folder)
    except UsageError as refused:
        assert str(refused).isprintable()  # noqa: PT017
        assert str(refused)  # noqa: PT017
    shown = out.getvalue()
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "<script" not in shown
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert {path.name for path in folder.iterdir()} <= WRITTEN


def check_many(source: Source, read: Callable[[Path], None], count: int, *, again: bool) -> None:
    """Let something read that many damaged runs. again: whether they are the same each time."""

    # What fails is shown as it was found: smaller damage that fails alike would take minutes to find.
    @given(CHANGES)
    @settings(
        max_examples=count, deadline=None, derandomize=again, database=None, phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    def is_shown_or_refused(changes: list[Change]) -> None:
        check(source, read, changes)

    is_shown_or_refused()


# ---- some, and many -------------------------------------------------------------------

SOURCES = {"run-v1": 400, "run-gpu": 100, "run-ladder": 400, MADE_UP: 300}  # printed of each
OF_COMMAND = 40  # read by each command


@pytest.mark.parametrize("command", COMMANDS)
def test_damaged_run_is_shown_or_refused(command: str, tmp_path: Path) -> None:
    """A run whose values and bytes are changed anyhow gives a table, or one line of why not."""
    source = make_source("run-ladder" if command == "explain" else MADE_UP, tmp_path / "run")
    check_many(source, COMMANDS[command], 15, again=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_many_damaged_runs_are_shown_or_refused(name: str, tmp_path: Path) -> None:
    """So do more than a thousand, others each time."""
    check_many(make_source(name, tmp_path / "run"), _print_table, SOURCES[name], again=False)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_damaged_runs_go_through_every_command(command: str, tmp_path: Path) -> None:
    """So they do in every command that reads runs, with all files that it writes."""
    for name in SOURCES:
        source = make_source(name, tmp_path / name / "run")
        check_many(source, COMMANDS[command], OF_COMMAND // len(SOURCES), again=False)
