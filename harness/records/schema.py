"""Own the records of a run: their versioned schema, and the names of the files that they stand in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from harness.problem.architecture import Architecture
from harness.problem.axes import AXES, COLUMNS, DEFAULTS, Conditions, lists
from harness.problem.transformer import Transformer
from harness.records.facts import CacheWalk, DeviceFacts, Finding, MachineFacts
from harness.records.text import printable

SCHEMA_VERSION = 1
HEAD, LINES, LOCK = "run.json", "records.jsonl", "run.lock"
Status = Literal["ok", "wrong", "unavailable", "failed"]
Role = Literal["layer", "ceiling", "aa", "ladder", "model"]
Order = Literal["interleaved", "blocked"]
# What an implementation says, an exception's text for one: it ends in tables and on terminals.
Shown = Annotated[str, AfterValidator(printable)]


class _Record(BaseModel):
    # JSON has no infinity; without the setting one would be written as null and refused on reading.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


# In a file each axis is a field of its own, in a record all of them are one value. An axis that there was not
# yet when a run was written is missing in its records: they read as the axis's default.


def _gather(data: Any, name: str, default: Mapping[str, Any]) -> Any:
    """Return a record's fields as they stand in a file with those of the axes put together under one name."""
    if not isinstance(data, dict) or name in data:
        return data
    rest = {key: value for key, value in data.items() if key not in COLUMNS}
    return rest | {name: {axis: data.get(axis, default[axis]) for axis in COLUMNS}}


def _spread(fields: dict[str, Any], name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's fields as they stand in a file, those of the axes in the place of the one name."""
    spread: dict[str, Any] = {}
    for key, value in fields.items():
        spread |= values if key == name else {key: value}
    return spread


def _known(conditions: Conditions) -> Conditions:
    """Return conditions whose values are of their axes. Raises ValueError: of any other nothing is known."""
    for axis, value in zip(AXES, conditions, strict=True):
        if not axis.takes(value):
            raise ValueError(f"{axis.name} {value!r} is none of {', '.join(axis.known)}")
    return conditions


class MachineRecord(_Record):
    """What the figures were measured on. Sizes in bytes; empty or 0 where the system does not tell."""

    host: str
    system: str
    processor: str
    microarchitecture: str
    isa: list[str] = Field(description="vector extensions that the processor reports")
    cores: int = Field(description="processors that this process may run on")
    caches: dict[str, int] = Field(
        description="L1d, L2, L3 as one core sees them, as the system tells"
    )
    last_level_caches: int = Field(
        default=1, description="of the last level, that those processors have between them"
    )
    cache_walk: CacheWalk | None = Field(
        default=None, description="what a core was seen to get of them, None where nobody looked"
    )
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
        description="the sweep's variables that can change a library that is measured"
    )
    dropped: list[str] = Field(
        default=[], description="variables that the measuring processes were started without"
    )
    facts: MachineFacts = Field(
        default_factory=MachineFacts, description="settings, and the state when the run began"
    )
    device: DeviceFacts | None = Field(
        default=None, description="that the passes ran on, None for the CPU"
    )
    findings: list[Finding] = Field(
        default_factory=list, description="what of it matters for measuring, by `doctor`"
    )


