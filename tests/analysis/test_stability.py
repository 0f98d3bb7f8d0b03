"""Disturbed samples are named with their reason, quiet ones are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats as distributions

from harness.analysis import stability
from harness.analysis.samples import by_cell


def _samples(pass_ns: np.ndarray, **counts: int) -> pd.DataFrame:
    blocks = np.arange(len(pass_ns))
    return pd.DataFrame(
        {
            "cell": "a",
            "process": blocks // 4,
            "block": blocks,
            "pass_ns": pass_ns,
            "elapsed_ns": np.full(len(pass_ns), 100_000_000),
            "steal_ticks": counts.get("steal_ticks", 0),
            "switches": counts.get("switches", 0),
            "faults": counts.get("faults", 0),
            "cpu_ns": counts.get("cpu_ns", 0),
            "call_ns": 1_000,
            "throttle": [[]] * len(pass_ns),
        }
    )


def _quiet(blocks: int = 12) -> np.ndarray:
    return 1e6 * (1 + 0.01 * np.random.default_rng(1).standard_normal(blocks))


def test_quiet_samples_have_no_reason() -> None:
    """A cell with one per cent of noise and no disturbance is stable."""
    assert stability.reasons(by_cell(_samples(_quiet())), "a", 1) == []


def test_throttled_samples_are_named() -> None:
    """A cell of which some samples were throttled says how many and by what."""
    samples = _samples(_quiet())
    samples["throttle"] = [["power cap"], ["heat, by the driver", "power cap"], *[[]] * 10]
    (reason,) = stability.reasons(by_cell(samples), "a", 1)
    assert reason == "THROTTLED in 2 of 12 samples (heat, by the driver, power cap)"


@pytest.mark.parametrize(
    ("cpu_ns", "threads", "reason"),
    [
        (0, 1, []),
        (100_000_000, 1, []),
        (120_000_000, 1, []),
        (200_000_000, 1, ["2.0 processors at work for 1 thread"]),
        (200_000_000, 2, []),
        (240_000_000, 2, []),
        (390_000_000, 2, ["3.9 processors at work for 2 threads"]),
        (1_800_000_000, 16, []),
        (2_100_000_000, 16, ["21.0 processors at work for 16 threads"]),
        (30_000_000, 2, []),
    ],
)
def test_more_processors_than_threads_are_named(
    cpu_ns: int, threads: int, reason: list[str]
) -> None:
    """Processor time beyond that of the stated threads is a reason, less is none, nor is none recorded."""
    samples = by_cell(_samples(_quiet(), cpu_ns=cpu_ns))
    assert stability.reasons(samples, "a", threads) == reason


@pytest.mark.parametrize(
    ("count", "value", "word"),
    [
        ("steal_ticks", 1, "steal"),
        ("switches", 20, "context switches"),
        ("faults", 40, "page faults"),
    ],
)
def test_a_disturbance_is_named(count: str, value: int, word: str) -> None:
    """Steal time, context switches and page faults above their thresholds are reasons."""
    (reason,) = stability.reasons(by_cell(_samples(_quiet(), **{count: value})), "a", 1)
    assert word in reason


def test_a_drift_is_named_with_its_size() -> None:
    """A steady change of 30 % over the run is found, with its sign."""
    drifting = _quiet() * np.linspace(1.0, 1.3, 12)
    (reason,) = stability.reasons(by_cell(_samples(drifting)), "a", 1)
    assert reason.startswith("drift of +2") or reason.startswith("drift of +3")


def test_one_slow_block_is_no_drift() -> None:
    """A single disturbed block moves neither the slope nor the verdict."""
    times = _quiet()
    times[-1] *= 3
    assert stability.trend({(0, block): time for block, time in enumerate(times)}) == 0.0


def test_the_clock_of_a_register_loop_tells_frequency_changes() -> None:
    """A reference cell that slows by a fifth for half the run shows a change of about that size."""
    times = _quiet() * np.repeat([1.0, 1.2], 6)
    assert stability.clock_change(by_cell(_samples(times)), "a") == pytest.approx(0.18, abs=0.04)
    assert stability.clock_change(by_cell(_samples(_quiet())), "a") < 0.05


def test_a_cell_without_samples_has_no_reason() -> None:
    """Nothing is said of a cell that was never sampled."""
    assert stability.reasons(by_cell(_samples(_quiet())), "other", 1) == []


def _trend(values: np.ndarray) -> float:
    """Return the trend of values by block of one process."""
    return stability.trend({(0, block): float(value) for block, value in enumerate(values)})


@pytest.mark.parametrize("count", [6, 12, 33, 34, 200])
@pytest.mark.parametrize("levels", [0, 5], ids=["distinct", "ties"])
def test_trend_is_theil_and_sens(count: int, levels: int) -> None:
    """The p and the slope are those of SciPy, with ties and without, for few and for many values."""
    rng = np.random.default_rng(count)
    place = np.arange(count)
    seen = set()
    for slope in (0.0, 0.0, 0.01, -0.02, 0.1):
        values = 100 * (1 + slope * place / count + 0.02 * rng.standard_normal(count))
        values = np.round(values / levels) * levels if levels else values
        if np.ptp(values) == 0:
            continue
        first, second = np.triu_indices(count, 1)
        p = stability.rank_p(values, values[second] - values[first])
        told = distributions.kendalltau(place, values)
        assert p == pytest.approx(told.pvalue, rel=1e-6, abs=1e-12)
        expected = distributions.theilslopes(values, place).slope * (count - 1) / np.median(values)
        seen.add(p < 0.01)
        assert _trend(values) == pytest.approx(expected if p < 0.01 else 0.0)
    assert levels or seen == {True, False} or count < 12


def test_trend_of_a_long_run_is_that_of_its_parts() -> None:
    """Of tens of thousands of blocks the trend is found as of few, and none where there is none."""
    noise = 0.01 * np.random.default_rng(3).standard_normal(40_000)
    assert _trend(100 * (1 + noise)) == pytest.approx(0.0, abs=0.005)
    assert _trend(100 * (1 + noise + np.linspace(0, 0.2, 40_000))) == pytest.approx(0.18, abs=0.01)
