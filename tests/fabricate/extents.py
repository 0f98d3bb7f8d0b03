"""Own small extents of each layer: what tests that go over all layers make their problems of."""

from __future__ import annotations

from typing import Any

# A shape of each layer that has all its extents above 1.
EXTENTS: dict[str, dict[str, Any]] = {
    "ff": {"hidden": 33},
    "fff": {"depth": 4, "trees": 2},
    "leaf": {"hidden": 7, "depth": 4, "trees": 1},
    "topk": {"experts": 33, "hidden": 1, "active": 5},
    "hash": {"depth": 4, "trees": 1},
    "peer": {"experts": 36, "hidden": 1, "active": 5},
    "moe": {"experts": 9, "hidden": 7, "active": 2},
}
