"""What the ceilings of a run say of its cells."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from fabricated_ceilings import (
    FF_FLOOR_NS,
    KIB,
    LIMITS,
    MIB,
    STREAM_NS,
    ceiling_records,
    cell_record,
    fff_record,
    make_run,
    two_threads,
)
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis import above_limit, roofline, rows
from harness.analysis.analysis import analyse
from harness.analysis.stats import Ratio
from harness.problem.axes import DEFAULTS
from harness.report import frames, table


def test_measured_ceilings_are_read_from_a_run(tmp_path: Path) -> None:
    """Peak and bandwidths are those of the samples, by place."""
    found = analyse(make_run(tmp_path / "run", ceiling_records())).ceilings
    assert found.flops == pytest.approx(LIMITS.flops)
    assert found.bandwidth == pytest.approx(LIMITS.bandwidth)
    assert found.capacity == LIMITS.capacity


def test_ceilings_of_two_threads_are_granted_once(tmp_path: Path) -> None:
    """Where the ceilings ran on two threads, a cell of two is granted their rates and not twice those."""
    cells = two_threads([*ceiling_records(), (cell_record("ff"), 2 * FF_FLOOR_NS)], threads="2")
    run = make_run(tmp_path / "run", cells)
    found = analyse(run).ceilings
    assert (found.threads, found.flops) == (2, pytest.approx(LIMITS.flops))
    assert found.bandwidth == pytest.approx(LIMITS.bandwidth)
    assert found.capacity == {"L1": 64 * KIB, "L2": 2 * MIB, "L3": 32 * MIB}
    assert analyse(run).points[0].speeds[0].of_ceiling == pytest.approx(0.5)
    assert "measured in the same run, of 2 threads together:" in table.format_markdown(analyse(run))


def test_ceilings_of_one_thread_are_granted_to_each(tmp_path: Path) -> None:
    """An older run of two threads, whose loops ran on one, grants a cell twice what that one reached."""
    cells = two_threads([*ceiling_records(), (cell_record("ff"), 2 * FF_FLOOR_NS)])
    run = make_run(tmp_path / "run", cells)
    found = analyse(run).ceilings
    assert (found.threads, found.capacity) == (1, LIMITS.capacity)
    assert analyse(run).points[0].speeds[0].of_ceiling == pytest.approx(0.25)
    assert "measured in the same run:" in table.format_markdown(analyse(run))


@pytest.mark.parametrize(("notes", "peak"), [({}, 150.0), ({"threads": "2"}, 300.0)])
def test_a_product_counts_by_the_threads_of_its_pool(
    tmp_path: Path, notes: dict[str, str], peak: float
) -> None:
    """A provider's product on two threads is a peak of two, or half of it where the loops ran on one."""
    product = cell_record(
        "sgemm", role="ceiling", layer="ceiling", implementation="ceiling_sgemm", model="",
        flops=3 * 10**8,
    )  # fmt: skip
    cells = [*two_threads(ceiling_records(), **notes), *two_threads([(product, 1e6)])]
    assert analyse(make_run(tmp_path / "run", cells)).ceilings.flops == pytest.approx(peak)


def test_a_faster_place_is_never_slower(tmp_path: Path) -> None:
    """A disturbed ceiling of a cache counts at least with the bandwidth of the next slower place."""
    cells = [(r, 1e12 if r.cell == "read/L2" else t) for r, t in ceiling_records()]
    found = analyse(make_run(tmp_path / "run", cells)).ceilings
    assert found.bandwidth["L2"] == pytest.approx(LIMITS.bandwidth["L3"])


def test_a_run_without_ceilings_judges_nothing(tmp_path: Path) -> None:
    """Where no ceiling was measured, shares are unknown and nothing is impossible by them."""
    run = make_run(tmp_path / "run", [(cell_record("ff"), 1e9)])
    point = analyse(run).points[0]
    assert math.isnan(point.speeds[0].of_ceiling)
    assert table.impossible([point]) == []
    assert "of its ceiling" in table.format_markdown(analyse(run))


@given(st.integers(1, 1 << 32), st.integers(1, 1 << 20))
def test_traffic_is_bounded_by_the_fastest_and_slowest_place(size: int, more: int) -> None:
    """The time of a set grows with it, and lies between all of it from L1 and all of it from memory."""
    time = roofline.traffic_ns(LIMITS, size)
    assert size / 200.0 * (1 - 1e-9) <= time <= size / 10.0 * (1 + 1e-9)
    assert roofline.traffic_ns(LIMITS, size + more) > time


