"""From what was asked for to the cells that will be measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_machines import DESKTOP, MACHINES

from harness.backends import registry
from harness.errors import UnknownNameError, UsageError
from harness.machine.facts import Machine
from harness.measure.process_key import ProcessKey
from harness.paper.published import PAPER_BATCH, PAPER_WIDTH
from harness.problem.axes import lists
from harness.problem.models import BASELINE, FAMILY, PAPER_MODELS, parse_model, parse_models
from harness.problem.problem import MAX_DEPTH
from harness.sweep import plan
from harness.sweep.cell import Cell, make_twin
from harness.sweep.plan import make_plan
from harness.sweep.spec import SweepSpec


def _spec(**changes: Any) -> SweepSpec:
    models = parse_models(changes.pop("models", ",".join(PAPER_MODELS)))
    base = SweepSpec(
        levels=[1, 2, 3], device="cpu", models=models, batches=[64], widths=[32], only=[], skip=[],
        blas=["scipy"], threads=1, seed=0, passes=0, budget_s=320.0, processes=3, quick=False,
        keep_blas_env=False, out=None,
    )  # fmt: skip
    return replace(base, **changes)


def _layer_cells(made: plan.Plan) -> list[Cell]:
    return [cell for cell in made.cells if cell.role == "layer"]


def test_every_pair_once() -> None:
    """Each implementation meets each model of its layer, batch, width and provider exactly once."""
    made = make_plan(_spec(batches=[1, 64], widths=[16, 32]), DESKTOP)
    ids = [cell.id for cell in made.cells]
    assert len(set(ids)) == len(ids)
    pairs = {
        (c.implementation, c.model, c.problem.batch, c.problem.d_in) for c in _layer_cells(made)
    }
    expected = {
        (i.id, model, batch, width)
        for i in registry.layers()
        if "cpu" in i.devices and not i.unavailable()
        for model in PAPER_MODELS
        for batch in (1, 64)
        for width in (16, 32)
        if i.layer == parse_model(model).layer
    }
    assert pairs == expected


def test_levels_choose_implementations() -> None:
    """A level leaves out implementations of other levels, and keeps those that have none."""
    made = make_plan(_spec(levels=[1]), DESKTOP)
    assert {c.level for c in _layer_cells(made)} <= {1, None}
    assert {"ff_l1_blas", "fff_l1_blas"} <= {c.implementation for c in made.cells}


def test_level_against_only() -> None:
    """An implementation that is named but of a level that was not asked for is an error."""
    with pytest.raises(
        UsageError, match=r"--only: ff_l3_blas is of level 3, and --levels asks for 1"
    ):
        make_plan(_spec(levels=[1], only=["ff_l3_blas"]), DESKTOP)


def test_ceilings_are_measured_with_whatever_was_asked_for() -> None:
    """A ceiling needs no --only; --skip leaves it out."""
    assert any(c.role == "ceiling" for c in make_plan(_spec(only=["ff_l1_blas"]), DESKTOP).cells)
    assert not any(c.role == "ceiling" for c in make_plan(_spec(skip=["ceiling*"]), DESKTOP).cells)


def test_the_baseline_is_added() -> None:
    """A sweep with an FF but without the baseline measures it too, and says so."""
    made = make_plan(_spec(models="1x11"), DESKTOP)
    assert BASELINE in {c.model for c in made.cells}
    assert made.notices == [f"{BASELINE} is measured too: every speedup is over it"]
    alone = make_plan(_spec(models="1x11", only=["fff*"]), DESKTOP)
    assert BASELINE not in {c.model for c in alone.cells}
    assert list(alone.notices) == []


def test_nothing_left() -> None:
    """A choice that leaves nothing to measure is an error."""
    with pytest.raises(UsageError, match="nothing is left to measure"):
        make_plan(_spec(models="ff-8", only=["fff*"]), DESKTOP)


def test_unknown_things() -> None:
    """Unknown implementations and devices are usage errors that list the known."""
    with pytest.raises(
        UnknownNameError, match=r"unknown implementation 'ff_l4\*'; known: ff_l1_blas"
    ):
        make_plan(_spec(only=["ff_l4*"]), DESKTOP)
    with pytest.raises(UsageError, match=r"--device: nothing here runs on 'abacus'.*cpu"):
        make_plan(_spec(device="abacus"), DESKTOP)


def test_unavailable_is_recorded_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An implementation that can't run here keeps its place in the plan; naming it is an error."""
    lacking = replace(registry.get("ff_l1_blas"), unavailable=lambda: "needs a package")
    monkeypatch.setitem(registry._known, "ff_l1_blas", lacking)
    made = make_plan(_spec(), DESKTOP)
    assert "ff_l1_blas" not in {c.implementation for c in made.cells}
    own = [(c.implementation, why) for c, why in made.unavailable if "torch" not in why]
    assert own == [("ff_l1_blas", "needs a package")] * 2
    with pytest.raises(UsageError, match=r"--only: ff_l1_blas is unavailable: needs a package"):
        make_plan(_spec(only=["ff_l1_blas"]), DESKTOP)


