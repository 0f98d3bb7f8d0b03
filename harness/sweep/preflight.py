"""Own what a sweep looks at before it measures: providers, the machine, the run that is taken up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.backends import blas
from harness.errors import UnavailableError, UsageError
from harness.machine import cache_walk, doctor
from harness.machine import environment as machine_environment
from harness.machine import record as machine_record
from harness.machine.facts import Machine
from harness.machine.inspection import Inspection, LoadedProvider
from harness.measure.process import MeasuringProcess, ProcessError
from harness.measure.process_key import ProcessKey
from harness.measure.protocol import Hello
from harness.records.reader import Run
from harness.records.schema import MachineRecord
from harness.sweep import gpu as sweep_gpu
from harness.sweep import resume
from harness.sweep.processes import Processes
from harness.sweep.spec import SweepSpec

# ---- inspecting ---------------------------------------------------------------------------------


def describe_provider(key: ProcessKey, hello: Hello, *, asked_for: bool) -> LoadedProvider:
    """Return what a measuring process of a key said when it started."""
    process = LoadedProvider(
        name=Path(key.plugin).name or "harness", asked_for=asked_for, has_blas=False,
        pools=[(pool.filepath, pool.num_threads or 0) for pool in hello.pools],
        flush_to_zero=hello.flush_to_zero, cpus_allowed=hello.cpus_allowed,
        huge_page_share=hello.huge_page_share,
    )  # fmt: skip
    facts = hello.provider
    if key.plugin or facts is None:  # the BLAS of a plugin's process is judged in its own
        return process
    return replace(
        process, name=facts.name, has_blas=True, path=facts.path, version=facts.version,
        architecture=facts.architecture, threads=facts.threads,
    )  # fmt: skip


def _ask(name: str, *, asked_for: bool, threads: int, keep_blas_env: bool) -> LoadedProvider:
    """Load a provider in a process of its own, as a sweep would, and return what it says."""
    key = ProcessKey(provider=name)
    try:
        process = MeasuringProcess(key, threads=threads, keep_blas_env=keep_blas_env)
    except (UsageError, ProcessError) as error:
        if asked_for and isinstance(error, UsageError):
            raise
        reason = str(error).removeprefix("--blas: ")
        return LoadedProvider(name=name, asked_for=asked_for, reason=reason)
    process.close()
    return describe_provider(key, process.hello, asked_for=asked_for)


def inspect(
    names: Sequence[str], machine: Machine, *, threads: int, keep_blas_env: bool | None
) -> Inspection:
    """Look at a machine and its providers; without `names`, at every known one that it does not lack.

    Raises UsageError where a provider of `names` can't be used.
    """
    asked = list(names) or [blas.DEFAULT]
    here = [name for name in blas.names() if name not in machine.missing_providers]
    providers = [
        _ask(name, asked_for=name in asked, threads=threads, keep_blas_env=bool(keep_blas_env))
        for name in (asked if names else here)
    ]
    return Inspection(
        machine=machine_record.make_record(machine), providers=providers, threads=threads,
        keep_blas_env=keep_blas_env, overridden=machine_environment.overridden_variables(threads),
    )  # fmt: skip


def examine_sweep(
    record: MachineRecord,
    hellos: Mapping[ProcessKey, Hello],
    *,
    threads: int,
    keep_blas_env: bool,
) -> MachineRecord:
    """Return the machine record of a sweep with the findings in it; hellos: of its processes."""
    providers = [describe_provider(key, hello, asked_for=True) for key, hello in hellos.items()]
    seen = Inspection(
        machine=record, providers=providers, threads=threads, keep_blas_env=keep_blas_env,
        overridden=machine_environment.overridden_variables(threads),
    )  # fmt: skip
    _, dropped = machine_environment.worker_environment(threads, keep_blas_env=keep_blas_env)
    return record.model_copy(update={"findings": doctor.judge(seen), "dropped": dropped})


def check_resumed(spec: SweepSpec, machine: Machine, processes: Processes, resumed: Run) -> None:
    """Refuse to mix what another machine, code or provider measured into a run."""
    now = machine_record.make_record(machine)
    device = sweep_gpu.find(spec.device, machine)
    resume.check_machine(resumed, now.model_copy(update={"device": device}))
    for process in processes.running.values():
        record = processes.describe(process)
        if record is not None:
            resume.check_provider(resumed, record)


def walk_caches(
    machine: Machine, *, threads: int, isa: str = "", keep_blas_env: bool = False
) -> tuple[Machine, list[str]]:
    """Return a machine with the caches that a core really gets, and what the caller should be told."""
    try:
        walk = cache_walk.take(machine, threads=threads, isa=isa, keep_blas_env=keep_blas_env)
    except UnavailableError as error:
        return machine, [f"cache sizes are taken as the system tells them: {error}"]
    return machine.with_walk(walk), []


def examine(spec: SweepSpec, machine: Machine, processes: Processes) -> MachineRecord:
    """Return the machine record with what is wrong for measuring; refuse what is serious, if so asked."""
    examined = examine_sweep(
        machine_record.make_record(machine), {key: p.hello for key, p in processes.running.items()},
        threads=spec.threads, keep_blas_env=spec.keep_blas_env,
    )  # fmt: skip
    if spec.strict:
        doctor.refuse_serious(examined.findings)
    return examined.model_copy(update={"device": sweep_gpu.find(spec.device, machine)})
