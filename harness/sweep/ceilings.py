"""Own the ceilings: what each one computes, its truth, its counts of work, and the sets that it runs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.backends.registry import Implementation
from harness.machine.facts import Machine
from harness.problem import ceilings
from harness.problem.ceilings import CEILINGS, MEMORY, Ceiling
from harness.problem.problem import Problem
from harness.sweep.cell import Cell, make_cell
from harness.sweep.spec import SweepSpec

MAX_SET_BYTES = 256 << 20
_BEYOND_CACHE = 4  # a set this many times the last cache leaves next to nothing of itself in it
_SHARE_OF_CACHE = 2  # half a cache: the rest is for the stack, the output, and what else runs
_MIN_TRAFFIC_BYTES = 4 << 20  # of one pass: small sets are walked many times within it
_MAX_WALKS = 256
_FMA_WIDTH, _FMA_STEPS, _FMA_BATCH = 768, 1024, 32  # 50 MFLOP, no lane wasted
_ROW_LANES = 128  # eight sums of the widest vector: a row of whole such groups has no tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Place one ceiling: the kernel, the part of the memory that its set fits, and the problem."""

    implementation: str
    place: str
    problem: Problem


def choose_sets(
    caches: Mapping[str, int], available: int, last_level_caches: int = 1
) -> tuple[dict[str, int], list[str]]:
    """Return the bytes of the working set for each place, and what the caller should be told.

    Half of each cache; for the memory four times the last cache, but no more than 256 MiB or, where that is
    less than twice the last cache, than twice that. No set has more than an eighth of available bytes; one
    for memory that is not twice the last cache would not measure it, and is left out.
    last_level_caches: how many of the last level the threads reach; together they count as the last cache.
    """
    notices = []
    capacities = ceilings.find_capacities(caches)
    capacities[list(capacities)[-1]] *= last_level_caches
    if not caches:
        sizes = ", ".join(f"{k} {v >> 10} KiB" for k, v in capacities.items())
        notices.append(f"the system tells no cache sizes; the ceilings assume {sizes}")
    last = max(capacities.values())
    most = min(max(MAX_SET_BYTES, 2 * last), available // 8)
    sets = {place: size // _SHARE_OF_CACHE for place, size in capacities.items()}
    sets = {place: size for place, size in sets.items() if size <= most}
    memory = min(_BEYOND_CACHE * last, most)
    if memory < 2 * last:
        notices.append(
            f"no ceiling of the memory: {most >> 20} MiB at most are taken, an eighth of what is available, "
            f"and the last cache has {last >> 20} MiB"
        )
        return sets, notices
    if memory < _BEYOND_CACHE * last:
        notices.append(
            f"the ceilings of the memory run on {memory >> 20} MiB, {memory / last:.1f} times the last "
            "cache: part of their traffic comes from the cache"
        )
    return {**sets, MEMORY: memory}, notices


def _walks(set_bytes: int) -> int:
    return int(np.clip(_MIN_TRAFFIC_BYTES // set_bytes, 1, _MAX_WALKS))


def stream(ceiling: Ceiling, place: str, size: int, row: int, seed: int) -> Extent:
    """Place a stream of `size` bytes in rows of `row` elements."""
    d_in, d_out = row if ceiling.reads else 1, row if ceiling.writes else 1
    rows = max(1, size // (4 * row * (2 if d_in == d_out else 1)))
    problem = Problem(
        layer="ceiling", batch=rows, d_in=d_in, d_out=d_out, hidden=_walks(size), seed=seed
    )
    return Extent(implementation=ceiling.id, place=place, problem=problem)


def _gathers(sets: Mapping[str, int], width: int, seed: int) -> list[Extent]:
    """Place the gather on tables of rows of `width`: powers of two within a cache, beyond it in memory."""
    found = []
    for place, size in sets.items():
        rows = 1 << max(0, (size // (4 * width)).bit_length() - 1)
        if place == MEMORY and 8 * rows * width <= max(MAX_SET_BYTES, 3 * size // 2):
            rows *= 2  # rounded up: half of the set could lie in the cache
        # A few rows of a cache would be no scattered order; the first level can't hold a layer.
        if place != "L1" and rows >= 8:
            problem = Problem(
                layer="ceiling", batch=rows, d_in=width, d_out=1,
                hidden=_walks(4 * rows * width), seed=seed,
            )  # fmt: skip
            found.append(Extent(implementation="ceiling_gather", place=place, problem=problem))
    return found


def place_all(sets: Mapping[str, int], widths: list[int], seed: int) -> list[Extent]:
    """Return the ceilings of the processor and its memory, largest set first.

    Largest first, since the inputs of the smaller sets are the head of the larger one's. Rows of streams
    are a quarter of the first cache: long enough that the call does not count, short enough that a source
    and a target of one row are half of it.
    """
    fma = Problem(
        layer="ceiling", batch=_FMA_BATCH, d_in=_FMA_WIDTH, d_out=_FMA_WIDTH, hidden=_FMA_STEPS,
        seed=seed,
    )  # fmt: skip
    found = [Extent(implementation="ceiling_fma", place="", problem=fma)]
    if not sets:
        return found
    ordered = dict(sorted(sets.items(), key=lambda item: -item[1]))
    row = max(_ROW_LANES, min(ordered.values()) // 8 // _ROW_LANES * _ROW_LANES)
    for ceiling in CEILINGS.values():
        places = {"every": set(ordered), "memory": {MEMORY}, "": set[str]()}[ceiling.places]
        found += [
            stream(ceiling, place, size, row, seed)
            for place, size in ordered.items()
            if place in places
        ]
    for width in widths:
        found += _gathers(ordered, width, seed)
    return found


def spread(extents: list[Extent], caches: Mapping[str, int], threads: int) -> list[Extent]:
    """Return extents for several threads: registers and caches of a core's own get a set for each of them.

    The gather's tables stay a power of two of rows.
    """
    before, now = ceilings.find_capacities(caches), ceilings.find_capacities(caches, threads)

    def spread_one(extent: Extent) -> Extent:
        place = extent.place
        if place == MEMORY or (place and now[place] == before[place]):
            return extent
        power = 1 << (threads.bit_length() - 1)
        times = power if extent.implementation == "ceiling_gather" else threads
        larger = replace(extent.problem, batch=times * extent.problem.batch)
        return replace(extent, problem=larger)

    return [spread_one(extent) for extent in extents]


_CEILING_EXTENT = 2048
# Tokens, d_in and repetitions of the loops of bfloat16 products; d_in is what one instruction multiplies.
_BFLOAT16_UNITS = {"bfdot": (2, 4096), "amx": (32, 1024)}


def place_bfloat16(seed: int) -> list[Extent]:
    """Return the loops of bfloat16 products in registers, of whole blocks."""
    found = []
    for name, (d_in, steps) in _BFLOAT16_UNITS.items():
        problem = Problem(
            layer="ceiling", batch=_FMA_BATCH, d_in=d_in, d_out=_FMA_WIDTH, hidden=steps,
            dtype="bfloat16", seed=seed,
        )  # fmt: skip
        found.append(Extent(implementation=f"ceiling_{name}", place="", problem=problem))
    return found


def ceiling_cells(
    spec: SweepSpec, chosen: Sequence[Implementation], machine: Machine
) -> tuple[list[Cell], list[str]]:
    """Return the cells of the ceilings, and what the caller should be told.

    A product per provider, the loops of our own in the first one's process, and where bfloat16 is asked for
    its loops and product, on processors without such instructions too: a run then records why they are not.
    """
    extent = _CEILING_EXTENT
    problem = Problem(
        layer="ceiling", batch=extent, d_in=extent, d_out=extent, hidden=extent, seed=spec.seed
    )
    cells = [
        make_cell(implementation, problem, "", provider)
        for implementation in chosen
        if implementation.layer == "ceiling" and implementation.needs_provider
        for provider in spec.blas
    ]
    own = {i.id: i for i in chosen if i.layer == "ceiling" and not i.needs_provider}
    reached = min(spec.threads, machine.last_level_caches)
    sets, notices = choose_sets(machine.caches, machine.available_bytes, reached)
    notices = notices if own else []
    placed = place_all(sets, list(spec.widths), spec.seed)
    if "bfloat16" in spec.axes["dtype"]:
        placed += place_bfloat16(spec.seed)
        if product := own.get("ceiling_torch_matmul"):
            cells.append(make_cell(product, replace(problem, dtype="bfloat16"), "", spec.blas[0]))
    for extent_of in spread(placed, machine.caches, spec.threads):
        if implementation := own.get(extent_of.implementation):
            cells.append(
                make_cell(
                    implementation, extent_of.problem, "", spec.blas[0], place=extent_of.place
                )
            )
    return list({cell.id: cell for cell in cells}.values()), notices