def test_too_large_for_memory() -> None:
    """Trees too deep for memory are refused before anything is allocated, with what they need."""
    with pytest.raises(
        UsageError, match=r"the operands need [0-9.]+ GiB and [0-9.]+ GiB are available"
    ) as e:
        make_plan(_spec(models=f"64x{MAX_DEPTH}", widths=[12288]), DESKTOP)
    assert "the largest cell is " in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_every_machine_gets_the_same_layers(machine: Machine) -> None:
    """A machine's facts decide about ceilings alone: the layers that are compared are the same on all."""
    spec = _spec(batches=[PAPER_BATCH], widths=[PAPER_WIDTH])
    made = make_plan(spec, machine)
    assert _layer_cells(made) == _layer_cells(make_plan(spec, DESKTOP))
    ids = [cell.id for cell in made.cells]
    assert len(set(ids)) == len(ids)
    assert made.blocks() >= spec.processes


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_every_machine_can_flush_and_rotate(machine: Machine) -> None:
    """Cold weights are planned on every machine: what can't be rotated past a cache keeps its reason."""
    weights = lists(weights=["hot", "rotated", "flushed"])
    made = make_plan(_spec(axes=weights, widths=[PAPER_WIDTH]), machine)
    assert {cell.weights for cell in _layer_cells(made)} == {"hot", "rotated", "flushed"}
    assert all("--weights flushed" in reason for cell, reason in made.unavailable
               if cell.weights == "rotated" and "torch" not in cell.implementation)  # fmt: skip


def test_what_a_machine_lacks_is_refused_by_its_option() -> None:
    """More threads than processors, a foreign instruction set, a library that is not there: one line each."""
    one = MACHINES["1 core"]
    assert make_plan(_spec(threads=1, isa="avx512"), one).cells
    with pytest.raises(UsageError, match=r"^--threads: need 1 to 1, the processors here, got 2$"):
        make_plan(_spec(threads=2), one)
    with pytest.raises(UnknownNameError, match=r"'avx512'; known: neon, generic$"):
        make_plan(_spec(isa="avx512"), MACHINES["AArch64"])
    without = replace(DESKTOP, missing_providers={"mkl": "'mkl' is not on this machine"})
    assert make_plan(_spec(blas=["scipy"]), without).cells
    with pytest.raises(UsageError, match=r"^--blas: 'mkl' is not on this machine$"):
        make_plan(_spec(blas=["scipy", "mkl"]), without)


def test_a_containers_limit_is_named() -> None:
    """A plan that does not fit a container's memory names what the container was given."""
    small = replace(DESKTOP, available_bytes=1 << 29, memory_limit_bytes=600 << 20)
    with pytest.raises(
        UsageError, match=r"0\.5 GiB of the 0\.6 GiB that the cgroup allows are available"
    ):
        make_plan(_spec(batches=[1 << 17], widths=[PAPER_WIDTH]), small)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_memory_of_the_papers_problem(machine: Machine) -> None:
    """The default sweep is predicted to stay within 2 GiB, and two sets beyond a very large last cache.

    Such sets stand beside what a process with torch takes, where that is installed: 256 MiB more at the most.
    """
    made = make_plan(_spec(batches=[PAPER_BATCH], widths=[PAPER_WIDTH]), machine)
    last = machine.last_level_bytes()
    sets = 4 * last + 2**28 if last > 2**27 else 0
    assert 2**28 < made.memory_bytes() < 2**31 + sets


def test_prediction_fits_the_budget() -> None:
    """With a budget the prediction stays near it; with passes it grows with them."""
    spec = _spec(batches=[PAPER_BATCH], widths=[PAPER_WIDTH])
    made = make_plan(spec, DESKTOP)
    assert made.blocks() >= spec.processes
    assert made.predicted_s() <= 360
    few, many = (replace(made, spec=replace(spec, passes=n)) for n in (1, 10))
    assert few.predicted_s() < many.predicted_s()
    assert many.blocks() == 10


def test_twin() -> None:
    """The A/A twin is the same cell under a second name."""
    cell = make_plan(_spec(), DESKTOP).cells[0]
    twin = make_twin(cell)
    assert twin.id == f"{cell.id}/again"
    assert twin.role == "aa"
    assert replace(twin, id=cell.id, role=cell.role) == cell


def test_a_provider_by_path_is_called_by_its_file(tmp_path: Path) -> None:
    """A path's cells are named by its file, so that ids stay short; the path decides the process."""
    library = tmp_path / "libmine.so"
    library.write_text("", encoding="utf-8")
    made = make_plan(_spec(blas=["scipy", str(library)]), DESKTOP)
    own = [key for key in made.process_keys() if not key.library]
    assert own == [ProcessKey(provider="scipy"), ProcessKey(provider=str(library))]
    assert {c.provider for c in made.cells if c.provider} == {"scipy", "libmine.so"}
    assert all(str(tmp_path) not in c.id for c in made.cells)


def test_two_providers_of_one_file_name(tmp_path: Path) -> None:
    """Two paths with one file name would share their cells' ids: they are refused, none is dropped."""
    paths = [tmp_path / name / "libmine.so" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match=r"^--blas: .*a/libmine\.so and .*b/libmine\.so"):
        make_plan(_spec(blas=[str(p) for p in paths]), DESKTOP)


def test_spec_record() -> None:
    """What was asked for stands in the run, models by name."""
    record = _spec(models="family", quick=True).record()
    assert record.models == [f"ultrafastbert-{name}" for name in FAMILY]
    assert record.quick
    assert record.budget_s == 320.0
