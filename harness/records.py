"""Own the run on disk: its versioned schema, the append-only writer, the reader."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import UsageError
from harness.facts import Finding, MachineFacts
from harness.lock import FolderLock, LockedError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
HEAD, LINES, LOCK = "run.json", "records.jsonl", "run.lock"

# Variables that force a BLAS library to a kernel or a cache size instead of letting it choose.
FORCING = (
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS",
    "BLIS_ARCH_TYPE",
)  # fmt: skip

Status = Literal["ok", "wrong", "unavailable", "failed"]
Role = Literal["layer", "ceiling", "aa", "ladder"]
Order = Literal["interleaved", "blocked"]


class _Record(BaseModel):
    # JSON has no infinity; without the setting one would be written as null and refused on reading.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class MachineRecord(_Record):
    """What the figures were measured on. Sizes in bytes; empty or 0 where the system does not tell."""

    host: str
    system: str
    processor: str
    microarchitecture: str
    isa: list[str] = Field(description="vector extensions that the processor reports")
    cores: int = Field(description="processors that this process may run on")
    caches: dict[str, int] = Field(description="L1d, L2, L3 as one core sees them")
    memory_bytes: int
    virtual_machine: str
    python: str
    packages: dict[str, str]
    build: dict[str, str] = Field(
        description="compiler, flags and instruction set of our own kernels"
    )
    harness_version: str
    commit: str
    environment: dict[str, str] = Field(
        description="variables that can change a BLAS or its threads"
    )
    facts: MachineFacts = Field(
        default_factory=MachineFacts, description="settings, and the state when the run began"
    )
    findings: list[Finding] = Field(
        default_factory=list, description="what of it matters for measuring, by `doctor`"
    )


class SweepRecord(_Record):
    """What was asked for."""

    levels: list[int]
    device: str
    models: list[str]
    batches: list[int]
    widths: list[int]
    only: list[str]
    skip: list[str]
    blas: list[str]
    threads: int
    seed: int
    passes: int
    budget_s: float
    processes: int
    quick: bool
    keep_blas_env: bool
    plugins: list[str] = Field(default=[], description="files of plugins that were loaded")
    timeout_s: float = Field(default=0.0, description="patience with a request, 0 for derived")
    data: list[str] = ["random"]
    rows: list[str] = ["distinct"]
    routing: list[str] = ["uniform"]
    weights: list[str] = ["hot"]
    order: Order = "interleaved"


class RunHead(_Record):
    """The first file of a run, written before anything is measured."""

    schema_version: int
    started_utc: str
    machine: MachineRecord
    sweep: SweepRecord


class ProviderRecord(_Record):
    """A BLAS library as a measuring process really loaded it."""

    kind: Literal["provider"] = "provider"
    process: int
    name: str
    path: str = Field(description="{prefix} stands for the Python environment's folder")
    version: str
    architecture: str
    threads: int
    threading_layer: str
    int_bits: int
    routines: list[str]
    pools: list[dict[str, Any]] = Field(description="every BLAS and OpenMP pool in that process")
    variables: dict[str, str] = Field(
        description="BLAS variables that the process was started with"
    )
    dropped: list[str] = Field(description="variables that force a kernel, taken away")


class CellRecord(_Record):
    """One implementation on one problem under one provider, and the outcome of its gate."""

    kind: Literal["cell"] = "cell"
    cell: str
    role: Role
    implementation: str
    layer: str
    level: int | None
    model: str
    provider: str
    threads: int
    batch: int
    d_in: int
    d_out: int
    hidden: int
    depth: int
    trees: int
    dtype: str
    data: str
    rows: str = "distinct"
    routing: str = "uniform"
    weights: str = Field("hot", description="where they stand as a pass begins; see locality.py")
    seed: int
    flops: int
    bytes_moved: int
    process: int
    status: Status
    reason: str
    loops: int
    gate_ns: int = Field(description="the checked pass, first of its process; not a sample")
    checked_tokens: int
    near_ties: int
    worst_error: float = Field(description="largest error as a share of its tolerance")
    slices: int = Field(default=1, description="a sample times one of this many parts of the batch")
    nodes_touched: int = Field(
        description="distinct weight rows on the paths of all tokens; fff only"
    )
    entropy_bits: list[float] = Field(
        default=[], description="of the tokens over each level's nodes, the root's first; fff only"
    )
    working_set_bytes: int = Field(
        default=0, description="weight rows that a pass touches; 0 where not counted"
    )
    notes: dict[str, str]


class SampleRecord(_Record):
    """One timed value: `loops` passes over one slice of the batch in `elapsed_ns`, and what disturbed it."""

    kind: Literal["sample"] = "sample"
    cell: str
    process: int
    block: int = Field(
        description="round of the interleaved order, counted over the run; negative for the cold, "
        "fixed-order samples of the published protocol, counted in each process"
    )
    order: int = Field(description="position in the run")
    started_ns: int = Field(description="since the run began")
    loops: int
    elapsed_ns: int
    switches: int = Field(description="involuntary context switches during the sample")
    faults: int = Field(description="page faults during the sample")
    steal_ticks: int = Field(
        description="time the hypervisor took from this machine, in clock ticks"
    )
    call_ns: int = Field(default=0, description="of the call from Python, outside of `elapsed_ns`")


class EndRecord(_Record):
    """How the run ended."""

    kind: Literal["end"] = "end"
    ended_utc: str
    reason: Literal["complete", "interrupted", "budget", "failed"]
    elapsed_s: float
    peak_resident_bytes: int


class BlocksRecord(_Record):
    """How many blocks the run was going to have, as decided when a process had gated its cells."""

    kind: Literal["blocks"] = "blocks"
    process: int
    blocks: int = Field(description="blocks for this process")
    total: int = Field(
        description="blocks of the whole run: done, now, and those of later processes"
    )


class ResumeRecord(_Record):
    """A sweep that was killed or interrupted was taken up again from here on."""

    kind: Literal["resume"] = "resume"
    resumed_utc: str
    host: str
    process: int = Field(description="first of the fresh measuring processes")
    block: int = Field(description="first of the new blocks")


Line = ProviderRecord | CellRecord | SampleRecord | BlocksRecord | ResumeRecord | EndRecord
_KINDS: dict[str, type[_Record]] = {
    "provider": ProviderRecord, "cell": CellRecord, "sample": SampleRecord, "end": EndRecord,
    "blocks": BlocksRecord, "resume": ResumeRecord,
}  # fmt: skip

# A migration takes the head or a line of the version it stands under and returns that of the next one.
# One stands here for every version below SCHEMA_VERSION, so that older runs stay readable.
Json = dict[str, Any]
_HEAD_MIGRATIONS: dict[int, Callable[[Json], Json]] = {}
_LINE_MIGRATIONS: dict[int, Callable[[Json], Json]] = {}


def _migrated(data: Json, version: int, migrations: dict[int, Callable[[Json], Json]]) -> Json:
    for step in range(version, SCHEMA_VERSION):
        data = migrations[step](data)
    return data


class WriteError(RuntimeError):
    """Say that the system refused to write a record, and why."""


class Writer:
    """Append records to a run folder, each line handed to the system before the next is measured."""

    def __init__(self, folder: Path, head: RunHead | None) -> None:
        """Create the folder and its head; without a head, take up the run that is there.

        The folder stays locked until `close`, or until the process ends in whatever way. Raises UsageError
        where it can't be written, another sweep is writing to it, or it holds another run.
        """
        self.folder, self._lock = folder, None
        option = "--out" if head else "--resume"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(folder / LOCK)
            if head:
                self._create(head)
            self._file = os.open(folder / LINES, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._begin_on_a_fresh_line()
        except LockedError:
            raise UsageError(f"{option}: another sweep is writing to {folder}") from None
        except OSError as error:
            self._release()
            raise UsageError(f"{option}: can't write to {folder}: {error.strerror}") from None
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _create(self, head: RunHead) -> None:
        """Write the head whole or not at all: half a head would make the folder useless."""
        path = self.folder / HEAD
        if path.exists():
            raise UsageError(
                f"--out: {self.folder} holds a run already; name a folder of its own, or take it up "
                "with --resume"
            )
        part = path.with_suffix(".part")
        try:
            part.write_text(head.model_dump_json(indent=1) + "\n", encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _begin_on_a_fresh_line(self) -> None:
        """End a line that a kill cut short, so that the next record does not become part of it."""
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def append(self, line: Line) -> None:
        """Hand one record to the system: what is finished survives a kill. Raises WriteError."""
        data = line.model_dump_json().encode() + b"\n"
        before = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, data)
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError as error:
            # The part of this line that went through says nothing; the lines before it stay.
            if os.fstat(self._file).st_size > before:
                os.ftruncate(self._file, before)
            raise WriteError(
                f"can't write to {self.folder / LINES}: {error.strerror}; what was finished before is kept"
            ) from None

    def close(self) -> None:
        """Sync the records to the disk and release the folder. Raises WriteError."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise WriteError(f"can't sync {self.folder / LINES}: {error.strerror}") from None
        finally:
            os.close(self._file)
            self._release()


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
        data = json.loads(path.read_text(encoding="utf-8"))
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
    except (UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
        raise UsageError(f"{path} can't be read: {_first_line(error)}") from None
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]


