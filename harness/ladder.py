"""Own the ladder: the steps from the published protocol to a strict one, and what a run says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from harness import axes, machine, native, stats, view
from harness.cell import Cell
from harness.errors import UsageError
from harness.plan import PUBLISHED_SAMPLE_S, Plan, make_plan
from harness.problem import Problem
from harness.reader import Run
from harness.spec import SweepSpec
from harness.stats import Ratio

FFF_MODEL = "ultrafastbert-1x11"
LEVELS = (1, 2)
BUDGET_S, QUICK_BUDGET_S = 215.0, 36.0
QUICK_BATCH = 1024
_QUICK_SAMPLE_S = 0.1
# Level 1 computes the FF a hundred times slower than level 3: a few tokens show what erfc costs it.
_ERFC_BATCH = 64
# Against the fastest FF these two are out of the question; a pass of them takes many seconds.
_SKIP = ("ff_l1_*", "ff_l2_*")
_EXTRA_BYTES_PER_INTERMEDIATE = 2 * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Name a published cell: its kernel, and whether its buffers were left unwritten."""

    kernel: str
    unwritten: bool = False

    @property
    def buffers(self) -> str:
        """Return what the record's notes say of the buffers."""
        return "never written" if self.unwritten else "written"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """State one step: what is mended, and the cells by which both sides are measured from then on.

    ff, fff (by level): a cell of the published protocol; None where the interleaved part is meant.
    changes: which side each level's comparison changes on, `FF`, `FFF`, `both` or `neither`.
    """

    key: str
    mended: str
    ff: Source | None
    fff: dict[int, Source] | None
    changes: dict[int, str]


_BOTH, _NEITHER = {1: "both", 2: "both"}, {1: "neither", 2: "neither"}
_FF = {1: "FF", 2: "FF"}
_ALLOC = Source(kernel="ff_l3_alloc")
_RIGHT = {1: Source(kernel="fff_l1_blas"), 2: Source(kernel="fff_l2_blas")}
_OUTPUT_ROWS = Source(kernel="fff_l1_output_rows")

STEPS = (
    Step(
        key="published", mended="nothing: the published protocol",
        ff=replace(_ALLOC, unwritten=True),
        fff={1: replace(_OUTPUT_ROWS, unwritten=True),
             2: Source(kernel="fff_l2_same_row", unwritten=True)},
        changes=_NEITHER,
    ),
    Step(
        key="written", mended="inputs and weights are written before they are read", ff=_ALLOC,
        fff={1: _OUTPUT_ROWS, 2: Source(kernel="fff_l2_same_row")}, changes=_BOTH,
    ),
    Step(
        key="rows", mended="each token has its own row of the input and of the output", ff=_ALLOC,
        fff={1: _OUTPUT_ROWS, 2: Source(kernel="fff_l2_unit_scale")},
        changes={1: "neither", 2: "FFF"},
    ),
    Step(
        key="w_out", mended="output rows come from w_out, scaled by the activation", ff=_ALLOC,
        fff=_RIGHT, changes={1: "FFF", 2: "FFF"},
    ),
    Step(
        key="activation", mended="a vectorised activation everywhere", ff=_ALLOC, fff=_RIGHT,
        changes=_NEITHER,
    ),
    Step(
        key="allocation", mended="nothing is allocated in the timed call",
        ff=Source(kernel="ff_l3_blas"), fff=_RIGHT, changes=_FF,
    ),
    Step(
        key="protocol", mended="warm-up, samples of both sides interleaved in random order",
        ff=None, fff=None, changes=_BOTH,
    ),
    Step(
        key="baseline", mended="the baseline is the fastest FF of any provider and kernel",
        ff=None, fff=None, changes=_FF,
    ),
    Step(
        key="own", mended="the FFF runs on our own kernels", ff=None, fff=None,
        changes={1: "FFF", 2: "FFF"},
    ),
)  # fmt: skip


