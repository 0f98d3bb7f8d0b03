"""Own the head of a run's report: what it was measured on and with, and what was wrong with that."""

from __future__ import annotations

from harness.analysis import points as analysis_points
from harness.analysis import stability
from harness.records import blas_kernels
from harness.records.blas_kernels import FORCING
from harness.records.reader import Run
from harness.records.schema import ProviderRecord
from harness.report.formats import format_bytes
from harness.report.gpu import device_lines


def format_machine(run: Run) -> str:
    """Return the machine in one line."""
    m = run.head.machine
    caches = ", ".join(f"{name} {format_bytes(size)}" for name, size in m.caches.items())
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


def _first_providers(run: Run) -> list[ProviderRecord]:
    return list({p.name: p for p in reversed(run.providers)}.values())[::-1]


def format_narrow_kernels(run: Run) -> list[str]:
    """Return a line a provider whose recorded kernels use narrower vectors than the recorded processor."""
    isa, lines = run.head.machine.isa, []
    for provider in _first_providers(run):
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


def _format_isa(run: Run) -> str:
    """Return the instruction set of our own kernels, and that it was forced where it was."""
    forced = run.head.sweep.isa
    return f"{forced} (forced)" if forced else run.head.machine.build["isa"]


def head_lines(run: Run) -> list[str]:
    """Return the lines above all tables: the machine, the providers, and what is wrong with the run."""
    sweep, machine = run.head.sweep, run.head.machine
    quick = " (QUICK: small batch, few samples; not for quoting)" if sweep.quick else ""
    where = sweep.device.upper()
    lines = [f"# Speedups of conditional over dense feedforward layers, {where}{quick}", ""]
    lines += [f"- Machine: {format_machine(run)}", *device_lines(run)]
    lines += [f"- BLAS {format_provider(p)}" for p in _first_providers(run)]
    dropped = sorted({d for p in run.providers for d in p.dropped})
    if dropped:
        lines.append(f"- Taken out of the measuring processes' environment: {', '.join(dropped)}")
    forced = sorted({f"{k}={v}" for p in run.providers for k, v in p.variables.items()
                     if k in FORCING})  # fmt: skip
    if forced:
        lines.append(f"- **The BLAS kernel was forced by the environment: {', '.join(forced)}**")
    lines += [f"- {text}" for text in format_narrow_kernels(run)]
    lines += [
        f"- **Serious for measuring, when the run began: {f.found}**"
        for f in machine.findings
        if f.severity == "serious" and not f.id.startswith("blas-")  # those stand above
    ]
    lines.append(
        f"- {', '.join(sweep.axes['dtype'])}, {sweep.threads} thread{'s' if sweep.threads != 1 else ''}, "
        f"seed {sweep.seed}; started {run.head.started_utc}; fff-harness {machine.harness_version}, "
        f"{machine.commit}; {_format_isa(run)} kernels, {machine.build['compiler']}"
    )
    if sweep.order == "blocked":
        lines.append(
            "- Order: blocked. Each process takes all samples of one cell, then those of the next: a drift "
            "of the machine enters the ratios, and blocks pair samples by their number alone."
        )
    if run.end is None:
        lines.append("- **The run did not end: it was killed, or is still going.**")
    elif run.end.reason != "complete":
        lines.append(f"- The run ended early ({run.end.reason}); what was finished is shown.")
    lines += [
        f"- Taken up again at {r.resumed_utc} from block {r.block} on, in fresh processes."
        for r in run.resumes
    ]
    lines += [f"- **Record damaged**: {w}" for w in run.warnings]
    moved = analysis_points.clock_change(run)
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
