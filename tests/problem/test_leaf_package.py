"""The authors' own package against the truth of the leaf FFF."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from harness.problem.leaf import leaf_oracle, leaf_soft
from harness.problem.operands import make_operands
from harness.problem.problem import Problem

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("fastfeedforward") is None, reason="fastfeedforward is not installed"
)


@pytest.mark.parametrize("training", [False, True])
def test_agrees_with_the_package(training: bool) -> None:
    """Weights copied over give the package's outputs: hard in eval mode, where it leaves out the output's
    bias, which is subtracted here; soft in training mode, where it has it.
    """
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from fastfeedforward import FFF

    depth, width = 3, 5
    problem = Problem(
        layer="leaf", batch=64, d_in=11, d_out=6, hidden=width, depth=depth, trees=1,
        activation="relu",
    )  # fmt: skip
    o = make_operands(problem)
    own = dict(zip(problem.weights(), o.weights(), strict=True))
    theirs = FFF(problem.d_in, width, problem.d_out, depth)
    copied = {
        "node_weights": own["router"], "node_biases": own["router_bias"][:, None],
        "w1s": own["w_in"].transpose(0, 2, 1), "b1s": own["b_in"], "w2s": own["w_out"],
        "b2s": own["b_out"],
    }  # fmt: skip
    with torch.no_grad():
        for name, array in copied.items():
            getattr(theirs, name).copy_(torch.from_numpy(np.array(array)))
        got = theirs.train(training)(torch.from_numpy(np.array(o.x))).numpy()
    if training:
        want = leaf_soft(o.x, **own, depth=depth, activation="relu")
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        return
    truth = leaf_oracle(o.x, **own, depth=depth, activation="relu")
    leaf = truth.nodes[:, 0, -1] - problem.routers
    decided = truth.margin > 1e-6
    assert decided.mean() > 0.9
    without = truth.y - own["b_out"][leaf]
    np.testing.assert_allclose(got[decided], without[decided], rtol=1e-4, atol=1e-5)
    assert np.abs(own["b_out"]).max() > 0.1
