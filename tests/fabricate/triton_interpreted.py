"""The conformance suite of the Triton kernels under the interpreter; test_triton.py runs it in a process of
its own with TRITON_INTERPRET=1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conformance import Case, judge, judge_ties, prepare, with_x
from interpreted import fused, grouped, grouped_by, plant, registered

from harness.backends import triton_grouped_launch, triton_tiling
from harness.problem.check import check
from harness.problem.operands import make_operands
from harness.problem.problem import DTYPES, Problem


def fff(batch: int, d_in: int, d_out: int, depth: int, trees: int = 1, seed: int = 1) -> Problem:
    """Return an FFF."""
    return Problem(
        layer="fff", batch=batch, d_in=d_in, d_out=d_out, depth=depth, trees=trees, seed=seed
    )


# Extents on both sides of tiles (1, 2, 4, 16, 32 tokens) and of blocks (powers of 2 from 16 on), and primes.
FUSED = [
    (fused(1), fff(3, 7, 9, 2)),
    (fused(1), fff(2, 1, 1, 0)),
    (fused(2), fff(3, 16, 17, 3, trees=2)),
    (fused(4), fff(4, 33, 31, 5)),
    (fused(4), fff(5, 15, 16, 11)),
    (fused(4), fff(13, 61, 8, 4, trees=3)),
    # Rows wider than what is held in registers: parts of x, and columns of y in programs of their own.
    (fused(4, block_in=16, block_out=16), fff(5, 17, 33, 2, trees=2)),
    (fused(4, block_in=16, block_out=16), fff(4, 16, 16, 2)),
]
GROUPED = [
    (grouped(16), fff(16, 7, 9, 0)),
    (grouped(16), fff(17, 33, 31, 3, trees=2)),
    (grouped(32), fff(33, 16, 129, 2)),
    (grouped(16), fff(31, 1, 1, 1, trees=5)),
    (grouped(64), fff(65, 31, 7, 3)),
    # A further band, gathered: fewer than 16 tokens a node.
    (grouped(16), fff(19, 9, 8, 5)),
    (grouped(32), fff(16, 17, 15, 4, trees=2)),
]
# Bands below the first, of groups as small as one token.
BANDED = [
    (grouped(16), fff(19, 17, 9, 7)),
    (grouped(16), fff(17, 8, 17, 4, trees=2)),
    (grouped(32), fff(17, 9, 7, 9)),
]


@pytest.fixture(autouse=True)
def silent_numpy() -> Iterator[None]:
    """Let the interpreter meet infinities: it computes with NumPy, which would warn of them."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def all_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every band be grouped, however few tokens its groups hold."""
    monkeypatch.setattr(triton_tiling, "LEAST_GROUP", 0)


def _params(pairs: list[tuple[Case, Problem]]) -> list[object]:
    """Return the first pair in each dtype and the others in one each by turns: it takes its time."""
    made = [
        (f"{case}-{number}-{dtype}", case, replace(problem, dtype=dtype))
        for number, (case, problem) in enumerate(pairs)
        for turn, dtype in enumerate(DTYPES)
        if number == 0 or turn == number % len(DTYPES)
    ]
    return [pytest.param(case, problem, id=name) for name, case, problem in made]


@pytest.mark.parametrize(("case", "problem"), _params(FUSED) + _params(GROUPED))
def test_agrees_with_oracle(case: Case, problem: Problem) -> None:
    """Every pass equals the oracle, leaves the same bytes, and touches its output and workspace only."""
    assert judge(case, problem) == ""


@pytest.mark.usefixtures("all_bands")
@pytest.mark.parametrize(("case", "problem"), _params(BANDED))
def test_further_bands_agree_with_oracle(case: Case, problem: Problem) -> None:
    """Tokens in the order of their subtrees give the same answer, whatever the sizes of the groups."""
    assert triton_tiling.first_levels(problem.batch, problem.depth)[-1] >= 4
    assert judge(case, problem) == ""


@pytest.mark.parametrize("routing", ["single", "zipf"])
def test_uneven_groups(routing: str, all_bands: None) -> None:
    """All tokens in one group, and groups of very different sizes, are right."""
    problem = replace(fff(21, 17, 9, 5), routing=routing)
    assert judge(grouped(16), problem) == ""


def test_tf32_is_right_as_tf32_alone(all_bands: None) -> None:
    """Grouped products in TF32 pass where TF32 was asked for; the same output is wrong as float32."""
    problem = replace(fff(32, 256, 9, 6), math="tf32")
    assert judge(grouped(16), problem) == ""
    guarded, prepared = prepare(grouped(16), problem)
    prepared.forward()
    assert not check(replace(problem, math="ieee"), guarded.operands).ok


@pytest.mark.parametrize("case", [fused(4), grouped(16)], ids=str)
def test_exact_ties_turn_right(case: Case, all_bands: None) -> None:
    """A pre-activation of exactly 0 turns right."""
    assert judge_ties(case)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", [fused(4), grouped(16)], ids=str)
def test_not_finite_stays_in_its_rows(case: Case, value: float, all_bands: None) -> None:
    """A NaN or infinity in x makes its own rows not finite, as the oracle's, and touches no other."""
    problem = fff(19, 17, 9, 5)
    operands = make_operands(problem)
    x = operands.x.copy()
    x[[0, 5, 18], [0, 8, 16]] = value
    assert judge(case, problem, with_x(operands, x)) == ""


@pytest.mark.parametrize("name", ["fff_triton_fused", "fff_triton_grouped"])
def test_the_registered_preparation(name: str) -> None:
    """What the registry holds, its choice among all tiles included, is right."""
    assert judge(registered(name), fff(17, 3, 2, 1)) == ""


