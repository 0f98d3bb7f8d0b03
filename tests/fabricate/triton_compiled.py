"""Own the ahead-of-time compilation of every Triton launch: run as a program, it prints what each takes.

No GPU and no driver is touched: what the host code would launch is caught, compiled for an architecture and
read by cuobjdump from the binary. A process of its own: Triton decides at import whether it interprets.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from harness.backends import triton_fused, triton_grouped_launch, triton_leaf, triton_tiling
from harness.problem.problem import DTYPES, Problem

ARCHITECTURES = (80, 90)
GOLDEN = Path(__file__).parents[1] / "data" / "triton_resources.json"
_OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion", "maxnreg")
_POINTER = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32"}
_PRODUCT = re.compile(r"\bwgmma\.mma_async|\bmma\.sync")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Hold one launch as the host code made it."""

    kernel: JITFunction[Any]
    arguments: tuple[Any, ...]
    words: dict[str, Any]


def catch(run: Callable[[], None]) -> list[Launch]:
    """Return what a pass would launch; nothing is launched."""
    caught: list[Launch] = []

    def record(
        self: JITFunction[Any], *arguments: Any, grid: Any, warmup: bool, **words: Any
    ) -> None:
        caught.append(Launch(kernel=self, arguments=arguments, words=words))

    launched, JITFunction.run = JITFunction.run, record  # type: ignore[method-assign]
    try:
        run()
    finally:
        JITFunction.run = launched  # type: ignore[method-assign]
    return caught


