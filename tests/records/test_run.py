"""The run on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

import harness
from harness.errors import UsageError
from harness.records.reader import load_run
from harness.records.schema import (
    HEAD,
    LINES,
    LOCK,
    SCHEMA_VERSION,
    CellRecord,
    EndRecord,
    ProviderRecord,
    RunHead,
    SampleRecord,
    SweepRecord,
)
from harness.records.writer import Writer
from harness.sweep.spec import SweepSpec

_KINDS = {"provider": ProviderRecord, "cell": CellRecord, "sample": SampleRecord, "end": EndRecord}


def _head(golden_run: Path) -> RunHead:
    """Return the golden run's head in this harness's own schema version."""
    data = json.loads((golden_run / HEAD).read_text(encoding="utf-8"))
    return RunHead.model_validate(data | {"schema_version": SCHEMA_VERSION})


def _lines(golden_run: Path) -> list[Any]:
    texts = (golden_run / LINES).read_text(encoding="utf-8").splitlines()
    return [_KINDS[json.loads(t)["kind"]].model_validate_json(t) for t in texts]


def _edit_lines(golden_run: Path, edit: Callable[[list[str]], None]) -> None:
    path = golden_run / LINES
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    edit(lines)
    path.write_text("".join(lines), encoding="utf-8")


def _edit_head(golden_run: Path, **change: Any) -> None:
    path = golden_run / HEAD
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8"
    )


def test_version_1_is_read(golden_run: Path) -> None:
    """A run of schema version 1 is read whole, without a warning."""
    run = load_run(golden_run)
    assert run.warnings == []
    assert run.head.schema_version == 1
    assert len(run.cells) == 11
    assert len(run.samples) == 32
    assert len(run.providers) == 2
    assert run.end is not None
    assert run.end.reason == "complete"
    assert run.cells["status"].value_counts().to_dict() == {
        "ok": 8, "failed": 1, "wrong": 1, "unavailable": 1,
    }  # fmt: skip


def test_round_trip(golden_run: Path, tmp_path: Path) -> None:
    """What is written is what is read: every record, in order, and the head."""
    written = _lines(golden_run)
    folder = tmp_path / "deep" / "run"
    writer = Writer(folder, _head(golden_run))
    for line in written:
        writer.append(line)
    writer.close()
    assert _lines(folder) == written
    assert load_run(folder).head == _head(golden_run)
    assert not (folder / LOCK).exists()


def test_each_line_is_on_disk_at_once(golden_run: Path, tmp_path: Path) -> None:
    """A record can be read by others as soon as it is appended."""
    writer = Writer(tmp_path / "run", _head(golden_run))
    for count, line in enumerate(_lines(golden_run)[:5], start=1):
        writer.append(line)
        text = (tmp_path / "run" / LINES).read_text(encoding="utf-8")
        assert text.count("\n") == count
        assert text.endswith("\n")
    writer.close()


def test_samples_carry_their_cell(golden_run: Path) -> None:
    """A sample's row has the time of a pass and the columns of its cell."""
    samples = harness.load_run(golden_run).samples
    assert isinstance(samples, pd.DataFrame)
    assert (samples["pass_ns"] == samples["elapsed_ns"] / samples["loops"]).all()
    tree = samples[samples["implementation"] == "fff_l1_blas"]
    assert tree["loops"].eq(10).all()
    assert tree["model"].eq("ultrafastbert-1x11").all()
    assert samples["implementation"].notna().all()


def test_worst_status_of_any_process(golden_run: Path) -> None:
    """A cell that passed in one process and failed in a later one counts as failed."""
    last = next(c for c in reversed(_lines(golden_run)) if isinstance(c, CellRecord))
    worse = last.model_copy(update={"status": "failed", "reason": "why", "process": 2})
    _edit_lines(golden_run, lambda lines: lines.append(worse.model_dump_json() + "\n"))
    cells = load_run(golden_run).cells.set_index("cell")
    assert cells.loc[last.cell, "status"] == "failed"
    assert cells.loc[last.cell, "reason"] == "why"


def test_truncated_last_line(golden_run: Path) -> None:
    """A last line that was cut short is named and left out; everything before it is there."""

    def cut(lines: list[str]) -> None:
        lines[-1] = lines[-1][: len(lines[-1]) // 2]

    before = load_run(golden_run)
    _edit_lines(golden_run, cut)
    run = load_run(golden_run)
    assert len(run.samples) == len(before.samples)
    assert run.end is None
    (warning,) = run.warnings
    assert warning.startswith(f"{LINES}:54 is damaged and left out (the line is cut short): ")


@pytest.mark.parametrize(
    "damage",
    [
        "{not json\n", "[]\n", "1\n", '"text"\n', "null\n", "{}\n", '{"kind": "unheard"}\n', "\n",
        "\x00\x01\n", '{"kind": "sample"}\n', '{"kind": ["cell"]}\n',
    ],
)  # fmt: skip
def test_damaged_middle_line(golden_run: Path, damage: str) -> None:
    """A damaged line in the middle costs that line only, and is named by its number."""

    def spoil(lines: list[str]) -> None:
        assert '"kind":"sample"' in lines[20]
        lines[20] = damage

    before = load_run(golden_run)
    _edit_lines(golden_run, spoil)
    run = load_run(golden_run)
    assert len(run.samples) == len(before.samples) - 1
    assert run.end == before.end
    (warning,) = run.warnings
    assert warning.startswith(f"{LINES}:21 is damaged and left out: ")
    assert "\n" not in warning


def test_bytes_that_are_no_text(golden_run: Path) -> None:
    """A line of random bytes is a damaged line too."""
    path = golden_run / LINES
    lines = path.read_bytes().splitlines(keepends=True)
    lines[20] = b"\xff\xfe\x80\n"
    path.write_bytes(b"".join(lines))
    assert len(load_run(golden_run).warnings) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"kind": None}, {"kind": "other"}, {"schema_version": 1}, {"schema_version": 9}, {"more": 1},
        {"cell": "a\nb"}, {"cell": "x" * 5000}, {"loops": "3"}, {"loops": True}, {"loops": 3.0},
        {"loops": 3.5}, {"loops": None}, {"loops": 0}, {"power_w": float("nan")}, {"throttle": ["heat"]},
        {"loops": 10**30},
    ],
    ids=str,
)  # fmt: skip
def test_line_reads_the_same_however_it_is_written(
    golden_run: Path, changes: dict[str, Any]
) -> None:
    """A line gives the same record, or the same reason against it, plainly written and with an escape."""
    path = golden_run / LINES
    lines = path.read_text(encoding="utf-8").splitlines()
    sample = next(json.loads(line) for line in lines if json.loads(line)["kind"] == "sample")
    odd = {name: value for name, value in {**sample, **changes}.items() if name != "kind" or value}
    found = []
    for escape in (False, True):
        written = [json.dumps(odd), *lines]
        if escape:  # the same JSON, which is no longer read in one step
            written = [line.replace('"elapsed_ns"', '"\\u0065lapsed_ns"') for line in written]
        path.write_text("\n".join(written) + "\n", encoding="utf-8")
        run = load_run(golden_run)
        found.append((run.warnings, run.samples.to_json(), run.cells.to_json()))
    assert found[0] == found[1]


