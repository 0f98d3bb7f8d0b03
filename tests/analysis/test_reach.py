"""How far the baseline at level 3 reaches, and what is said to try, of made-up runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fabricated_ceilings import LIMITS, ceiling_records, cell_record, fff_record, make_run
from fabricated_runs import Fake, make_provider

from harness.analysis import reach
from harness.analysis.analysis import analyse
from harness.report import table

FLOPS = 2 * 4096 * 4095 * 1536


def level_3(cell: str = "ff", **changes: Any) -> Any:
    """Return the baseline at level 3 on 4096 tokens."""
    facts = {"implementation": "ff_l3_blas", "level": 3, "batch": 4096, "flops": FLOPS}
    return cell_record(cell, **{**facts, **changes})


def test_level_3_is_compared_with_the_peak_of_its_threads() -> None:
    """The fastest level 3 counts; two threads are granted twice what one reached, once what two did."""
    cells = [(level_3("slow"), FLOPS / 40.0), (level_3("fast"), FLOPS / 80.0)]
    found = reach.find_reach(LIMITS, cells)
    assert found is not None
    assert (found.gflops, found.peak, found.is_low) == (pytest.approx(80), 100.0, True)
    two = [(level_3(threads=2), FLOPS / 190.0)]
    alone, together = (
        reach.find_reach(LIMITS, two),
        reach.find_reach(replace(LIMITS, threads=2), two),
    )
    assert alone is not None
    assert (alone.peak, alone.is_low) == (200.0, False)
    assert together is not None
    assert together.peak == 100.0


@pytest.mark.parametrize(
    "cell",
    [
        cell_record("ff", level=1),
        level_3(batch=1, flops=FLOPS // 4096),
        level_3(dtype="bfloat16"),
    ],
    ids=["level 1", "bound by its bytes", "no peak of its own"],
)
def test_what_could_not_reach_it_is_not_compared(cell: Any) -> None:
    """Another level, a pass that is bound by its bytes and a precision without a peak are left out."""
    assert reach.find_reach(LIMITS, [(cell, 1e9)]) is None


@pytest.mark.parametrize(
    ("rate", "said"), [(68.5, True), (89.0, True), (91.0, False), (120.0, False)]
)
def test_the_table_says_so_beside_the_fastest_ff(tmp_path: Path, rate: float, said: bool) -> None:
    """Under 90 % of the peak a line below the fastest FF names both rates; from there on there is none."""
    fff = fff_record("fff", batch=4096, flops=2 * 4096 * 12 * 1536)
    cells = [*ceiling_records(), (level_3(), FLOPS / rate), (fff, 1e7)]
    text = table.format_markdown(analyse(make_run(tmp_path / "run", cells)))
    assert ("**Level 3 reaches" in text) == said
    if said:
        behind = text.index("Best against best: the fastest FF is")
        assert text.index(f"**Level 3 reaches {rate:.3g} of the 100 GFLOP/s", behind) > behind


HEAD = Fake(machine={"isa": ["avx2", "fma", "avx512f"]}).head()


def remedies(*providers: Any, threads: int = 1) -> list[tuple[str, str]]:
    """Return causes and what was seen, of providers on a processor with AVX-512."""
    sweep = HEAD.sweep.model_copy(update={"threads": threads})
    head = HEAD.model_copy(update={"sweep": sweep})
    return [(r.cause, r.seen) for r in reach.find_remedies(head, providers)]


def test_what_could_be_tried_is_what_the_run_points_to() -> None:
    """A forced core, narrow kernels, one provider alone, small pages and threads are seen in the records."""
    wide = {"architecture": "SkylakeX"}
    forced = {"OPENBLAS_CORETYPE": "Haswell"}
    assert remedies(make_provider(0, **wide)) == [("provider", "scipy")]
    both = make_provider(0, **wide), make_provider(0, name="mkl", **wide)
    assert remedies(*both) == []
    assert remedies(make_provider(0, architecture="Haswell"), both[1]) == [("narrow", "Haswell")]
    assert remedies(make_provider(0, architecture="Haswell", variables=forced), both[1]) == [
        ("forced", "OPENBLAS_CORETYPE=Haswell")
    ]
    other = make_provider(0, variables={"MKL_CBWR": "COMPATIBLE"}, **wide)
    assert remedies(other, both[1]) == []
    assert remedies(*both[:1], make_provider(1, huge_page_share=0.1, **wide)) == [
        ("provider", "scipy"), ("pages", "10"),
    ]  # fmt: skip
    assert remedies(*both, threads=4) == [("threads", "1")]
    four = [make_provider(0, name=name, threads=4, **wide) for name in ("scipy", "mkl")]
    assert remedies(*four, threads=4) == [("threads", "4")]
