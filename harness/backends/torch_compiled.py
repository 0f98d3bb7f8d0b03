"""Own the FF that torch.compile compiles: before the clock starts, and proved to be compiled."""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.backends import torch_layers, torch_library
from harness.backends.registry import Context, Implementation, Prepared, register
from harness.machine import environment as machine_environment
from harness.problem.operands import Operands
from harness.problem.problem import DTYPES, Problem

# A larger buffer is given back to the system by every call, and its pages are touched anew by the next.
CHUNK_BYTES = 16 << 20

_compiled: dict[tuple[Any, ...], Compiled] = {}


def _layer(x: Any, w_in: Any, w_out: Any, y: Any) -> None:
    """Compute the FF as a user writes it: linear, GELU, linear."""
    import torch

    y.copy_(torch.mm(torch.nn.functional.gelu(torch.mm(x, w_in.t())), w_out))


@dataclass(slots=True, eq=False)
class Compiled:
    """Hold one compiled layer of fixed extents, and count what torch compiled for it.

    Another graph after the first, in a timed pass above all, is an error: it was not compiled before.
    """

    run: Callable[..., None]
    graphs: int = 0
    seconds: float = 0.0

    def backend(self, graph: Any, inputs: Sequence[Any]) -> Any:
        """Compile a graph with Inductor, once."""
        from torch._inductor.compile_fx import compile_fx

        self.graphs += 1
        if self.graphs > 1:
            raise RuntimeError(
                "torch.compile compiled again: the timed passes are not of one graph"
            )
        return compile_fx(graph, inputs)


def _compile(arguments: tuple[Any, ...]) -> Compiled:
    """Compile the layer for these arguments, by running it once on them.

    Raises RuntimeError where torch.compile is switched off, does not get through, or breaks the layer up.
    """
    import torch
    from torch._inductor import config

    # Dynamo keeps what it compiled by code object, a few at most: each layer gets one of its own.
    own = types.FunctionType(_layer.__code__.replace(), globals(), _layer.__name__)
    made = Compiled(run=own)
    # fullgraph: a break in the graph is an error, not a slower layer.
    made.run = torch.compile(own, backend=made.backend, fullgraph=True, dynamic=False)
    began = time.perf_counter()
    try:
        # No pool of compilers, which would stay in the measuring process.
        with config.patch(compile_threads=1):
            made.run(*arguments)
    except Exception as error:
        what = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise RuntimeError(f"torch.compile failed: {type(error).__name__}: {what}") from error
    made.seconds = time.perf_counter() - began
    if made.graphs != 1:
        raise RuntimeError(f"torch.compile made {made.graphs} graphs of the layer, 1 is needed")
    return made


def _find(key: tuple[Any, ...], arguments: tuple[Any, ...]) -> Compiled:
    """Return the layer that is compiled for these extents, compiled now where it is the first time."""
    whole = (*key, *(tuple(argument.shape) for argument in arguments))
    if whole not in _compiled:
        _compiled[whole] = _compile(arguments)
    return _compiled[whole]


def _chunk_tokens(problem: Problem, device: str) -> int:
    """Return the tokens of one call: equal shares of the batch whose activations are CHUNK_BYTES or less.

    On a GPU the whole batch, since torch keeps what was allocated before.
    """
    token_bytes = problem.hidden * problem.item_bytes
    most = max(1, CHUNK_BYTES // token_bytes)
    if device != "cpu" or problem.batch <= most:
        return problem.batch
    return -(-problem.batch // -(-problem.batch // most))


def _prepare(problem: Problem, operands: Operands, context: Context) -> Prepared:
    x, y = torch_library.as_tensor(operands.x), torch_library.as_tensor(operands.y)
    size, key = (
        _chunk_tokens(problem, context.device),
        (context.device, problem.dtype, problem.math),
    )
    parts = [slice(first, first + size) for first in range(0, problem.batch, size)]
    layers: dict[Compiled, None] = {}

    def bind(w_in: Any, w_out: Any) -> Callable[[], None]:
        calls = []
        for part in parts:
            arguments = (x[part], w_in, w_out, y[part])
            layer = _find(key, arguments)
            layers[layer] = None
            calls.append((layer.run, arguments))

        def forward() -> None:
            for run, arguments in calls:
                run(*arguments)

        return forward

    passes = [bind(w_in, w_out) for w_in, w_out in torch_layers.sets_of(operands)]
    seconds = sum(layer.seconds for layer in layers)
    graphs = f"{len(layers)} graph{'s' if len(layers) > 1 else ''}, one for each size of a call"
    said = torch_layers.notes(
        context, compiled=f"{graphs}, {seconds:.1f} s before the clock started",
        tokens_together=str(size), allocates="the activations, in every call",
    )  # fmt: skip
    time = torch_library.make_timer(context, passes)
    return Prepared(forward=passes[0], time=time, notes=said, sets=len(passes))


def _activation_bytes(problem: Problem, device: str = "cpu") -> int:
    tokens = _chunk_tokens(problem, device)
    return tokens * problem.hidden * problem.item_bytes


def unavailable() -> str:
    """Return why torch.compile can't be used here, or an empty string."""
    reason = torch_library.unavailable()
    if reason or machine_environment.find_cpp_compiler():
        return reason
    return "torch.compile needs a C++ compiler: apt install g++"


register(
    Implementation(
        id="ff_torch_compile", layer="ff", level=None, devices=("cpu", "cuda"), dtypes=DTYPES,
        summary="torch: linear, GELU, linear, compiled by torch.compile", prepare=_prepare,
        workspace_bytes=lambda problem: 0, allocates_bytes=_activation_bytes,
        cuda_allocates_bytes=partial(_activation_bytes, device="cuda"), costly_prepare=True,
        library=torch_library.TORCH, tf32=True, unavailable=unavailable,
    )
)  # fmt: skip