def test_a_small_batch_is_the_fused_kernel_alone() -> None:
    """Where no group is large enough the grouped implementation gathers, and asks for no workspace."""
    problem = fff(3, 5, 6, 2)
    case = registered("fff_triton_grouped")
    assert case.implementation.workspace_bytes(problem) == 0
    assert judge(case, problem) == ""


# ---- planted faults -----------------------------------------------------------------------------

FUSED_FAULTS = {
    "turns_left": ("(z >= 0)", "(z < 0)"),
    "one_short": ("range(first_level, depth + 1)", "range(first_level, depth)"),
    "tanh_gelu": (
        "0.5 * z * (1.0 + tl.math.erf(z * 0.7071067811865476))",
        "z / (1.0 + tl.exp(-1.5957691 * (z + 0.044715 * z * z * z)))",
    ),
    "first_tree": ("row = tree * n_nodes + node", "row = node"),
    "token_past_the_end": ("valid = token < batch", "valid = token <= batch"),
    "column_past_the_end": ("(j < d_out)", "(j <= d_out)"),
    "reads_the_next_row": ("in_mask = valid[:, None] & (i < d_in)", "in_mask = valid[:, None] & (i <= d_in)"),
    "accumulates": ("tl.zeros((TILE, BLOCK_OUT), tl.float32)", "tl.load(y + out_at, out_mask, 0.0)"),
}  # fmt: skip
GROUPED_FAULTS = {
    "turns_left": ("(z_step >= 0)", "(z_step < 0)"),
    "rank_off_by_one": ("tl.cumsum(mine, 0) - 1)", "tl.cumsum(mine, 0))"),
    "counts_lost": ("before[None, :] + ", ""),
    "groups_overlap": ("(tl.cumsum(tiles, 0) - tiles) * TILE", "(tl.cumsum(tiles, 0) - tiles)"),
    "off_the_path": ("used = on_path & ", "used = "),
    "ancestors_shifted": ("tl.maximum(FIRST_LEVEL - above, 0)", "tl.maximum(FIRST_LEVEL - above - 1, 0)"),
    "tree_dropped": ("if ADDS:", "if ADDS and first_tree < 1:"),
    "token_past_the_end": ("valid = slot < batch", "valid = slot <= batch"),
    "hole_taken": ("valid = held > 0", "valid = held >= 0"),
    "reads_the_next_row": ("x_mask = valid[:, None] & (i < d_in)", "x_mask = valid[:, None] & (i <= d_in)"),
    "column_past_the_end": ("in_row = (j < d_out)", "in_row = (j <= d_out)"),
    "node_missing": ("column < WIDTH - 1", "column < WIDTH - 2"),
}  # fmt: skip
LAUNCH_FAULTS = {
    "tail_a_level_late": ("last.first_level + triton_tiling.BAND", "last.first_level + 5"),
    "tail_dropped": ("if has_tail:", "if not steps:"),
    "tree_dropped": ("for k in range(problem.trees)", "for k in range(problem.trees - 1)"),
    "tree_twice": ("ADDS=trees[0] > 0", "ADDS=True"),
}


@pytest.mark.parametrize("fault", FUSED_FAULTS)
def test_fault_in_the_fused_kernel_is_caught(fault: str, tmp_path: Path) -> None:
    """The suite's judgement rejects each fault that is planted in the fused kernel."""
    planted = plant(tmp_path, "triton_fused", *FUSED_FAULTS[fault])
    assert judge(fused(4, kernels=planted), fff(5, 9, 9, 3, trees=2)) != ""


@pytest.mark.parametrize("fault", GROUPED_FAULTS)
def test_fault_in_the_grouped_kernels_is_caught(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_bands: None
) -> None:
    """The suite's judgement rejects each fault that is planted in the grouped kernels."""
    planted = plant(tmp_path, "triton_grouped", *GROUPED_FAULTS[fault])
    monkeypatch.setattr(triton_grouped_launch, "triton_grouped", planted)
    assert judge(grouped(16), fff(18, 9, 9, 5, trees=2)) != ""


@pytest.mark.parametrize("fault", LAUNCH_FAULTS)
def test_fault_in_the_launches_is_caught(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suite's judgement rejects each fault that is planted in the order of the launches."""
    monkeypatch.setattr(triton_tiling, "LEAST_GROUP", 1)
    planted = plant(tmp_path, "triton_grouped_launch", *LAUNCH_FAULTS[fault])
    assert judge(grouped_by(planted), fff(18, 9, 9, 8, trees=2)) != ""


def test_unplanted_copies_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copies that faults are planted in are right without them, on the very same problems."""
    monkeypatch.setattr(triton_tiling, "LEAST_GROUP", 1)
    copy = plant(tmp_path, "triton_fused", "import torch\n", "import torch\n\n")
    assert judge(fused(4, kernels=copy), fff(5, 9, 9, 3, trees=2)) == ""
    copy = plant(tmp_path, "triton_grouped", "import triton\n", "import triton\n\n")
    monkeypatch.setattr(triton_grouped_launch, "triton_grouped", copy)
    copy = plant(tmp_path, "triton_grouped_launch", "import torch\n", "import torch\n\n")
    copy.triton_grouped = triton_grouped_launch.triton_grouped  # type: ignore[attr-defined]
    assert judge(grouped_by(copy), fff(18, 9, 9, 8, trees=2)) == ""


def test_planted_tie_rule_is_caught(tmp_path: Path, all_bands: None) -> None:
    """Turning left on a tie fails the tie test."""
    planted = plant(tmp_path, "triton_fused", "(z >= 0)", "(z > 0)")
    assert not judge_ties(fused(4, kernels=planted))
