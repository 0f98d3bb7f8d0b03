"""Own what a run says of the ladder: the speedup at each step, and the factor that leads to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis import stats
from harness.analysis.stats import Ratio
from harness.errors import UsageError
from harness.paper.ladder import FFF_MODEL, LEVELS, STEPS, Source, Step
from harness.problem.models import BASELINE
from harness.records.reader import Run


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


def _published_id(run: Run, source: Source, model: str) -> str:
    """Return a published cell's id at the run's batch, empty where the run has none that is right."""
    cells = run.cells[(run.cells["role"] == "ladder") & (run.cells["model"] == model)]
    cells = cells[(cells["implementation"] == source.kernel) & (cells["status"] == "ok")]
    cells = cells[cells["batch"] == run.head.sweep.batches[0]]
    found = [c["cell"] for _, c in cells.iterrows() if c["notes"].get("buffers") == source.buffers]
    return str(found[0]) if found else ""


def _usable(run: Run, model: str) -> pd.DataFrame:
    cells = run.cells[(run.cells["role"] == "layer") & (run.cells["status"] == "ok")]
    sampled = set(run.samples["cell"])
    return cells[(cells["model"] == model) & cells["cell"].isin(sampled)]


def _fastest(run: Run, cells: pd.DataFrame) -> str:
    times = {str(c): stats.pass_ns(run.samples, c) for c in cells["cell"]}
    return min(times, key=lambda c: times[c]) if times else ""


def _interleaved(run: Run, implementation: str, model: str) -> str:
    """Return the interleaved cell of an implementation under the provider of the published ones."""
    cells = _usable(run, model)
    provider = run.head.sweep.blas[0].rsplit("/", 1)[-1]
    own = cells[(cells["implementation"] == implementation) & (cells["provider"] == provider)]
    return str(own["cell"].iloc[0]) if len(own) else ""


def own_fff(run: Run) -> str:
    """Return the fastest FFF cell that is not built on BLAS, empty where there is none."""
    cells = _usable(run, FFF_MODEL)
    return _fastest(run, cells[cells["provider"] == ""])


def _cells_of(run: Run, step: Step, level: int) -> tuple[str, str]:
    """Return the FF and the FFF cell of a step, empty where the run has none."""
    if step.ff is not None and step.fff is not None:
        ff = _published_id(run, step.ff, BASELINE)
        return ff, _published_id(run, step.fff[level], FFF_MODEL)
    ff = _interleaved(run, "ff_l3_blas", BASELINE)
    fff = _interleaved(run, f"fff_l{level}_blas", FFF_MODEL)
    if step.key != "protocol":
        ff = _fastest(run, _usable(run, BASELINE))
    if step.key == "own":
        fff = own_fff(run) or fff
    return ff, fff


def block_speedups(run: Run, ff: str, fff: str) -> pd.Series:
    """Return the speedup of each (process, block) in which both cells were sampled."""
    both = pd.concat(
        [stats.block_times(run.samples, ff).rename("ff"), stats.block_times(run.samples, fff).rename("fff")],
        axis=1, join="inner",
    ).dropna()  # fmt: skip
    return both["ff"] / both["fff"]


def _paired(before: pd.Series, after: pd.Series) -> Ratio | None:
    """Return the ratio of two series of speedups that share their blocks, by the blocks."""
    frames = [
        series.rename("pass_ns").reset_index().assign(cell=name)
        for name, series in (("after", after), ("before", before))
    ]
    return stats.ratio(pd.concat(frames, ignore_index=True), "after", "before")


def quotient(over: Ratio, under: Ratio) -> Ratio:
    """Return the quotient of two ratios that share no block, its interval combined on the log scale."""
    value = over.value / under.value
    down = np.hypot(np.log(over.value / over.low), np.log(under.high / under.value))
    up = np.hypot(np.log(over.high / over.value), np.log(under.value / under.low))
    return Ratio(
        value=value, low=float(value / np.exp(down)), high=float(value * np.exp(up)),
        blocks=min(over.blocks, under.blocks),
    )  # fmt: skip


def find_factor(run: Run, before: Rung, ff: str, fff: str, speedup: Ratio) -> Ratio | None:
    """Return what a step multiplies the speedup by.

    Its value is the quotient of the two speedups, so that the factors multiply to the whole. Where both
    steps were sampled in the same blocks the interval is that of the ratio by blocks; where they share
    none (from the cold samples to the interleaved ones) the two intervals are combined on the log scale
    as those of independent figures.
    """
    if before.speedup is None:
        return None
    first, second = block_speedups(run, before.ff, before.fff), block_speedups(run, ff, fff)
    if first.index.equals(second.index):
        return _paired(first, second)
    return quotient(speedup, before.speedup)


def climb(run: Run, level: int) -> list[Rung]:
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
                factor = find_factor(run, before, ff, fff, speedup)
        rungs.append(
            Rung(step=step, level=level, ff=ff, fff=fff, speedup=speedup, factor=factor, same=same,
                 reason=reason or ("" if speedup else "not sampled side by side"))
        )  # fmt: skip
    return rungs


def require_ladder(run: Run) -> None:
    """Raise UsageError where a run has no ladder."""
    if not (run.cells["role"] == "ladder").any():
        raise UsageError(
            f"{run.folder} is not a run of the ladder; make one with `python -m harness explain`"
        )


def climb_all(run: Run) -> Climbs:
    """Return the rungs of every level."""
    return {level: climb(run, level) for level in LEVELS}


def product(rungs: Sequence[Rung]) -> float | None:
    """Return the first speedup times all factors, None where a rung is missing."""
    if any(r.speedup is None for r in rungs) or any(r.factor is None for r in rungs[1:]):
        return None
    first = rungs[0].speedup
    assert first is not None
    return first.value * float(np.prod([r.factor.value for r in rungs[1:] if r.factor]))


def erfc_cost(run: Run) -> tuple[Ratio | None, int]:
    """Return how much longer the level-1 FF takes with a scalar erfc per neuron, and at which batch."""
    cells = run.cells[(run.cells["role"] == "ladder") & (run.cells["status"] == "ok")]
    found = {c["implementation"]: c for _, c in cells.iterrows()}
    if "ff_l1_erfc" not in found or "ff_l1_blas" not in found:
        return None, 0
    slow, fast = found["ff_l1_erfc"], found["ff_l1_blas"]
    return stats.ratio(run.samples, slow["cell"], fast["cell"]), int(fast["batch"])
