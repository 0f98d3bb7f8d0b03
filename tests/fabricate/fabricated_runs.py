"""Make run folders out of chosen times, noise and drift, without measuring anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from harness.problem import axes
from harness.problem.axes import DEFAULTS, Conditions
from harness.problem.models import parse_model
from harness.records.facts import DeviceFacts
from harness.records.reader import Run
from harness.records.schema import (
    SCHEMA_VERSION,
    BlocksRecord,
    CellRecord,
    EndRecord,
    MachineRecord,
    ProviderRecord,
    RunHead,
    SampleRecord,
    SweepRecord,
)
from harness.records.writer import Writer

# Pass times in ns of a machine like those that the design page tells of, scaled down.
TIMES = {
    "ff_l1_blas/bert-base-4095": 8e8, "ff_l2_blas/bert-base-4095": 7e8,
    "ff_l3_blas/bert-base-4095": 1e8, "ff_l3_blas/bert-base-3072": 0.75e8,
    "fff_l1_blas/ultrafastbert-1x11": 4e6, "fff_l2_blas/ultrafastbert-1x11": 5e6,
}  # fmt: skip
DEVICE = DeviceFacts(name="Fake 1", capability="8.6", l2_bytes=1 << 20)
CEILING = "ceiling_sgemm/b2048/w2048/scipy"
TWIN_OF = "ff_l3_blas/bert-base-4095"


def make_machine(**changes: object) -> MachineRecord:
    """Return a machine record with some fields of its own."""
    values: dict[str, object] = {
        "host": "bench", "system": "Linux 6.1 x86_64", "processor": "Example 9000",
        "microarchitecture": "zen5", "isa": ["avx2"], "cores": 2, "caches": {"L1d": 32768},
        "memory_bytes": 8 << 30, "virtual_machine": "", "python": "3.12.0",
        "packages": {"numpy": "2.1.0"}, "build": {"isa": "avx2", "compiler": "gcc 14"},
        "harness_version": "0.1.0", "commit": "0123456789", "environment": {},
    }  # fmt: skip
    return MachineRecord.model_validate(values | changes)


def make_provider(process: int, **changes: object) -> ProviderRecord:
    """Return a provider record with some fields of its own."""
    values: dict[str, object] = {
        "process": process, "name": "scipy", "path": "/lib/libopenblas.so", "version": "OpenBLAS 0.3",
        "architecture": "Zen", "threads": 1, "threading_layer": "", "int_bits": 32,
        "routines": ["sgemm"], "pools": [], "variables": {}, "dropped": [],
    }  # fmt: skip
    return ProviderRecord.model_validate(values | changes)


def make_cell(cell: str, *, role: str = "layer", batch: int = 64, width: int = 32,
              threads: int = 1, status: str = "ok", provider: str = "scipy",
              conditions: Conditions = DEFAULTS) -> CellRecord:  # fmt: skip
    """Return the record of a layer's cell, the ceiling or the twin."""
    implementation, _, model = cell.removesuffix("/again").partition("/")
    model = model.split("/")[0] if role != "ceiling" else ""
    shape = {"layer": "ceiling", "hidden": 2048, "depth": 0, "trees": 0}
    if model:
        problem = parse_model(model).problem(batch=batch, width=width, seed=0)
        shape = {k: getattr(problem, k) for k in shape}
    level = 3 if provider else None
    if "_l" in implementation[:6]:
        level = int(implementation.split("_l")[1][0])
    return CellRecord.model_validate({
        "cell": cell, "role": role, "implementation": implementation, "level": level,
        "model": model, "provider": provider, "threads": threads, "batch": batch, "d_in": width,
        "d_out": width, "conditions": conditions, "seed": 0, "flops": 1000,
        "bytes_moved": 1000, "process": 0, "status": status, "reason": "", "loops": 1,
        "gate_ns": 1000, "checked_tokens": 64, "near_ties": 0, "worst_error": 0.1,
        "nodes_touched": 0, "notes": {}, **shape,
    })  # fmt: skip