def test_a_set_of_one_cache_counts_no_slower_bandwidth() -> None:
    """A set within the first cache takes its bandwidth, one beyond all adds the excess from memory."""
    assert roofline.traffic_ns(LIMITS, 20 * KIB) == pytest.approx(20 * KIB / 200)
    beyond = roofline.traffic_ns(LIMITS, 40 * MIB) - roofline.traffic_ns(LIMITS, 32 * MIB)
    assert beyond == pytest.approx(8 * MIB / 10)


def test_the_floor_is_the_larger_of_work_and_traffic() -> None:
    """A dense layer is bound by its operations, a conditional one by its traffic; threads divide both.

    Not where as many threads were measured together.
    """
    dense, conditional = cell_record("ff"), fff_record("fff")
    assert roofline.floor_ns(LIMITS, dense) == pytest.approx(dense.flops / 100.0)
    moved = 4 * 1536 * (64 + 382)
    assert roofline.compulsory_bytes(conditional) == moved
    assert roofline.floor_ns(LIMITS, conditional) == pytest.approx(
        roofline.traffic_ns(LIMITS, moved)
    )
    dense = dense.model_copy(update={"threads": 2})
    assert roofline.floor_ns(LIMITS, dense) == pytest.approx(dense.flops / 200.0)
    together = dataclasses.replace(LIMITS, threads=2)
    assert roofline.floor_ns(together, dense) == pytest.approx(dense.flops / 100.0)


def test_the_summed_floor_adds_work_and_traffic() -> None:
    """The share of floor is of operations at the peak plus bytes at the bandwidth; cold ones from memory."""
    cell = fff_record("fff")
    moved = roofline.compulsory_bytes(cell)
    work = cell.flops / 100.0
    hot = work + roofline.traffic_ns(LIMITS, moved)
    assert roofline.summed_floor_ns(LIMITS, cell) == pytest.approx(hot)
    assert hot > roofline.floor_ns(LIMITS, cell)
    cell = cell.model_copy(update={"conditions": DEFAULTS._replace(weights="flushed")})
    assert roofline.summed_floor_ns(LIMITS, cell) == pytest.approx(work + moved / 10.0)
    cell = cell.model_copy(update={"threads": 2})
    assert roofline.summed_floor_ns(LIMITS, cell) == pytest.approx((work + moved / 10.0) / 2)
    together = dataclasses.replace(LIMITS, threads=2)
    assert roofline.summed_floor_ns(together, cell) == pytest.approx(work + moved / 10.0)


