"""What the ceilings of two runs say of their comparison."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated_ceilings import FF_FLOOR_NS, STREAM_NS, ceiling_records, cell_record, make_run

from harness.analysis import compare
from harness.analysis.compare import Comparison


def compare_runs(folder: Path, moved: float, slower: float) -> Comparison:
    """Return the comparison of two runs between which the L3's loop and one cell changed their time.

    The FF at level 1 streams its weights from the L3; the one at level 3 does not.
    """
    runs = []
    for name, loop, change in (("a", 1.0, 1.0), ("b", moved, slower)):
        product = cell_record("product", implementation="ff_l3_blas", level=3)
        ceilings = [(r, ns * loop if r.cell == "read/L3" else ns) for r, ns in ceiling_records()]
        own = [(cell_record("ff"), STREAM_NS * change), (product, 2 * FF_FLOOR_NS * change)]
        reference = cell_record(
            "sgemm", role="ceiling", layer="ceiling", implementation="ceiling_sgemm", model="",
            level=None,
        )  # fmt: skip
        runs.append(make_run(folder / name, [*ceilings, (reference, 1e7), *own]))
    return compare.compare(*runs)


def verdicts(comparison: Comparison) -> dict[str, str]:
    """Return the verdicts by implementation."""
    return {c.cell.split("/")[0]: c.verdict for c in comparison.changes}


def test_a_cell_is_not_blamed_for_the_cache_it_streams_from(tmp_path: Path) -> None:
    """5 % more time says nothing of a streaming cell where the cache's own loop moved by 6 %."""
    comparison = compare_runs(tmp_path, moved=1.06, slower=1.05)
    assert verdicts(comparison) == {"ff_l1_blas": "ambiguous", "ff_l3_blas": "slower"}
    streaming = next(c for c in comparison.changes if c.cell.startswith("ff_l1"))
    assert streaming.resolution == pytest.approx(0.06, abs=1e-6)
    assert "streams its weights from L3, whose own loops moved by up to 6 %" in streaming.reason


@pytest.mark.parametrize("moved", [1.0, 1.02, 1 / 1.02])
def test_a_larger_change_than_the_caches_is_called(tmp_path: Path, moved: float) -> None:
    """5 % more time is called slower where the cache that the cell streams from moved by less."""
    comparison = compare_runs(tmp_path, moved=moved, slower=1.05)
    assert verdicts(comparison) == {"ff_l1_blas": "slower", "ff_l3_blas": "slower"}


def test_like_runs_are_the_same(tmp_path: Path) -> None:
    """A cache that moved makes no cell different by itself."""
    comparison = compare_runs(tmp_path, moved=1.2, slower=1.0)
    assert set(verdicts(comparison).values()) == {"same"}
