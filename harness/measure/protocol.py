"""Own the messages between a sweep and a measuring process: typed, versioned, one JSON line each.

A process says `Hello` or `Refusal` first. Then every line to it is a request, and it answers each with one
line: an answer of a kind that the request names, or `Failure`. Both bear the request's serial number, so that
a line that nobody asked for, as a forked child may write, is never taken for the answer to something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Generic, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from harness.measure.clock import Sample
from harness.package import Identity
from harness.problem.check import Verdict
from harness.problem.problem import Problem
from harness.problem.transformer import Transformer
from harness.problem.working_set import Touched
from harness.records.facts import ProviderFacts, ThreadPool

VERSION = 1  # of the messages; a process that speaks another one is refused

# ---- answers ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Say what a process loaded: it serves from now on.

    package: the harness that it runs. provider: its BLAS, or the package that brings one; None where it needs
    neither. pools: of threads. variables: of its environment that can change a library. flush_to_zero: what
    the main thread flushes. cpus_allowed: processors that it may run on with all loaded. huge_page_share: of
    a buffer like the operands, None where it is not told. plugin_digest: of the plugin's files as this
    process loaded them, empty without one.
    """

    package: Identity
    provider: ProviderFacts | None
    pools: list[ThreadPool]
    variables: dict[str, str]
    flush_to_zero: list[str]
    cpus_allowed: int
    huge_page_share: float | None
    plugin_digest: str = ""
    version: int = VERSION
    kind: Literal["hello"] = "hello"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Say why a process can't serve what its key names; it ends."""

    reason: str
    kind: Literal["refusal"] = "refusal"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateAnswer:
    """Say how a cell's gate went; it can be sampled if the verdict is good.

    gate_ns: the checked pass, first of its process. loops, slices: of a sample from now on. pass_ns: a later
    pass over the whole batch, 0 where none was run. touched: what a pass touches of its weights, where that
    was asked for.
    """

    verdict: Verdict
    gate_ns: int
    notes: dict[str, str]
    loops: int
    slices: int
    pass_ns: float = 0.0
    touched: Touched | None = None
    kind: Literal["gate"] = "gate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """Say why a cell can't be measured as it was asked for, though nothing is wrong with it."""

    reason: str
    kind: Literal["unavailable"] = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleAnswer:
    """Hold a sample of a prepared cell."""

    sample: Sample
    kind: Literal["sample"] = "sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongOutput:
    """Say that what the timed passes left behind is wrong: there is no sample."""

    verdict: Verdict
    kind: Literal["wrong"] = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedAnswer:
    """Hold the verdict on a kernel of the ladder and, where its gate was passed, one cold sample."""

    verdict: Verdict
    notes: dict[str, str]
    sample: Sample | None = None
    kind: Literal["published"] = "published"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryAnswer:
    """Hold the most memory that a process has held so far."""

    peak_resident_bytes: int
    kind: Literal["memory"] = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Say what was raised while a request was carried out; the process goes on serving."""

    reason: str
    kind: Literal["failure"] = "failure"


Answer = (
    Hello | Refusal | GateAnswer | Unavailable | SampleAnswer | WrongOutput | PublishedAnswer
    | MemoryAnswer | Failure
)  # fmt: skip
AnswerT = TypeVar("AnswerT", bound=Answer)

# ---- requests -----------------------------------------------------------------------------------


class Request(Generic[AnswerT]):
    """Ask something of a measuring process. answers: the kinds that it may answer with."""

    __slots__ = ()
    answers: ClassVar[tuple[type[Answer], ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRequest(Request[GateAnswer | Unavailable]):
    """Ask to prepare a cell, check it on the buffers that will be timed, warm up and calibrate.

    cell: the name by which it is sampled afterwards. loops, slices: of a sample, 0 to find them. head_only:
    check the first tokens alone, and each slice of the output behind its first sample. check_seed: draws the
    tokens that are compared with the oracle. weights, launch: the cell's value on each axis of the protocol
    (problem/axes.py), a field of its name. sets: as the cell has them (sweep/cell.py). isa: of our own code,
    empty for the fastest. caches: of the machine, by which kernels cut their work, and which are flushed.
    tile: as the run's first process chose it (registry.Context).
    """

    answers: ClassVar = (GateAnswer, Unavailable)
    cell: str
    implementation: str
    problem: Problem
    loops: int
    slices: int
    min_sample_ns: int
    isa: str
    threads: int
    caches: dict[str, int]
    check_seed: int
    weights: str = "hot"
    sets: int = 1
    launch: str = "eager"
    tile: str = ""
    head_only: bool = False
    count_nodes: bool = False
    kind: Literal["gate"] = "gate"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerRequest(Request[GateAnswer | Unavailable]):
    """Ask to build a whole model, check it layer by layer, warm up and calibrate.

    cell, loops, min_sample_ns, threads, check_seed, count_nodes: as of a GateRequest. seed: draws the weights
    and the tokens. checkpoint: the file or folder of the weights, empty for drawn ones.
    """

    answers: ClassVar = (GateAnswer, Unavailable)
    cell: str
    transformer: Transformer
    seed: int
    loops: int
    min_sample_ns: int
    threads: int
    check_seed: int
    count_nodes: bool = False
    checkpoint: str = ""
    kind: Literal["transformer"] = "transformer"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest(Request[SampleAnswer | WrongOutput]):
    """Ask for one sample of a prepared cell. turn: of its slices. expected_ns: about one pass over one.

    check: whether to poison the output before and to judge behind it what the timed passes left.
    """

    answers: ClassVar = (SampleAnswer, WrongOutput)
    cell: str
    loops: int
    turn: int
    expected_ns: float
    check: bool = False
    kind: Literal["sample"] = "sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRequest(Request[PublishedAnswer]):
    """Ask to check a kernel of the ladder against its definition and to take one cold sample of it."""

    answers: ClassVar = (PublishedAnswer,)
    kernel: str
    problem: Problem
    loops: int
    unwritten: bool
    kind: Literal["published"] = "published"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRequest(Request[MemoryAnswer]):
    """Ask how much memory the process has held at most."""

    answers: ClassVar = (MemoryAnswer,)
    kind: Literal["memory"] = "memory"


AnyRequest = GateRequest | TransformerRequest | SampleRequest | PublishedRequest | MemoryRequest

# ---- lines --------------------------------------------------------------------------------------

# JSON has no infinity, which an error that is not finite needs.
_STRICT = ConfigDict(extra="forbid", strict=True, ser_json_inf_nan="constants")
_REQUESTS: TypeAdapter[tuple[int, AnyRequest]] = TypeAdapter(
    tuple[int, Annotated[AnyRequest, Field(discriminator="kind")]], config=_STRICT
)
_ANSWERS: TypeAdapter[tuple[int, Answer]] = TypeAdapter(
    tuple[int, Annotated[Answer, Field(discriminator="kind")]], config=_STRICT
)
_Message = TypeVar("_Message", AnyRequest, Answer)


class ForeignLineError(ValueError):
    """Say what is the matter with a line that is no message of this protocol."""


def _decode(adapter: TypeAdapter[tuple[int, _Message]], text: bytes) -> tuple[int, _Message]:
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ForeignLineError(
            f"no message of version {VERSION}{f', at {place}' if place else ''}: {first['msg']}"
        ) from None


def encode_request(serial: int, request: AnyRequest) -> bytes:
    """Return a request and its number as a line."""
    return _REQUESTS.dump_json((serial, request), warnings="error") + b"\n"


def decode_request(text: bytes) -> tuple[int, AnyRequest]:
    """Return the number and the request of a line. Raises ForeignLineError."""
    return _decode(_REQUESTS, text)


def encode_answer(serial: int, answer: Answer) -> bytes:
    """Return an answer and its request's number, 0 for what a process says first, as a line.

    Raises ValueError where a value is not of its field's type.
    """
    return _ANSWERS.dump_json((serial, answer), warnings="error") + b"\n"


def decode_answer(text: bytes) -> tuple[int, Answer]:
    """Return the number and the answer of a line. Raises ForeignLineError."""
    return _decode(_ANSWERS, text)
