"""Own the ladder's definition: the steps from the published protocol to a strict one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.problem.models import speedup_limit

FFF_MODEL = "ultrafastbert-1x11"
LEVELS = (1, 2)


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


def limit() -> float:
    """Return the most that fewer operations alone can give UltraFastBERT-1x11."""
    return speedup_limit(FFF_MODEL)
