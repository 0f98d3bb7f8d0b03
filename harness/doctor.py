"""Own the preflight: a machine is inspected and judged before it is measured on; nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from harness import blas, judge_blas, judge_processor, judge_system, machine
from harness.errors import UsageError
from harness.facts import SEVERITIES, Finding
from harness.inspection import Inspection, LoadedProvider
from harness.process import MeasuringProcess, ProcessDiedError
from harness.records import SCHEMA_VERSION, MachineRecord

_CHECKS = (*judge_blas.CHECKS, *judge_processor.CHECKS, *judge_system.CHECKS)
_STYLES = {"serious": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}


def judge(seen: Inspection) -> list[Finding]:
    """Return the findings of all checks, the serious ones first."""
    found = [finding for check in _CHECKS for finding in check(seen)]
    return sorted(found, key=lambda f: SEVERITIES.index(f.severity))


def serious(findings: Sequence[Finding]) -> list[Finding]:
    """Return the serious findings."""
    return [f for f in findings if f.severity == "serious"]


# ---- inspecting ---------------------------------------------------------------------------------


def describe_provider(hello: Mapping[str, Any], *, asked_for: bool) -> LoadedProvider:
    """Return what a measuring process said of its BLAS when it started."""
    facts = hello["provider"]
    return LoadedProvider(
        name=facts["name"], asked_for=asked_for, path=facts["path"], version=facts["version"],
        architecture=facts["architecture"], flush_to_zero=hello["flush_to_zero"],
        pools=[(pool["filepath"], pool["num_threads"]) for pool in hello["pools"]],
    )  # fmt: skip


def _ask(name: str, *, asked_for: bool, threads: int, keep_blas_env: bool) -> LoadedProvider:
    """Load a provider in a process of its own, as a sweep would, and return what it says."""
    try:
        process = MeasuringProcess(name, threads=threads, keep_blas_env=keep_blas_env)
    except (UsageError, ProcessDiedError) as error:
        if asked_for and isinstance(error, UsageError):
            raise
        reason = str(error).removeprefix("--blas: ")
        return LoadedProvider(name=name, asked_for=asked_for, reason=reason)
    process.close()
    return describe_provider(process.hello, asked_for=asked_for)


def inspect(names: Sequence[str], *, threads: int, keep_blas_env: bool | None) -> Inspection:
    """Look at this machine and its providers; without `names`, at every provider that is here.

    Raises UsageError where a provider of `names` can't be used.
    """
    asked = list(names) or [blas.DEFAULT]
    here = [name for name, _, reason in blas.listing() if not reason]
    providers = [
        _ask(name, asked_for=name in asked, threads=threads, keep_blas_env=bool(keep_blas_env))
        for name in (asked if names else here)
    ]
    return Inspection(
        machine=machine.make_record(), providers=providers, threads=threads,
        keep_blas_env=keep_blas_env, overridden=machine.overridden_variables(threads),
    )  # fmt: skip


def examine_sweep(
    record: MachineRecord, hellos: Sequence[Mapping[str, Any]], *, threads: int, keep_blas_env: bool
) -> MachineRecord:
    """Return the machine record of a sweep with the findings in it; `hellos` are of its processes."""
    providers = [describe_provider(h, asked_for=True) for h in hellos if h["provider"] is not None]
    seen = Inspection(
        machine=record, providers=providers, threads=threads, keep_blas_env=keep_blas_env,
        overridden=machine.overridden_variables(threads),
    )  # fmt: skip
    return record.model_copy(update={"findings": judge(seen)})


def refuse_serious(findings: Sequence[Finding]) -> None:
    """Raise UsageError where something is serious, naming it in one line."""
    found = serious(findings)
    if found:
        named = "; ".join(f"{f.id}: {f.found}" for f in found)
        raise UsageError(f"--strict: not measured, {len(found)} serious: {named}")


# ---- showing ------------------------------------------------------------------------------------


def make_tables(findings: Sequence[Finding]) -> list[Table]:
    """Return one table a severity, the serious ones first."""
    tables = []
    for severity in SEVERITIES:
        rows = [f for f in findings if f.severity == severity]
        if not rows:
            continue
        table = Table(
            title=f"{severity} ({len(rows)})", title_style=_STYLES[severity], title_justify="left",
            show_lines=severity != "ok",
        )  # fmt: skip
        shown = ("id", "found") if severity == "ok" else ("id", "found", "why", "what to do")
        for name in shown:
            table.add_column(name, overflow="fold", no_wrap=name == "id")
        for f in rows:
            cells = (f.id, f.found, f.why, f.remedy or "–")
            table.add_row(*cells[: len(shown)])
        tables.append(table)
    return tables


def print_report(findings: Sequence[Finding], console: Console) -> None:
    """Print the findings and what they come to."""
    for table in make_tables(findings):
        console.print(table, markup=False)
    count = len(serious(findings))
    verdict = f"{count} serious: `sweep --strict` refuses" if count else "nothing serious"
    console.print(f"{verdict}. Nothing was changed.", markup=False, highlight=False)


def format_json(seen: Inspection, findings: Sequence[Finding]) -> str:
    """Return facts, providers and findings as JSON."""
    record = seen.machine.model_copy(update={"findings": list(findings)})
    return json.dumps(
        {
            "schema_version": SCHEMA_VERSION,
            "serious": len(serious(findings)),
            "machine": record.model_dump(),
            "providers": [asdict(p) for p in seen.providers],
        },
        indent=1,
    )
