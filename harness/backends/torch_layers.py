"""Own the layers as a user of torch writes them: linear layers and batched products, on any device.

All write into buffers that are given: y, and a workspace that bounds how many tokens are computed together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from harness.backends import timer, torch_library
from harness.backends.registry import Context, Implementation, Prepared, TensorPass, register
from harness.problem.operands import Operands
from harness.problem.problem import ALIGNMENT, DTYPES, Problem

# What is materialised at once: of batch 16384, 12 rows of 768 a token would be 600 MB. On a CPU more than a
# share of its caches gains nothing; on a GPU small pieces would be bound by launches.
CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
_INDEX_BYTES = 8

Pass = Callable[[], None]
# Elements of a token, and "data" or "index"; or "copied", what a CPU's library copies of its own accord.
Part = tuple[int, str]
MakePass = Callable[[Problem, int, Any, Any, Any, Any, list[Any]], Pass]


# ---- the workspace ------------------------------------------------------------------------------


def _size(part: Part, problem: Problem, tokens: int) -> int:
    """Return the bytes of one buffer of the workspace, a multiple of the alignment."""
    count, kind = part
    each = _INDEX_BYTES if kind == "index" else problem.item_bytes
    return -(-count * tokens * each // ALIGNMENT) * ALIGNMENT


def _together(problem: Problem, parts: list[Part], device: str) -> int:
    """Return the tokens that are computed together: as many as CHUNK_BYTES hold, at least one."""
    held = [part for part in parts if part[1] != "copied" or device == "cpu"]
    token = sum(_size(part, problem, ALIGNMENT) for part in held) / ALIGNMENT
    return max(1, min(problem.batch, int(CHUNK_BYTES[device] // token)))


def _total(parts_of: Callable[[Problem], list[Part]], problem: Problem, device: str = "cpu") -> int:
    parts = parts_of(problem)
    tokens = _together(problem, parts, device)
    return sum(_size(part, problem, tokens) for part in parts if part[1] != "copied")


def _carve(problem: Problem, parts: list[Part], tokens: int, workspace: Any) -> list[Any]:
    """Return the buffers, flat tensors of the operands' dtype or of indices, cut from the workspace."""
    import torch

    dtypes = {"data": getattr(torch, problem.dtype), "index": torch.int64}
    first, found = 0, []
    flat = torch_library.as_tensor(workspace)
    for part in parts:
        if part[1] == "copied":
            continue
        size = _size(part, problem, tokens)
        whole = flat[first : first + size].view(dtypes[part[1]])
        found.append(whole[: part[0] * tokens])
        first += size
    return found


def _chunks(problem: Problem, size: int) -> Iterator[slice]:
    for first in range(0, problem.batch, size):
        yield slice(first, min(first + size, problem.batch))


# ---- FF -----------------------------------------------------------------------------------------


def _ff_parts(problem: Problem) -> list[Part]:
    """Name what a token of an FF materialises: its activations."""
    return [(problem.hidden, "data")]


def _ff_bmm_parts(problem: Problem) -> list[Part]:
    """Name what a token of the batched product materialises.

    oneDNN takes no repeated weights: in bfloat16 torch copies them for each token, 25 GB for 4096.
    """
    if problem.dtype != "bfloat16":
        return _ff_parts(problem)
    return [*_ff_parts(problem), (problem.hidden * max(problem.d_in, problem.d_out), "copied")]


def _ff_native(
    p: Problem, size: int, x: Any, w_in: Any, w_out: Any, y: Any, buffers: list[Any]
) -> Pass:
    """Two products over a chunk of tokens, the GELU in place between them."""
    import torch

    gelu, mm, w_in_t = torch.ops.aten.gelu.out, torch.mm, w_in.t()
    steps = [
        (x[tokens], buffers[0][: len(x[tokens]) * p.hidden].view(-1, p.hidden), y[tokens])
        for tokens in _chunks(p, size)
    ]

    def forward() -> None:
        for x_part, a, y_part in steps:
            mm(x_part, w_in_t, out=a)
            gelu(a, out=a)
            mm(a, w_out, out=y_part)

    return forward