def test_reading_rewrites_nothing(golden_run: Path) -> None:
    """Reading leaves the files of a run as they are."""
    before = {p.name: p.read_bytes() for p in golden_run.iterdir()}
    load_run(golden_run)
    assert {p.name: p.read_bytes() for p in golden_run.iterdir()} == before


def test_newer_schema(golden_run: Path) -> None:
    """A run from a newer harness is refused with both versions, whatever else stands in it."""
    _edit_head(golden_run, schema_version=SCHEMA_VERSION + 1, unheard=1)
    with pytest.raises(
        UsageError, match=rf"version {SCHEMA_VERSION + 1}, newer.*\({SCHEMA_VERSION}\)"
    ):
        load_run(golden_run)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", "{}", '{"schema_version": 1}', '{"schema_version": "x"}']
)
def test_damaged_head(golden_run: Path, text: str) -> None:
    """A head that can't be read is one clear line."""
    (golden_run / HEAD).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"run\.json can't be read: ") as caught:
        load_run(golden_run)
    assert "\n" not in str(caught.value)


def test_head_that_is_no_text(golden_run: Path) -> None:
    """A head of random bytes is one clear line too."""
    (golden_run / HEAD).write_bytes(b"\xff\xfe\x80")
    with pytest.raises(UsageError, match=r"run\.json can't be read: "):
        load_run(golden_run)


def test_not_a_run(tmp_path: Path) -> None:
    """A folder without a head, a file and nothing at all are no runs."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for path in (tmp_path, tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(UsageError, match="is not a run"):
            load_run(path)


def test_run_without_records(golden_run: Path) -> None:
    """A run that was killed before its first record is read as an empty one."""
    (golden_run / LINES).unlink()
    run = load_run(golden_run)
    assert run.cells.empty
    assert run.samples.empty
    assert run.end is None
    assert run.warnings == [f"{LINES} is missing: nothing was measured"]


def test_folder_of_another_run(golden_run: Path) -> None:
    """A folder that holds a run is refused, and that run stays as it is."""
    before = {p.name: p.read_bytes() for p in golden_run.iterdir()}
    with pytest.raises(UsageError, match=r"^--out: .*holds a run already"):
        Writer(golden_run, _head(golden_run))
    assert {p.name: p.read_bytes() for p in golden_run.iterdir() if p.name != LOCK} == before


def test_folder_in_use(golden_run: Path, tmp_path: Path) -> None:
    """A folder that another process writes to is refused; a dead process holds no lock."""
    folder = tmp_path / "run"
    script = (
        "import sys, pathlib\nfrom harness.records.lock import FolderLock\n"
        f"folder = pathlib.Path({str(folder)!r}); folder.mkdir()\n"
        f"lock = FolderLock(folder / {LOCK!r})\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=r"^--out: another sweep is writing to"):
            Writer(folder, _head(golden_run))
        holder.kill()
    Writer(folder, _head(golden_run)).close()


def test_folder_that_can_not_be(golden_run: Path, tmp_path: Path) -> None:
    """A folder below a file can't be made, and the reason is given."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match=r"^--out: can't write to .*/file/run: "):
        Writer(tmp_path / "file" / "run", _head(golden_run))


def test_records_are_strict(golden_run: Path) -> None:
    """An unknown field, a missing one or a status outside of the four is not a record."""
    good = next(c for c in _lines(golden_run) if isinstance(c, CellRecord)).model_dump()
    for bad in (
        good | {"extra": 1},
        good | {"status": "fine"},
        {k: v for k, v in good.items() if k != "cell"},
    ):
        with pytest.raises(ValidationError):
            CellRecord.model_validate(bad)


def test_a_sweep_and_its_record_have_the_same_options() -> None:
    """Each recorded option is one of the sweep's, with its default: an older run is resumed as it ran."""
    options = {field.name: field for field in fields(SweepSpec)}
    for name, field in SweepRecord.model_fields.items():
        if field.default_factory is not None:
            assert options[name].default_factory is field.default_factory
        elif not field.is_required():
            default = field.default
            assert options[name].default == (
                tuple(default) if isinstance(default, list) else default
            )
    assert options.keys() - SweepRecord.model_fields.keys() == {"out", "strict"}
