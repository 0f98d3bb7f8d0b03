"""Own what a run says of the ladder: the speedup at each step, and the factor that leads to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis import stats
from harness.analysis.fastest import find_fastest
from harness.analysis.index import RunIndex
from harness.analysis.samples import BlockTimes
from harness.analysis.stats import Ratio
from harness.paper.ladder import FFF_MODEL, LEVELS, STEPS, Source, Step
from harness.problem.models import BASELINE
from harness.records.schema import CellRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """Hold one step at one level: the two cells, their speedup, and the step's factor.

    reason says why there is no figure. same: the step changed neither cell, so the factor is exactly 1.
    """

    step: Step
    level: int
    ff: str
    fff: str
    speedup: Ratio | None
    factor: Ratio | None
    same: bool
    reason: str


Climbs = dict[int, list[Rung]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Hold what a run says of the ladder.

    climbs: the rungs of each level. own_fff: the fastest FFF that is not built on BLAS, empty where there is
    none. erfc_cost, erfc_batch: how much longer the level-1 FF takes with a scalar erfc per neuron, and at
    which batch. passes: by layer, of each cell of the published protocol the passes behind one of its means.
    """

    climbs: Climbs
    own_fff: str
    erfc_cost: Ratio | None
    erfc_batch: int
    passes: dict[str, list[int]]


# ---- cells --------------------------------------------------------------------------------------


def _published_id(run: RunIndex, source: Source, model: str) -> str:
    """Return a published cell's id at the run's batch, empty where the run has none that is right."""
    batch = run.head.sweep.batches[0]
    found = (
        c.cell
        for c in run.right("ladder")
        if (c.model, c.implementation, c.batch) == (model, source.kernel, batch)
        and c.notes.get("buffers") == source.buffers
    )
    return next(found, "")


def _usable(run: RunIndex, model: str) -> list[CellRecord]:
    """Return the interleaved cells of a model that are right and were sampled."""
    return [c for c in run.right("layer") if c.model == model and c.cell in run.samples]


def _fastest(run: RunIndex, cells: Iterable[CellRecord]) -> str:
    found = find_fastest((c.cell, stats.pass_ns(run.samples, c.cell)) for c in cells)
    return found or ""


def _interleaved(run: RunIndex, implementation: str, model: str) -> str:
    """Return the interleaved cell of an implementation under the provider of the published ones."""
    provider = run.head.sweep.blas[0].rsplit("/", 1)[-1]
    found = (
        c.cell
        for c in _usable(run, model)
        if (c.implementation, c.provider) == (implementation, provider)
    )
    return next(found, "")


def _own_fff(run: RunIndex) -> str:
    """Return the fastest FFF cell that is not built on BLAS, empty where there is none."""
    return _fastest(run, (c for c in _usable(run, FFF_MODEL) if not c.provider))


def _cells_of(run: RunIndex, step: Step, level: int) -> tuple[str, str]:
    """Return the FF and the FFF cell of a step, empty where the run has none."""
    if step.ff is not None and step.fff is not None:
        ff = _published_id(run, step.ff, BASELINE)
        return ff, _published_id(run, step.fff[level], FFF_MODEL)
    ff = _interleaved(run, "ff_l3_blas", BASELINE)
    fff = _interleaved(run, f"fff_l{level}_blas", FFF_MODEL)
    if step.key != "protocol":
        ff = _fastest(run, _usable(run, BASELINE))
    if step.key == "own":
        fff = _own_fff(run) or fff
    return ff, fff


# ---- arithmetic ---------------------------------------------------------------------------------


def _block_speedups(run: RunIndex, ff: str, fff: str) -> BlockTimes:
    """Return the speedup of each (process, block) in which both cells were sampled."""
    return stats.shared_blocks(
        stats.block_times(run.samples, ff), stats.block_times(run.samples, fff)
    )


