"""Own the leaf FFF as a user of torch writes it: rows gathered for each token, or tokens sorted by leaf."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from harness.backends import torch_library
from harness.backends.registry import Context, Implementation, Prepared, register
from harness.backends.torch_layers import CHUNK_BYTES, notes
from harness.problem.operands import Operands
from harness.problem.problem import DTYPES, Problem

Pass = Callable[[], None]
Leaves = Callable[[Problem, Any, Any, Any, dict[str, Any]], None]


def _activate(problem: Problem, z: Any) -> Any:
    """Return the activations in the dtype of the operands."""
    import torch

    return torch.nn.functional.gelu(z) if problem.activation == "gelu" else torch.relu(z)


def _find_leaf(problem: Problem, x: Any, weights: dict[str, Any]) -> Any:
    """Return the leaf (tokens,) that each token comes to; turns are decided in float32."""
    import torch

    node = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    column = x.unsqueeze(2).float()
    for _ in range(problem.depth):
        rows = weights["router"].index_select(0, node).unsqueeze(1).float()
        z = torch.bmm(rows, column).view(-1) + weights["router_bias"].index_select(0, node).float()
        node = 2 * node + 1 + (z >= 0)
    return node - problem.routers


def _gather(problem: Problem, x: Any, leaf: Any, y: Any, weights: dict[str, Any]) -> None:
    """Multiply each token with its leaf's weights, which are gathered for it."""
    import torch

    w_in = weights["w_in"].index_select(0, leaf)
    z = torch.baddbmm(weights["b_in"].index_select(0, leaf).unsqueeze(2), w_in, x.unsqueeze(2))
    a = _activate(problem, z).transpose(1, 2)
    bias = weights["b_out"].index_select(0, leaf).unsqueeze(1)
    torch.baddbmm(bias, a, weights["w_out"].index_select(0, leaf), out=y.unsqueeze(1))


def _grouped(problem: Problem, x: Any, leaf: Any, y: Any, weights: dict[str, Any]) -> None:
    """Sort the tokens by leaf; each leaf that has some is two products over its own."""
    import torch

    order = torch.argsort(leaf, stable=True)
    sorted_x, found = x.index_select(0, order), torch.empty_like(y)
    first = 0
    for j, count in enumerate(torch.bincount(leaf, minlength=problem.n_leaves).tolist()):
        if not count:
            continue
        own = slice(first, first + count)
        z = torch.addmm(weights["b_in"][j], sorted_x[own], weights["w_in"][j].t())
        torch.addmm(weights["b_out"][j], _activate(problem, z), weights["w_out"][j], out=found[own])
        first += count
    y.index_copy_(0, order, found)


def _tokens(problem: Problem, gathers: bool, device: str) -> int:
    """Return the tokens that are computed together: as many as CHUNK_BYTES hold of what is gathered."""
    if not gathers:
        return problem.batch
    token = problem.hidden * (problem.d_in + problem.d_out + 2) + 2 * problem.d_in
    return max(1, min(problem.batch, CHUNK_BYTES[device] // (4 * token)))


def _allocates(problem: Problem, gathers: bool, device: str = "cpu") -> int:
    """Return what a pass allocates: gathered weights of a chunk, or sorted rows, and the rows of a turn."""
    tokens = _tokens(problem, gathers, device)
    if gathers:
        own = tokens * problem.hidden * (problem.d_in + problem.d_out + 2)
    else:
        own = tokens * (problem.d_in + problem.d_out)
    return own * problem.item_bytes + 8 * tokens * problem.d_in + 24 * tokens


def _prepare(
    compute: Leaves, gathers: bool, problem: Problem, operands: Operands, context: Context
) -> Prepared:
    size = _tokens(problem, gathers, context.device)
    x, y = torch_library.as_tensor(operands.x), torch_library.as_tensor(operands.y)
    chunks = [slice(i, min(i + size, problem.batch)) for i in range(0, problem.batch, size)]

    def make(arrays: tuple[Any, ...]) -> Pass:
        tensors = map(torch_library.as_tensor, arrays)
        weights = dict(zip(problem.weights(), tensors, strict=True))

        def forward() -> None:
            for tokens in chunks:
                leaf = _find_leaf(problem, x[tokens], weights)
                compute(problem, x[tokens], leaf, y[tokens], weights)

        return forward

    passes = [make(arrays) for arrays in operands.sets()]
    said = notes(context, allocates="what is gathered or sorted", tokens_together=str(size))
    return Prepared(
        forward=passes[0], time=torch_library.make_timer(context, passes), notes=said,
        sets=len(passes),
    )  # fmt: skip


def _register(how: str, summary: str, compute: Leaves, *, gathers: bool) -> None:
    register(
        Implementation(
            id=f"leaf_torch_{how}", layer="leaf", level=None, devices=("cpu", "cuda"),
            dtypes=DTYPES, summary=summary, prepare=partial(_prepare, compute, gathers),
            workspace_bytes=lambda problem: 0, token_block=0,
            allocates_bytes=partial(_allocates, gathers=gathers),
            cuda_allocates_bytes=partial(_allocates, gathers=gathers, device="cuda"),
            # How many tokens a leaf has is read back from the device within a pass.
            capturable=gathers, library=torch_library.TORCH, tf32=True,
            unavailable=torch_library.unavailable,
        )
    )  # fmt: skip


_register("gather", "torch: each token's leaf gathered, batched products", _gather, gathers=True)
_register("grouped", "torch: tokens sorted by leaf, two products a leaf", _grouped, gathers=False)
