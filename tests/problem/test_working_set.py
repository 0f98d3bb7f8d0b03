"""Prove that a problem's routing is counted as the oracle walks it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.problem import oracle, working_set
from harness.problem.operands import make_operands
from harness.problem.problem import Problem

ONE = Problem(layer="fff", batch=64, d_in=32, d_out=16, depth=4, trees=1, seed=1)


@pytest.mark.parametrize("trees", [1, 3])
@pytest.mark.parametrize("depth", [0, 4])
@pytest.mark.parametrize("how", ["uniform", "zipf", "single"])
def test_counts_are_the_oracles(trees: int, depth: int, how: str) -> None:
    """Nodes, entropies and working set are those of the float64 oracle's paths."""
    problem = replace(ONE, trees=trees, depth=depth, routing=how)
    operands = make_operands(problem)
    found = working_set.count_nodes(problem, operands)
    nodes = oracle.fff_oracle(operands.x, operands.w_in, operands.w_out, depth).nodes
    assert found.nodes == sum(np.unique(nodes[:, k]).size for k in range(trees))
    assert found.working_set_bytes == found.nodes * (32 + 16) * 4
    assert len(found.entropy_bits) == depth + 1
    for d in range(depth + 1):
        bits = []
        for k in range(trees):
            share = np.unique(nodes[:, k, d], return_counts=True)[1] / problem.batch
            bits.append(-(share * np.log2(share)).sum())
        assert found.entropy_bits[d] == pytest.approx(np.mean(bits), abs=1e-12)


def test_entropy_is_bounded_by_the_level() -> None:
    """The root has no entropy, a level at depth d at most d bits, and deeper levels never less."""
    found = working_set.count_nodes(ONE, make_operands(ONE)).entropy_bits
    assert found[0] == 0
    assert all(0 <= bits <= d + 1e-12 for d, bits in enumerate(found))
    assert sorted(found) == found


@pytest.mark.parametrize("change", [{"routing": "single"}, {"rows": "same"}, {"data": "zeros"}])
def test_one_path(change: dict[str, str]) -> None:
    """One leaf, one row or zeros: depth + 1 nodes are touched and no level has any entropy."""
    problem = replace(ONE, **change)  # type: ignore[arg-type]
    found = working_set.count_nodes(problem, make_operands(problem))
    assert found.nodes == problem.depth + 1
    assert found.entropy_bits == [0.0] * (problem.depth + 1)


def test_zipf_touches_less_than_uniform() -> None:
    """Zipf's leaves have less entropy than uniform's at every level below the first."""
    uniform, zipf = (
        working_set.count_nodes(p, make_operands(p)).entropy_bits
        for p in (replace(ONE, batch=2000), replace(ONE, batch=2000, routing="zipf"))
    )
    assert all(z < u for z, u in zip(zipf[2:], uniform[2:], strict=True))
