"""The interval of one cell between two runs."""

from __future__ import annotations

import numpy as np
import pytest

from harness.analysis import compare_interval


@pytest.mark.parametrize(
    ("sizes", "spreads"),
    [
        pytest.param(
            sizes, spreads, marks=[pytest.mark.slow] * (sizes in ((3, 3), (5, 3), (5, 10)))
        )
        for sizes in [(5, 5), (3, 3), (3, 5), (5, 3), (5, 10)]
        for spreads in [(1, 1), (10, 1), (1, 10)]
    ],
)
def test_interval_covers_the_truth(sizes: tuple[int, int], spreads: tuple[float, float]) -> None:
    """The interval holds the truth in 93 to 97 % of comparisons, also where the runs have unequal numbers
    of processes, and one was measured on a machine ten times as busy."""
    assert 0.93 <= _coverage(sizes, spreads, runs=3000) <= 0.97


@pytest.mark.parametrize(
    "sizes", [(2, 2), (2, 5), *(pytest.param(s, marks=pytest.mark.slow) for s in ((5, 2), (2, 10)))]
)
@pytest.mark.parametrize("spreads", [(1, 1), (10, 1), (1, 10)])
def test_two_processes_promise_no_more_than_they_hold(
    sizes: tuple[int, int], spreads: tuple[float, float]
) -> None:
    """With two processes in a run the interval holds the truth at least as often as it says."""
    assert _coverage(sizes, spreads, runs=3000) >= 0.935


def _coverage(sizes: tuple[int, int], spreads: tuple[float, float], runs: int) -> float:
    """Return the share of simulated comparisons whose interval holds the true quotient, 1."""
    rng = np.random.default_rng(1)
    held = 0
    blocks = [
        rng.normal(0, spread, (runs, size, 1)) + rng.normal(0, 0.2 * spread, (runs, size, 3))
        for size, spread in zip(sizes, spreads, strict=True)
    ]
    for a, b in zip(*blocks, strict=True):
        found = compare_interval.estimate(list(a), list(b))
        assert found is not None
        held += found.includes(1.0)
    return held / runs


def test_a_single_value_gives_no_interval() -> None:
    """One block on one side gives an estimate without an interval."""
    found = compare_interval.estimate([np.array([0.0])], [np.array([0.1, 0.2])])
    assert found is not None
    assert not found.known


def test_equal_values_give_an_interval_of_nothing() -> None:
    """Runs whose units agree exactly give their quotient and no doubt."""
    found = compare_interval.estimate([np.zeros(3)] * 3, [np.full(3, np.log(2))] * 3)
    assert found is not None
    assert found.low == pytest.approx(2.0)
    assert found.high == pytest.approx(2.0)
