"""Ratios and their intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harness.analysis import stats
from harness.analysis.samples import by_cell
from harness.analysis.stats import Ratio

TRUE = 20.0


def _frame(
    rng: np.random.Generator, processes: int, blocks: int, *, noise: float, effect: float = 0.0,
    drift: float = 0.0, repeats: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """Return samples of `slow` and `fast`, whose true ratio is TRUE.

    noise: of each sample. effect: of each process on the ratio. drift: of each block, for both cells alike.
    """
    index = pd.MultiIndex.from_product(
        [range(processes), range(blocks), ("slow", "fast"), range(repeats)],
        names=["process", "within", "cell", "repeat"],
    )
    frame = index.to_frame(index=False)
    frame["block"] = frame["process"] * blocks + frame["within"]
    slow = frame["cell"] == "slow"
    log = np.where(slow, np.log(TRUE), 0.0)
    log += np.where(slow, rng.normal(0, effect, processes)[frame["process"]], 0.0)
    log += rng.normal(0, drift, processes * blocks)[frame["block"]]
    log += rng.normal(0, noise, len(frame))
    frame["pass_ns"] = 1e6 * np.exp(log)
    return frame


def _ratio(frame: pd.DataFrame, slow: str, fast: str) -> Ratio | None:
    """Return how many times longer one cell takes than another."""
    return stats.ratio(by_cell(frame), slow, fast)


# What a whole run has, what a spent budget leaves, and what a run that is taken up again adds.
BLOCKS = (
    [2] * 5, [5] * 5, [9] * 3, [4, 6, 5, 3, 6], [9, 9, 9, 9, 1], [9, 1], [9, 9, 1, 1], [12, 1, 1],
    [20, 1, 1, 1],
)  # fmt: skip


@pytest.mark.parametrize(
    "effect",
    [
        0.0,
        pytest.param(0.3, marks=pytest.mark.slow),
        0.7,
        pytest.param(3.0, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
def test_interval_covers_the_truth(blocks: list[int], effect: float) -> None:
    """The 95 % interval holds the truth in 93 to 97.5 % of runs, however much processes differ, and however
    unequal their numbers of blocks are; in up to 98.5 % only where they do not differ at all.

    effect: the spread of the processes over that of the blocks in one.
    """
    rng = np.random.default_rng(1)
    processes = np.repeat(np.arange(len(blocks)), blocks)
    runs = 3000
    values = rng.normal(0, 1, (runs, len(processes)))
    values += effect * rng.normal(0, 1, (runs, len(blocks)))[:, processes]
    found = [stats.mean_of_units(row, processes) for row in values]
    held = sum(abs(mean) <= half for mean, half in found)
    assert 0.93 <= held / runs <= (0.975 if effect else 0.985)


def test_interval_is_not_uselessly_wide() -> None:
    """Five processes give intervals at most 1.45 times those of a reader who knew the true spread."""
    rng = np.random.default_rng(2)
    processes = np.repeat(np.arange(5), 5)
    for effect in (0.0, 1.0, 3.0):
        values = rng.normal(0, 1, (2000, 25)) + effect * rng.normal(0, 1, (2000, 5))[:, processes]
        widths = [stats.mean_of_units(row, processes)[1] for row in values]
        assert np.mean(widths) < 1.45 * 1.96 * np.sqrt((effect**2 + 1 / 5) / 5)


def test_a_ratio_holds_the_truth() -> None:
    """Whole ratios of samples that drift with the machine hold their truth as often as they say."""
    rng = np.random.default_rng(1)
    runs, processes, blocks = 300, 5, 3
    # The processes of all runs in one frame, which is read once.
    times = by_cell(_frame(rng, runs * processes, blocks, noise=0.03, effect=0.02, drift=0.3))
    slow, fast = (list(times[cell].blocks.items()) for cell in ("slow", "fast"))
    held = 0
    for start in range(0, len(slow), processes * blocks):
        own = slice(start, start + processes * blocks)
        found = stats.ratio_of_blocks(dict(slow[own]), dict(fast[own]))
        assert found is not None
        assert found.blocks == processes * blocks
        held += found.includes(TRUE)
    assert 0.92 <= held / runs <= 0.98


def test_drift_of_the_machine_cancels() -> None:
    """A machine that slows down five-fold for half of the blocks changes neither ratio nor interval."""
    calm = _frame(np.random.default_rng(2), 3, 4, noise=0.01)
    loaded = calm.copy()
    loaded.loc[loaded["block"] >= 6, "pass_ns"] *= 5
    before, after = _ratio(calm, "slow", "fast"), _ratio(loaded, "slow", "fast")
    assert before is not None
    assert after is not None
    for name in ("value", "low", "high"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-12)


def test_estimate_is_the_geometric_mean_over_blocks() -> None:
    """The estimate is the geometric mean of the blocks' ratios, samples of a block averaged first."""
    rows = [
        ("slow", 0, 10.0),
        ("slow", 0, 30.0),
        ("fast", 0, 10.0),
        ("slow", 1, 80.0),
        ("fast", 1, 10.0),
    ]
    frame = pd.DataFrame(rows, columns=["cell", "block", "pass_ns"]).assign(process=0)
    found = _ratio(frame, "slow", "fast")
    assert found is not None
    assert found.value == pytest.approx(4.0)  # sqrt(2 * 8)
    assert found.blocks == 2
    assert found.low <= found.value <= found.high