def quotient(over: Ratio, under: Ratio) -> Ratio:
    """Return the quotient of two ratios that share no block, its interval combined on the log scale."""
    value = over.value / under.value
    down = np.hypot(np.log(over.value / over.low), np.log(under.high / under.value))
    up = np.hypot(np.log(over.high / over.value), np.log(under.value / under.low))
    return Ratio(
        value=value, low=float(value / np.exp(down)), high=float(value * np.exp(up)),
        blocks=min(over.blocks, under.blocks),
    )  # fmt: skip


def _find_factor(run: RunIndex, before: Rung, ff: str, fff: str, speedup: Ratio) -> Ratio | None:
    """Return what a step multiplies the speedup by.

    Its value is the quotient of the two speedups, so that the factors multiply to the whole. Where both
    steps were sampled in the same blocks the interval is that of the ratio by blocks; where they share
    none (from the cold samples to the interleaved ones) the two intervals are combined on the log scale
    as those of independent figures.
    """
    if before.speedup is None:
        return None
    first, second = _block_speedups(run, before.ff, before.fff), _block_speedups(run, ff, fff)
    if first.keys() == second.keys():
        return stats.ratio_of_blocks(second, first)
    return quotient(speedup, before.speedup)


def _climb(run: RunIndex, level: int) -> list[Rung]:
    """Return the rungs of one level, from the published protocol upwards."""
    rungs: list[Rung] = []
    for step in STEPS:
        ff, fff = _cells_of(run, step, level)
        missing = [n for n, c in (("FF", ff), ("FFF", fff)) if not c]
        reason = f"no right {' and no right '.join(missing)} was sampled" if missing else ""
        before = rungs[-1] if rungs else None
        same = before is not None and not missing and (before.ff, before.fff) == (ff, fff)
        speedup = factor = None
        if before is not None and same:
            speedup = before.speedup
            if speedup is not None:
                factor = Ratio(value=1.0, low=1.0, high=1.0, blocks=speedup.blocks)
        elif not missing:
            speedup = stats.ratio(run.samples, ff, fff)
            if before is not None and speedup is not None:
                factor = _find_factor(run, before, ff, fff, speedup)
        rungs.append(
            Rung(step=step, level=level, ff=ff, fff=fff, speedup=speedup, factor=factor, same=same,
                 reason=reason or ("" if speedup else "not sampled side by side"))
        )  # fmt: skip
    return rungs


def product(rungs: Sequence[Rung]) -> float | None:
    """Return the first speedup times all factors, None where a rung is missing."""
    if any(r.speedup is None for r in rungs) or any(r.factor is None for r in rungs[1:]):
        return None
    first = rungs[0].speedup
    assert first is not None
    return first.value * float(np.prod([r.factor.value for r in rungs[1:] if r.factor]))


def _erfc_cost(run: RunIndex) -> tuple[Ratio | None, int]:
    """Return how much longer the level-1 FF takes with a scalar erfc per neuron, and at which batch."""
    found = {c.implementation: c for c in run.right("ladder")}
    if "ff_l1_erfc" not in found or "ff_l1_blas" not in found:
        return None, 0
    slow, fast = found["ff_l1_erfc"], found["ff_l1_blas"]
    return stats.ratio(run.samples, slow.cell, fast.cell), fast.batch


def _passes(run: RunIndex) -> dict[str, list[int]]:
    """Return the passes behind one mean of the published protocol, by layer: each number once, rising."""
    cells = [c for c in run.of_role("ladder") if c.batch == run.head.sweep.batches[0]]
    return {
        layer: sorted({c.loops for c in cells if c.layer == layer and c.loops > 0})
        for layer in ("ff", "fff")
    }


# ---- the whole ----------------------------------------------------------------------------------


def find_ladder(run: RunIndex) -> Ladder | None:
    """Return what a run says of the ladder, None where it did not measure it."""
    sweep = run.head.sweep
    if not (run.of_role("ladder") and sweep.blas):
        return None
    cost, batch = _erfc_cost(run)
    return Ladder(
        climbs={level: _climb(run, level) for level in LEVELS}, own_fff=_own_fff(run),
        erfc_cost=cost, erfc_batch=batch, passes=_passes(run),
    )  # fmt: skip
