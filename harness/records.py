"""Own the run on disk: its versioned schema, the append-only writer, the reader."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import filelock
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import UsageError

SCHEMA_VERSION = 1
HEAD, LINES, LOCK = "run.json", "records.jsonl", "run.lock"

# Variables that force a BLAS library to a kernel or a cache size instead of letting it choose.
FORCING = (
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS",
    "BLIS_ARCH_TYPE",
)  # fmt: skip

Status = Literal["ok", "wrong", "unavailable", "failed"]
Role = Literal["layer", "ceiling", "aa"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
    path: str
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
    nodes_touched: int = Field(
        description="distinct weight rows on the paths of all tokens; fff only"
    )
    notes: dict[str, str]


class SampleRecord(_Record):
    """One timed value: `loops` passes in `elapsed_ns` of wall clock, and what disturbed it."""

    kind: Literal["sample"] = "sample"
    cell: str
    process: int
    block: int = Field(description="round of the interleaved order, counted over the run")
    order: int = Field(description="position in the run")
    started_ns: int = Field(description="since the run began")
    loops: int
    elapsed_ns: int
    switches: int = Field(description="involuntary context switches during the sample")
    faults: int = Field(description="page faults during the sample")
    steal_ticks: int = Field(
        description="time the hypervisor took from this machine, in clock ticks"
    )


class EndRecord(_Record):
    """How the run ended."""

    kind: Literal["end"] = "end"
    ended_utc: str
    reason: Literal["complete", "interrupted", "budget", "failed"]
    elapsed_s: float
    peak_resident_bytes: int


Line = ProviderRecord | CellRecord | SampleRecord | EndRecord
_KINDS: dict[str, type[_Record]] = {
    "provider": ProviderRecord, "cell": CellRecord, "sample": SampleRecord, "end": EndRecord,
}  # fmt: skip


class Writer:
    """Append records to a run folder, each line handed to the system before the next is measured."""

    def __init__(self, folder: Path, head: RunHead) -> None:
        """Create the folder and its head. Raises UsageError where it can't be, or holds another run."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(folder / LOCK)
            self._lock.acquire(timeout=0)
            if (folder / HEAD).exists():
                raise UsageError(f"--out: {folder} holds a run already; name a folder of its own")
            (folder / HEAD).write_text(head.model_dump_json(indent=1) + "\n", encoding="utf-8")
            self._file: TextIO = (folder / LINES).open("a", encoding="utf-8")
        except filelock.Timeout:
            raise UsageError(f"--out: another sweep is writing to {folder}") from None
        except OSError as error:
            raise UsageError(f"--out: can't write to {folder}: {error.strerror}") from None

    def append(self, line: Line) -> None:
        """Write one record and flush it: what is finished survives a kill."""
        self._file.write(line.model_dump_json() + "\n")
        self._file.flush()

    def close(self) -> None:
        """Sync the records to the disk and release the folder."""
        os.fsync(self._file.fileno())
        self._file.close()
        self._lock.release()
        (self.folder / LOCK).unlink(missing_ok=True)


class Run(NamedTuple):
    """A run as it was read: two frames and what stands around them.

    samples: one row a sample, with `pass_ns = elapsed_ns / loops` and the columns of its cell.
    cells: one row a cell (of its first process; a later process that failed shows in `status`).
    """

    samples: pd.DataFrame
    cells: pd.DataFrame
    head: RunHead
    providers: list[ProviderRecord]
    end: EndRecord | None
    folder: Path
    warnings: list[str]


def _read_head(folder: Path) -> RunHead:
    path = folder / HEAD
    if not path.is_file():
        raise UsageError(f"{folder} is not a run: it has no {HEAD}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data.get("schema_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise UsageError(
                f"{path} has schema version {version}, newer than this harness reads "
                f"({SCHEMA_VERSION}); install a newer fff-harness"
            )
        return RunHead.model_validate(data)
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise UsageError(f"{path} can't be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]


def _read_lines(path: Path, warnings: list[str]) -> Iterator[Line]:
    """Yield the records; a damaged line is named in `warnings` and passed over."""
    if not path.is_file():
        warnings.append(f"{path.name} is missing: nothing was measured")
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, start=1):
            try:
                data = json.loads(text)
                yield _KINDS[data["kind"]].model_validate(data)  # type: ignore[misc]
            except (json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
                cut = "" if text.endswith("\n") else " (the line is cut short)"
                warnings.append(
                    f"{path.name}:{number} is damaged and left out{cut}: {_first_line(error)}"
                )


_RANK = {"wrong": 0, "failed": 1, "unavailable": 2, "ok": 3}


def _cell_frame(cells: list[CellRecord]) -> pd.DataFrame:
    """Return one row a cell: its first record, with the worst status of any process."""
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
    folder = Path(path)
    head = _read_head(folder)
    warnings: list[str] = []
    lines = list(_read_lines(folder / LINES, warnings))
    cells = _cell_frame([x for x in lines if isinstance(x, CellRecord)])
    columns = [name for name in SampleRecord.model_fields if name != "kind"]
    rows = [x.model_dump(exclude={"kind"}) for x in lines if isinstance(x, SampleRecord)]
    samples = pd.DataFrame(rows, columns=columns)
    samples["pass_ns"] = samples["elapsed_ns"] / samples["loops"]
    shared = ["cell", "role", "implementation", "level", "model", "provider", "batch", "d_in"]
    samples = samples.merge(cells[shared], on="cell", how="left")
    ends = [x for x in lines if isinstance(x, EndRecord)]
    return Run(
        samples=samples,
        cells=cells,
        head=head,
        providers=[x for x in lines if isinstance(x, ProviderRecord)],
        end=ends[-1] if ends else None,
        folder=folder,
        warnings=warnings,
    )
