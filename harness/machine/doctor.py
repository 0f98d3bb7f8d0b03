"""Own the preflight: a machine is inspected and judged before it is measured on; nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import UnfitMachineError
from harness.machine import doctor_blas, doctor_processor, doctor_system
from harness.machine.inspection import Inspection
from harness.records.facts import SEVERITIES, Finding

_CHECKS = (*doctor_blas.CHECKS, *doctor_processor.CHECKS, *doctor_system.CHECKS)


def judge(seen: Inspection) -> list[Finding]:
    """Return the findings of all checks, the serious ones first."""
    found = [finding for check in _CHECKS for finding in check(seen)]
    return sorted(found, key=lambda f: SEVERITIES.index(f.severity))


def serious(findings: Sequence[Finding]) -> list[Finding]:
    """Return the serious findings."""
    return [f for f in findings if f.severity == "serious"]


def refuse_serious(findings: Sequence[Finding]) -> None:
    """Raise UnfitMachineError where something is serious, naming it in one line."""
    found = serious(findings)
    if found:
        named = "; ".join(f"{f.id}: {f.found}" for f in found)
        raise UnfitMachineError(f"--strict: not measured, {len(found)} serious: {named}")
