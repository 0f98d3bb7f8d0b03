"""Own the implementations: what one is, and the only table of those that are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.backends import timer
from harness.errors import UnknownNameError
from harness.problem.axes import DEVICES
from harness.problem.operands import Operands
from harness.problem.problem import DTYPES, Layer, Problem
from harness.records.facts import ProviderFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Hold what an implementation is prepared with beside its operands.

    provider: a loaded BLAS provider (``blas.Provider``), or None where none is needed.
    isa: name of the instruction set of our own vector code; empty for the fastest that the processor has.
    threads: that code of our own may use, the calling one included. caches: bytes of L1d, L2 and L3 as one
    core sees them, where the system tells. far_weights: the weights come from memory when a pass begins, not
    from a cache, as far as the caller knows.
    device: where the pass runs, one of the implementation's devices. On "cuda" the operands are torch
    tensors there, and so is the workspace.
    workspace: returns an aligned, touched byte array of at least the size asked for.
    tile: which of an implementation's own ways to cut its work another process of the run chose, as its
    note `tile` said; empty where it is free to choose.
    team: returns as many threads as `threads` says that passes share, one at a time (`native.make_team`);
    None where each pass starts its own.
    timer: makes the `time` of passes that are Python calls. Several passes are taken in turn: one for each
    set of weights. On "cuda" it times with events on the stream that is current when a pass is called, so a
    pass launches there, does not wait, and has compiled what it needs before.
    """

    provider: Any
    workspace: Callable[[int], Any]
    isa: str = ""
    threads: int = 1
    caches: Mapping[str, int] = field(default_factory=dict)
    device: str = "cpu"
    tile: str = ""
    timer: Callable[..., timer.TimePasses] = timer.make_python_timer
    team: Callable[[], Any] | None = None
    far_weights: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Hold a prepared pass over fixed operands.

    forward: one pass. time: runs n passes and returns their wall time in ns as one interval.
    On "cuda" it is one that the context's `timer` made: no implementation brings a clock of its own.
    notes: what the record should say of this preparation. sets: how many sets of weights `time` takes in
    turn, one a pass; an implementation that can rotate sets it to `1 + len(operands.rotation)`.
    """

    forward: Callable[[], None]
    time: Callable[[int], int]
    notes: dict[str, str] = field(default_factory=dict)
    sets: int = 1


# A pass over torch tensors x, w_in, w_out and y that come with each call.
TensorPass = Callable[[Any, Any, Any, Any], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Describe a package that brings a BLAS and thread pools of its own.

    What is built on it is measured in processes of their own, so that its pools stand beside no provider's.

    load: imports it and returns what a run records of it, as of a provider. resident_bytes and
    start_s: what a measuring process takes more with it, for the prediction.
    """

    name: str
    load: Callable[[], ProviderFacts]
    resident_bytes: int = 0
    start_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """Describe one way of computing a layer.

    level: the BLAS level it is restricted to, None where it is not built on BLAS.
    devices: where it can run; the context says where it is prepared for.
    prepare: does all untimed work for operands that stay where they are.
    tensor_pass: makes a pass over contiguous torch tensors of the problem's shapes and dtype, on the
    context's device, that come with each call, one call at a time; it keeps nothing that it reads from
    them. None where an implementation knows passes over fixed operands alone.
    by_address: its tensor_pass reads where its tensors lie and not their shapes: x and y need not be flat.
    workspace_bytes: what prepare will ask of the context's workspace.
    unavailable: returns the reason why it can't run on this machine, or an empty string.
    allocates_bytes: what its passes allocate beside it, for the prediction of memory.
    cuda_workspace_bytes, cuda_allocates_bytes: the same on "cuda", where they are others.
    library: the package that it is built on, where that brings thread pools of its own.
    costly_prepare: it compiles for every shape, for seconds: the tests take few shapes of it.
    capturable: on "cuda", whether its passes can be captured as a CUDA graph; they then run from one too.
    tf32: on "cuda", whether its float32 products run as TF32 on tensor cores where `Problem.math` says so.
    dtypes: what it takes its arrays in (problem.DTYPES).
    token_block: tokens that are computed together and apart from all others, so that a pass over the batch
    is one over its parts of whole blocks; 0 where the whole batch is one piece of work.
    """

    id: str
    layer: Layer
    level: int | None
    devices: tuple[str, ...]
    summary: str
    prepare: Callable[[Problem, Operands, Context], Prepared]
    workspace_bytes: Callable[[Problem], int]
    needs_provider: bool = False
    tensor_pass: Callable[[Problem, Context], TensorPass] | None = None
    by_address: bool = False
    dtypes: tuple[str, ...] = ("float32",)
    token_block: int = 0
    allocates_bytes: Callable[[Problem], int] = lambda problem: 0
    cuda_workspace_bytes: Callable[[Problem], int] | None = None
    cuda_allocates_bytes: Callable[[Problem], int] | None = None
    library: Library | None = None
    costly_prepare: bool = False
    capturable: bool = True
    tf32: bool = False
    unavailable: Callable[[], str] = lambda: ""

    def __post_init__(self) -> None:
        """Refuse an id that does not begin with its layer, and unknown devices and dtypes."""
        if unknown := sorted({*self.devices} - {*DEVICES}):
            raise ValueError(f"devices must be of {', '.join(DEVICES)}, got {', '.join(unknown)}")
        if not self.id.startswith(f"{self.layer}_"):
            raise ValueError(f"id must begin with its layer: '{self.layer}_...', got {self.id!r}")
        if not self.dtypes or set(self.dtypes) - set(DTYPES):
            raise ValueError(f"dtypes must be one or more of {DTYPES}, got {self.dtypes}")

    def memory_bytes(self, problem: Problem, device: str) -> tuple[int, int]:
        """Return the bytes of its workspace on a device, and of what its passes allocate beside it there."""
        given, allocated = self.workspace_bytes, self.allocates_bytes
        if device == "cuda":
            given = self.cuda_workspace_bytes or given
            allocated = self.cuda_allocates_bytes or allocated
        return given(problem), allocated(problem)


_known: dict[str, Implementation] = {}


def register(implementation: Implementation) -> Implementation:
    """Add an implementation. Raises ValueError where its id is taken."""
    if implementation.id in _known:
        raise ValueError(f"implementation {implementation.id!r} is registered already")
    _known[implementation.id] = implementation
    return implementation


def _load() -> None:
    # Imported on first use: each of them imports this module, and registers what it has.
    from harness.backends import (  # noqa: F401
        c_kernels,
        cuda_kernels,
        torch_ceilings,
        torch_compiled,
        torch_experts,
        torch_layers,
        torch_leaf,
        triton_layers,
    )


def get(implementation_id: str) -> Implementation:
    """Return an implementation by id. Raises UnknownNameError listing the known ones."""
    _load()
    if implementation_id not in _known:
        raise UnknownNameError("implementation", implementation_id, known=list(_known))
    return _known[implementation_id]


def all() -> list[Implementation]:
    """Return every implementation, ceilings included, in the order of registration."""
    _load()
    return list(_known.values())


def library(name: str) -> Library:
    """Return a library that implementations are built on. Raises UnknownNameError listing the known ones."""
    known = {i.library.name: i.library for i in all() if i.library is not None}
    if name not in known:
        raise UnknownNameError("library", name, known=list(known))
    return known[name]


def layers() -> list[Implementation]:
    """Return the implementations of FF and FFF, without the ceilings."""
    return [i for i in all() if i.layer != "ceiling"]
