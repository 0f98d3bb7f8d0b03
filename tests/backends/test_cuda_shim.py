"""The CUDA kernels on the CPU, thread by thread: edges of their tiles, planted faults, the shim itself.

The conformance suite runs them too, through the shim, with the problems that every implementation gets.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import shim
from conformance import Case, judge
from cuda_faults import FAULTS, FUSED, OVERFLOW, make_fff
from shim import Program, ShimFault

from harness.backends import cuda_compile, cuda_launch
from harness.backends.cuda_launch import KERNELS, Launch
from harness.problem.problem import Array, Problem

pytestmark = pytest.mark.skipif(bool(shim.unavailable()), reason=shim.unavailable())


def _verdict(kernel_id: str, program: Program, problem: Problem, team: int = 0) -> str:
    """Return what the suite's judgement says of a kernel's program, the shim's faults among it."""
    implementation = shim.make(KERNELS[kernel_id], lambda: program, team)
    try:
        return judge(Case(implementation=implementation, provider="", isa=""), problem)
    except ShimFault as fault:
        return str(fault)


# ---- the edges of the tiles ---------------------------------------------------------------------

# Around a piece of 128 (of bfloat16: 256), and around what a warp holds: 256 elements of a row that is not
# aligned, 768 of one that is.
EDGES = (124, 127, 128, 129, 132, 255, 256, 257, 264, 511, 513, 760, 768, 769, 772, 776)


@pytest.mark.parametrize("dtype", KERNELS["fff_cuda_fused"].dtypes)
@pytest.mark.parametrize("team", [1, *(pytest.param(t, marks=pytest.mark.slow) for t in (2, 4, 8))])
@pytest.mark.parametrize("width", EDGES)
def test_widths_around_what_a_warp_holds(width: int, team: int, dtype: str) -> None:
    """Rows that end before, at and behind a piece or all that a team holds are right, whole or ragged."""
    program = shim.program("fff_cuda_fused")
    for d_in, d_out in ((width, 16), (16, width), (width, width)):
        problem = make_fff(3, d_in, d_out, dtype=dtype)
        assert _verdict("fff_cuda_fused", program, problem, team) == ""


@pytest.mark.parametrize(("d_in", "d_out"), [(6148, 8), (8, 6148), (4097, 9), (9, 4097)])
def test_rows_wider_than_a_block_holds(d_in: int, d_out: int) -> None:
    """x beyond the registers of 8 warps is read again, y beyond them is cut into tiles: both are right."""
    problem = make_fff(2, d_in, d_out)
    assert cuda_launch.choose_team(problem, d_in % 4 == d_out % 4 == 0, 1) == 8
    assert _verdict("fff_cuda_fused", shim.program("fff_cuda_fused"), problem) == ""


@pytest.mark.parametrize("kernel_id", KERNELS)
@pytest.mark.parametrize("batch", [127, 128, 129])
def test_batches_around_a_block_of_threads(kernel_id: str, batch: int) -> None:
    """Batches that fill a block of 128 threads, lack one or have one more are right."""
    layer = KERNELS[kernel_id].layer
    shape = {"depth": 2, "trees": 2} if layer == "fff" else {"hidden": 3}
    problem = Problem(layer=layer, batch=batch, d_in=5, d_out=8, **shape)
    assert _verdict(kernel_id, shim.program(kernel_id), problem) == ""


def test_runs_without_the_own_switch() -> None:
    """The scheduler's portable switch, for processors other than x86-64, gives the same verdict."""
    source = cuda_compile.read_source("fff_cuda_fused")
    path = shim.build(source, KERNELS["fff_cuda_fused"].entries, ("-DSHIM_UCONTEXT",))
    assert _verdict("fff_cuda_fused", Program(path=path), make_fff(5, 20, 12), 2) == ""


# ---- planted faults -----------------------------------------------------------------------------


# Of the faults of one kernel that are rejected with the same words, the first.
_FIRST = {(fault.kernel, fault.says): name for name, fault in reversed(FAULTS.items())}.values()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in _FIRST else pytest.mark.slow) for name in FAULTS],
)
def test_planted_fault_is_caught(name: str) -> None:
    """A fault that is planted in a kernel's text is rejected for what it is; without it nothing is."""
    fault = FAULTS[name]
    right = shim.program(fault.kernel)
    assert _verdict(fault.kernel, right, fault.problem, fault.team) == ""
    entry = shim.plan(KERNELS[fault.kernel], fault.problem, fault.team).entry
    program = shim.mutate(fault.kernel, fault.old, fault.new, entry)
    try:
        assert fault.says in _verdict(fault.kernel, program, fault.problem, fault.team)
    finally:
        program.stop()


# ---- the shim itself ----------------------------------------------------------------------------

