"""Comparisons of two runs of whole models, over runs whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fabricated_models import FFF, TIMES, FakeModels, without

from harness.analysis.compare import Change, Comparison
from harness.analysis.transformer_compare import compare
from harness.errors import UsageError
from harness.problem.transformer import DENSE, LEFT_OUT
from harness.records.reader import load_run
from harness.report.compare import format_comparison, format_comparison_json

WHOLE = f"tiny-2/{FFF}/2x8"


def _compare(folder: Path, then: FakeModels, now: FakeModels) -> Comparison:
    return compare(load_run(then.write(folder / "a")), load_run(now.write(folder / "b")))


def _find(found: Comparison, cell: str) -> Change:
    (change,) = [c for c in found.changes if c.cell == cell]
    return change


def test_equal_runs_are_the_same(tmp_path: Path) -> None:
    """Runs of the same times, apart from noise, differ in no model and no part."""
    found = _compare(tmp_path, FakeModels(noise=0.001), FakeModels(noise=0.001))
    assert {c.verdict for c in found.changes} == {"same", "reference"}
    assert [c.cell for c in found.changes if c.verdict == "reference"] == [f"tiny-2/{DENSE}/2x8"]
    assert found.unmatched == found.lost == []


def test_a_slower_part_is_found(tmp_path: Path) -> None:
    """A layer that takes twice as long is slower, and so is its model; what did not change is the same."""
    options: dict[str, Any] = {"noise": 0.001}
    found = _compare(
        tmp_path, FakeModels(**options), FakeModels(slower={(FFF, "ff"): 2.0}, **options)
    )
    part, whole = _find(found, f"{WHOLE}/parts: ff"), _find(found, WHOLE)
    assert part.verdict == whole.verdict == "slower"
    assert part.change is not None
    assert part.change.value == pytest.approx(2.0, rel=0.02)
    assert whole.change is not None
    assert whole.change.value == pytest.approx(9 / 8, rel=0.02)
    assert _find(found, f"{WHOLE}/parts: qkv").verdict == "same"
    assert {part.cell, whole.cell} <= {c.cell for c in found.slower_than(5.0)}


def test_a_drift_of_the_machine_cancels(tmp_path: Path) -> None:
    """Where everything takes half as long again, no model has changed, and the drift is told."""
    slow = {ff: {p: 1.5 * ns for p, ns in parts.items()} for ff, parts in TIMES.items()}
    found = _compare(tmp_path, FakeModels(noise=0.001), FakeModels(noise=0.001, times=slow))
    assert {c.verdict for c in found.changes} == {"same", "reference"}
    assert found.drift == pytest.approx(1.5, rel=0.01)


def test_what_b_lacks_is_lost(tmp_path: Path) -> None:
    """A form that only A has is named; one that is wrong in B is broken."""
    found = _compare(tmp_path, FakeModels(), FakeModels(times=without(TIMES, LEFT_OUT)))
    cell = f"tiny-2/{LEFT_OUT}/2x8"
    assert found.lost == [f"{cell} is not in B", f"{cell}/parts is not in B"]
    (tmp_path / "other").mkdir()
    broken = _compare(tmp_path / "other", FakeModels(), FakeModels(lost=(FFF,)))
    assert _find(broken, WHOLE).verdict == "broken"


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    """Runs of other weights, and steps of training beside passes, have nothing in common."""
    with pytest.raises(UsageError, match="have no model in common") as caught:
        _compare(tmp_path, FakeModels(), FakeModels(checkpoint="own@0123"))
    assert "weights own@0123" in str(caught.value)


def test_the_texts_say_what_is_compared(tmp_path: Path) -> None:
    """The printed comparison says what each time is over, and the JSON holds every part."""
    found = _compare(tmp_path, FakeModels(), FakeModels())
    assert "is over that of the model as it is of the same batch" in format_comparison(found)
    cells = [c["cell"] for c in json.loads(format_comparison_json(found))["cells"]]
    assert f"{WHOLE}/parts: ff" in cells
    assert f"tiny-2/{LEFT_OUT}/2x8/parts: ff" not in cells
