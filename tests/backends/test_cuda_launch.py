"""How the CUDA kernels are launched: teams, grids, entries, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from harness.backends import cuda_launch
from harness.backends.cuda_launch import KERNELS, choose_team, plan_fused
from harness.problem.problem import Problem

MULTIPROCESSORS = 108


def _fff(batch: int, d_in: int, d_out: int, **more: Any) -> Problem:
    shape = {"depth": 11, "trees": 1, **more}
    return Problem(layer="fff", batch=batch, d_in=d_in, d_out=d_out, **shape)


@pytest.mark.parametrize(
    ("batch", "width", "aligned", "team"),
    [
        (16384, 768, True, 1),  # a warp holds the row, and the batch fills the GPU
        (1024, 768, True, 2),  # 1728 warps are wanted
        (1, 768, True, 8),
        (1, 128, True, 1),  # one piece: a second warp would have nothing to load
        (16384, 769, True, 2),
        (16384, 6144, True, 8),
        (16384, 12288, True, 8),
        (16384, 257, False, 2),  # rows that are not aligned: 256 a warp
    ],
)
def test_team(batch: int, width: int, aligned: bool, team: int) -> None:
    """A token gets the warps that hold its rows, and more where the batch is small and the rows are long."""
    assert choose_team(_fff(batch, width, 4), aligned, MULTIPROCESSORS) == team
    assert choose_team(_fff(batch, 4, width), aligned, MULTIPROCESSORS) == team


@pytest.mark.parametrize("team", [1, 2, 4, 8])
@pytest.mark.parametrize("batch", [1, 7, 8, 9, 100])
@pytest.mark.parametrize("d_out", [1, 767, 768, 769, 7000])
def test_fused_grid_covers_everything_once(batch: int, d_out: int, team: int) -> None:
    """The blocks have a team for every token and a register for every output, and no block has neither."""
    launch = plan_fused(_fff(batch, 4, d_out), True, team)
    tokens, held = 8 // team, 768 * team
    columns, rows = launch.grid
    assert (columns - 1) * tokens < batch <= columns * tokens
    assert (rows - 1) * held < d_out <= rows * held
    assert launch.block == 256
    assert launch.extents == (batch, 4, d_out, 11, 1, team)


@pytest.mark.parametrize("kernel_id", KERNELS)
@pytest.mark.parametrize("aligned", [True, False])
def test_plans_launch_known_entries(kernel_id: str, aligned: bool) -> None:
    """Every launch that a kernel plans is of one of its entries."""
    kernel = KERNELS[kernel_id]
    shape = {"depth": 2, "trees": 3} if kernel.layer == "fff" else {"hidden": 5}
    problem = Problem(layer=kernel.layer, batch=129, d_in=8, d_out=8, **shape)
    launch = kernel.plan(problem, aligned, MULTIPROCESSORS)
    assert launch.entry in kernel.entries
    assert launch.extents[:3] == (129, 8, 8)
    assert launch.extents[3:] == ((2, 3, 1) if "fused" in kernel_id else tuple(shape.values()))


def test_rows_are_aligned_with_their_arrays() -> None:
    """Rows are whole pieces of 16 bytes only where both widths and every pointer are."""
    assert cuda_launch.is_aligned(_fff(1, 4, 8), (256, 512))
    assert not cuda_launch.is_aligned(_fff(1, 6, 8), (256,))
    assert not cuda_launch.is_aligned(_fff(1, 8, 6), (256,))
    assert not cuda_launch.is_aligned(_fff(1, 8, 8), (256, 260))


def test_extents_beyond_an_int_are_refused() -> None:
    """More neurons than the kernels' int can count are refused by name."""
    problem = _fff(1, 1, 1, depth=20, trees=1 << 12)
    for kernel_id in ("fff_cuda_naive", "fff_cuda_fused"):
        with pytest.raises(ValueError, match="neurons: the CUDA kernels take"):
            KERNELS[kernel_id].plan(problem, True, MULTIPROCESSORS)
