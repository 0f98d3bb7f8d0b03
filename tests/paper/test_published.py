"""The paper's figures."""

from __future__ import annotations

import pytest

from harness.paper.published import FASTEST_FF, find, table2
from harness.problem.models import parse_model, speedup_limit


def test_every_cell_has_a_provenance() -> None:
    """Each published figure names a model that is known here, a device and where it comes from."""
    cells = table2()
    assert len(cells) == len(set(cells))
    for cell in cells:
        assert cell.provenance.split()[0] in ("abstract", "arithmetic", "secondary", "unconfirmed")
        assert cell.device in ("cpu", "gpu", "any")
        assert parse_model(cell.model).name == cell.model
        assert float(cell.text) == cell.speedup > 0


def test_limits_are_arithmetic() -> None:
    """The published limits are the ratios of neurons that this harness computes itself."""
    limits = [c for c in table2() if c.implementation == "limit"]
    assert len(limits) == 3
    for cell in limits:
        assert speedup_limit(cell.model) == pytest.approx(cell.speedup, abs=0.005)


def test_find() -> None:
    """A cell is found by model, column and baseline; one that the paper lacks is None."""
    same = find("ultrafastbert-1x11", "level 2")
    best = find("ultrafastbert-1x11", "level 2", baseline=FASTEST_FF)
    assert same is not None
    assert best is not None
    assert (same.speedup, best.speedup) == (255.1, 78.0)
    assert same.confirmed
    unconfirmed = find("bert-base-3072", "level 1")
    assert unconfirmed is not None
    assert not unconfirmed.confirmed
    assert find("ultrafastbert-1x11", "level 3") is None
    assert find("ultrafastbert-2x10", "level 1") is None
