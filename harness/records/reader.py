"""Own the reading of a run: of any schema version up to today's, past damaged lines, into frames."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from harness.errors import UsageError
from harness.problem.axes import COLUMNS
from harness.records.schema import (
    HEAD,
    KINDS,
    LINES,
    SCHEMA_VERSION,
    BlocksRecord,
    CellRecord,
    EndRecord,
    Line,
    ProviderRecord,
    ResumeRecord,
    RunHead,
    SampleRecord,
)
from harness.records.text import MOST, printable, printable_values

_QUOTED = 200  # characters of a damaged line that its warning may show
_NAMED = 5  # damaged lines that are named; the others are counted
_LONGEST = 4 << 20  # characters of one record; a longer line is none of this harness's

if TYPE_CHECKING:
    import pandas as pd

# A migration takes the head or a line of the version it stands under and returns that of the next one.
# One stands here for every version below SCHEMA_VERSION, so that older runs stay readable.
Json = dict[str, Any]
_HEAD_MIGRATIONS: dict[int, Callable[[Json], Json]] = {}
_LINE_MIGRATIONS: dict[int, Callable[[Json], Json]] = {}


def _migrated(data: Json, version: int, migrations: dict[int, Callable[[Json], Json]]) -> Json:
    for step in range(version, SCHEMA_VERSION):
        data = migrations[step](data)
    return data


class Run(NamedTuple):
    """A run as it was read: two frames and what stands around them.

    samples: one row a sample, with `pass_ns = elapsed_ns / loops * slices` and the columns of its cell.
    cells: one row a cell (of its first process; a later process that failed shows in `status`).
    end: how the run ended; None where it was killed, or is still going.
    """

    samples: pd.DataFrame
    cells: pd.DataFrame
    head: RunHead
    providers: list[ProviderRecord]
    end: EndRecord | None
    folder: Path
    warnings: list[str]
    blocks: list[BlocksRecord]
    resumes: list[ResumeRecord]


def _read_head(folder: Path) -> tuple[RunHead, int]:
    """Return a run's head in today's schema, and the version that it was written in."""
    path = folder / HEAD
    if not path.is_file():
        raise UsageError(f"{folder} is not a run: it has no {HEAD}")
    try:
        data = printable_values(json.loads(path.read_text(encoding="utf-8")))
        if not isinstance(data, dict):
            raise UsageError(f"{path} can't be read: need an object, got {type(data).__name__}")
        version = data.get("schema_version")
        if not isinstance(version, int) or version < 1:
            raise UsageError(f"{path} can't be read: schema_version is {version!r}, not a version")
        if version > SCHEMA_VERSION:
            raise UsageError(
                f"{path} has schema version {version}, newer than this harness reads "
                f"({SCHEMA_VERSION}); install a newer fff-harness"
            )
        return RunHead.model_validate(_migrated(data, version, _HEAD_MIGRATIONS)), version
    # ValidationError and what JSON can do to a reader (broken, too deep, a number of 5000 digits).
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} can't be read: {_first_line(error)}") from None
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None


def _first_line(error: Exception) -> str:
    """Return what is the matter, in one line of visible characters that is not long."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return printable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", _QUOTED)
    return printable(str(error).partition("\n")[0], _QUOTED)


def _parse_line(text: str, version: int) -> Line:
    """Return the record in a line. Raises ValueError, whose text says what is the matter with it."""
    data = printable_values(json.loads(text))
    if not isinstance(data, dict):
        raise ValueError(f"need an object, got {type(data).__name__}")
    # A line may name its own version: only a newer harness would write one into this run.
    newest = data.pop("schema_version", version)
    if newest != version:
        raise ValueError(f"it has schema version {newest}, and the run is of version {version}")
    data = _migrated(data, version, _LINE_MIGRATIONS)
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"kind {kind!r} is not known here; a newer fff-harness may have written it"
        )
    line: Line = KINDS[kind].model_validate(data)  # type: ignore[assignment]
    return line


_ANY_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])
# Nearly all lines of a long run are samples: those that begin as one is written are asked for no other kind.
_SAMPLE, _SAMPLE_LINE = '{"kind":"sample"', TypeAdapter(SampleRecord)


