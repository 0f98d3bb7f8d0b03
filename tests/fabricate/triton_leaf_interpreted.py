"""The conformance suite of the Triton kernels of a leaf FFF under the interpreter; test_triton.py runs it in
a process of its own with TRITON_INTERPRET=1."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conformance import Case, judge, judge_ties, prepare, with_x
from device_conformance import judge_on
from interpreted import leaves, plant, registered
from shim_torch import HostDevice

from harness.backends import registry, triton_tiling
from harness.problem.check import check
from harness.problem.operands import Operands, make_operands
from harness.problem.problem import ACTIVATIONS, DTYPES, Problem


def leaf(batch: int, d_in: int, d_out: int, hidden: int, depth: int, **more: object) -> Problem:
    """Return a leaf FFF."""
    return Problem(
        layer="leaf", batch=batch, d_in=d_in, d_out=d_out, hidden=hidden, depth=depth, trees=1,
        seed=1, **more,
    )  # type: ignore[arg-type]  # fmt: skip


# Extents on both sides of tiles (16, 32, 64 tokens) and of blocks (powers of 2 from 16 on), and primes; one
# leaf, more leaves than tokens, leaves of one neuron and of several blocks of them.
CASES = [
    (leaves(16), leaf(1, 1, 1, 1, 0)),
    (leaves(16), leaf(3, 7, 9, 1, 3)),
    (leaves(16), leaf(19, 16, 17, 15, 2)),
    (leaves(16), leaf(33, 33, 31, 17, 1)),
    (leaves(32), leaf(67, 9, 129, 5, 3)),
    (leaves(64), leaf(65, 31, 8, 33, 0)),
    (leaves(64), leaf(70, 8, 37, 130, 1)),
    (leaves(16), leaf(18, 61, 8, 3, 11)),
]


@pytest.fixture(autouse=True)
def silent_numpy() -> Iterator[None]:
    """Let the interpreter meet infinities: it computes with NumPy, which would warn of them."""
    with np.errstate(all="ignore"):
        yield


def _params() -> list[object]:
    """Return each case in one dtype and activation, taken in turn: the interpreter takes its time."""
    variants = itertools.cycle(itertools.product(DTYPES, ACTIVATIONS))
    return [
        pytest.param(
            case, replace(problem, dtype=dtype, activation=activation),
            id=f"{problem.batch}-{dtype}-{activation}",
        )
        for (case, problem), (dtype, activation) in zip(CASES, variants, strict=False)
    ]  # fmt: skip


@pytest.mark.parametrize(("case", "problem"), _params())
def test_agrees_with_oracle(case: Case, problem: Problem) -> None:
    """Every pass equals the oracle, leaves the same bytes, and touches its output and workspace only."""
    assert judge(case, problem) == ""


def test_wide_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are wider than a program holds are read by parts at every turn."""
    monkeypatch.setattr(triton_tiling, "MAX_BLOCK", 16)
    problem = leaf(21, 37, 9, 5, 3)
    assert triton_tiling.descent_tile(problem).block_in < problem.d_in
    assert judge(leaves(16), problem) == ""


def test_many_leaves_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves that are placed by several programs get slots apart."""
    monkeypatch.setattr(triton_tiling, "SCATTER_BLOCK", 16)
    assert judge(leaves(16), leaf(40, 5, 7, 3, 6)) == ""


def _one_leaf(problem: Problem) -> Operands:
    """Return operands of which every token turns right everywhere, by the nodes' biases."""
    operands = make_operands(problem)
    assert operands.router_bias is not None
    operands.router_bias[...] = 100.0
    return operands


def test_all_tokens_in_one_leaf() -> None:
    """A single leaf takes all tiles, and leaves that no token comes to take none."""
    problem = leaf(90, 17, 9, 4, 5)
    assert judge(leaves(16), problem, _one_leaf(problem)) == ""


