"""Own the commands that look at this machine: `doctor`, `list`, `include-dir`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness import plugin
from harness.backends import blas, registry
from harness.backends.registry import Implementation
from harness.cli import options
from harness.cli.exit_status import ExitStatus
from harness.cli.streams import print_notice
from harness.errors import UsageError
from harness.gpu import probe
from harness.machine import doctor, facts
from harness.machine.inspection import Inspection
from harness.measure.process import MeasuringProcess, ProcessError
from harness.measure.process_key import ProcessKey
from harness.records.facts import SEVERITIES, Finding
from harness.records.schema import SCHEMA_VERSION
from harness.report.formats import NONE
from harness.sweep import preflight


def doctor_command(
    blas_names: Annotated[
        list[str] | None,
        typer.Option("--blas", help="BLAS provider that will be measured. [default: all here]"),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads that will be measured with.")] = 1,
    keep_blas_env: Annotated[
        bool, typer.Option("--keep-blas-env", help="Judge a sweep that is run with this option.")
    ] = False,
    walk: Annotated[
        bool,
        typer.Option(
            "--walk",
            help="See what a core gets of the caches, by reading working sets for at most 5 s.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print facts, providers and findings as JSON.")
    ] = False,
) -> ExitStatus:
    """Say what is wrong for measuring here and what to do about it; nothing is changed.

    Exit status 1 stands for something that is serious.
    """
    options.require_positive("--threads", threads)
    names = list(dict.fromkeys(options.split_patterns(blas_names)))
    missing = {} if names else blas.find_missing(blas.names())
    here = facts.read_machine(device="cpu", missing_providers=missing)
    if walk:
        here, notices = preflight.walk_caches(here, threads=threads, keep_blas_env=keep_blas_env)
        for notice in notices:
            print_notice(notice)
    seen = preflight.inspect(names, here, threads=threads, keep_blas_env=keep_blas_env or None)
    findings = doctor.judge(seen)
    if as_json:
        print(format_json(seen, findings))
    else:
        print_report(findings, Console(width=None if sys.stdout.isatty() else 140))
    return ExitStatus.BAD if doctor.serious(findings) else ExitStatus.CLEAN


def _describe(provider: str) -> tuple[str, str]:
    """Return what a provider says of itself in a process of its own, or why it is unavailable."""
    try:
        process = MeasuringProcess(ProcessKey(provider=provider), threads=1, keep_blas_env=False)
    except (UsageError, ProcessError) as error:
        return "", str(error).removeprefix("--blas: ")
    loaded = process.hello.provider
    process.close()
    assert loaded is not None  # its key names one
    parts = (loaded.version, loaded.architecture, f"{loaded.int_bits}-bit", loaded.path)
    return ", ".join(p for p in parts if p), ""


def _availability(implementation: Implementation) -> str:
    """Return `yes`, or why an implementation can't run, on each of its devices where they differ."""
    reasons = {d: implementation.unavailable() or probe.why_not(d) for d in implementation.devices}
    if len(set(reasons.values())) == 1:
        return next(iter(reasons.values())) or "yes"
    return "; ".join(f"{device}: {reason or 'yes'}" for device, reason in reasons.items())


def list_command(plugins: options.Plugins = None) -> ExitStatus:
    """Show the implementations and BLAS providers, with the reason where one is unavailable."""
    plugin.load_all(plugins or [])
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("implementation", "layer", "level", "device", "what it is", "available")
    for i in registry.all():
        level = str(i.level) if i.level else NONE
        table.add_row(i.id, i.layer, level, ", ".join(i.devices), i.summary, _availability(i))
    # Without markup: `fff-harness[torch]` names an extra, and a plugin's summary may hold brackets.
    console.print(table, markup=False)
    providers = Table("BLAS provider", "available", "what it is, or why not")
    missing = blas.find_missing(blas.names())
    for name in blas.names():
        text, why = ("", missing[name]) if name in missing else _describe(name)
        providers.add_row(name, "no" if why else "yes", why or text)
    console.print(providers, markup=False)
    return ExitStatus.CLEAN


def include_dir_command() -> ExitStatus:
    """Print the folder of ffk.h, for compiling a kernel of your own."""
    print(plugin.include_dir())
    return ExitStatus.CLEAN


_STYLES = {"serious": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}


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
            cells = (f.id, f.found, f.why, f.remedy or NONE)
            table.add_row(*cells[: len(shown)])
        tables.append(table)
    return tables


def print_report(findings: Sequence[Finding], console: Console) -> None:
    """Print the findings and what they come to."""
    for table in make_tables(findings):
        console.print(table, markup=False)
    count = len(doctor.serious(findings))
    verdict = f"{count} serious: `sweep --strict` refuses" if count else "nothing serious"
    console.print(f"{verdict}. Nothing was changed.", markup=False, highlight=False)


def format_json(seen: Inspection, findings: Sequence[Finding]) -> str:
    """Return facts, providers and findings as JSON."""
    record = seen.machine.model_copy(update={"findings": list(findings)})
    return json.dumps(
        {
            "schema_version": SCHEMA_VERSION,
            "serious": len(doctor.serious(findings)),
            "machine": record.model_dump(),
            "providers": [asdict(p) for p in seen.providers],
        },
        indent=1,
    )
