"""Own the head of a run's report: what it was measured on and with, and what was wrong with that."""

from __future__ import annotations

from harness.analysis import stability
from harness.analysis.analysis import Analysis
from harness.records import blas_kernels, variables
from harness.records.schema import MachineRecord, ProviderRecord, RunHead
from harness.report.caches import cache_lines
from harness.report.formats import format_caches
from harness.report.gpu import device_lines


def format_machine(machine: MachineRecord) -> str:
    """Return a machine in one line."""
    m = machine
    caches = format_caches(m.caches)
    where = f", virtual machine ({m.virtual_machine})" if m.virtual_machine else ""
    return (
        f"{m.processor} ({m.microarchitecture}), {m.cores} cores, {caches}, "
        f"{m.memory_bytes / 2**30:.0f} GiB{where}; {m.system}"
    )


def format_provider(record: ProviderRecord) -> str:
    """Return a provider in one line: what was really loaded."""
    batched = [r for r in record.routines if r.endswith("_batch")]
    facts = [
        record.version or "version unknown",
        f"kernels {record.architecture or 'unknown'}",
        f"{record.threads or 'unknown'} thread{'s' if record.threads != 1 else ''}",
        f"batched routines: {', '.join(batched)}" if batched else "no batched routines",
        record.path,
    ]
    return f"{record.name}: {'; '.join(facts)}"


def first_providers(analysis: Analysis) -> list[ProviderRecord]:
    """Return each provider as the first process recorded it."""
    return list({p.name: p for p in reversed(analysis.providers)}.values())[::-1]


def format_narrow_kernels(analysis: Analysis) -> list[str]:
    """Return a line a provider whose recorded kernels use narrower vectors than the recorded processor."""
    isa, lines = analysis.head.machine.isa, []
    for provider in first_providers(analysis):
        if not blas_kernels.is_narrower(provider.architecture, isa):
            continue
        what = (
            f"{provider.name} chose {provider.architecture} kernels on a processor with "
            f"{blas_kernels.of_processor(isa)}"
        )
        if blas_kernels.is_veiled(provider.architecture):
            lines.append(f"{what}; MKL may hold faster paths behind that name: see its sgemm rate")
        else:
            lines.append(f"**{what}: its FF may be slow, and speedups over it too large**")
    return lines


def format_other_threads(analysis: Analysis) -> list[str]:
    """Return a line a provider that ran on other threads than the run asked for, in any of its processes."""
    asked = analysis.head.sweep.threads
    told = {(p.name, p.threads): None for p in analysis.providers if p.threads not in (0, asked)}
    return [
        f"**{name} ran on {blas_kernels.format_threads(threads, asked)}: the speedups over it are not of "
        "equal shares of the machine**"
        for name, threads in told
    ]


def format_variables(analysis: Analysis) -> list[str]:
    """Return what of the caller's environment the measuring processes did not get, and what they did."""
    head = analysis.head
    machine, kept = head.machine, head.sweep.keep_blas_env
    families = variables.find_foreign(machine.environment)
    # On a device no process records its own variables: those of the sweep tell.
    reached = {n: machine.environment[n] for n, f in families.items() if kept or f.fate == "kept"}
    for provider in analysis.providers:
        reached |= provider.variables
    dropped = {*machine.dropped, *(name for p in analysis.providers for name in p.dropped)}
    lines = []
    if dropped:
        lines.append(
            f"Taken out of the measuring processes' environment: {', '.join(sorted(dropped))}"
        )
    if foreign := variables.format_foreign(reached):
        lines.append(f"**The environment reached the measuring processes: {foreign}**")
    return lines


def _format_isa(head: RunHead) -> str:
    """Return the instruction set of our own kernels, and that it was forced where it was."""
    forced = head.sweep.isa
    return f"{forced} (forced)" if forced else head.machine.build.get("isa", "unknown")


def head_lines(analysis: Analysis) -> list[str]:
    """Return the lines above all tables: the machine, the providers, and what is wrong with the run."""
    sweep, machine = analysis.head.sweep, analysis.head.machine
    quick = " (QUICK: small batch, few samples; not for quoting)" if sweep.quick else ""
    where = sweep.device.upper()
    what = "Speedups of conditional over dense feedforward layers"
    if sweep.architecture is not None:
        what = "Whole models with conditional feedforward layers"
    lines = [f"# {what}, {where}{quick}", ""]
    lines += [f"- Machine: {format_machine(machine)}", *device_lines(machine.device)]
    lines += cache_lines(analysis)
    lines += [f"- BLAS {format_provider(p)}" for p in first_providers(analysis)]
    lines += [f"- {text}" for text in format_variables(analysis)]
    lines += [
        f"- {text}" for text in [*format_narrow_kernels(analysis), *format_other_threads(analysis)]
    ]
    lines += [
        f"- **Serious for measuring, when the run began: {f.found}**"
        for f in machine.findings
        if f.severity == "serious"
        and not f.id.startswith(("blas-", "forced-"))  # those stand above
    ]
    lines.append(
        f"- {', '.join(sweep.axes['dtype'])}, {sweep.threads} thread{'s' if sweep.threads != 1 else ''}, "
        f"seed {sweep.seed}; started {analysis.head.started_utc}; fff-harness {machine.harness_version}, "
        f"{machine.commit}; {_format_isa(analysis.head)} kernels, "
        f"{machine.build.get('compiler', 'unknown compiler')}"
    )
    if sweep.order == "blocked":
        lines.append(
            "- Order: blocked. Each process takes all samples of one cell, then those of the next: a drift "
            "of the machine enters the ratios, and blocks pair samples by their number alone."
        )
    if analysis.end is None:
        lines.append("- **The run did not end: it was killed, or is still going.**")
    elif analysis.end.reason != "complete":
        lines.append(f"- The run ended early ({analysis.end.reason}); what was finished is shown.")
    lines += [
        f"- Taken up again at {r.resumed_utc} from block {r.block} on, in fresh processes."
        for r in analysis.resumes
    ]
    lines += [f"- **Record damaged**: {w}" for w in analysis.warnings]
    moved = analysis.clock_change
    if moved > stability.MAX_CLOCK_CHANGE:
        lines.append(
            f"- **UNSTABLE: the processor's clock moved by {100 * moved:.0f} % between blocks** "
            "(a loop in registers alone changed its time by that)."
        )
    if sweep.threads > 1:
        lines.append(
            "- Threads of BLAS are the provider's own: products large enough are split (level 3, the gemv of "
            "the FF); dots, axpys and the FFF's one-row products run on one thread. Of our own "
            "kernels ff_cpu_fused and fff_cpu_grouped share their work among as many, fff_cpu_fused "
            "runs on one."
        )
    return lines