# ---- the plan -----------------------------------------------------------------------------------


def _published_cell(source: Source, problem: Problem, model: str, spec: SweepSpec) -> Cell:
    provider = spec.blas[0]
    kernel = native.LADDER.get(source.kernel) or native.KERNELS[source.kernel]
    how = "unwritten" if source.unwritten else "written"
    label = provider.rsplit("/", 1)[-1]
    return Cell(
        id=f"{source.kernel}/{model}/b{problem.batch}/w{problem.d_in}/{label}/published/{how}",
        role="ladder", implementation=source.kernel, level=kernel.level, model=model,
        provider=label, runs_in=provider, problem=problem,
        workspace_bytes=native.workspace_bytes(source.kernel, problem), unwritten=source.unwritten,
    )  # fmt: skip


def _published_cells(spec: SweepSpec) -> list[Cell]:
    """Return the cells of the published protocol in its order: the FF first, then the FFF."""
    batch, width = spec.batches[0], spec.widths[0]
    base, tree = axes.parse_model(axes.BASELINE), axes.parse_model(FFF_MODEL)
    ff = base.problem(batch=batch, width=width, seed=spec.seed)
    fff = tree.problem(batch=batch, width=width, seed=spec.seed)
    few = replace(ff, batch=min(batch, _ERFC_BATCH))
    cells = [_published_cell(s.ff, ff, base.name, spec) for s in STEPS if s.ff]
    cells += [
        _published_cell(source, fff, tree.name, spec)
        for level in LEVELS
        for s in STEPS
        if s.fff
        for source in [s.fff[level]]
    ]
    cells += [
        _published_cell(Source(kernel=kernel), few, base.name, spec)
        for kernel in ("ff_l1_erfc", "ff_l1_blas")
    ]
    return list({cell.id: cell for cell in cells}.values())


def ask(spec: SweepSpec) -> SweepSpec:
    """Return the sweep that measures the interleaved part of the ladder.

    Raises UsageError where more than one batch or width was asked for.
    """
    for option, values in (("--batch", spec.batches), ("--width", spec.widths)):
        if len(values) != 1:
            raise UsageError(f"{option}: the ladder stands at one value, got {len(values)}")
    models = [axes.parse_model(name) for name in (axes.BASELINE, FFF_MODEL)]
    return replace(spec, models=models, skip=_SKIP, only=())


def make_ladder(spec: SweepSpec) -> Plan:
    """Return the plan of the ladder: the published protocol's cells beside the interleaved ones.

    Raises UsageError where the operands would not fit into memory.
    """
    sample_s = _QUICK_SAMPLE_S if spec.quick else PUBLISHED_SAMPLE_S
    plan = replace(make_plan(spec), published=_published_cells(spec), published_sample_s=sample_s)
    hidden = axes.parse_model(axes.BASELINE).hidden
    extra = _EXTRA_BYTES_PER_INTERMEDIATE * spec.batches[0] * hidden
    needed, available = plan.memory_bytes() + extra, machine.available_memory_bytes()
    if needed > 0.9 * available:
        raise UsageError(
            f"the ladder needs {needed / 2**30:.1f} GiB and {available / 2**30:.1f} GiB are available; "
            "take a smaller --batch"
        )
    return plan


# ---- what a run says ----------------------------------------------------------------------------


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
        ff = _published_id(run, step.ff, axes.BASELINE)
        return ff, _published_id(run, step.fff[level], FFF_MODEL)
    ff = _interleaved(run, "ff_l3_blas", axes.BASELINE)
    fff = _interleaved(run, f"fff_l{level}_blas", FFF_MODEL)
    if step.key != "protocol":
        ff = _fastest(run, _usable(run, axes.BASELINE))
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


def climb_all(run: Run) -> dict[int, list[Rung]]:
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


def limit() -> float:
    """Return the most that fewer operations alone can give UltraFastBERT-1x11."""
    return view.limit(FFF_MODEL)
