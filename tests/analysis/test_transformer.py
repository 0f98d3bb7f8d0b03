"""What a run says of whole models, over runs whose truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated_models import FFF, STEP_TIMES, TIMES, FakeModels, without

from harness.analysis.analysis import Analysis, analyse
from harness.analysis.transformer import Form, WholeModel
from harness.problem.transformer import DENSE, LEFT_OUT
from harness.records.reader import load_run


def _analyse(fake: FakeModels, folder: Path) -> Analysis:
    return analyse(load_run(fake.write(folder / "run")))


def _only(fake: FakeModels, folder: Path) -> WholeModel:
    (found,) = _analyse(fake, folder).whole_models
    return found


def _form(model: WholeModel, ff: str) -> Form:
    found = model.find(ff)
    assert found is not None
    return found


def test_the_known_ratios_are_found(tmp_path: Path) -> None:
    """Where parts are known and nothing disturbs them, each figure is the one that follows from them."""
    model = _only(FakeModels(noise=0.0), tmp_path)
    form = _form(model, FFF)
    for ratio, truth in (
        (model.share, 13 / 20), (model.limit, 20 / 7), (model.measured_limit, 20 / 7),
        (model.aa, 1.0), (model.timers, 1.0), (form.speedup, 20 / 8), (form.layer, 13.0),
        (form.follows, 20 / 8), (form.residual, 1.0), (form.of_limit, 7 / 8),
    ):  # fmt: skip
        assert ratio is not None
        assert ratio.value == pytest.approx(truth, rel=1e-6)
        assert ratio.known


def test_intervals_hold_the_truth(tmp_path: Path) -> None:
    """With noise the intervals hold what is true, and are not all of the line."""
    model = _only(FakeModels(noise=0.02, processes=5), tmp_path)
    form = _form(model, FFF)
    for ratio, truth in ((model.limit, 20 / 7), (form.speedup, 2.5), (form.of_limit, 7 / 8)):
        assert ratio is not None
        assert ratio.low < truth < ratio.high
        assert ratio.high < 1.2 * ratio.low


def test_the_residual_is_what_the_swap_disturbed(tmp_path: Path) -> None:
    """A model that is slower than its layer's speedup lets expect has a residual below 1 by as much."""
    form = _form(_only(FakeModels(noise=0.0, untimed={FFF: 1.25}), tmp_path), FFF)
    assert form.residual is not None
    assert form.residual.value == pytest.approx(0.8, rel=1e-6)
    assert form.follows is not None
    assert form.follows.value == pytest.approx(2.5, rel=1e-6)


def test_timers_change_no_ratio(tmp_path: Path) -> None:
    """What timers cost is told, and enters no speedup: those are of passes without."""
    model = _only(FakeModels(noise=0.0, timers=1.3), tmp_path)
    assert model.timers is not None
    assert model.timers.value == pytest.approx(1.3, rel=1e-6)
    form = _form(model, FFF)
    assert form.speedup is not None
    assert form.speedup.value == pytest.approx(2.5, rel=1e-6)
    assert form.residual is not None
    assert form.residual.value == pytest.approx(1.0, rel=1e-6)


def test_each_batch_stands_for_itself(tmp_path: Path) -> None:
    """Batches of as many tokens in other sequences are told apart."""
    found = _analyse(FakeModels(shapes=((2, 8), (4, 4))), tmp_path).whole_models
    assert [m.transformer.shape for m in found] == ["2x8", "4x4"]


def test_without_the_model_that_has_no_ff(tmp_path: Path) -> None:
    """Where the model without its FF was not measured, there is a limit by shares and no measured one."""
    model = _only(FakeModels(times=without(TIMES, LEFT_OUT)), tmp_path)
    assert model.limit is not None
    assert model.measured_limit is None
    assert _form(model, FFF).of_limit is None


def test_a_wrong_form_has_no_figure(tmp_path: Path) -> None:
    """What failed its gate has a reason and no ratio; without the model as it is there is nothing."""
    form = _form(_only(FakeModels(lost=(FFF,)), tmp_path), FFF)
    assert (form.status, form.reason) == ("wrong", "layer 1: it is made up")
    assert form.speedup is form.layer is form.follows is form.residual is None
    (tmp_path / "other").mkdir()
    assert _analyse(FakeModels(lost=(DENSE,)), tmp_path / "other").whole_models == []


def test_a_run_of_models_has_no_layers(tmp_path: Path) -> None:
    """Cells of whole models, the twin among them, are no points of a layer's tables."""
    analysis = _analyse(FakeModels(), tmp_path)
    assert list(analysis.points) == []
    assert list(analysis.contrasts) == []


def test_the_ff_of_a_step_is_all_of_its_parts(tmp_path: Path) -> None:
    """In a step of training the FF's time is that of its way forward, its way back and its update."""
    fake = FakeModels(noise=0.0, training=True, times=STEP_TIMES)
    model = _only(fake, tmp_path)
    form = _form(model, FFF)
    for ratio, truth in (
        (model.share, 15 / 25), (model.limit, 25 / 10), (model.measured_limit, 25 / 10),
        (form.speedup, 25 / 13), (form.layer, 15 / 3), (form.residual, 1.0), (form.of_limit, 10 / 13),
    ):  # fmt: skip
        assert ratio is not None
        assert ratio.value == pytest.approx(truth, rel=1e-6)
    assert set(form.parts_ns) == set(STEP_TIMES[FFF])


def test_compiled_models_stand_for_themselves(tmp_path: Path) -> None:
    """Compiled passes are over the compiled model as it is, and how much that gained is told beside."""
    plain, compiled = _analyse(FakeModels(noise=0.0, compiled=(False, True)), tmp_path).whole_models
    assert (plain.transformer.compiled, compiled.transformer.compiled) == (False, True)
    form = _form(compiled, FFF)
    assert form.speedup is not None
    assert form.speedup.value == pytest.approx(2.5, rel=1e-6)
    assert form.layer is form.follows is form.residual is compiled.share is None
    assert plain.over_plain is None
    assert compiled.over_plain is not None
    assert compiled.over_plain.value == pytest.approx(2.0, rel=1e-6)
