"""Own what a sweep looks at before it measures: providers, the machine, the run that is taken up."""

from __future__ import annotations

from collections.abc import Sequence

from harness.backends import blas
from harness.errors import UsageError
from harness.machine import doctor
from harness.machine import environment as machine_environment
from harness.machine import record as machine_record
from harness.machine.inspection import Inspection, LoadedProvider
from harness.measure.process import MeasuringProcess, ProcessError
from harness.measure.process_key import ProcessKey
from harness.measure.protocol import Hello
from harness.records.facts import ProviderFacts
from harness.records.reader import Run
from harness.records.schema import MachineRecord
from harness.sweep import gpu as sweep_gpu
from harness.sweep import resume
from harness.sweep.processes import Processes
from harness.sweep.spec import SweepSpec

# ---- inspecting ---------------------------------------------------------------------------------


def describe_provider(facts: ProviderFacts, hello: Hello, *, asked_for: bool) -> LoadedProvider:
    """Return what a measuring process said of its BLAS when it started."""
    return LoadedProvider(
        name=facts.name, asked_for=asked_for, path=facts.path, version=facts.version,
        architecture=facts.architecture, flush_to_zero=hello.flush_to_zero,
        pools=[(pool.filepath, pool.num_threads or 0) for pool in hello.pools],
    )  # fmt: skip


def _ask(name: str, *, asked_for: bool, threads: int, keep_blas_env: bool) -> LoadedProvider:
    """Load a provider in a process of its own, as a sweep would, and return what it says."""
    try:
        process = MeasuringProcess(
            ProcessKey(provider=name), threads=threads, keep_blas_env=keep_blas_env
        )
    except (UsageError, ProcessError) as error:
        if asked_for and isinstance(error, UsageError):
            raise
        reason = str(error).removeprefix("--blas: ")
        return LoadedProvider(name=name, asked_for=asked_for, reason=reason)
    process.close()
    assert process.hello.provider is not None  # its key names one
    return describe_provider(process.hello.provider, process.hello, asked_for=asked_for)


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
        machine=machine_record.make_record(), providers=providers, threads=threads,
        keep_blas_env=keep_blas_env, overridden=machine_environment.overridden_variables(threads),
    )  # fmt: skip


def examine_sweep(
    record: MachineRecord, hellos: Sequence[Hello], *, threads: int, keep_blas_env: bool
) -> MachineRecord:
    """Return the machine record of a sweep with the findings in it; `hellos` are of its processes."""
    providers = [describe_provider(h.provider, h, asked_for=True) for h in hellos if h.provider]
    seen = Inspection(
        machine=record, providers=providers, threads=threads, keep_blas_env=keep_blas_env,
        overridden=machine_environment.overridden_variables(threads),
    )  # fmt: skip
    return record.model_copy(update={"findings": doctor.judge(seen)})


def check_resumed(spec: SweepSpec, processes: Processes, resumed: Run) -> None:
    """Refuse to mix what another machine, code or provider measured into a run."""
    now = machine_record.make_record()
    device = sweep_gpu.find(spec.device)
    resume.check_machine(resumed, now.model_copy(update={"device": device}))
    for process in processes.running.values():
        record = processes.describe(process)
        if record is not None:
            resume.check_provider(resumed, record)


def examine(spec: SweepSpec, processes: Processes) -> MachineRecord:
    """Return the machine record with what is wrong for measuring; refuse what is serious, if so asked."""
    examined = examine_sweep(
        machine_record.make_record(), [p.hello for p in processes.running.values()],
        threads=spec.threads, keep_blas_env=spec.keep_blas_env,
    )  # fmt: skip
    if spec.strict:
        doctor.refuse_serious(examined.findings)
    return examined.model_copy(update={"device": sweep_gpu.find(spec.device)})
