"""Own the faults that are planted in the CUDA kernels' text, and the problems on which they show."""

from __future__ import annotations

from dataclasses import dataclass

from harness.problem.problem import Problem


def make_fff(batch: int, d_in: int, d_out: int, depth: int = 2, dtype: str = "float32") -> Problem:
    """Return an FFF of one tree."""
    return Problem(
        layer="fff",
        batch=batch,
        d_in=d_in,
        d_out=d_out,
        depth=depth,
        trees=1,
        seed=d_in,
        dtype=dtype,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Name a fault: what is put in the place of what in which kernel, where it shows, and what is said."""

    kernel: str
    old: str
    new: str
    problem: Problem
    says: str
    team: int = 0


FUSED, _NAIVE = "fff_cuda_fused", "fff_cuda_naive"
_LOAD_ONE = "if (at + i * LANES < size)\n                v[i] = "
_LOAD_PIECE = "if (at < size)\n            unpack"
_STORE_PIECE = "if (at < size)\n            *(uint4 *)"
OVERFLOW = "AddressSanitizer: heap-buffer-overflow"
FAULTS = {
    "dropped barrier": Fault(
        kernel=FUSED, old="    __syncthreads();\n", new="", problem=make_fff(5, 256, 8), team=2,
        says="not finite",
    ),
    "no second buffer": Fault(
        kernel=FUSED, old="slots[step % 2]", new="slots[0]", problem=make_fff(9, 256, 8, 5), team=2,
        says="tolerance",
    ),
    "barrier that a ragged batch leaves": Fault(
        kernel=FUSED, old="    const int n_nodes = ",
        new="    if (!is_real)\n        return;\n    const int n_nodes = ",
        problem=make_fff(5, 256, 8), team=2, says="divergent barrier",
    ),
    "barrier in a branch": Fault(
        kernel=FUSED, old="        slot[warp] = z;\n    __syncthreads();\n",
        new="    {\n        slot[warp] = z;\n        __syncthreads();\n    }\n",
        problem=make_fff(5, 256, 8), team=2, says="divergent barrier",
    ),
    "warp operation in a branch": Fault(
        kernel=FUSED, old="        sum += __shfl_xor_sync(",
        new="        if (threadIdx.x % LANES < 16)\n            sum += __shfl_xor_sync(",
        problem=make_fff(5, 9, 8), team=1, says="lanes of mask ffffffff that do not come",
    ),
    "one step of the reduction short": Fault(
        kernel=FUSED, old="distance = LANES / 2", new="distance = LANES / 4",
        problem=make_fff(5, 128, 8), team=1, says="tolerance",
    ),
    "load of an element past the row": Fault(
        kernel=FUSED, old=_LOAD_ONE, new=_LOAD_ONE.replace("<", "<="), problem=make_fff(5, 33, 9),
        says=OVERFLOW,
    ),
    "load of a piece past the row": Fault(
        kernel=FUSED, old=_LOAD_PIECE, new=_LOAD_PIECE.replace("<", "<="), problem=make_fff(5, 36, 8),
        says=OVERFLOW,
    ),
    "store of a piece past the row": Fault(
        kernel=FUSED, old=_STORE_PIECE, new=_STORE_PIECE.replace("<", "<="),
        problem=make_fff(5, 8, 12), says=OVERFLOW,
    ),
    "no tail of wide rows": Fault(
        kernel=FUSED, old="at < size; at += stride", new="at < 0; at += stride",
        problem=make_fff(5, 772, 8), team=1, says="tolerance",
    ),
    "no tail of a piece": Fault(
        kernel=FUSED, old=_LOAD_ONE, new=_LOAD_ONE.replace("at + i * LANES", "first + 127"),
        problem=make_fff(5, 129, 9), team=1, says="tolerance",
    ),
    "no tail of the batch": Fault(
        kernel=FUSED, old="    if (is_real)\n        for", new="        for",
        problem=make_fff(5, 8, 8), says=OVERFLOW,
    ),
    "tiles of y that overlap": Fault(
        kernel=FUSED, old="blockIdx.y * PIECES * stride", new="0", problem=make_fff(5, 8, 772), team=1,
        says="not written",
    ),
    "one of a pair taken twice": Fault(
        kernel=FUSED, old="__uint_as_float(pairs[i] << 16)",
        new="__uint_as_float(pairs[i] & 0xffff0000)", problem=make_fff(5, 16, 8, dtype="bfloat16"),
        says="tolerance",
    ),
    "every turn reversed": Fault(
        kernel=FUSED, old="(z >= 0.0f)", new="(z < 0.0f)", problem=make_fff(5, 9, 8), says="tolerance"
    ),
    "a token too many": Fault(
        kernel=_NAIVE, old="if (token >= batch)", new="if (token > batch)", problem=make_fff(5, 9, 7),
        says=OVERFLOW,
    ),
    "no bound of the batch": Fault(
        kernel=_NAIVE, old="if (token >= batch)", new="if (token < 0)", problem=make_fff(5, 9, 7),
        says=OVERFLOW,
    ),
    "an element too many": Fault(
        kernel="ff_cuda_naive", old="i < d_in", new="i <= d_in",
        problem=Problem(layer="ff", batch=5, d_in=9, d_out=7, hidden=3), says=OVERFLOW,
    ),
    "a last element forgotten": Fault(
        kernel="ff_cuda_naive", old="j < d_out; ++j)\n        y[j] += ",
        new="j < d_out - 1; ++j)\n        y[j] += ",
        problem=Problem(layer="ff", batch=5, d_in=9, d_out=7, hidden=3), says="tolerance",
    ),
}  # fmt: skip
