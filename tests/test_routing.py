"""Which weight rows a problem's tokens touch."""

from __future__ import annotations

import numpy as np
import pytest

from harness.oracle import fff_oracle
from harness.problem import Problem, make_operands
from harness.routing import count_nodes


@pytest.mark.parametrize(
    ("batch", "depth", "trees"),
    [(1, 0, 1), (1, 5, 1), (7, 3, 2), (65, 4, 1), (65, 6, 3), (1100, 5, 2)],
)
def test_count_is_the_oracles(batch: int, depth: int, trees: int) -> None:
    """The rows counted are the distinct nodes on the oracle's paths, tree by tree."""
    problem = Problem(layer="fff", batch=batch, d_in=9, d_out=1, depth=depth, trees=trees)
    o = make_operands(problem)
    nodes = fff_oracle(o.x, o.w_in, o.w_out, depth).nodes
    expected = sum(len(np.unique(nodes[:, k])) for k in range(trees))
    assert count_nodes(problem, o) == expected


def test_one_repeated_row_touches_one_path() -> None:
    """Tokens that are all alike touch one path: depth + 1 rows of each tree."""
    problem = Problem(layer="fff", batch=33, d_in=9, d_out=1, depth=6, trees=2)
    o = make_operands(problem)
    o.x[:] = o.x[0]
    assert count_nodes(problem, o) == 2 * 7
