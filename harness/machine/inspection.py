"""Own what a judgement works on: the machine's record and what its measuring processes loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.records.facts import Finding, Severity
from harness.records.schema import MachineRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedProvider:
    """Hold what a measuring process says of itself and of its BLAS.

    name: of the BLAS, or of the plugin that the process serves. asked_for: the measurement uses it; otherwise
    it is only there. reason: why it can't be used, else empty. has_blas: a process of a plugin has none.
    threads: that the BLAS runs on, 0 where it is not told. pools: (file, threads) of every thread pool in
    that process. cpus_allowed: processors that it may run on with all loaded, 0 where it is not told.
    huge_page_share: of a buffer like the operands, None where it is not told.
    """

    name: str
    asked_for: bool
    reason: str = ""
    has_blas: bool = True
    path: str = ""
    version: str = ""
    architecture: str = ""
    threads: int = 0
    pools: Sequence[tuple[str, int]] = ()
    flush_to_zero: Sequence[str] = ()
    cpus_allowed: int = 0
    huge_page_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Hold all that is judged.

    keep_blas_env: whether the measuring processes keep variables that force a kernel; None where no
    sweep is asked for yet, so that either may come. overridden: what they set instead of the caller's value.
    """

    machine: MachineRecord
    providers: Sequence[LoadedProvider] = ()
    threads: int = 1
    keep_blas_env: bool | None = None
    overridden: Mapping[str, str] = field(default_factory=dict)


Check = Callable[[Inspection], list[Finding]]


def one(id: str, severity: Severity, found: str, why: str, remedy: str = "") -> list[Finding]:
    """Return a list of one finding: what most checks come to."""
    return [Finding(id=id, severity=severity, found=found, why=why, remedy=remedy)]
