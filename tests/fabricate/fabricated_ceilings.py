"""Make runs of chosen ceilings and cells, whose rates and shares are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.analysis import ceilings as analysis_ceilings
from harness.problem.models import BASELINE, parse_models
from harness.records import reader, schema, writer
from harness.sweep.spec import SweepSpec

KIB, MIB = 1 << 10, 1 << 20


def make_spec(**changes: Any) -> SweepSpec:
    """Return a small sweep."""
    spec = SweepSpec(
        levels=[1], device="cpu", models=parse_models("ff-8"), batches=[4], widths=[16],
        only=[], skip=[], blas=["scipy"], threads=1, seed=0, passes=1, budget_s=1.0, processes=1,
        quick=True, keep_blas_env=False, out=None,
    )  # fmt: skip
    return dataclasses.replace(spec, **changes)


CACHES = {"L1d": 32 * KIB, "L2": MIB, "L3": 32 * MIB}


LIMITS = analysis_ceilings.Ceilings(
    flops=100.0,
    bandwidth={"L1": 200.0, "L2": 100.0, "L3": 50.0, "memory": 10.0},
    capacity={"L1": 32 * KIB, "L2": MIB, "L3": 32 * MIB},
)


def cell_record(cell: str, **changes: Any) -> schema.CellRecord:
    """Return the record of a cell that passed its gate, the baseline at level 1 unless told otherwise."""
    facts: dict[str, Any] = {
        "cell": cell, "role": "layer", "implementation": "ff_l1_blas", "layer": "ff", "level": 1,
        "model": BASELINE, "provider": "scipy", "threads": 1, "batch": 64, "d_in": 768,
        "d_out": 768, "hidden": 4095, "depth": 0, "trees": 0, "dtype": "float32", "data": "random",
        "seed": 0, "flops": 2 * 64 * 4095 * 1536, "bytes_moved": 0, "process": 0, "status": "ok",
        "reason": "", "loops": 1, "gate_ns": 1, "checked_tokens": 64, "near_ties": 0,
        "worst_error": 0.0, "nodes_touched": 0, "notes": {},
    }  # fmt: skip
    return schema.CellRecord(**{**facts, **changes})


def fff_record(cell: str, **changes: Any) -> schema.CellRecord:
    """Return the record of UltraFastBERT-1x11 at level 1."""
    facts = {
        "implementation": "fff_l1_blas", "layer": "fff", "model": "ultrafastbert-1x11", "hidden": 0,
        "depth": 11, "trees": 1, "flops": 2 * 64 * 12 * 1536, "nodes_touched": 382,
    }  # fmt: skip
    return cell_record(cell, **{**facts, **changes})


def ceiling_records() -> list[tuple[schema.CellRecord, float]]:
    """Return ceilings with the rates of LIMITS, and the time of a pass of each."""
    sizes = {"batch": 1, "d_in": 1, "d_out": 1, "hidden": 1, "model": "", "level": None}
    found = [
        (
            cell_record(
                "fma", role="ceiling", layer="ceiling", implementation="ceiling_fma", provider="",
                flops=10**8, **sizes,
            ),
            1e6,
        )
    ]  # fmt: skip
    for place, rate in LIMITS.bandwidth.items():
        record = cell_record(
            f"read/{place}", role="ceiling", layer="ceiling", implementation="ceiling_read",
            provider="", flops=0, bytes_moved=10**8, notes={"place": place}, **sizes,
        )  # fmt: skip
        found.append((record, 1e8 / rate))
    return found


def make_run(
    folder: Path,
    cells: list[tuple[schema.CellRecord, float]],
    blocks: int = 4,
    lacking: Sequence[schema.CellRecord] = (),
) -> reader.Run:
    """Write a run of the given cells and times of a pass in ns, equal in every block, and read it.

    lacking: cells that were not sampled.
    """
    machine = schema.MachineRecord(
        host="h", system="s", processor="p", microarchitecture="m", isa=[], cores=2, caches=CACHES,
        memory_bytes=1 << 34, virtual_machine="", python="3", packages={},
        build={"isa": "avx2", "compiler": "gcc", "flags": ""}, harness_version="0", commit="c",
        environment={},
    )  # fmt: skip
    head = schema.RunHead(
        schema_version=schema.SCHEMA_VERSION, started_utc="2026-01-01T00:00:00+00:00",
        machine=machine, sweep=make_spec().record(),
    )  # fmt: skip
    made = writer.Writer(folder, head)
    for record in (*(record for record, _ in cells), *lacking):
        made.append(record)
    for block in range(blocks):
        for order, (record, pass_ns) in enumerate(cells):
            made.append(
                schema.SampleRecord(
                    cell=record.cell, process=0, block=block, order=order, started_ns=0, loops=1,
                    elapsed_ns=int(pass_ns), switches=0, faults=0, steal_ticks=0,
                )
            )  # fmt: skip
    made.close()
    return reader.load_run(folder)


def two_threads(
    cells: list[tuple[schema.CellRecord, float]], **notes: str
) -> list[tuple[schema.CellRecord, float]]:
    """Return the cells as a run with two threads records them; notes: of ceilings of our own."""
    return [
        (
            record.model_copy(
                update={
                    "threads": 2,
                    "notes": {**record.notes, **(notes if record.role == "ceiling" else {})},
                }
            ),
            time,
        )
        for record, time in cells
    ]


FF_FLOOR_NS = 2 * 64 * 4095 * 1536 / 100.0


STREAM_NS = 64 * 4095 * 1536 * 4 / 45.0  # all weights for each token, at 45 of L3's 50 GB/s