def test_tf32_is_right_as_tf32_alone() -> None:
    """Products in TF32 pass where TF32 was asked for; the same output is wrong as float32."""
    problem = leaf(32, 256, 9, 16, 2, math="tf32")
    assert judge(leaves(16), problem) == ""
    guarded, prepared = prepare(leaves(16), problem)
    prepared.forward()
    assert not check(replace(problem, math="ieee"), guarded.operands).ok


def test_exact_ties_turn_right() -> None:
    """A sum of exactly 0 turns right."""
    assert judge_ties(leaves(16))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_stays_in_its_rows(value: float, activation: str) -> None:
    """A NaN or infinity in x makes its own rows not finite, as the oracle's, and touches no other."""
    problem = leaf(19, 17, 9, 5, 2, activation=activation)
    operands = make_operands(problem)
    x = operands.x.copy()
    x[[0, 5, 18], [0, 8, 16]] = value
    assert judge(leaves(16), problem, with_x(operands, x)) == ""


def test_the_registered_preparation() -> None:
    """What the registry holds, its choice among all tiles included, is right."""
    assert judge(registered("leaf_triton_grouped"), leaf(17, 3, 2, 4, 1)) == ""


@pytest.mark.parametrize("dtype", DTYPES)
def test_sets_of_weights_in_turn(dtype: str) -> None:
    """As on a device, with a second set of all six weights in turn, every pass is right."""
    problem = leaf(17, 3, 2, 4, 1, dtype=dtype)
    assert judge_on(HostDevice(), registry.get("leaf_triton_grouped"), problem) == ""


FAULTS = {
    "turns_left": ("(z + bias >= 0)", "(z + bias < 0)"),
    "router_bias_lost": ("(z + bias >= 0)", "(z >= 0)"),
    "the_first_leaf": ("(node + 1 - (1 << depth))", "(node - node)"),
    "not_counted": ("(counts + reached, one,", "(counts + reached, 0 * one,"),
    "leaves_overlap": ("tl.cumsum(slots, 0) - slots", "tl.cumsum(slots, 0) * 0"),
    "no_tile_of_its_own": ("(count + TILE - 1) // TILE * TILE", "count"),
    "token_past_the_end": ("return token, held > 0,", "return token, held >= 0,"),
    "hidden_bias_lost": ("b_in + neuron, mask=present", "b_in + neuron, mask=present & False"),
    "output_bias_lost": ("b_out + j * d_out + o, mask=in_row", "b_out + j * d_out + o, mask=in_row & False"),
    "first_leafs_rows": ("w_out + (j * hidden + h)", "w_out + h"),
    "neuron_missing": ("valid[:, None] & (h < hidden)", "valid[:, None] & (h < hidden - 1)"),
    "column_past_the_end": ("in_row = o < d_out", "in_row = o <= d_out"),
    "reads_the_next_row": ("x_mask = valid[:, None] & (i < d_in)", "x_mask = valid[:, None] & (i <= d_in)"),
    "always_relu": ('RELU=problem.activation == "relu"', "RELU=True"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_the_leaf_kernels_is_caught(fault: str, tmp_path: Path) -> None:
    """The suite's judgement rejects each fault that is planted in the kernels of the leaf FFF."""
    planted = plant(tmp_path, "triton_leaf", *FAULTS[fault])
    assert judge(leaves(16, kernels=planted), leaf(45, 9, 9, 3, 2)) != ""


def test_unplanted_copy_passes(tmp_path: Path) -> None:
    """The copy that faults are planted in is right without them, on the very same problem."""
    copy = plant(tmp_path, "triton_leaf", "import torch\n", "import torch\n\n")
    assert judge(leaves(16, kernels=copy), leaf(45, 9, 9, 3, 2)) == ""


def test_planted_tie_rule_is_caught(tmp_path: Path) -> None:
    """Turning left on a tie fails the tie test."""
    planted = plant(tmp_path, "triton_leaf", "(z + bias >= 0)", "(z + bias > 0)")
    assert not judge_ties(leaves(16, kernels=planted))