@dataclass(kw_only=True)
class Fake:
    """Describe a run to make up. All times are multiplied by `drift(done)`, done from 0 to 1;
    noise is that of one sample. conditions: those that every layer is measured under; under each further one
    it takes half as long again. more_batches: beside `batch`. times: of the layers. twin_of: the layer that
    the A/A pair repeats. provider: empty on a device.
    """

    noise: float = 0.01
    process_noise: float = 0.003
    processes: int = 3
    blocks: int = 4  # a process
    seed: int = 0
    factors: dict[str, float] = field(default_factory=dict)  # by the start of a cell's id
    drift: Callable[[float], float] = lambda done: 1.0
    machine: dict[str, object] = field(default_factory=dict)
    batch: int = 64
    width: int = 32
    threads: int = 1
    quick: bool = False
    ceiling: bool = True
    wrong: tuple[str, ...] = ()
    end: str | None = "complete"
    conditions: tuple[Conditions, ...] = (DEFAULTS,)
    more_batches: tuple[int, ...] = ()
    device: str = "cpu"
    provider: str = "scipy"
    times: Mapping[str, float] = field(default_factory=lambda: TIMES)
    twin_of: str = TWIN_OF
    more_twins_of: tuple[str, ...] = ()
    started: str = "2026-01-02T03:04:05+00:00"

    def cells(self) -> list[CellRecord]:
        """Return the cells, the ceiling and the A/A twin among them."""
        places = [(b, how) for b in (self.batch, *self.more_batches) for how in self.conditions]
        found = [cell for batch, how in places for cell in self._layers(batch, how)]
        if self.ceiling:
            found.append(make_cell(CEILING, role="ceiling", batch=2048, width=2048))
        return found

    def _layers(self, batch: int, conditions: Conditions) -> list[CellRecord]:
        at = {"batch": batch, "width": self.width, "threads": self.threads,
              "provider": self.provider, "conditions": conditions}  # fmt: skip
        parts = [f"b{batch}", f"w{self.width}", self.provider, *axes.suffix(conditions)]
        place = "/".join(filter(None, parts))
        layers = [
            make_cell(f"{name}/{place}", status="wrong" if name in self.wrong else "ok", **at)
            for name in self.times
        ]
        twins = [f"{name}/{place}/again" for name in (self.twin_of, *self.more_twins_of)]
        return [*layers, *(make_cell(twin, role="aa", **at) for twin in twins)]

    def time(self, cell: CellRecord) -> float:
        """Return a cell's pass time before noise and drift."""
        base = self.times.get(f"{cell.implementation}/{cell.model}", 7e7)
        base *= 1.5 ** self.conditions.index(cell.conditions) if cell.role != "ceiling" else 1.0
        for start, factor in self.factors.items():
            if cell.cell.startswith(start):
                base *= factor
        return base

    def head(self) -> RunHead:
        """Return the head of the run."""
        values = {
            name: list(dict.fromkeys(getattr(how, name) for how in self.conditions))
            for name in axes.COLUMNS
        }
        sweep = SweepRecord(
            levels=[1, 2, 3], device=self.device,
            models=["bert-base-4095", "bert-base-3072", "ultrafastbert-1x11"],
            batches=[self.batch, *self.more_batches], widths=[self.width], only=[], skip=[],
            blas=[self.provider] if self.provider else [], threads=self.threads, seed=0, passes=0,
            budget_s=100.0, processes=self.processes, quick=self.quick, keep_blas_env=False,
            axes=values,
        )  # fmt: skip
        return RunHead(
            schema_version=SCHEMA_VERSION, started_utc=self.started,
            machine=make_machine(**self.machine), sweep=sweep,
        )  # fmt: skip

    def samples(self) -> list[SampleRecord]:
        """Return the samples of all processes."""
        rng = np.random.default_rng(self.seed)
        live = [c for c in self.cells() if c.status == "ok"]
        found: list[SampleRecord] = []
        for process in range(self.processes):
            layout = {c.cell: rng.normal(0, self.process_noise) for c in live}
            for block in range(process * self.blocks, (process + 1) * self.blocks):
                for place in rng.permutation(len(live)):
                    c, order = live[place], len(found)
                    disturbed = layout[c.cell] + rng.normal(0, self.noise)
                    slow = self.drift(order / (len(live) * self.blocks * self.processes))
                    found.append(SampleRecord.model_construct(
                        kind="sample", cell=c.cell, process=process, block=block, order=order,
                        started_ns=order * 10**9, loops=1,
                        elapsed_ns=int(self.time(c) * slow * np.exp(disturbed)), switches=0,
                        faults=0, steal_ticks=0,
                    ))  # fmt: skip
        return found

    def providers(self) -> list[ProviderRecord]:
        """Return the provider as each process loaded it."""
        if not self.provider:
            return []
        return [make_provider(p, threads=self.threads) for p in range(self.processes)]

    def write(self, folder: Path) -> Path:
        """Write the run and return its folder."""
        writer = Writer(folder, self.head())
        total = self.processes * self.blocks
        samples = self.samples()
        for record in self.cells():
            writer.append(record)
        for process in range(self.processes):
            for provider in self.providers()[process : process + 1]:
                writer.append(provider)
            writer.append(BlocksRecord(process=process, blocks=self.blocks, total=total))
            for sample in samples:
                if sample.process == process:
                    writer.append(sample)
        if self.end:
            writer.append(EndRecord.model_validate({
                "ended_utc": "2026-01-02T03:06:05+00:00", "reason": self.end, "elapsed_s": 100.0,
                "peak_resident_bytes": 1 << 20,
            }))  # fmt: skip
        writer.close()
        return folder

    def run(self) -> Run:
        """Return the run as if it had been written and read, without the disk."""
        cells = pd.DataFrame([c.model_dump() for c in self.cells()])
        frame = pd.DataFrame([vars(s) for s in self.samples()]).drop(columns="kind")
        of_cell = ["cell", "role", "implementation", "level", "model", "provider", "batch", "d_in",
                   "slices"]  # fmt: skip
        frame = frame.merge(cells[of_cell], on="cell", how="left")
        frame["pass_ns"] = frame["elapsed_ns"] / frame["loops"]
        return Run(
            samples=frame, cells=cells, head=self.head(),
            providers=self.providers(), end=None, folder=Path("fake"), warnings=[], blocks=[],
            resumes=[],
        )  # fmt: skip
