"""Own the comparison of two runs of whole models: each model and each of its parts, over the model as it is.

As layers are compared (compare.py): what is compared is each time over that of a reference of its own run in
the same block. Of whole models that is the model as it is, of the same batch and run in the same way, so that
a drift of the machine cancels, and across machines what is compared is the speedup.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from harness.analysis import compare_interval, stats
from harness.analysis.compare import Change, Comparison, Verdict, find_lost, is_sampled, judge
from harness.analysis.compare_match import is_same_machine
from harness.analysis.index import RunIndex, index_run
from harness.analysis.samples import BlockTimes
from harness.analysis.transformer import part_times
from harness.errors import UsageError
from harness.problem.models import title
from harness.problem.transformer import DENSE, FF_PARTS, LEFT_OUT, Transformer
from harness.records.identity import Identity, identify
from harness.records.reader import Run
from harness.records.schema import CellRecord

_Cells = Mapping[Identity, str]


def _cells(run: RunIndex) -> dict[Identity, str]:
    return {identify(c): c.cell for c in run.of_role("model")}


def _reference(cells: _Cells, of: Identity) -> str:
    """Return the cell of the model as it is beside another, empty where the run has none."""
    assert of.transformer is not None
    whole = replace(of.transformer, ff=DENSE)
    return next((cell for key, cell in cells.items() if key.transformer == whole), "")


def _level(run: RunIndex, cell: str, reference: str, part: str) -> list[BlockTimes]:
    """Return the times of a cell, or of a part of it, and those of its reference, by block."""
    of_part = part_times(run.samples, run.cells[cell])[part] if part else None
    return [
        stats.block_times(run.samples, cell) if of_part is None else of_part,
        stats.block_times(run.samples, reference),
    ]


def _parts(a: RunIndex, whole: Transformer, cell: str) -> Iterator[str]:
    """Return what is compared of a cell: the whole, or of one in parts each that takes time."""
    if not whole.in_parts:
        yield ""
        return
    times = part_times(a.samples, a.cells[cell]) if cell in a.samples else {}
    for part in whole.parts:
        # Where the FF is left out, what its hooks take is no part of the model.
        hooks = whole.ff == LEFT_OUT and part in FF_PARTS
        if sum(times.get(part, {}).values()) > 0 and not hooks:
            yield part


def _name(cell: str, part: str) -> str:
    return f"{cell}: {part}" if part else cell


def _median(times: BlockTimes) -> float:
    ordered = sorted(times.values())
    return ordered[len(ordered) // 2] if ordered else float("nan")


def _change(
    a: RunIndex, b: RunIndex, pair: tuple[str, str], references: tuple[str, str], part: str,
    resolution: float,
) -> Change:  # fmt: skip
    states = [a.cells[pair[0]].status, b.cells[pair[1]].status]
    name, reason, found = _name(pair[0], part), "", None
    a_ns = b_ns = float("nan")
    told: Verdict = "ambiguous"
    if states[0] == "ok" and states[1] in ("wrong", "failed"):
        told, reason = "broken", f"{states[1]} in B"
    elif states != ["ok", "ok"]:
        reason = f"{states[0]} in A, {states[1]} in B"
    elif not (all(references) and is_sampled(a, references[0]) and is_sampled(b, references[1])):
        reason = "the model as it is was not measured beside it in both runs"
    elif not (is_sampled(a, pair[0]) and is_sampled(b, pair[1])):
        reason = "too few blocks for an interval"
    else:
        first, second = (
            _level(run, cell, of, part)
            for run, cell, of in zip((a, b), pair, references, strict=True)
        )
        a_ns, b_ns = _median(first[0]), _median(second[0])
        if pair == references and not part:
            told, reason = "reference", "all others of its batch are taken over it"
        else:
            found = compare_interval.estimate(
                compare_interval.levels_of_blocks(*first),
                compare_interval.levels_of_blocks(*second),
            )
            told = judge(found, resolution)
            reason = "" if found and found.known else "too few blocks for an interval"
    return Change(
        cell=name, a_ns=a_ns, b_ns=b_ns, change=found, verdict=told, resolution=resolution,
        reason=reason,
    )  # fmt: skip


def _describe(cell: CellRecord) -> str:
    whole = cell.transformer
    assert whole is not None
    ff = {DENSE: "as it is", LEFT_OUT: "left out"}.get(whole.ff) or title(whole.ff)
    loaded = f", weights {whole.checkpoint}" if whole.checkpoint else ""
    return f"{cell.cell} (the FF is {ff}, {whole.device}, {cell.threads} threads{loaded})"


def compare(a: Run, b: Run) -> Comparison:
    """Compare run B of whole models with run A. Raises UsageError where they share no model."""
    of_a, of_b = index_run(a), index_run(b)
    cells_a, cells_b = _cells(of_a), _cells(of_b)
    both = {key: (cell, cells_b[key]) for key, cell in cells_a.items() if key in cells_b}
    if not both:
        first = [
            next((_describe(run.cells[c]) for c in cells.values()), "none")
            for run, cells in ((of_a, cells_a), (of_b, cells_b))
        ]
        raise UsageError(
            f"{a.folder} and {b.folder} have no model in common, so nothing can be compared; A has "
            f"{first[0]}, B has {first[1]}"
        )
    resolution = compare_interval.resolve(of_a, of_b)
    own = {key: (_reference(cells_a, key), _reference(cells_b, key)) for key in both}
    changes = [
        _change(of_a, of_b, pair, own[key], part, resolution)
        for key, pair in both.items()
        if key.transformer
        and any(run.cells[c].status == "ok" for run, c in zip((of_a, of_b), pair, strict=True))
        for part in _parts(of_a, key.transformer, pair[0])
    ]
    references = next(iter(own.values()))
    return Comparison(
        a=a, b=b, same_machine=is_same_machine(a, b), references=references, resolution=resolution,
        drift=stats.pass_ns(of_b.samples, references[1]) / stats.pass_ns(of_a.samples, references[0]),
        changes=changes, of_models=True,
        unmatched=[*(f"only in A: {_describe(of_a.cells[c])}" for k, c in cells_a.items() if k not in both),
                   *(f"only in B: {_describe(of_b.cells[c])}" for k, c in cells_b.items() if k not in both)],
        lost=find_lost(of_a, of_b, cells_a, cells_b, cells_a.__getitem__),
    )  # fmt: skip
