"""How problems are cut for the Triton kernels, and which tile is chosen; none of it needs Triton or a GPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from harness.backends import registry, triton_layers, triton_tiling
from harness.backends.registry import Context
from harness.problem.problem import DTYPES, Problem

IDS = ("fff_triton_fused", "fff_triton_grouped", "leaf_triton_grouped")


def fff(**extents: int) -> Problem:
    """Return the paper's layer, with other extents where they are given."""
    shape = {"batch": 16384, "d_in": 768, "d_out": 768, "depth": 11, "trees": 1} | extents
    return Problem(layer="fff", **shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batch", "depth", "bands"),
    [
        (15, 11, ()), (16, 11, (0,)), (255, 11, (0,)), (256, 11, (0, 4)), (4095, 11, (0, 4)),
        (4096, 11, (0, 4, 8)), (16384, 11, (0, 4, 8)), (16384, 3, (0,)), (16384, 4, (0, 4)),
        (1 << 24, 20, (0, 4, 8, 12)),
    ],
)  # fmt: skip
def test_bands_have_groups_that_fill_a_tile(batch: int, depth: int, bands: tuple[int, ...]) -> None:
    """A band is grouped where 16 tokens reach each of its nodes on average, down to 4096 groups."""
    assert triton_tiling.first_levels(batch, depth) == bands


def test_levels_are_grouped_or_left() -> None:
    """Grouped levels and those left to a gather make up the tree."""
    for batch in (8, 16, 300, 5000):
        for depth in range(14):
            problem = fff(batch=batch, depth=depth)
            grouped = triton_tiling.grouped_levels(problem)
            assert 0 <= grouped <= depth + 1
            assert triton_tiling.has_tail(problem) == (grouped < depth + 1)


def test_tiles_are_enough_for_every_distribution() -> None:
    """However tokens fall into groups, their tiles are no more than are launched; some need all of them."""
    rng = np.random.default_rng(0)
    for batch, level, tile in ((64, 4, 16), (1000, 4, 16), (333, 8, 32), (5, 4, 16)):
        most = triton_tiling.tiles(batch, level, tile)
        groups = 1 << level
        draws = [rng.multinomial(batch, rng.dirichlet(np.full(groups, a))) for a in (0.01, 1, 100)]
        # As many groups as can be have one token, the rest in one.
        spread = np.zeros(groups, np.int64)
        spread[: min(groups, batch)] = 1
        spread[0] += batch - spread.sum()
        for counts in [*draws, spread]:
            assert int((-(-counts // tile)).sum()) <= most
    assert triton_tiling.tiles(100, 0, 16) == 7


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(16384, 1, 11), (300, 3, 7), (20, 2, 0), (15, 1, 4)])
def test_workspace_holds_its_parts_apart(dtype: str, shape: tuple[int, int, int]) -> None:
    """The parts of the workspace lie one behind the other, aligned, within what is announced."""
    batch, trees, depth = shape
    problem = Problem(
        layer="fff", batch=batch, d_in=8, d_out=9, depth=depth, trees=trees, dtype=dtype
    )
    announced = triton_tiling.grouped_workspace_bytes(problem)
    for tile in triton_tiling.GROUPED_TILES:
        layout = triton_tiling.grouped_workspace(problem, tile)
        parts = [layout.state, layout.paths, layout.rank, layout.activations, layout.total]
        ends = [first + size for first, size in parts]
        assert all(first % 64 == 0 for first, _ in parts)
        assert all(end <= first for end, (first, _) in zip(ends, parts[1:], strict=False))
        assert ends[-1] <= layout.bytes <= announced
    assert (announced == 0) == (batch < triton_tiling.LEAST_GROUP)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(16384, 16, 8), (300, 130, 0), (2, 1, 11)])