def _read_line(text: str, version: int) -> Line:
    """Return the record in a line, as `_parse_line` does.

    A run may have 200 000 lines. One of today's version whose texts stand in it as they will be shown, with
    no escape, is read in one step; whatever that refuses is looked at again, for the reason.
    """
    line = text.rstrip("\n")
    if version == SCHEMA_VERSION and line.isprintable() and "\\" not in line and len(line) <= MOST:
        expected = _SAMPLE_LINE if line.startswith(_SAMPLE) else _ANY_LINE
        with suppress(ValidationError):
            return expected.validate_json(line)
    return _parse_line(text, version)


def _read_lines(path: Path, version: int, warnings: list[str]) -> Iterator[Line]:
    """Yield the records; a damaged line is named in `warnings` and passed over."""
    if not path.is_file():
        warnings.append(f"{path.name} is missing: nothing was measured")
        return
    damaged = 0
    # Only "\n" ends a record: a control character inside of one must not shift the numbers of the lines.
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, text in enumerate(iter(lambda: file.readline(_LONGEST), ""), start=1):
            try:
                yield _read_line(text, version)
            except (ValueError, RecursionError) as error:
                damaged += 1
                cut = "" if text.endswith("\n") else " (the line is cut short)"
                if damaged <= _NAMED:
                    warnings.append(
                        f"{path.name}:{number} is damaged and left out{cut}: {_first_line(error)}"
                    )
    if damaged > _NAMED:
        warnings.append(f"{path.name}: {damaged - _NAMED} more lines are damaged and left out")


_RANK = {"wrong": 0, "failed": 1, "unavailable": 2, "ok": 3}


def _cell_frame(cells: list[CellRecord]) -> pd.DataFrame:
    """Return one row a cell: its first record, with the worst status of any process."""
    import pandas as pd  # half a second: measuring processes, which only write, go without it

    rows: dict[str, dict[str, Any]] = {}
    for cell in cells:
        fields = cell.model_dump(exclude={"kind", "transformer"})
        known = rows.setdefault(cell.cell, {**fields, "transformer": cell.transformer})
        if _RANK[cell.status] < _RANK[known["status"]]:
            known.update(status=cell.status, reason=cell.reason, repro=cell.repro)
    columns = [
        column
        for name in CellRecord.model_fields
        if name != "kind"
        for column in (COLUMNS if name == "conditions" else (name,))
    ]
    return pd.DataFrame(list(rows.values()), columns=columns)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Say whether a folder is a run's."""
    return (Path(path) / HEAD).is_file()


def find_runs(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of runs that lie in a folder, by name; none of those that are hidden."""
    found = sorted(path for path in Path(folder).iterdir() if not path.name.startswith("."))
    return [path for path in found if is_run(path)]


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a run folder.

    Damaged lines are left out and named in `warnings`; nothing is ever rewritten.

    Raises UsageError where the folder is no run, or its schema is newer than this harness.
    """
    import pandas as pd

    folder = Path(path)
    head, version = _read_head(folder)
    warnings: list[str] = []
    try:
        lines = list(_read_lines(folder / LINES, version, warnings))
    except OSError as error:
        raise UsageError(f"{folder / LINES} can't be read: {error.strerror}") from None
    cells = _cell_frame([x for x in lines if isinstance(x, CellRecord)])
    columns = [name for name in SampleRecord.model_fields if name != "kind"]
    samples = pd.DataFrame([vars(x) for x in lines if isinstance(x, SampleRecord)], columns=columns)
    shared = [
        "cell", "role", "implementation", "level", "model", "provider", "batch", "d_in", "slices",
    ]  # fmt: skip
    samples = samples.merge(cells[shared], on="cell", how="left")
    samples["pass_ns"] = samples["elapsed_ns"] / samples["loops"] * samples["slices"]
    orphans = sorted(set(samples["cell"]) - set(cells["cell"]))
    warnings += [f"{LINES}: the record of cell {cell} is missing" for cell in orphans]
    ends = [x for x in lines if isinstance(x, EndRecord | ResumeRecord)]
    last = ends[-1] if ends else None
    return Run(
        samples=samples,
        cells=cells,
        head=head,
        providers=[x for x in lines if isinstance(x, ProviderRecord)],
        end=last if isinstance(last, EndRecord) else None,
        folder=folder,
        warnings=warnings,
        blocks=[x for x in lines if isinstance(x, BlocksRecord)],
        resumes=[x for x in lines if isinstance(x, ResumeRecord)],
    )
