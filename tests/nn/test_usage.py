"""What is collected of a layer's tokens: visits, entropy, dead paths, and the trace of leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from harness import nn  # noqa: E402
from harness.problem import oracle, routing  # noqa: E402

D, DEPTH, TREES = 6, 3, 2


def _make(**options: Any) -> nn.FFF:
    torch.manual_seed(4)
    return nn.FFF(D, D, DEPTH, TREES, **options)


def test_leaves_are_the_oracles() -> None:
    """The leaf of a token is the end of the oracle's path, counted from the left."""
    layer, x = _make(), torch.randn(50, D)
    arrays = [t.detach().double().numpy() for t in (x, layer.w_in, layer.w_out)]
    truth = oracle.fff_oracle(*arrays, DEPTH)
    np.testing.assert_array_equal(layer.leaves(x), truth.nodes[:, :, -1] - (2**DEPTH - 1))
    assert layer.leaves(x.reshape(5, 10, D)).shape == (5, 10, TREES)


@pytest.mark.parametrize("options", [{}, {"leaf_width": 2, "routing": "soft"}])
def test_usage_counts_every_node(options: dict[str, Any]) -> None:
    """Visits are those of the hard paths of all passes of the block, and of none outside."""
    layer = _make(**options)
    parts = [torch.randn(20, D), torch.randn(2, 5, D)]
    layer(parts[0])
    with layer.usage() as seen:
        for x in parts:
            layer(x)
    layer(parts[0])
    leaves = torch.cat([layer.leaves(x).reshape(-1, TREES) for x in parts]).numpy()
    expected = np.zeros((TREES, 2 ** (DEPTH + 1) - 1), np.int64)
    for row in leaves:
        for k, leaf in enumerate(row):
            node = leaf + 2**DEPTH - 1
            while node >= 0:
                expected[k, node] += 1
                node = (node - 1) // 2 if node else -1
    assert seen.tokens == 30
    np.testing.assert_array_equal(seen.visits, expected)
    np.testing.assert_array_equal(seen.dead, expected[:, 2**DEPTH - 1 :] == 0)
    shares = expected[:, 3:7] / 30
    terms = shares * np.log2(np.where(shares > 0, shares, 1))
    np.testing.assert_allclose(seen.entropy[:, 2], -terms.sum(1))
    assert not seen.entropy[:, 0].any()


def test_usage_of_nothing() -> None:
    """A block without a pass has seen no token: all leaves are dead, no level has entropy."""
    with _make().usage() as seen:
        pass
    assert seen.tokens == 0
    assert seen.dead.all()
    assert not seen.entropy.any()


def test_a_recorded_trace_is_read_as_routing(tmp_path: Path) -> None:
    """The file holds the leaves of all passes of the block, as `--routing trace:FILE` reads them."""
    layer, path = _make().eval(), tmp_path / "layer.npy"
    with layer.record(path):
        layer(torch.ones(3, 4, D))
        layer(x=torch.randn(8, D, generator=torch.Generator().manual_seed(1)))
    read = routing.read_trace(str(path), batch=20, trees=TREES, depth=DEPTH)
    rest = torch.randn(8, D, generator=torch.Generator().manual_seed(1))
    expected = torch.cat([layer.leaves(torch.ones(12, D)), layer.leaves(rest)])
    np.testing.assert_array_equal(read, expected)
    assert np.load(path).dtype == np.uint8


def test_a_trace_of_nothing_is_refused_and_none_is_left(tmp_path: Path) -> None:
    """Where no token passed there is no file, nor where the block raised."""
    layer = _make()
    with pytest.raises(ValueError, match="no token passed the layer"), layer.record(tmp_path / "a"):
        pass
    with pytest.raises(ValueError, match="need d_in 6"), layer.record(tmp_path / "b"):
        layer(torch.ones(1, D + 1))
    assert not list(tmp_path.iterdir())