def test_bfloat16_is_bound_by_its_bytes_alone() -> None:
    """The peak of float32 bounds no bfloat16: the bound is of half the bytes, and there is no aim."""
    cell = fff_record("fff")
    moved = roofline.compulsory_bytes(cell)
    cell = cell.model_copy(update={"conditions": DEFAULTS._replace(dtype="bfloat16")})
    assert roofline.compulsory_bytes(cell) == moved // 2
    traffic = roofline.traffic_ns(LIMITS, moved // 2)
    assert roofline.floor_ns(LIMITS, cell) == pytest.approx(traffic)
    assert math.isnan(roofline.summed_floor_ns(LIMITS, cell))
    own = dataclasses.replace(LIMITS, peaks={"bfloat16": 400.0})
    assert roofline.summed_floor_ns(own, cell) == pytest.approx(traffic + cell.flops / 400.0)


def bfloat16(record: Any, **changes: Any) -> Any:
    """Return a cell's record in bfloat16."""
    conditions = DEFAULTS._replace(dtype="bfloat16")
    return record.model_copy(update={"conditions": conditions, **changes})


def bfloat16_ceiling(**changes: Any) -> Any:
    """Return the record of a loop of bfloat16 products, of 400 GFLOP/s at 1 ms a pass."""
    record = cell_record(
        "amx", role="ceiling", layer="ceiling", implementation="ceiling_amx", provider="", model="",
        level=None, flops=4 * 10**8, **changes,
    )  # fmt: skip
    return bfloat16(record)


def test_shares_of_bfloat16_are_of_its_own_peak(tmp_path: Path) -> None:
    """Where the run measured a peak of bfloat16, rows of it are shares of that, and float32's of its own."""
    layer = cell_record("ff")
    cells = [
        *ceiling_records(), (bfloat16_ceiling(), 1e6), (layer, 2 * FF_FLOOR_NS),
        (bfloat16(layer, cell="ff/bfloat16"), FF_FLOOR_NS),
    ]  # fmt: skip
    found = analyse(make_run(tmp_path / "run", cells))
    assert found.ceilings.peaks == {"float32": pytest.approx(100), "bfloat16": pytest.approx(400)}
    shares = {s.cell: s.of_ceiling for point in found.points for s in point.speeds}
    assert shares == {"ff": pytest.approx(0.5), "ff/bfloat16": pytest.approx(0.25)}
    assert found.peakless == {}
    assert "blank" not in table.format_markdown(found)


def test_shares_without_a_peak_of_their_own_are_blank(tmp_path: Path) -> None:
    """On a processor without such products, rows of bfloat16 have no share of any kind; the foot says why."""
    why = "the processor reports no amx_bf16"
    cells = [
        *ceiling_records(), (bfloat16(cell_record("ff"), cell="ff/bfloat16"), FF_FLOOR_NS),
    ]  # fmt: skip
    lacking = bfloat16_ceiling(status="unavailable", reason=why)
    made = make_run(tmp_path / "run", cells, lacking=[lacking])
    found = analyse(made)
    (speed,) = found.points[0].speeds
    assert math.isnan(speed.of_ceiling)
    assert math.isnan(speed.of_floor)
    assert found.peakless == {"bfloat16": [why]}
    text = table.format_markdown(found)
    assert (
        f"share of floor in bfloat16: blank, since no peak of its products was measured ({why})."
        in text
    )
    assert "| amx" not in text


def test_what_is_faster_than_its_bytes_is_impossible_without_a_peak(tmp_path: Path) -> None:
    """A row of bfloat16 that moves its bytes faster than they can be moved is impossible all the same."""
    fast = bfloat16(cell_record("ff"), cell="ff/bfloat16")
    traffic = roofline.floor_ns(LIMITS, fast)
    run = make_run(tmp_path / "run", [*ceiling_records(), (fast, traffic / 1.2)])
    (speed,) = analyse(run).points[0].speeds
    assert speed.impossible
    assert speed.of_ceiling == pytest.approx(1.2, rel=1e-4)


def test_a_cell_above_its_ceiling_is_impossible(tmp_path: Path) -> None:
    """A cell 10 % faster than its floor is flagged on its row and in the head; one at the floor is not."""
    cells = [*ceiling_records(), (cell_record("ff"), FF_FLOOR_NS / 1.1)]
    text = table.format_markdown(analyse(make_run(tmp_path / "fast", cells)))
    assert "- **IMPOSSIBLE**: ff: faster than its ceiling allows" in text
    assert "110 %" in text
    cells = [*ceiling_records(), (cell_record("ff"), FF_FLOOR_NS)]
    text = table.format_markdown(analyse(make_run(tmp_path / "at", cells)))
    assert "IMPOSSIBLE" not in text
    assert "100 %" in text


def judged(tmp_path: Path, ff_ns: float, speedup: float, **changes: Any) -> rows.Entry:
    """Return the FFF's entry at level 1 of a run with the given time and speedup."""
    cells = [
        *ceiling_records(), (cell_record("ff"), ff_ns), (fff_record("fff", **changes), ff_ns / speedup),
    ]  # fmt: skip
    entries = analyse(make_run(tmp_path / "run", cells)).points[0].entries["scipy"]
    return next(e for e in entries if e.model == "ultrafastbert-1x11" and e.level == 1)


def test_locality_explains_a_speedup_above_the_limit(tmp_path: Path) -> None:
    """An FF bound by streaming, beside an FFF whose upper rows fit a faster cache, may pass the limit."""
    entry = judged(tmp_path, STREAM_NS, 400.0)
    assert not entry.impossible
    assert "above the limit of 341x" in entry.remark
    assert "streaming 25 MB of weights per token from L3" in entry.remark
    assert frames.format_entry(entry).endswith("]‡")


@pytest.mark.parametrize(
    ("ff_ns", "speedup"),
    [
        (STREAM_NS, 5000.0),  # more than the caches' bandwidths allow
        (STREAM_NS * 20, 400.0),  # a baseline far below any bandwidth is slow for another reason
        (STREAM_NS / 2, 400.0),  # a baseline above the bandwidth did not stream its weights
    ],
)
def test_a_speedup_without_an_explanation_is_impossible(
    tmp_path: Path, ff_ns: float, speedup: float
) -> None:
    """A speedup above the limit that the measured bandwidths don't explain is flagged."""
    entry = judged(tmp_path, ff_ns, speedup)
    assert entry.impossible
    assert "IMPOSSIBLE" in frames.format_entry(entry)


def test_a_speedup_within_its_limit_has_no_remark(tmp_path: Path) -> None:
    """Nothing is said of a speedup below the operation count's limit."""
    entry = judged(tmp_path, STREAM_NS, 200.0)
    assert (entry.remark, entry.impossible) == ("", False)


def test_an_unjudged_speedup_is_remarked_on(tmp_path: Path) -> None:
    """Without a measured bandwidth a speedup above the limit is neither explained nor called impossible."""
    cells = [(cell_record("ff"), STREAM_NS), (fff_record("fff"), STREAM_NS / 400)]
    point = analyse(make_run(tmp_path / "run", cells)).points[0]
    assert not point.versus[0].impossible
    assert "no bandwidth was measured" in point.versus[0].remark


def test_weights_that_crowd_their_cache_explain_a_smaller_layer(tmp_path: Path) -> None:
    """A dense layer of 3072 may pass 1.33x where the FF of 4095 fills most of the last cache, not beyond."""

    def entry(name: str, speedup: float) -> rows.Entry:
        smaller = cell_record("small", model="bert-base-3072", hidden=3072)
        slow = 2 * STREAM_NS
        cells = [*ceiling_records(), (cell_record("ff"), slow), (smaller, slow / speedup)]
        entries = analyse(make_run(tmp_path / name, cells)).points[0].entries["scipy"]
        return next(e for e in entries if e.model == "bert-base-3072")

    assert "crowded out" in entry("within", 1.7).remark
    assert entry("beyond", 4.0).impossible


@pytest.mark.parametrize(
    ("rate", "speedup", "says"),
    [
        (3.5, 5.0, "DISTURBED"),
        (2.0, 5.0, "IMPOSSIBLE"),
        (3.5, 40.0, "IMPOSSIBLE"),
        (6.0, 4.0, "crowded"),
    ],
)
def test_a_baseline_that_was_held_up_is_not_called_impossible(
    tmp_path: Path, rate: float, speedup: float, says: str
) -> None:
    """Neighbours who push an FF's weights out of the shared cache disturb it; that has its own words.

    Not where the baseline is slower than that can make it, nor where the speedup would be too large anyhow.
    """
    ff_ns = STREAM_NS * 45.0 / rate
    smaller = cell_record("small", model="bert-base-3072", hidden=3072)
    cells = [*ceiling_records(), (cell_record("ff"), ff_ns), (smaller, ff_ns / speedup)]
    entries = analyse(make_run(tmp_path / "run", cells)).points[0].entries["scipy"]
    entry = next(e for e in entries if e.model == "bert-base-3072")
    assert says in entry.remark
    assert entry.impossible == (says == "IMPOSSIBLE")


@pytest.mark.parametrize(("aa", "impossible"), [(1.0, True), (1.1, True), (1.3, False)])
def test_what_the_twins_do_not_resolve_is_not_impossible(aa: float, impossible: bool) -> None:
    """A speedup of 1.6 to 2 over a limit of 1.33 fails no run whose one kernel differs from itself by 1.3."""
    base = cell_record("ff", implementation="ff_l3_blas", level=3)
    smaller = cell_record("small", model="bert-base-3072", hidden=3072)
    ratio = Ratio(value=1.8, low=1.6, high=2.0, blocks=4)
    resolution = Ratio(value=1.0, low=1 / aa, high=aa, blocks=4).resolution
    remark, found = above_limit.judge_speedup(
        LIMITS, base, smaller, 2 * FF_FLOOR_NS, ratio, 4095 / 3072, resolution
    )
    assert found is impossible
    assert ("less than the A/A pair resolves" in remark) is not impossible


def test_a_product_gives_no_excuse(tmp_path: Path) -> None:
    """Over an FF at level 3, whose tokens share the weights, a speedup above the limit is flagged."""
    ff_ns = 2 * FF_FLOOR_NS
    cells = [
        *ceiling_records(),
        (cell_record("ff", implementation="ff_l3_blas", level=3), ff_ns),
        (fff_record("fff"), ff_ns / 500),
    ]
    points = analyse(make_run(tmp_path / "run", cells)).points
    assert points[0].versus[0].impossible
    assert any("over the fastest FF" in line for line in table.impossible(points))