def _parse_line(text: str, version: int) -> Line:
    """Return the record in a line. Raises ValueError, whose text says what is the matter with it."""
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError(f"need an object, got {type(data).__name__}")
    # A line may name its own version: only a newer harness would write one into this run.
    newest = data.pop("schema_version", version)
    if newest != version:
        raise ValueError(f"it has schema version {newest}, and the run is of version {version}")
    data = _migrated(data, version, _LINE_MIGRATIONS)
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(
            f"kind {kind!r} is not known here; a newer fff-harness may have written it"
        )
    line: Line = _KINDS[kind].model_validate(data)  # type: ignore[assignment]
    return line


def _read_lines(path: Path, version: int, warnings: list[str]) -> Iterator[Line]:
    """Yield the records; a damaged line is named in `warnings` and passed over."""
    if not path.is_file():
        warnings.append(f"{path.name} is missing: nothing was measured")
        return
    # Only "\n" ends a record: a control character inside of one must not shift the numbers of the lines.
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, text in enumerate(file, start=1):
            try:
                yield _parse_line(text, version)
            except (ValueError, RecursionError) as error:
                cut = "" if text.endswith("\n") else " (the line is cut short)"
                warnings.append(
                    f"{path.name}:{number} is damaged and left out{cut}: {_first_line(error)}"
                )


_RANK = {"wrong": 0, "failed": 1, "unavailable": 2, "ok": 3}


def _cell_frame(cells: list[CellRecord]) -> pd.DataFrame:
    """Return one row a cell: its first record, with the worst status of any process."""
    import pandas as pd  # half a second: measuring processes, which only write, go without it

    rows: dict[str, dict[str, Any]] = {}
    for cell in cells:
        known = rows.setdefault(cell.cell, cell.model_dump(exclude={"kind"}))
        if _RANK[cell.status] < _RANK[known["status"]]:
            known.update(status=cell.status, reason=cell.reason)
    columns = [name for name in CellRecord.model_fields if name != "kind"]
    return pd.DataFrame(list(rows.values()), columns=columns)


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
    rows = [x.model_dump(exclude={"kind"}) for x in lines if isinstance(x, SampleRecord)]
    samples = pd.DataFrame(rows, columns=columns)
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
