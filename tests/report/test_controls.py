"""Claims on the controls in a run's analysis and report: each FFF against what is as wide by other means."""

from __future__ import annotations

import math

import pytest
from fabricated_runs import Fake

from harness.analysis import roofline
from harness.analysis.analysis import Analysis, analyse
from harness.analysis.controls import Control
from harness.analysis.verdict import find_verdict
from harness.problem.models import find_controls, parse_model
from harness.report import table
from harness.report.controls import controls_frame, controls_lines
from harness.report.page import format_page

FFF = "fff_cpu_auto/ultrafastbert-1x11"
TIMES = {
    "ff_l3_blas/bert-base-4095": 1e8, FFF: 1e6, "fff_l1_blas/ultrafastbert-1x11": 4e6,
    "ff_cpu_fused/ff-12": 4e5, "ff_l3_blas/ff-12": 5e5, "hash_cpu_grouped/hash-12": 9e5,
    "topk_l3_blas/topk-12": 5e7, "peer_cpu_fused/peer-12": 3e6, "moe_l3_blas/moe-256x16-k1": 6e6,
}  # fmt: skip


def make(**changes: object) -> Analysis:
    """Return the analysis of a run without noise, of one FFF and its controls."""
    quiet = {"noise": 1e-4, "process_noise": 1e-4, "times": TIMES}
    return analyse(Fake(**{**quiet, **changes}).run())  # type: ignore[arg-type]


def by_model(analysis: Analysis) -> dict[str, Control]:
    """Return the controls of a run's first point."""
    return {c.model: c for c in analysis.points[0].controls}


def test_each_fastest_is_set_against_the_fastest_fff() -> None:
    """A control stands with its fastest implementation, the FFF with its own, in the order of names."""
    found = by_model(make())
    assert list(found) == find_controls(parse_model("1x11"))
    assert found["ff-12"].implementation == "ff_cpu_fused"
    assert {c.fff_implementation for c in found.values()} == {"fff_cpu_auto"}
    for name, time in (("ff-12", 4e5), ("hash-12", 9e5), ("topk-12", 5e7), ("peer-12", 3e6)):
        buys, over = found[name].buys, found[name].over_ff
        assert buys is not None
        assert over is not None
        assert buys.value == pytest.approx(time / 1e6, rel=0.01)
        assert over.value == pytest.approx(1e8 / time, rel=0.01)
        assert buys.low < buys.value < buys.high


def test_what_only_routes_is_told_apart() -> None:
    """The share of operations that only choose is that of the problem's counts; hash and dense have none."""
    found = by_model(make())
    assert found["hash-12"].routing_share == found["ff-12"].routing_share == 0
    assert found["topk-12"].routing_share == pytest.approx(4083 / (4083 + 24))
    assert found["peer-12"].routing_share == pytest.approx(128 / (128 + 24))
    assert found["moe-256x16-k1"].routing_share == pytest.approx(256 / (256 + 32))
    assert (found["moe-256x16-k1"].used, found["moe-256x16-k1"].neurons) == (16, 4096)


def test_a_control_is_no_fff() -> None:
    """However fast, it is not the verdict's FFF, nor a row over the fastest FF, nor of the paper's table."""
    analysis = make(factors={"hash_cpu_grouped/hash-12": 0.01})
    point = analysis.points[0]
    verdict = find_verdict(analysis.points, point)
    assert verdict is not None
    assert verdict.best.implementation == "fff_cpu_auto"
    assert {v.model for v in point.versus} == {"ultrafastbert-1x11"}
    entered = {e.model for entries in point.entries.values() for e in entries}
    assert not entered & {"hash-12", "topk-12", "peer-12", "moe-256x16-k1"}


def test_one_of_no_fff_stands_beside_all() -> None:
    """A control that is of no FFF stands beside each; one that is of an FFF stands beside that alone."""
    times = {
        "ff_l3_blas/bert-base-4095": 1e8, FFF: 1e6, "fff_l1_blas/ultrafastbert-1x9": 1e6,
        "hash_cpu_grouped/hash-12": 9e5, "topk_l3_blas/topk-24": 5e7,
    }  # fmt: skip
    found = make(times=times).points[0].controls
    assert {(c.fff, c.model) for c in found} == {
        ("ultrafastbert-1x11", "hash-12"), ("ultrafastbert-1x11", "topk-24"),
        ("ultrafastbert-1x9", "topk-24"),
    }  # fmt: skip


def test_a_wrong_control_has_no_figure() -> None:
    """What failed its gate stands in no row, and without a right FFF there is none at all."""
    assert "peer-12" not in by_model(make(wrong=("peer_cpu_fused/peer-12",)))
    assert by_model(make(wrong=(FFF, "fff_l1_blas/ultrafastbert-1x11"))) == {}


def test_report_says_what_the_tree_buys() -> None:
    """Table, sentences and page have each control; without any there is no section."""
    analysis = make()
    text, page = table.format_markdown(analysis), format_page([analysis])
    assert text.count("What the tree buys: UltraFastBERT-1x11 by fff_cpu_auto") == 1
    for title in ("Top-12 of 4095", "PEER-12 of 4096", "MoE-256x16, top 1", "Hash-12", "FF-12"):
        assert f"the speed of {title} (" in text
        assert title in page
    assert len(controls_frame(analysis.points[0].controls)) == 5
    assert controls_lines(analyse(Fake(processes=1, blocks=1).run()).points[0].controls) == []


def test_a_control_has_a_floor() -> None:
    """Its compulsory bytes hold x, y and at least what one token needs, also where a run counted nothing."""
    analysis = make()
    for c in analysis.points[0].controls:
        cell = analysis.cells[c.cell]
        width = 4 * (cell.d_in + cell.d_out)
        assert roofline.compulsory_bytes(cell) >= cell.batch * width + width
        assert math.isfinite(roofline.intensity(cell))