def source(launch: Launch) -> ASTSource:
    """Return what Triton would compile for a launch: pointers and extents by type and divisibility by 16."""
    signature, constants, hints = {}, {}, {}
    names = launch.kernel.arg_names
    for position, (name, value) in enumerate(zip(names, launch.arguments, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[name] = _POINTER[value.dtype]
        elif value == 1:
            signature[name], constants[name] = "constexpr", 1
            continue
        else:
            signature[name] = "i32"
        if isinstance(value, torch.Tensor) or value % 16 == 0:
            hints[(position,)] = [["tt.divisibility", 16]]
    for name in names[len(launch.arguments) :]:
        signature[name], constants[name] = "constexpr", launch.words[name]
    return ASTSource(launch.kernel, signature, constants, hints)


def usage(launch: Launch, architecture: int) -> dict[str, int]:
    """Compile a launch; return its registers, bytes of stack and of shared memory, and tensor-core products.

    A stack is where spilled registers go: the kernels keep nothing else there.
    """
    options = {name: launch.words.get(name) for name in _OPTIONS}
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(source(launch), target=target, options=options)
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        text = subprocess.run(
            [knobs.nvidia.cuobjdump.path, "-res-usage", str(binary)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    found = _USAGE.search(text)
    assert found, text
    registers, stack, _, local = (int(n) for n in found.groups())
    products = len(_PRODUCT.findall(compiled.asm["ptx"]))
    shared = compiled.metadata.shared
    return {"registers": registers, "stack": stack + local, "shared": shared, "products": products}


def _operands(problem: Problem) -> list[torch.Tensor]:
    rows = [(problem.batch, width) for width in (problem.d_in, problem.d_out)]
    shapes = (rows[0], *problem.weights().values(), rows[1])
    dtype = getattr(torch, problem.dtype)
    return [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]


def fused_passes(problem: Problem) -> dict[str, Callable[[], None]]:
    """Return a pass of the fused kernel for each tile."""
    x, w_in, w_out, y = _operands(problem)
    return {
        f"{tile.tokens} tokens {tile.warps} warps": triton_fused.bind(
            problem, tile, (w_in, w_out), x, y
        )
        for tile in triton_tiling.fused_tiles(problem)
    }


def grouped_pass(problem: Problem, tile: int) -> Callable[[], None]:
    """Return a pass of the grouped kernels with a tile."""
    x, w_in, w_out, y = _operands(problem)
    size = triton_tiling.grouped_workspace(problem, tile).bytes
    memory = torch.empty(size, dtype=torch.uint8, device="meta")
    return triton_grouped_launch.bind(problem, tile, (w_in, w_out), x, y, memory)


def leaf_pass(
    batch: int, hidden: int, depth: int, dtype: str, tile: int, width: int = 768, math: str = "ieee"
) -> Callable[[], None]:
    """Return a pass of the kernels of a leaf FFF with a tile."""
    problem = Problem(
        layer="leaf", batch=batch, d_in=width, d_out=width, hidden=hidden, depth=depth, trees=1,
        dtype=dtype, math=math,
    )  # fmt: skip
    x, *weights, y = _operands(problem)
    size = triton_tiling.leaf_workspace(problem, tile).bytes
    memory = torch.empty(size, dtype=torch.uint8, device="meta")
    return triton_leaf.bind(problem, tile, tuple(weights), x, y, memory)


def _fff(batch: int, trees: int, depth: int, dtype: str, width: int = 768) -> Problem:
    return Problem(
        layer="fff", batch=batch, d_in=width, d_out=width, depth=depth, trees=trees, dtype=dtype
    )


def passes(dtype: str) -> dict[str, Callable[[], None]]:
    """Return the passes whose launches are compiled.

    The paper's layer with every tile; two trees with levels left to a gather; trees of one band, taken in
    one launch; the most groups that are sorted; rows that fill a program's registers.
    """
    found = {f"1x11 {k}": run for k, run in fused_passes(_fff(16384, 1, 11, dtype)).items()}
    for tile in triton_tiling.GROUPED_TILES:
        found[f"1x11 {tile} tokens"] = grouped_pass(_fff(16384, 1, 11, dtype), tile)
    widest = triton_tiling.GROUPED_TILES[-1]
    found["2x10 gathers below"] = grouped_pass(_fff(1024, 2, 10, dtype), widest)
    found["3072x0"] = grouped_pass(_fff(16384, 3072, 0, dtype), widest)
    if dtype == "float32":  # its sort is of integers
        found["1x13"] = grouped_pass(_fff(1 << 16, 1, 13, dtype), widest)
    wide = fused_passes(_fff(64, 1, 11, dtype, width=12288))
    found |= {f"wide {k}": run for k, run in wide.items()}
    for tile in triton_tiling.GROUPED_TILES:
        found[f"leaf 16x8 {tile} tokens"] = leaf_pass(16384, 16, 8, dtype, tile)
    found["leaf 128x3"] = leaf_pass(2048, 128, 3, dtype, widest)
    return found | {"leaf wide": leaf_pass(64, 32, 4, dtype, widest, width=12288)}


def tf32_passes() -> dict[str, Callable[[], None]]:
    """Return the grouped passes whose float32 products are TF32."""
    problem = replace(_fff(16384, 1, 11, "float32"), math="tf32")
    least, *_, widest = triton_tiling.GROUPED_TILES
    found = {f"tf32 {t} tokens": grouped_pass(problem, t) for t in (least, widest)}
    return found | {"tf32 leaf 16x8": leaf_pass(16384, 16, 8, "float32", widest, math="tf32")}


def odd_passes(dtype: str) -> dict[str, Callable[[], None]]:
    """Return passes on extents of 1, which Triton takes as constants, and on rows that begin anywhere."""
    one, odd = _fff(1, 1, 1, dtype, width=1), _fff(331, 3, 5, dtype, width=37)
    found = {f"odd 1 by {k}": run for k, run in fused_passes(one).items()}
    found |= {f"odd 37 by {k}": run for k, run in list(fused_passes(odd).items())[-1:]}
    tile = triton_tiling.GROUPED_TILES[0]
    found["odd 1 grouped"] = grouped_pass(_fff(16, 1, 1, dtype, width=1), tile)
    found["odd 1 leaf"] = leaf_pass(1, 1, 1, dtype, tile, width=1)
    found["odd 37 leaf"] = leaf_pass(331, 5, 5, dtype, tile, width=37)
    return found | {"odd 37 grouped": grouped_pass(odd, tile)}


def widest(named: dict[str, Callable[[], None]]) -> dict[str, Callable[[], None]]:
    """Return the last of passes that differ in their tile alone: enough for an older architecture."""
    last = {re.sub(r"\d+ (tokens|warps)", r"\1", name): name for name in named}
    return {name: named[name] for name in last.values()}


def report() -> dict[str, dict[str, int]]:
    """Return the usage of every distinct launch by architecture, dtype, pass, number in it and kernel."""
    found: dict[str, dict[str, int]] = {}
    seen = set()
    for architecture in ARCHITECTURES:
        for dtype in DTYPES:
            taken = passes(dtype) | (tf32_passes() if dtype == "float32" else {})
            if architecture == ARCHITECTURES[0]:
                taken = widest(taken) | odd_passes(dtype)
            for name, run in taken.items():
                for number, launch in enumerate(catch(run)):
                    made = source(launch)
                    same = (architecture, made.hash(), str(launch.words))
                    if same not in seen:
                        seen.add(same)
                        key = f"sm_{architecture} {dtype} {name} {number} {launch.kernel.__name__}"
                        found[key] = usage(launch, architecture)
    return found


def spilling() -> dict[str, int]:
    """Return the usage of a product that is planted too wide for a thread's registers."""
    planned, triton_tiling.output_columns = triton_tiling.output_columns, lambda problem, tile: 256
    try:
        *_, output = catch(grouped_pass(_fff(16384, 1, 11, "float32"), 64))
    finally:
        triton_tiling.output_columns = planned
    return usage(output, 80)


def write(launches: dict[str, dict[str, int]]) -> None:
    """Write the golden file, a launch a line."""
    rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(launches[key])}" for key in launches)
    version = json.dumps(triton.__version__)
    text = f'{{\n "triton": {version},\n "launches": {{\n{rows}\n }}\n}}\n'
    GOLDEN.write_text(text, encoding="utf-8")


def main() -> None:
    """Print all as JSON; with --renew, write the golden file instead, after a change that is meant."""
    if sys.argv[1:] == ["--renew"]:
        write(report())
    else:
        told = {"triton": triton.__version__, "launches": report(), "spilling": spilling()}
        json.dump(told, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
