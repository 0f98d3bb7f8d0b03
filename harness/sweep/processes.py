"""Own the measuring processes of a sweep: started, asked, replaced where one died, ended."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field

from harness.machine.facts import Machine
from harness.measure.process import MeasuringProcess
from harness.measure.process_key import ProcessKey
from harness.records.schema import ProviderRecord
from harness.sweep.cell import Cell
from harness.sweep.journal import Journal
from harness.sweep.spec import SweepSpec

_PATIENCE = 50  # a request may take this many times its prediction, and at least _PATIENCE_S
_PATIENCE_S, _QUICK_PATIENCE_S = 30.0, 20.0
_DRAWN_PER_S = 50e6  # bytes of operands and workspace that a slow machine writes in a second


def patience_s(spec: SweepSpec, cell: Cell, predicted_s: float) -> float:
    """Return how long a request may take: a hang must end while its user still waits."""
    if spec.timeout_s:
        return spec.timeout_s
    p = cell.problem
    drawn = p.weight_bytes() + p.item_bytes * p.batch * (p.d_in + p.d_out) + cell.workspace_bytes
    least = _QUICK_PATIENCE_S if spec.quick else _PATIENCE_S
    return max(least, _PATIENCE * predicted_s) + drawn / _DRAWN_PER_S


@dataclass(slots=True, kw_only=True)
class Processes:
    """Hold the measuring processes that run now.

    machine: that they run on, as the plan was made for it. peak_bytes: the most resident memory that a set
    of them and the sweep itself have held.
    """

    journal: Journal
    machine: Machine
    running: dict[ProcessKey, MeasuringProcess] = field(default_factory=dict)
    peak_bytes: int = 0

    def start(self, key: ProcessKey) -> MeasuringProcess:
        """Start a process. Raises UsageError or ProcessError as MeasuringProcess does."""
        spec = self.journal.spec
        process = MeasuringProcess(
            key, threads=spec.threads, keep_blas_env=spec.keep_blas_env, device=spec.device
        )
        self.running[key] = process
        return process

    def describe(self, process: MeasuringProcess) -> ProviderRecord | None:
        """Return the record of the provider that a process loaded, None where it loaded none."""
        hello = process.hello
        if hello.provider is None:
            return None
        facts = hello.provider
        return ProviderRecord(
            process=self.journal.process, name=facts.name, path=facts.path, version=facts.version,
            architecture=facts.architecture, threads=facts.threads,
            threading_layer=facts.threading_layer, int_bits=facts.int_bits,
            routines=facts.routines, pools=[pool.told() for pool in hello.pools],
            cpus_allowed=hello.cpus_allowed, huge_page_share=hello.huge_page_share,
            variables=hello.variables, dropped=process.dropped,
        )  # fmt: skip

    def record(self, process: MeasuringProcess) -> None:
        """Write down the provider that a process loaded."""
        record = self.describe(process)
        if record is not None:
            self.journal.append(record)

    def serving(self, key: ProcessKey) -> MeasuringProcess:
        """Return the running process of a key, a fresh one where it died."""
        process = self.running.get(key)
        if process is None or not process.alive():
            if process is not None:
                process.kill()  # dead already: this releases what is held of it
            process = self.start(key)
            self.record(process)
        return process

    def stop(self) -> None:
        """Let all processes end, after a last look at the memory that they held."""
        alive = [p for p in self.running.values() if p.alive()]
        now = sum(p.peak_resident_bytes() for p in alive)
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.peak_bytes = max(self.peak_bytes, now + own)
        for process in self.running.values():
            if process.alive():
                process.close()
            else:
                process.kill()
        self.running.clear()

    def kill(self) -> None:
        """End all processes at once."""
        for process in self.running.values():
            process.kill()
        self.running.clear()
