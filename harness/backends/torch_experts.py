"""Own the controls as a user of torch writes them: scores, a choice, its rows gathered or tokens grouped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from harness.backends import torch_library
from harness.backends.registry import Context, Implementation, Prepared, register
from harness.backends.torch_layers import CHUNK_BYTES, notes
from harness.problem.experts import HASHED_ELEMENTS
from harness.problem.operands import Operands
from harness.problem.problem import DTYPES, EXPERTS, Layer, Problem

Weights = dict[str, Any]
# experts (tokens, active), and their gates in float32 or None
Choice = tuple[Any, Any]
Pass = Callable[[Problem, Any, Any, Weights], None]

_MULTIPLIER, _SHIFT, _MASK = 0x9E3779B1, 15, 0xFFFFFFFF  # problem/experts.py


def _scores(x: Any, rows: Any) -> Any:
    """Return ``x rows^T`` as float32 sums: what is chosen hangs on no rounding to bfloat16."""
    import torch

    if x.dtype == torch.float32:
        return torch.mm(x, rows.t())
    if x.is_cuda and hasattr(torch.ops.aten.mm, "dtype"):  # torch 2.8 and newer, and there alone
        return torch.mm(x, rows.t(), out_dtype=torch.float32)
    return torch.mm(x.float(), rows.float().t())


def _choose_topk(problem: Problem, x: Any, weights: Weights) -> Choice:
    """Return the neurons of the largest pre-activations; these stand in the place of gates."""
    import torch

    z, experts = torch.topk(_scores(x, weights["w_in"][:, 0]), problem.active, sorted=False)
    return experts, z


def _choose_peer(problem: Problem, x: Any, weights: Weights) -> Choice:
    import torch

    halves = _scores(x, weights["router"]).view(len(x), 2, problem.side)
    best, key = torch.topk(halves, min(problem.active, problem.side))
    sums = (best[:, 0, :, None] + best[:, 1, None]).flatten(1)
    keys = (key[:, 0, :, None] * problem.side + key[:, 1, None]).flatten(1)
    score, place = torch.topk(sums, problem.active, sorted=False)
    return keys.gather(1, place), torch.softmax(score, 1)


def _choose_moe(problem: Problem, x: Any, weights: Weights) -> Choice:
    import torch

    gates, experts = torch.topk(
        torch.softmax(_scores(x, weights["router"]), 1), problem.active, sorted=False
    )
    return experts, gates


def _choose_hash(problem: Problem, x: Any, weights: Weights) -> Choice:
    """Return the nodes of the path that a hash of each token picks; no gates."""
    import torch

    kind = torch.int32 if x.dtype == torch.float32 else torch.int16
    mask = _MASK if x.dtype == torch.float32 else 0xFFFF
    bits = x[:, :HASHED_ELEMENTS].contiguous().view(kind).long() & mask
    h = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for column in bits.unbind(1):
        h = ((h ^ column) * _MULTIPLIER) & _MASK
        h = h ^ (h >> _SHIFT)
    leaf = (h >> (32 - problem.depth)).unsqueeze(1) + 2**problem.depth
    return (leaf >> torch.arange(problem.depth, -1, -1, device=x.device)) - 1, None


_CHOOSE: dict[Layer, Callable[[Problem, Any, Weights], Choice]] = {
    "topk": _choose_topk, "peer": _choose_peer, "moe": _choose_moe, "hash": _choose_hash,
}  # fmt: skip


def _gather(problem: Problem, x: Any, y: Any, weights: Weights) -> None:
    """Multiply each token with the rows of what it chose, which are gathered for it."""
    import torch

    experts, gates = _CHOOSE[problem.layer](problem, x, weights)
    tokens, chosen = len(x), experts.flatten()
    w_in, w_out = weights["w_in"], weights["w_out"]
    if problem.layer == "hash":
        w_in, w_out = w_in[0].unsqueeze(1), w_out[0].unsqueeze(1)
    used = problem.used_neurons
    if problem.layer == "topk":
        a = torch.nn.functional.gelu(gates)
    else:
        rows = w_in.index_select(0, chosen).view(tokens, used, problem.d_in)
        a = torch.nn.functional.gelu(torch.bmm(rows, x.unsqueeze(2))).view(tokens, used)
        if gates is not None:
            a = a * gates.repeat_interleave(problem.hidden, 1)
    out = w_out.index_select(0, chosen).view(tokens, used, problem.d_out)
    torch.bmm(a.to(x.dtype).unsqueeze(1), out, out=y.unsqueeze(1))


def _grouped(problem: Problem, x: Any, y: Any, weights: Weights) -> None:
    """Sort the tokens by expert; each expert that has some is two products over its own."""
    import torch

    experts, gates = _CHOOSE[problem.layer](problem, x, weights)
    expert, order = torch.sort(experts.flatten(), stable=True)
    token = order // problem.active
    sorted_x, gate = x.index_select(0, token), gates.flatten().index_select(0, order)
    found = torch.empty(len(order), problem.d_out, dtype=torch.float32, device=x.device)
    first = 0
    for j, count in enumerate(torch.bincount(expert, minlength=problem.experts).tolist()):
        if not count:
            continue
        own = slice(first, first + count)
        z = torch.mm(sorted_x[own], weights["w_in"][j].t())
        a = torch.nn.functional.gelu(z).float() * gate[own, None]
        found[own] = torch.mm(a.to(x.dtype), weights["w_out"][j])
        first += count
    back = torch.empty_like(found).index_copy_(0, order, found)
    y.copy_(back.view(len(x), problem.active, problem.d_out).sum(1))


def _tokens(problem: Problem, gathers: bool, device: str) -> int:
    """Return the tokens that are computed together: as many as CHUNK_BYTES hold of what is gathered."""
    if not gathers:
        return problem.batch
    scores = problem.experts * (2 if problem.layer == "topk" else 1)
    token = problem.used_neurons * (problem.d_in + problem.d_out + 2) + scores
    return max(1, min(problem.batch, CHUNK_BYTES[device] // (4 * token)))


def _allocates(problem: Problem, gathers: bool, device: str = "cpu") -> int:
    """Return what a pass allocates: gathered weights of a chunk, or sorted rows, and scores of either."""
    tokens, width = _tokens(problem, gathers, device), problem.d_in + problem.d_out
    used = problem.used_neurons if gathers else problem.active
    scored = problem.experts if problem.layer in EXPERTS else 0
    wide = 0 if problem.dtype == "float32" else 4 * (tokens + scored) * problem.d_in
    return tokens * (used * (width + 2) * 4 + 12 * scored + 64 * problem.active) + wide


def _prepare(
    compute: Pass, gathers: bool, problem: Problem, operands: Operands, context: Context
) -> Prepared:
    size = _tokens(problem, gathers, context.device)
    x, y = torch_library.as_tensor(operands.x), torch_library.as_tensor(operands.y)
    chunks = [slice(i, min(i + size, problem.batch)) for i in range(0, problem.batch, size)]

    def make(arrays: tuple[Any, ...]) -> Callable[[], None]:
        tensors = map(torch_library.as_tensor, arrays)
        weights = dict(zip(problem.weights(), tensors, strict=True))

        def forward() -> None:
            for tokens in chunks:
                compute(problem, x[tokens], y[tokens], weights)

        return forward

    passes = [make(arrays) for arrays in operands.sets()]
    said = notes(
        context, allocates="scores and what is gathered or sorted", tokens_together=str(size)
    )
    return Prepared(
        forward=passes[0], time=torch_library.make_timer(context, passes), notes=said,
        sets=len(passes),
    )  # fmt: skip


def _register(layer: Layer, how: str, summary: str, compute: Pass) -> None:
    gathers = compute is _gather
    register(
        Implementation(
            id=f"{layer}_torch_{how}", layer=layer, level=None, devices=("cpu", "cuda"),
            dtypes=DTYPES, summary=summary, prepare=partial(_prepare, compute, gathers),
            workspace_bytes=lambda problem: 0, token_block=0,
            allocates_bytes=partial(_allocates, gathers=gathers),
            cuda_allocates_bytes=partial(_allocates, gathers=gathers, device="cuda"),
            # How many tokens an expert has is read back from the device within a pass.
            capturable=gathers, library=torch_library.TORCH,
            unavailable=torch_library.unavailable,
        )
    )  # fmt: skip


_register("topk", "gather", "torch: all logits, the largest kept, their rows gathered", _gather)
_register("hash", "gather", "torch: the rows of hashed paths gathered, batched products", _gather)
_register("peer", "gather", "torch: product keys, the chosen rows gathered", _gather)
_register("moe", "gather", "torch: a linear gate, the chosen experts gathered", _gather)
_register("moe", "grouped", "torch: tokens sorted by expert, two products an expert", _grouped)