def _ff_bmm(
    p: Problem, size: int, x: Any, w_in: Any, w_out: Any, y: Any, buffers: list[Any]
) -> Pass:
    """A product of its own for each token, all with the same weights: they are repeated with stride 0."""
    import torch

    gelu, bmm = torch.ops.aten.gelu.out, torch.bmm
    steps = []
    for tokens in _chunks(p, size):
        count = len(x[tokens])
        a = buffers[0][: count * p.hidden].view(count, 1, p.hidden)
        w_in_t = w_in.t().expand(count, p.d_in, p.hidden)
        repeated = w_out.expand(count, p.hidden, p.d_out)
        steps.append((x[tokens].unsqueeze(1), w_in_t, a, repeated, y[tokens].unsqueeze(1)))

    def forward() -> None:
        for x_part, w_in_t, a, repeated, y_part in steps:
            bmm(x_part, w_in_t, out=a)
            gelu(a, out=a)
            bmm(a, repeated, out=y_part)

    return forward


# ---- FFF ----------------------------------------------------------------------------------------


def _fff_parts(problem: Problem) -> list[Part]:
    """Name what a token of an FFF materialises: gathered rows, pre-activations, activations, its paths."""
    used, trees = problem.used_neurons, problem.trees
    rows = max(trees * problem.d_in, used * problem.d_out)
    return [(rows, "data"), (used, "data"), (used, "data"), (used, "index"), (used, "index")]


def _fff_bmm(
    p: Problem, size: int, x: Any, w_in: Any, w_out: Any, y: Any, buffers: list[Any]
) -> Pass:
    """Gather, at each level, every token's row and multiply; then gather the selected output rows."""
    import torch

    rows_in, rows_out = w_in.view(-1, p.d_in), w_out.view(-1, p.d_out)
    # Nodes are counted through all trees: the children of node n of tree k are 2n + 1 - k * n_nodes
    # and the one behind it, since its tree's first node is at k * n_nodes.
    roots = torch.arange(p.trees, device=x.device) * p.n_nodes
    passes = [
        _descent(p, x[tokens], rows_in, rows_out, y[tokens], buffers, roots)
        for tokens in _chunks(p, size)
    ]

    def forward() -> None:
        for run in passes:
            run()

    return forward


def _descent(
    p: Problem, x: Any, rows_in: Any, rows_out: Any, y: Any, buffers: list[Any], roots: Any
) -> Pass:
    """Return the pass of one chunk of tokens."""
    import torch

    count, levels, used = len(x), p.depth + 1, p.used_neurons
    gelu, bmm, select = torch.ops.aten.gelu.out, torch.bmm, torch.index_select
    rows, z, a, path, chosen = buffers
    gathered = rows[: count * p.trees * p.d_in].view(count * p.trees, p.d_in)
    selected = rows[: count * used * p.d_out].view(count * used, p.d_out)
    path = path[: count * used].view(levels, count, p.trees)
    z = z[: count * used].view(levels, count, p.trees, 1)
    a = a[: count * used].view(count, levels, p.trees)
    chosen = chosen[: count * used].view(count, levels, p.trees)
    column, first_child, by_token = x.unsqueeze(2), 1 - roots, path.transpose(0, 1)
    z_by_token = z.squeeze(3).transpose(0, 1)

    def forward() -> None:
        path[0] = roots
        for d in range(levels):
            select(rows_in, 0, path[d].view(-1), out=gathered)
            bmm(gathered.view(count, p.trees, p.d_in), column, out=z[d])
            if d + 1 < levels:
                torch.mul(path[d], 2, out=path[d + 1])
                path[d + 1].add_(first_child).add_(z[d].squeeze(2) >= 0)
        a.copy_(z_by_token)
        gelu(a, out=a)
        chosen.copy_(by_token)
        select(rows_out, 0, chosen.view(-1), out=selected)
        bmm(a.view(count, 1, used), selected.view(count, used, p.d_out), out=y.unsqueeze(1))

    return forward


