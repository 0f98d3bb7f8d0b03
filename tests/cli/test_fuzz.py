"""Runs with damage of any kind through `table`: read or refused, never a traceback, nothing written elsewhere."""

from __future__ import annotations

import contextlib
import io
import json
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fabricated_runs import Fake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import cli
from harness.errors import UsageError
from harness.problem.axes import DEFAULTS
from harness.records.schema import HEAD, LINES
from harness.report.files import TABLE_FILES

# Damaged runs of each: a few by default, ten thousand by the slow test, most of those that are read fast.
FEW, MANY = 50, {"run-v1": 4500, "run-gpu": 1000, "run-ladder": 2500, "made up": 2000}

EVIL = "\x1b[2J\n|<script>`$\\input{x}\u202e\ud800../../x"
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([EVIL, "x" * 5000, "nan", 2**63, -(2**63), 1e308, 1e-308, "ok", "wrong", "ceiling_sgemm",
                     "ff-7", "ff_l3_blas", "fff_", "", "trace:", "2x3"]),
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
    st.tuples(st.sampled_from([HEAD, LINES, LINES, LINES]), st.sampled_from(KINDS), PATHS, VALUES),
    min_size=1, max_size=4,
)  # fmt: skip


def _replace(data: Any, path: list[int], value: Any, kind: str) -> None:
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
                _replace(parsed[name], path, value, kind)
        compact = json.JSONEncoder(separators=(",", ":"))  # as a harness writes them
        lines = "".join(compact.encode(line) + "\n" for line in parsed[LINES])
        for name, text in {HEAD: compact.encode(parsed[HEAD]), LINES: lines}.items():
            data = text.encode()
            for of, kind, path, value in changes:
                if (of, kind) == (name, "bytes"):
                    data = _damage(data, path, value)
            (self.folder / name).write_bytes(data)


def make_source(name: str, folder: Path) -> Source:
    """Return a run of the tests' data, or one that is made up under two dtypes."""
    known = Path(__file__).parents[1] / "data" / name
    if not known.is_dir():
        ways = (DEFAULTS, DEFAULTS._replace(dtype="bfloat16"))
        known = Fake(processes=2, blocks=2, conditions=ways).write(folder)
    folder.mkdir(exist_ok=True)
    head = json.loads((known / HEAD).read_text(encoding="utf-8"))
    lines = (known / LINES).read_text(encoding="utf-8").splitlines()[:120]
    return Source(head=head, lines=[json.loads(line) for line in lines], folder=folder)


def check(source: Source, changes: list[Change]) -> None:
    """Show a damaged run, and look at all that came of it."""
    source.write(changes)
    folder, out = source.folder, io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            status = cli.run(["table", str(folder)])
    except UsageError as refused:
        assert str(refused)  # noqa: PT017
        return
    assert status == 0
    shown = out.getvalue()
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "<script" not in shown
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert {path.name for path in folder.iterdir()} <= {HEAD, LINES, "run.lock", *TABLE_FILES}


def check_many(source: Source, count: int) -> None:
    """Show that many damaged runs."""

    @given(CHANGES)
    @settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def is_shown_or_refused(changes: list[Change]) -> None:
        check(source, changes)

    is_shown_or_refused()


@pytest.mark.parametrize("name", MANY)
def test_damaged_run_is_shown_or_refused(name: str, tmp_path: Path) -> None:
    """A run whose values and bytes are changed anyhow gives a table, or one line of why not."""
    check_many(make_source(name, tmp_path / "run"), FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY)
def test_ten_thousand_damaged_runs(name: str, tmp_path: Path) -> None:
    """So do ten thousand of them."""
    check_many(make_source(name, tmp_path / "run"), MANY[name])
