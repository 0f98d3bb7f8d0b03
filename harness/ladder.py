"""Own the ladder: the steps from the published protocol to a strict one, and the plan that measures them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness import axes, machine, native, view
from harness.cell import Cell
from harness.errors import UsageError
from harness.plan import PUBLISHED_SAMPLE_S, Plan, make_plan
from harness.problem import Problem
from harness.spec import SweepSpec

FFF_MODEL = "ultrafastbert-1x11"
LEVELS = (1, 2)
BUDGET_S, QUICK_BUDGET_S = 215.0, 36.0
QUICK_BATCH = 1024
_QUICK_SAMPLE_S = 0.1
# Level 1 computes the FF a hundred times slower than level 3: a few tokens show what erfc costs it.
_ERFC_BATCH = 64
# Against the fastest FF the first two are out of the question; a pass of them takes many seconds. The ladder
# is of one BLAS: torch has its own.
_SKIP = ("ff_l1_*", "ff_l2_*", "*_torch_*")
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


def limit() -> float:
    """Return the most that fewer operations alone can give UltraFastBERT-1x11."""
    return view.limit(FFF_MODEL)