# ---- preparation --------------------------------------------------------------------------------


def notes(context: Context, **own: str) -> dict[str, str]:
    """Return what the record says of any implementation in torch: versions, threads, who timed it."""
    import torch

    found = {
        "torch": torch_library.describe(),
        "torch_threads": str(torch.get_num_threads()),
        **own,
    }
    if context.device == "cpu":
        cost = timer.python_overhead_ns()
        found["timed_by"] = f"Python clock and loop, {cost:.0f} ns a pass of its own"
    return found


def sets_of(operands: Operands) -> list[tuple[Any, Any]]:
    """Return the sets of weights as tensors: the operands' own, then those that are taken in turn."""
    sets = ((operands.w_in, operands.w_out), *operands.rotation)
    return [(torch_library.as_tensor(a), torch_library.as_tensor(b)) for a, b in sets]


def _prepare(
    parts_of: Callable[[Problem], list[Part]], make_pass: MakePass, allocated: str,
    problem: Problem, operands: Operands, context: Context,
) -> Prepared:  # fmt: skip
    parts = parts_of(problem)
    size = _together(problem, parts, context.device)
    x, y = torch_library.as_tensor(operands.x), torch_library.as_tensor(operands.y)
    total = _total(parts_of, problem, context.device)
    buffers = _carve(problem, parts, size, context.workspace(total))
    sets = sets_of(operands)
    passes = [make_pass(problem, size, x, w_in, w_out, y, buffers) for w_in, w_out in sets]
    said = notes(context, allocates=allocated, tokens_together=str(size))
    time = torch_library.make_timer(context, passes)
    return Prepared(forward=passes[0], time=time, notes=said, sets=len(passes))


def _tensor_pass(
    parts_of: Callable[[Problem], list[Part]],
    make_pass: MakePass,
    problem: Problem,
    context: Context,
) -> TensorPass:
    import torch

    parts = parts_of(problem)
    size = _together(problem, parts, context.device)
    total = _total(parts_of, problem, context.device)
    on_cpu = context.device == "cpu"
    kept = torch_library.as_tensor(context.workspace(total)) if on_cpu else None

    def forward(x: Any, w_in: Any, w_out: Any, y: Any) -> None:
        # On a GPU torch's allocator knows which stream still reads what a call before was given.
        workspace = x.new_empty(total, dtype=torch.uint8) if kept is None else kept
        buffers = _carve(problem, parts, size, workspace)
        make_pass(problem, size, x, w_in, w_out, y, buffers)()

    return forward


def _register(
    id: str, layer: Any, summary: str, parts_of: Callable[[Problem], list[Part]],
    make_pass: MakePass, *, token_block: int, allocated: str,
) -> None:  # fmt: skip
    register(
        Implementation(
            id=id, layer=layer, level=None, devices=("cpu", "cuda"), dtypes=DTYPES, summary=summary,
            prepare=partial(_prepare, parts_of, make_pass, allocated),
            tensor_pass=partial(_tensor_pass, parts_of, make_pass),
            workspace_bytes=partial(_total, parts_of), token_block=token_block,
            cuda_workspace_bytes=partial(_total, parts_of, device="cuda"),
            library=torch_library.TORCH, tf32=True, unavailable=torch_library.unavailable,
        )
    )  # fmt: skip


_PACKS = "what the library packs of the operands"
_register("ff_torch_native", "ff", "torch: linear, GELU, linear", _ff_parts, _ff_native,
          token_block=0, allocated=_PACKS)  # fmt: skip
_register("ff_torch_bmm", "ff", "torch: a batched product over tokens", _ff_bmm_parts, _ff_bmm,
          token_block=1, allocated=_PACKS)  # fmt: skip
_register("fff_torch_bmm", "fff", "torch: rows gathered by level, batched products", _fff_parts,
          _fff_bmm, token_block=0, allocated="a flag a token and level, what the library packs")  # fmt: skip