_WARP = """
extern "C" __global__ void warp(const float *x, float *y, int n) {
    __shared__ float tile[64];
    const int i = threadIdx.x, lane = i % 32;
    tile[i] = x[blockIdx.x * 64 + i];
    __syncwarp();
    const float down = __shfl_down_sync(0xffffffff, tile[i], 3);
    const float first = __shfl_sync(0xffffffff, tile[i], 0);
    const unsigned negative = __ballot_sync(0xffffffff, tile[i] < 0.0f);
    float half = 0.0f;
    if (lane < 16)
        half = __shfl_xor_sync(0x0000ffff, tile[i], 8);
    __syncthreads();
    float *row = y + (blockIdx.x * 64 + i) * 5; /* (5,) */
    row[0] = down, row[1] = first, row[2] = __popc(negative), row[3] = half;
    row[4] = tile[63 - i];
    if (n) {
        PLANTED
    }
}
"""
_PLANTED = {
    "none": ("", ""),
    "one thread has returned": ("if (i == 40) return; __syncthreads();", "thread 40 has returned"),
    "two barriers": ("if (i < 32) __syncthreads();\n else __syncthreads();", "waits at line"),
    "not in its mask": ("__shfl_sync(0x7fffffff, 0.0f, 0);", "lane 31 is not in its own mask"),
    "reads an absent lane": (
        "if (lane < 16) __shfl_sync(0xffff, 0.0f, 16);", "lane 16, which is not in the mask",
    ),
    "two masks": ("__ballot_sync(lane < 16 ? 0xffffffff : 0xffff0000, 1);", "do not come"),
    "a shared array left": ("tile[i + 1] = 0.0f;", "index 64 out of bounds"),
    "a local array left": ("float v[4]; y[0] = v[i + 1];", "out of bounds"),
    "a row of y left": ("y[(blockIdx.x + 1) * 320] = 0.0f;", OVERFLOW),
    "an unaligned piece": ("*(uint4 *)(y + 1) = make_uint4(0, 0, 0, 0);", "misaligned address"),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (i > 3)) for i, n in enumerate(_PLANTED)],
)
def test_warp_operations_and_their_faults(name: str) -> None:
    """Exchanges give what the lanes hold, in every order of the threads; misuse is named."""
    planted, says = _PLANTED[name]
    source = cuda_compile.Source(name="warp.cu", text=_WARP.replace("PLANTED", planted), headers={})
    program = Program(path=shim.build(source, ("warp",)))
    x = np.random.default_rng(1).standard_normal((3, 2, 32), np.float32)
    launch = Launch(entry="warp", grid=(3, 1), block=64, extents=(0 if not planted else 1,))
    try:
        if says:
            with pytest.raises(ShimFault, match=says):
                program.launch(launch, [x, np.empty((3, 64, 5), np.float32)])
            return
        for _ in range(4):
            _, after = program.launch(launch, [x, np.empty((3, 64, 5), np.float32)])
            y = np.frombuffer(after, np.float32).reshape(3, 2, 32, 5)
            np.testing.assert_array_equal(y, _expected(x))
    finally:
        program.stop()


def _expected(x: Array) -> Array:
    lanes = np.arange(32)
    down = x[..., np.where(lanes < 29, lanes + 3, lanes)]
    first = np.broadcast_to(x[..., :1], x.shape)
    negative = np.broadcast_to((x < 0).sum(-1, keepdims=True), x.shape)
    half = np.where(lanes < 16, x[..., lanes ^ 8], 0)
    mirrored = x.reshape(3, 64)[:, ::-1].reshape(x.shape)
    return np.stack([down, first, negative, half, mirrored], axis=-1).astype(np.float32)


def test_shared_memory_begins_as_nobodys() -> None:
    """What a block reads from shared memory before it wrote there is NaN, also where another block wrote."""
    text = """
extern "C" __global__ void stale(float *y, int n) {
    __shared__ float tile[32];
    y[blockIdx.x * 32 + threadIdx.x] = tile[threadIdx.x];
    tile[threadIdx.x] = 1.0f;
}
"""
    source = cuda_compile.Source(name="stale.cu", text=text, headers={})
    program = Program(path=shim.build(source, ("stale",)))
    launch = Launch(entry="stale", grid=(2, 1), block=32, extents=(64,))
    (after,) = program.launch(launch, [np.zeros(64, np.float32)])
    program.stop()
    assert np.isnan(np.frombuffer(after, np.float32)).all()


def test_rounds_to_bfloat16_as_others_do() -> None:
    """A float becomes the nearest bfloat16, ties to even, as in ml_dtypes; infinities and NaN stay so."""
    text = """
#include "rows.cuh"
extern "C" __global__ void rounded(const float *x, bfloat16 *y, int n) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    narrow(x[i], y + i);
}
"""
    headers = cuda_compile.read_source(FUSED).headers
    source = cuda_compile.Source(name="rounded.cu", text=text, headers=headers)
    program = Program(path=shim.build(source, ("rounded",)))
    # Every upper half with lower halves below, at and above the tie.
    upper = np.arange(1 << 16, dtype=np.uint32)[:, None] << 16
    x = (upper + np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)).view(np.float32)
    launch = Launch(entry="rounded", grid=(x.size // 256, 1), block=256, extents=(x.size,))
    _, after = program.launch(launch, [x, np.empty(x.size, np.uint16)])
    program.stop()
    got = np.frombuffer(after, ml_dtypes.bfloat16).reshape(x.shape)
    with np.errstate(all="ignore"):
        want = x.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    number = ~np.isnan(want)
    np.testing.assert_array_equal(got[number].view(np.uint16), want[number].view(np.uint16))
