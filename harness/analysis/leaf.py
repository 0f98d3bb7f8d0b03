"""Own what a run says of the published speedups of the original FFF, that of leaf networks, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.analysis import ledger, stats
from harness.analysis.fastest import find_fastest
from harness.analysis.index import RunIndex
from harness.analysis.ledger import Entry, Finding
from harness.analysis.published import find_differences
from harness.analysis.stats import Ratio
from harness.paper.leaf import LEAF_PAPER_BATCH, LEAF_PAPER_DEVICE, LeafCell, leaf_table1
from harness.problem import axes
from harness.problem.models import parse_model
from harness.records.schema import CellRecord

# The authors' package has the ReLU, so a layer with it is asked for first.
_NAMES = ("{}-relu", "{}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Hold a leaf FFF and the FF of its training width at one problem of a run, each the fastest there."""

    leaf: CellRecord
    ff: CellRecord
    ratio: Ratio

    def distance(self, cell: LeafCell) -> tuple[bool, bool, int, int]:
        """Return how far the problem is from a published one: the best pair is the least."""
        return (
            self.leaf.d_in != cell.d_in, self.leaf.batch != LEAF_PAPER_BATCH,
            abs(self.leaf.d_in - cell.d_in), -self.leaf.batch,
        )  # fmt: skip


def _fastest(run: RunIndex, cells: Iterable[CellRecord], model: str) -> CellRecord | None:
    own = (c for c in cells if c.model == model)
    return find_fastest((c, stats.pass_ns(run.samples, c.cell)) for c in own)


def _find_pairs(run: RunIndex, cell: LeafCell) -> list[_Pair]:
    """Return the pairs that a run measured of a published cell's layers, under the default conditions."""
    right = [c for c in run.right("layer") if c.conditions == axes.DEFAULTS]
    for name in _NAMES:
        found = []
        for at in sorted({(c.batch, c.d_in) for c in right}):
            here = [c for c in right if (c.batch, c.d_in) == at]
            leaf = _fastest(run, here, name.format(cell.model))
            ff = _fastest(run, here, cell.baseline)
            if leaf is None or ff is None:
                continue
            ratio = stats.ratio(run.samples, ff.cell, leaf.cell)
            if ratio is not None:
                found.append(_Pair(leaf=leaf, ff=ff, ratio=ratio))
        if found:
            return found
    return []


def _count(widths: tuple[int, int]) -> str:
    return f"{widths[0]} in and {widths[1]} out"


def _differences(run: RunIndex, cell: LeafCell, leaf: CellRecord) -> list[str]:
    """Return how a measured pair differs from a published one, one text a difference."""
    device, head = ledger.paper_device(run.head), run.head
    published, measured = (cell.d_in, cell.d_out), (leaf.d_in, leaf.d_out)
    return [
        text
        for text, is_so in (
            (
                f"a figure of another machine, a {LEAF_PAPER_DEVICE.upper()}; this run measured on "
                f"{head.sweep.device.upper()}",
                device != LEAF_PAPER_DEVICE,
            ),
            (
                f"published at widths {_count(published)}, measured at {_count(measured)}",
                published != measured,
            ),
            (
                f"published at batch {LEAF_PAPER_BATCH}, measured at {leaf.batch}",
                leaf.batch != LEAF_PAPER_BATCH,
            ),
            (
                "the leaves' activation is the GELU, the authors' package has the ReLU",
                parse_model(leaf.model).activation != "relu",
            ),
            ("a quick run is not for comparing", head.sweep.quick),
            ("the record does not tell which machine this is", not head.machine.processor),
        )
        if is_so
    ] + find_differences(head)


def judge(run: RunIndex, cell: LeafCell) -> Entry:
    """Return what a run says of one published speedup."""
    pairs = _find_pairs(run, cell)
    pair = min(pairs, key=lambda p: p.distance(cell)) if pairs else None
    finding: Finding = "not comparable here"
    reason = f"this run did not measure both {cell.model} and {cell.baseline}"
    if pair is not None:
        reason = "; ".join(_differences(run, cell, pair.leaf))
        if not reason:
            finding, reason = ledger.judge(pair.ratio, cell)
    ratio = pair.ratio if pair else None
    known = ratio is not None and ratio.known
    return Entry(
        model=pair.leaf.model if pair else cell.model, column=cell.dataset,
        device=LEAF_PAPER_DEVICE, baseline=cell.baseline, published=cell.speedup,
        provenance=cell.provenance, finding=finding, reason=reason,
        measured=ratio.value if ratio else None, low=ratio.low if ratio and known else None,
        high=ratio.high if ratio and known else None, blocks=ratio.blocks if ratio else 0,
        provider=" over ".join(_name(c) for c in (pair.leaf, pair.ff)) if pair else "",
    )  # fmt: skip


def _name(cell: CellRecord) -> str:
    return " ".join(part for part in (cell.implementation, cell.provider) if part)


def make_leaf_ledger(run: RunIndex) -> list[Entry]:
    """Return the finding on each published speedup of a leaf FFF, in the order of the paper's table.

    A row's baseline is the FF of its training width, so that its ratio is of two cells of this run whatever
    `--baseline` says: the fastest of either, at the problem that is nearest to the published one, with an
    interval from the blocks that both were sampled in. It is judged (`ledger.judge`) where nothing but the
    machine differs.

    Sweeps have as many outputs as inputs and the paper's layers 10, so today every one is not comparable
    here, and says in what.
    """
    return [judge(run, cell) for cell in leaf_table1()]