def test_inverse_ratio_is_the_inverse() -> None:
    """Swapping the cells inverts the estimate and the interval."""
    frame = _frame(np.random.default_rng(3), 3, 5, noise=0.05)
    there, back = _ratio(frame, "slow", "fast"), _ratio(frame, "fast", "slow")
    assert there is not None
    assert back is not None
    assert back.value == pytest.approx(1 / there.value)
    assert back.low == pytest.approx(1 / there.high, rel=0.02)
    assert back.high == pytest.approx(1 / there.low, rel=0.02)


def test_same_samples_same_interval() -> None:
    """The interval is a function of the samples: reading a run twice prints the same figures."""
    frame = _frame(np.random.default_rng(4), 2, 3, noise=0.05)
    assert _ratio(frame, "slow", "fast") == _ratio(frame.iloc[::-1], "slow", "fast")


def test_one_block_gives_no_interval() -> None:
    """One block gives an estimate whose interval is unknown and includes nothing."""
    found = _ratio(_frame(np.random.default_rng(5), 1, 1, noise=0.1), "slow", "fast")
    assert found is not None
    assert not found.known
    assert not found.includes(found.value)
    assert found.blocks == 1


def test_no_common_block_gives_no_ratio() -> None:
    """Cells that were never sampled in one block have no ratio."""
    frame = _frame(np.random.default_rng(6), 1, 2, noise=0.1)
    apart = frame[(frame["cell"] == "slow") == (frame["block"] == 0)]
    assert _ratio(apart, "slow", "fast") is None
    assert _ratio(frame, "slow", "nothing") is None


def test_more_processes_narrow_the_interval() -> None:
    """Four times the processes give an interval less than half as wide, also where processes differ."""

    def width(processes: int) -> float:
        rng = np.random.default_rng(7)
        frames = [_frame(rng, processes, 3, noise=0.1, effect=0.1) for _ in range(20)]
        found = [_ratio(frame, "slow", "fast") for frame in frames]
        return float(np.mean([np.log(r.high / r.low) for r in found if r is not None]))

    assert 0.3 < width(20) / width(5) < 0.5


def test_known_ratio_includes_its_ends() -> None:
    """An interval includes its ends and nothing beyond them."""
    ratio = Ratio(value=2.0, low=1.5, high=2.5, blocks=4)
    assert ratio.includes(1.5)
    assert ratio.includes(2.5)
    assert not ratio.includes(1.49)
    assert not ratio.includes(2.51)


def test_pass_time_is_the_median() -> None:
    """A cell's absolute figure is the median of its samples, NaN where it has none."""
    frame = pd.DataFrame({"cell": "a", "process": 0, "block": 0, "pass_ns": [1.0, 100.0, 2.0]})
    assert stats.pass_ns(by_cell(frame), "a") == 2.0
    assert np.isnan(stats.pass_ns(by_cell(frame), "b"))
