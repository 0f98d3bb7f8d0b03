"""The tool that finds the ratios of a run of whole models again, over a run whose ratios are made up."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from fabricated_models import FFF, TIMES, FakeModels

pytest.importorskip("torch")
pytest.importorskip("transformers")

TOOL = Path(__file__).parent.parent / "tools" / "check_model.py"


def _run(folder: Path, monkeypatch: pytest.MonkeyPatch, ratios: dict[str, float]) -> None:
    """Check a run as if passes by hand had taken what `ratios` says of the model as it is."""
    tool = runpy.run_path(str(TOOL))

    def take(forms: dict[str, Any], tokens: Any, rounds: int) -> dict[str, list[float]]:
        return {name: [1.0 / ratios.get(name, 1.0)] * rounds for name in forms}

    monkeypatch.setitem(tool["_check"].__globals__, "_time_forms", take)
    tool["main"]([str(folder), "--rounds", "5"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a run of a tiny BERT with its table."""
    from harness import cli

    found = FakeModels(times=TIMES).write(tmp_path / "run")
    assert cli.run(["table", str(found)]) == 0
    return found


def test_the_same_ratios_are_found_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where layers swapped by hand are as much faster, every ratio is found again."""
    _run(folder, monkeypatch, {"left-out": 20 / 7, FFF: 2.5})
    assert capsys.readouterr().out.count("in the run: found again") == 2


def test_other_ratios_are_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ratio that lies beyond the run's interval ends with what was found here and there."""
    with pytest.raises(SystemExit, match=f"{FFF}: 1.500x"):
        _run(folder, monkeypatch, {"left-out": 20 / 7, FFF: 1.5})


def test_the_swap_by_hand_is_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every form that is made by hand runs, round by round, none of them first in each."""
    import torch

    tool = runpy.run_path(str(TOOL))
    from fabricated_models import TINY

    base = tool["_make_model"](TINY)
    forms = {"dense": base, **{ff: tool["_swap"](base, ff) for ff in ("left-out", FFF, "ff-4")}}
    times = tool["_time_forms"](forms, torch.zeros(1, 4, dtype=torch.long), 2)
    assert {name: len(taken) for name, taken in times.items()} == dict.fromkeys(forms, 2)
