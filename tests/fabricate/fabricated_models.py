"""Make run folders of whole models out of chosen times of their parts, without measuring anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
from fabricated_runs import Fake

from harness.measure.process_key import ProcessKey
from harness.problem.architecture import Architecture
from harness.problem.transformer import DENSE, LEFT_OUT, Transformer
from harness.records.schema import (
    BlocksRecord,
    CellRecord,
    EndRecord,
    ProviderRecord,
    RunHead,
    SampleRecord,
)
from harness.records.writer import Writer
from harness.sweep.transformer import make_cell

TINY = Architecture(
    name="tiny", kind="bert", layers=2, width=32, hidden=128, heads=2, vocabulary=50, positions=64
)
DECODER = replace(TINY, name="tiny-decoder", kind="gpt2")
PUBLISHED = replace(TINY, name="tiny-published", kind="ultrafastbert")
FFF = "ultrafastbert-1x3"
_NOT_FF = {"qkv": 3e6, "scores": 2e6, "projection": 1e6, "norms": 5e5, "head": 0.0, "rest": 5e5}
# The FF takes 65 % of a pass, so that the limit is 20 / 7.
TIMES: dict[str, dict[str, float]] = {
    DENSE: {**_NOT_FF, "ff": 13e6}, LEFT_OUT: {**_NOT_FF, "ff": 0.0}, FFF: {**_NOT_FF, "ff": 1e6},
}  # fmt: skip


_STEP_NOT_FF = {"forward": 3e6, "backward": 6e6, "update": 1e6}
# The FF takes 60 % of a step, and the FFF's update is as long as the FF's.
STEP_TIMES: dict[str, dict[str, float]] = {
    DENSE: {**_STEP_NOT_FF, "ff": 4e6, "ff_backward": 9e6, "ff_update": 2e6},
    LEFT_OUT: {**_STEP_NOT_FF, "ff": 0.0, "ff_backward": 0.0, "ff_update": 0.0},
    FFF: {**_STEP_NOT_FF, "ff": 5e5, "ff_backward": 5e5, "ff_update": 2e6},
}  # fmt: skip


@dataclass(kw_only=True)
class FakeModels:
    """Describe a run to make up.

    times: of each part in ns, by what stands as the FF. untimed: how many times the sum of its parts a pass
    without timers takes. timers: how many times longer passes with them take. noise: of one sample. lost:
    what failed its gate. training: whether passes are steps. compiled: the ways that are measured; compiled
    passes take half as long, and none is in parts. slower: by form and part, how many times longer it takes.
    """

    times: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: TIMES)
    untimed: Mapping[str, float] = field(default_factory=dict)
    timers: float = 1.0
    noise: float = 0.01
    processes: int = 3
    blocks: int = 4
    architecture: Architecture = TINY
    shapes: tuple[tuple[int, int], ...] = ((2, 8),)
    lost: tuple[str, ...] = ()
    training: bool = False
    compiled: tuple[bool, ...] = (False,)
    checkpoint: str = ""
    slower: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def head(self) -> RunHead:
        """Return the head of the run."""
        head = Fake(processes=self.processes, provider="").head()
        batches = [cell.batch for cell in self.cells()]
        sweep = head.sweep.model_copy(
            update={
                "architecture": self.architecture, "levels": [], "batches": batches,
                "widths": [self.architecture.width],
                "shapes": [f"{sequences}x{tokens}" for sequences, tokens in self.shapes],
                "models": [ff for ff in self.times if ff not in (DENSE, LEFT_OUT)],
            }
        )  # fmt: skip
        return head.model_copy(update={"sweep": sweep})

    def cells(self) -> list[CellRecord]:
        """Return the cells: of each form the model, its twin where it is as it is, and its parts."""
        found = []
        for sequences, tokens in self.shapes:
            for ff, in_parts, compiled in product(self.times, (False, True), self.compiled):
                whole = Transformer(
                    architecture=self.architecture, sequences=sequences, tokens=tokens, ff=ff,
                    in_parts=in_parts, training=self.training, compiled=compiled,
                    checkpoint=self.checkpoint,
                )  # fmt: skip
                if not (compiled and in_parts):
                    found += self._records(whole)
        return found

    def _records(self, whole: Transformer) -> list[CellRecord]:
        cell = make_cell(whole, 0)
        assert cell.runs_in == ProcessKey(library="torch")
        p, lost = cell.problem, whole.ff in self.lost
        flops, moved = cell.work()
        record = CellRecord(
            cell=cell.id, role=cell.role, implementation=cell.implementation, layer=p.layer,
            level=None, model=cell.model, provider="", threads=1, batch=p.batch, d_in=p.d_in,
            d_out=p.d_out, hidden=p.hidden, depth=p.depth, trees=p.trees, seed=0, flops=flops,
            bytes_moved=moved, process=0, status="wrong" if lost else "ok",
            reason="layer 1: it is made up" if lost else "", loops=2, gate_ns=1, checked_tokens=16,
            near_ties=0, worst_error=0.1, nodes_touched=0, transformer=whole,
            notes={"computed_by": "fff_cpu_auto"} if p.layer == "fff" else {},
        )  # fmt: skip
        twin = record.model_copy(update={"cell": f"{cell.id}/again", "role": "aa"})
        return [record, *([twin] if whole.ff == DENSE and not whole.in_parts else [])]

    def sample(self, cell: CellRecord, process: int, block: int, order: int) -> SampleRecord:
        """Return a sample of two passes, each part of which has a noise of its own."""
        assert cell.transformer is not None
        whole, in_parts = cell.transformer, cell.transformer.in_parts
        parts = {
            p: ns * self.slower.get((whole.ff, p), 1.0) for p, ns in self.times[whole.ff].items()
        }
        times = self.timers if in_parts else self.untimed.get(whole.ff, 1.0)
        times /= 2 if whole.compiled else 1
        noise = np.exp(np.random.default_rng(order).normal(0, self.noise, len(whole.parts)))
        spent = {p: int(2 * parts[p] * times * n) for p, n in zip(whole.parts, noise, strict=True)}
        return SampleRecord(
            cell=cell.cell, process=process, block=block, order=order, started_ns=order * 10**9,
            loops=2, elapsed_ns=sum(spent.values()), switches=0, faults=0, steal_ticks=0,
            parts_ns=spent if in_parts else {},
        )  # fmt: skip

    def write(self, folder: Path) -> Path:
        """Write the run and return its folder."""
        writer, order = Writer(folder, self.head()), 0
        cells = self.cells()
        for record in cells:
            writer.append(record)
        for process in range(self.processes):
            writer.append(_provider(process))
            writer.append(
                BlocksRecord(
                    process=process, blocks=self.blocks, total=self.processes * self.blocks
                )
            )
            for block in range(process * self.blocks, (process + 1) * self.blocks):
                for cell in cells:
                    if cell.status == "ok":
                        writer.append(self.sample(cell, process, block, order))
                        order += 1
        writer.append(
            EndRecord(
                ended_utc="2026-01-02T03:06:05+00:00", reason="complete", elapsed_s=100.0,
                peak_resident_bytes=1 << 20,
            )
        )  # fmt: skip
        writer.close()
        return folder


def _provider(process: int) -> ProviderRecord:
    made = Fake().providers()[0]
    return made.model_copy(update={"process": process, "name": "torch"})


def without(times: Mapping[str, Mapping[str, float]], ff: str) -> dict[str, Mapping[str, float]]:
    """Return the times of all forms but one."""
    return {name: parts for name, parts in times.items() if name != ff}
