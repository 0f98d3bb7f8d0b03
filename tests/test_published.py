"""The paper's figures."""

from __future__ import annotations

import pytest

from harness import axes, published, view


def test_every_cell_has_a_provenance() -> None:
    """Each published figure names a model that is known here, a device and where it comes from."""
    cells = published.table2()
    assert len(cells) == len(set(cells))
    for cell in cells:
        assert cell.provenance.split()[0] in ("abstract", "arithmetic", "secondary", "unconfirmed")
        assert cell.device in ("cpu", "gpu", "any")
        assert axes.parse_model(cell.model).name == cell.model
        assert float(cell.text) == cell.speedup > 0


def test_limits_are_arithmetic() -> None:
    """The published limits are the ratios of neurons that this harness computes itself."""
    limits = [c for c in published.table2() if c.implementation == "limit"]
    assert len(limits) == 3
    for cell in limits:
        assert view.limit(cell.model) == pytest.approx(cell.speedup, abs=0.005)


def test_find() -> None:
    """A cell is found by model, column and baseline; one that the paper lacks is None."""
    same = published.find("ultrafastbert-1x11", "level 2")
    best = published.find("ultrafastbert-1x11", "level 2", baseline=published.FASTEST_FF)
    assert same is not None
    assert best is not None
    assert (same.speedup, best.speedup) == (255.1, 78.0)
    assert same.confirmed
    unconfirmed = published.find("bert-base-3072", "level 1")
    assert unconfirmed is not None
    assert not unconfirmed.confirmed
    assert published.find("ultrafastbert-1x11", "level 3") is None
    assert published.find("ultrafastbert-2x10", "level 1") is None
