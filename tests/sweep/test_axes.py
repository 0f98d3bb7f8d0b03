"""The axes of a sweep: from its lists to cells, records and what a resumed run is held to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fabricated_runs import Fake

from harness.backends import registry
from harness.errors import UsageError
from harness.problem.axes import AXES, DEFAULTS, Axis, lists
from harness.problem.problem import Problem
from harness.records.schema import CellRecord, SweepRecord
from harness.sweep import gpu, plan, resume
from harness.sweep.cell import make_cell, make_twin
from harness.sweep.spec import SweepSpec

SPEC = SweepSpec(
    levels=[1], device="cpu", models=[], batches=[20], widths=[24], only=[], skip=[], blas=["scipy"],
    threads=1, seed=0, passes=2, budget_s=60.0, processes=1, quick=True, keep_blas_env=False, out=None,
)  # fmt: skip
PROBLEM = Problem(layer="fff", batch=20, d_in=24, d_out=24, depth=3, trees=1)


@pytest.fixture(params=AXES, ids=lambda axis: axis.name)
def axis(request: pytest.FixtureRequest) -> Axis:
    """Return each axis of the table."""
    found: Axis = request.param
    return found


def test_each_value_is_a_combination(axis: Axis) -> None:
    """A sweep over an axis has the conditions of each value; those of a device hang on the implementation."""
    spec = replace(SPEC, axes=lists(**{axis.name: list(axis.values)}))
    wanted = [DEFAULTS._replace(**{axis.name: value}) for value in axis.values]
    found, left_out = plan.combine(spec, spec.axes["dtype"])
    assert left_out == []
    if axis.device:
        assert found == [DEFAULTS]
        found = gpu.ways(spec, replace(registry.get("fff_l1_blas"), tf32=True), DEFAULTS)
    assert found == wanted


def test_cells_and_twins_have_their_conditions(axis: Axis) -> None:
    """Cells that differ in one axis have two ids, and a twin is measured under its cell's conditions."""
    cells = []
    for value in list(axis.values)[:2]:
        of = {axis.name: value}
        problem = replace(PROBLEM, **of) if axis.of == "problem" else PROBLEM  # type: ignore[arg-type]
        protocol = of if axis.of == "protocol" else {}
        implementation = registry.get("fff_l1_blas")
        cell = make_cell(implementation, problem, "ultrafastbert-1x3", "scipy", **protocol)
        assert cell.conditions == DEFAULTS._replace(**of)
        assert make_twin(cell).conditions == cell.conditions
        cells.append(cell)
    assert cells[0].id == "fff_l1_blas/ultrafastbert-1x3/b20/w24/scipy"
    assert cells[1].id == f"{cells[0].id}/{axis.label(list(axis.values)[1])}"


def test_records_hold_each_axis(axis: Axis) -> None:
    """An axis is a field of its own in the files, and comes back from it."""
    value = list(axis.values)[1]
    spec = replace(SPEC, axes=lists(**{axis.name: [axis.default, value]}))
    head = spec.record().model_dump()
    assert head[axis.name] == [axis.default, value]
    assert "axes" not in head
    assert SweepRecord.model_validate(head).axes == spec.axes
    record = next(iter(Fake(conditions=(DEFAULTS._replace(**{axis.name: value}),)).cells()))
    line = record.model_dump()
    assert line[axis.name] == value
    assert "conditions" not in line
    assert CellRecord.model_validate_json(record.model_dump_json()) == record


def test_a_resumed_sweep_keeps_its_lists(axis: Axis) -> None:
    """A run's own values are taken up again, and other ones on the command line are refused."""
    several = (DEFAULTS, DEFAULTS._replace(**{axis.name: list(axis.values)[1]}))
    run = Fake(conditions=several, processes=1, blocks=1).run()
    spec = resume.find_spec(run)
    assert spec.axes == lists(**{axis.name: list(axis.values)[:2]})
    given = {axis.name: (f"--{axis.name}", "words")}
    resume.check_options(run, given, spec)
    with pytest.raises(UsageError, match=f"^--{axis.name}: .* was begun with"):
        resume.check_options(run, given, replace(spec, axes=lists()))
