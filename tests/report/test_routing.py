"""Claims on what routing does to the speedups of a run."""

from __future__ import annotations

import pytest
from fabricated_runs import Fake

from harness.analysis.analysis import analyse
from harness.problem.axes import DEFAULTS
from harness.report import table
from harness.report.routing import routing_frame, routing_lines

HOW = tuple(DEFAULTS._replace(routing=r) for r in ("uniform", "zipf", "trained"))
FFF = "fff_l1_blas/ultrafastbert-1x11"


def make(**changes: object) -> Fake:
    """Return a run of one FF and one FFF without noise under three routings."""
    times = {"ff_l3_blas/bert-base-4095": 1e8, FFF: 4e6}
    quiet = {"noise": 1e-4, "process_noise": 1e-4, "conditions": HOW, "times": times}
    return Fake(**{**quiet, **changes})  # type: ignore[arg-type]


def test_speedups_are_set_against_each_other() -> None:
    """An FFF that takes twice as long under one routing, the FF as long, has half of the other's speedup."""
    slow = next(
        c.cell for c in make().cells() if c.layer == "fff" and c.conditions.routing == "trained"
    )
    found = {s.conditions.routing: s for s in analyse(make(factors={slow: 2.0}).run()).routed}
    assert list(found) == ["uniform", "zipf", "trained"]
    times = found["trained"].times
    assert set(times) == {"uniform", "zipf"}
    for ratio in times.values():
        assert ratio is not None
        assert ratio.value == pytest.approx(0.5, rel=0.01)
        assert ratio.low < ratio.value < ratio.high
    against = found["uniform"].times["zipf"]
    assert against is not None
    assert against.value == pytest.approx(1.0, rel=0.01)


def test_the_section_stands_where_there_are_several() -> None:
    """A run of several routings has a row for each and says what trained means; one of one has no section."""
    analysis = analyse(make().run())
    frame = routing_frame(analysis.routed)
    assert frame["conditions"].tolist() == ["default", "routing zipf", "routing trained"]
    assert {"times uniform's", "times zipf's", "times trained's"} <= set(frame)
    text = table.format_markdown(analysis)
    assert "not UltraFastBERT's own" in text.partition("## What routing does to the speedup")[2]
    assert routing_lines(analyse(make(conditions=HOW[:1]).run()).routed) == []


def test_other_axes_stay_apart() -> None:
    """Routings are set against each other with all else alike: not hot against flushed."""
    cold = tuple(how._replace(weights="flushed") for how in HOW)
    found = analyse(make(conditions=(*HOW, *cold)).run()).routed
    assert len(found) == 6
    assert {s.conditions.weights for s in found} == {"hot", "flushed"}
    assert all(len(s.times) == 2 for s in found)
