"""Change points of series whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from harness.analysis.change_points import find_change_points


def make_series(levels: list[tuple[int, float]], noise: float, seed: int = 0) -> np.ndarray:
    """Return values around levels, each given by its number of values and its height."""
    rng = np.random.default_rng(seed)
    heights = np.repeat([height for _, height in levels], [count for count, _ in levels])
    return heights * np.exp(rng.normal(0, noise, len(heights)))


def starts(values: np.ndarray) -> list[int]:
    """Return where the levels of a series begin, but the first."""
    return [change.start for change in find_change_points(values, 0.01)]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 20])
def test_a_steady_series_has_no_change_point(count):
    """Of a hundred series of one level not one in twenty is given a change point, however short."""
    assert sum(bool(starts(make_series([(count, 1)], 0.02, s))) for s in range(100)) <= 5


def test_a_step_is_found_where_it_is():
    """A step of 5 % in noise of 1 % stands before the first run of the new level, with its height."""
    [change] = find_change_points(make_series([(8, 1.0), (8, 1.05)], 0.01), 0.01)
    assert change.start == 8
    assert change.change.value == pytest.approx(1.05, abs=0.02)
    assert 1.01 < change.change.low < change.change.value < change.change.high


def test_a_level_that_comes_and_goes_has_two():
    """A regression that was mended again is two change points, one up and one down."""
    found = find_change_points(make_series([(10, 1.0), (4, 1.1), (10, 1.0)], 0.01), 0.01)
    assert [change.start for change in found] == [10, 14]
    assert [change.change.value > 1 for change in found] == [True, False]


def test_a_single_value_is_no_level():
    """One run that stands out, in the middle or as the newest, moves no level."""
    for place in (5, 11):
        values = make_series([(12, 1.0)], 0.005)
        values[place] *= 1.3
        assert starts(values) == []


def test_what_is_below_the_resolution_is_no_change():
    """A step that is exact but less than what is resolved is none; the same step is one where it counts."""
    values = make_series([(6, 1.0), (6, 1.03)], 0.0)
    assert find_change_points(values, 0.05) == []
    assert [change.start for change in find_change_points(values, 0.01)] == [6]


def test_the_partition_is_the_best_of_all():
    """A series of several levels is cut at each of them, whatever their heights and lengths."""
    levels = [(4, 1.0), (3, 1.2), (6, 1.1), (2, 1.5), (5, 1.0)]
    assert starts(make_series(levels, 0.001)) == [4, 7, 13, 15]
