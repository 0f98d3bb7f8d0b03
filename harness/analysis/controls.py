"""Own what a run says of the controls: each FFF against layers that use as many neurons by other means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis import stats
from harness.analysis.fastest import find_fastest
from harness.analysis.index import RunIndex
from harness.analysis.stats import Ratio
from harness.problem.models import find_controls, parse_model
from harness.problem.problem import CONTROLS
from harness.records.schema import CellRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Hold the fastest implementation of one control beside the fastest of one FFF.

    fff, fff_implementation, fff_cell: the FFF. model, layer, implementation, cell, provider, pass_ns: the
    control, by the median time of a pass. used, neurons: of the control's neurons those that make one token's
    output. routing_share: the operations of a pass that only choose, as a share of all of its own.
    buys: the control's time over the FFF's, how many times as fast the tree is. over_ff: the speedup of the
    control over the fastest FF; None where none was measured.
    """

    fff: str
    fff_implementation: str
    fff_cell: str
    model: str
    layer: str
    implementation: str
    cell: str
    provider: str
    pass_ns: float
    used: int
    neurons: int
    routing_share: float
    buys: Ratio | None
    over_ff: Ratio | None


def is_control(model: str) -> bool:
    """Say whether a model is a control whatever it stands beside; a dense one is so beside its FFF alone."""
    return parse_model(model).layer in CONTROLS


def _fastest(run: RunIndex, cells: Sequence[CellRecord], model: str) -> CellRecord | None:
    return find_fastest(
        (c, stats.pass_ns(run.samples, c.cell))
        for c in cells
        if (c.role, c.model, c.status) == ("layer", model, "ok")
    )


def _control(
    run: RunIndex, fff: CellRecord, cell: CellRecord, fastest_ff: CellRecord | None
) -> Control:
    plain = parse_model(cell.model).problem(batch=cell.batch, width=cell.d_in, seed=cell.seed)
    ratio = stats.ratio
    return Control(
        fff=fff.model, fff_implementation=fff.implementation, fff_cell=fff.cell, model=cell.model,
        layer=cell.layer, implementation=cell.implementation, cell=cell.cell, provider=cell.provider,
        pass_ns=stats.pass_ns(run.samples, cell.cell), used=plain.used_neurons, neurons=plain.neurons,
        routing_share=plain.routing_flops() / plain.flops(),
        buys=ratio(run.samples, cell.cell, fff.cell),
        over_ff=ratio(run.samples, fastest_ff.cell, cell.cell) if fastest_ff else None,
    )  # fmt: skip


def find_point_controls(
    run: RunIndex, cells: Sequence[CellRecord], fastest_ff: CellRecord | None
) -> list[Control]:
    """Return each FFF of a point beside the controls that were measured there.

    cells: those of one batch, width and set of conditions. A control stands beside the FFFs that it is of
    (`find_controls`), one that is of none of them beside all.
    """
    models = list(dict.fromkeys(c.model for c in cells))
    trees = [m for m in models if parse_model(m).layer == "fff"]
    baseline = run.head.sweep.baseline
    own = {m: [c for c in find_controls(parse_model(m)) if c != baseline] for m in trees}
    matched = {name for names in own.values() for name in names}
    found = []
    for fff in trees:
        tree = _fastest(run, cells, fff)
        others = [m for m in models if is_control(m) and m not in matched]
        beside = [m for m in own[fff] if m in models] + others
        for model in beside:
            cell = _fastest(run, cells, model)
            if tree is not None and cell is not None:
                found.append(_control(run, tree, cell, fastest_ff))
    return found