def test_workspace_of_leaves_holds_its_parts_apart(dtype: str, shape: tuple[int, int, int]) -> None:
    """The parts lie apart, aligned, within what is announced; slots are enough for all tokens."""
    batch, hidden, depth = shape
    problem = Problem(
        layer="leaf", batch=batch, d_in=8, d_out=9, hidden=hidden, depth=depth, trees=1, dtype=dtype
    )
    announced = triton_tiling.leaf_workspace_bytes(problem)
    rng = np.random.default_rng(0)
    for tile in triton_tiling.GROUPED_TILES:
        layout = triton_tiling.leaf_workspace(problem, tile)
        parts = list(layout.spans.values())
        ends = [first + size for first, size in parts]
        assert all(first % 64 == 0 for first, _ in parts)
        assert all(end <= first for end, (first, _) in zip(ends, parts[1:], strict=False))
        assert ends[-1] <= layout.bytes <= announced
        for share in (0.01, 1.0, 100.0):
            counts = rng.multinomial(batch, rng.dirichlet(np.full(problem.n_leaves, share)))
            slots = int((-(-counts // tile)).sum()) * tile
            assert 4 * slots <= layout.spans["slots"][1]


def test_a_descent_holds_its_rows_in_registers() -> None:
    """A program of a router's descent takes no more tokens than the batch, nor than its threads hold x of."""
    for batch in (1, 2, 3, 16384):
        for width in (1, 31, 768, 5000, 12288):
            problem = Problem(
                layer="leaf", batch=batch, d_in=width, d_out=8, hidden=4, depth=3, trees=1
            )
            tile = triton_tiling.descent_tile(problem)
            assert tile.tokens <= batch
            assert tile.warps in (1, 2, 4, 8, 16)
            assert tile.tokens * tile.block_in <= 16 * 32 * tile.warps


def test_sums_of_bfloat16_are_kept_in_float32() -> None:
    """Where several launches sum y, bfloat16 takes a float32 buffer between them; one launch takes none."""
    for trees, depth, needed in ((1, 11, False), (2, 11, True), (64, 3, False), (1, 13, True)):
        problem = Problem(
            layer="fff", batch=4096, d_in=8, d_out=9, depth=depth, trees=trees, dtype="bfloat16"
        )
        assert triton_tiling.needs_total(problem) == needed


def test_fused_tiles_fit_batch_and_warps() -> None:
    """No tile has more tokens than the batch, more warps than a block, or no warp."""
    for batch in (1, 2, 3, 16384):
        for width in (1, 31, 768, 1024, 5000, 12288):
            tiles = triton_tiling.fused_tiles(fff(batch=batch, d_in=width, d_out=width))
            assert tiles
            assert len(set(tiles)) == len(tiles)
            for tile in tiles:
                assert tile.tokens <= batch
                assert tile.warps in (1, 2, 4, 8, 16)
                held = tile.tokens * max(tile.block_in, tile.block_out) / (32 * tile.warps)
                assert held <= 16


def test_too_many_trees_are_refused() -> None:
    """More trees than a grid takes are refused by name, before anything is launched."""
    problem = fff(batch=16, trees=65536, depth=0, d_in=1, d_out=1)
    with pytest.raises(ValueError, match="trees must be at most 65535, got 65536"):
        triton_layers.grouped_candidates(problem, None, None)  # type: ignore[arg-type]


def _candidates(ran: list[str], names: str) -> list[triton_layers.Candidate]:
    def bind(name: str) -> Callable[[triton_layers.Weights], triton_layers.Pass]:
        return lambda weights: lambda: ran.append(f"{name}{weights[0]}")

    return [(name, bind(name)) for name in names]


def test_the_fastest_tile_is_chosen() -> None:
    """The least of interleaved rounds decides; each candidate has run once before it is timed."""
    ran: list[str] = []
    told = {"a": [5, 9, 9], "b": [9, 4, 9], "c": [6, 6, 6]}
    asked: list[str] = []

    def timer(run: triton_layers.Pass) -> Callable[[int], int]:
        name = ran[-1][0]
        assert ran.count(f"{name}w") == 1
        asked_of = iter(told[name])

        def time(loops: int) -> int:
            asked.append(name)
            return next(asked_of)

        return time

    name, _ = triton_layers.fastest(_candidates(ran, "abc"), ("w", "w"), timer)
    assert name == "b"
    assert "".join(asked) == "abc" * 3


def test_a_single_tile_is_not_timed() -> None:
    """Where there is no choice nothing is run."""
    ran: list[str] = []
    [only] = _candidates(ran, "a")
    assert triton_layers.fastest([only], ("w", "w"), lambda run: 1 / 0) == only
    assert not ran


def test_the_tile_of_a_run_is_kept() -> None:
    """Where a process of the run has chosen, no race is run, and a tile that is not here is an error."""
    ran: list[str] = []
    context = Context(provider=None, workspace=lambda size: None, tile="b", timer=lambda run: 1 / 0)
    name, _ = triton_layers.choose(_candidates(ran, "abc"), ("w", "w"), context)
    assert (name, ran) == ("b", [])
    with pytest.raises(RuntimeError, match="'b', and here there are a; c"):
        triton_layers.choose(_candidates(ran, "ac"), ("w", "w"), context)


@pytest.mark.parametrize("name", IDS)
def test_registered_for_cuda(name: str) -> None:
    """All layers are known, for CUDA alone, in every dtype; without a GPU they say why in one line."""
    implementation = registry.get(name)
    assert implementation.devices == ("cuda",)
    assert implementation.dtypes == DTYPES
    reason = implementation.unavailable()
    assert "\n" not in reason


def test_missing_package_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is not installed is named with what to install, and no GPU is asked for."""
    monkeypatch.setattr(triton_layers.probe, "why_not", lambda device: 1 / 0)
    for missing in ("torch", "triton"):
        monkeypatch.setattr(
            triton_layers.importlib.util, "find_spec",
            lambda name, missing=missing: None if name == missing else object(),
        )  # fmt: skip
        assert triton_layers.unavailable().startswith(f"{missing} is not installed: pip install")


def test_listing_loads_neither_torch_nor_triton() -> None:
    """To know the implementations neither package is imported."""
    script = (
        "import sys; from harness.backends import registry; registry.all();"
        "print(sorted({'torch', 'triton'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