class SweepRecord(_Record):
    """What was asked for."""

    levels: list[Annotated[int, Field(ge=1, le=3)]]
    device: str
    models: list[str]
    batches: list[int] = Field(min_length=1)
    widths: list[int] = Field(min_length=1)
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
    plugin_digests: dict[str, str] = Field(
        default_factory=dict,
        description="of the files of each plugin as they were loaded, by source",
    )
    timeout_s: float = Field(default=0.0, description="patience with a request, 0 for derived")
    axes: dict[str, list[str]] = Field(
        default_factory=lists, description="values on each axis; in the file a field for each"
    )
    order: Order = "interleaved"
    isa: str = Field(
        default="", description="instruction set that was forced, empty for the fastest"
    )
    baseline: str = Field(default="bert-base-4095", description="model that ratios are over")
    architecture: Architecture | None = Field(
        default=None, description="of the whole models that were measured, None for layers alone"
    )
    shapes: list[str] = Field(
        default=[], description="batches of whole models, each sequences x tokens"
    )
    train: bool = Field(
        default=False, description="whether steps of training of whole models were measured too"
    )
    compile: bool = Field(
        default=False, description="whether compiled whole models were measured too"
    )
    checkpoint: str = Field(
        default="", description="file of the weights of whole models, empty for drawn ones"
    )
    checkpoint_label: str = Field(
        default="", description="its name and the head of the digest of its bytes"
    )

    @model_validator(mode="before")
    @classmethod
    def _gather_axes(cls, data: Any) -> Any:
        return _gather(data, "axes", lists())

    @model_serializer(mode="wrap")
    def _spread_axes(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _spread(handler(self), "axes", self.axes)


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
    cpus_allowed: int = Field(
        default=0, description="processors that it may run on with all loaded; 0 if not told"
    )
    huge_page_share: float | None = Field(
        default=None, description="of a buffer like the operands, by the kernel; None if not told"
    )
    variables: dict[str, str] = Field(
        description="variables that can change a library, as the process was started with"
    )
    dropped: list[str] = Field(description="variables that change a library, taken away")


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
    batch: int = Field(gt=0)
    d_in: int = Field(gt=0)
    d_out: int = Field(gt=0)
    hidden: int
    depth: int
    trees: int
    conditions: Annotated[Conditions, AfterValidator(_known)] = Field(
        default=DEFAULTS, description="value on each axis; in the file a field for each"
    )
    seed: int
    flops: int
    bytes_moved: int
    process: int
    status: Status
    reason: Shown
    loops: int
    gate_ns: int = Field(description="the checked pass, first of its process; not a sample")
    check_seed: int = Field(
        default=0, description="drew the checked tokens of this process; 0 where none were"
    )
    checked_tokens: int
    near_ties: int
    worst_error: float = Field(description="largest error as a share of its tolerance")
    slices: int = Field(
        default=1, gt=0, description="a sample times one of this many parts of the batch"
    )
    nodes_touched: int = Field(
        description="distinct weight rows on the paths of all tokens; fff only"
    )
    entropy_bits: list[float] = Field(
        default=[], description="of the tokens over each level's nodes, the root's first; fff only"
    )
    working_set_bytes: int = Field(
        default=0, description="weight rows that a pass touches; 0 where not counted"
    )
    notes: dict[str, Shown]
    transformer: Transformer | None = Field(
        default=None,
        description="what a pass is of, where that is a whole model and no layer alone",
    )
    repro: Shown = Field(
        default="", description="command that repeats the check; of wrong and failed cells"
    )

    @model_validator(mode="before")
    @classmethod
    def _gather_conditions(cls, data: Any) -> Any:
        return _gather(data, "conditions", DEFAULTS._asdict())

    @model_serializer(mode="wrap")
    def _spread_conditions(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _spread(handler(self), "conditions", self.conditions._asdict())


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
    loops: int = Field(gt=0)
    elapsed_ns: int = Field(gt=0)
    switches: int = Field(description="involuntary context switches during the sample")
    faults: int = Field(description="page faults during the sample")
    steal_ticks: int = Field(
        description="time the hypervisor took from this machine, in clock ticks"
    )
    call_ns: int = Field(default=0, description="of the call from Python, outside of `elapsed_ns`")
    cpu_ns: int = Field(
        default=0, description="processor time of all threads of the process; 0 if not recorded"
    )
    wall_ns: int = Field(
        default=0, description="on a device, launches and the last wait included; 0 on the CPU"
    )
    sm_clock_mhz: int = Field(default=0, description="of the device while it worked; 0 if not told")
    power_w: float = 0.0
    throttle: list[str] = Field(
        default=[], description="what held the device's clock down at the sample"
    )
    parts_ns: dict[str, int] = Field(
        default={},
        description="of `elapsed_ns`, by part of a whole model; of passes in parts alone",
    )


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
KINDS: dict[str, type[BaseModel]] = {
    "provider": ProviderRecord, "cell": CellRecord, "sample": SampleRecord, "end": EndRecord,
    "blocks": BlocksRecord, "resume": ResumeRecord,
}  # fmt: skip
