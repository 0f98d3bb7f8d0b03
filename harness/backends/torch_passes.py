"""Own the passes of torch's operator: bound once for a shape in each thread, with what they share there.

A thread keeps its passes, a workspace and a team of threads, and no tensor: which memory x, the weights and
y lie in is said in every call. So modules can be moved, copied and changed as any other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from harness import native
from harness.backends import blas, registry, torch_operands, torch_outputs
from harness.backends.registry import Context, Implementation, TensorPass
from harness.errors import UnavailableError
from harness.machine import resources
from harness.problem.operands import Operands, make_aligned, make_untouched
from harness.problem.problem import Array, Problem

# A pass that needs more takes milliseconds: it gets a workspace of its own, which goes with it.
KEPT_BYTES = 8 << 20
MOST_PASSES = 256  # shapes that a thread keeps, batches of any size among them

# Returns y (..., d_out) of x (..., d_in), w_in and w_out of the shapes that it was bound for.
Pass = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class _Kept(threading.local):
    """Hold what a thread keeps between passes, which it runs one at a time."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop everything; threads of a team that nothing else holds end."""
        self.passes: dict[tuple[Any, ...], Any] = {}
        self.team: Any = None
        self.team_threads = 0
        self.workspace: Array | None = None

    def take_workspace(self, size: int) -> Array:
        """Return memory that no pass may take for its own beyond its end."""
        if size > KEPT_BYTES:
            return make_aligned((size,), np.uint8)
        if self.workspace is None:
            # Its pages are the system's until a pass writes there.
            self.workspace = make_untouched((KEPT_BYTES,), np.uint8)
        return self.workspace[:size]

    def take_team(self, threads: int) -> Any:
        """Return the thread's team, made anew where it is of another size."""
        if self.team_threads != threads:
            self.passes.clear()  # they hold the team that was
            self.team, self.team_threads = None, 0
            self.team, self.team_threads = native.make_team(threads), threads
        return self.team


_kept = _Kept()
# A team's threads do not come along into the child of a fork.
os.register_at_fork(after_in_child=lambda: _kept.forget())


@cache
def _provider() -> blas.Provider:
    return blas.load()


@cache
def _caches() -> dict[str, int]:
    return resources.caches()


def _find(name: str, dtype: str, device: str) -> Implementation:
    """Return an implementation that can run. Raises UnavailableError or ValueError where it can't."""
    found = registry.get(name)
    if reason := found.unavailable():
        raise UnavailableError(f"{name}: {reason}")
    if dtype not in found.dtypes or device not in found.devices:
        raise ValueError(
            f"{name} takes {' or '.join(found.dtypes)} on {' or '.join(found.devices)}, "
            f"got {dtype} on {device}"
        )
    return found


def _prepare_anew(
    found: Implementation, problem: Problem, context: Context,
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, y: torch.Tensor,
) -> None:  # fmt: skip
    """Run one pass of an implementation that is prepared for fixed operands alone."""
    operands = [x, w_in, w_out, y]
    placed = (
        operands if x.is_cuda else [torch_operands.as_array(t, problem.stored) for t in operands]
    )
    fixed = Operands(x=placed[0], w_in=placed[1], w_out=placed[2], y=placed[3])
    found.prepare(problem, fixed, context).forward()


def _count_threads(x: torch.Tensor, w_in: torch.Tensor) -> int:
    """Return the threads that a pass may use: torch's, and one where no other could take a part."""
    # A token's path is a chain: each row is known only after the one before.
    one_path = w_in.ndim == 3 and w_in.shape[1] > 1 and torch_operands.count_tokens(x) == 1
    return 1 if one_path or x.is_cuda else torch.get_num_threads()


def _take_on_gpu(size: int) -> torch.Tensor:
    # Not kept: torch's allocator knows which stream still works on what a call before was given.
    return torch.empty(size, dtype=torch.uint8, device="cuda")


def _bind(
    name: str, x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, threads: int
) -> tuple[TensorPass, bool]:
    """Return a pass over tensors of these shapes, any leading dimensions too, and whether to keep it."""
    device = x.device.type
    found = _find(name, torch_operands.name_dtype(x.dtype), device)
    problem = torch_operands.make_problem(x, w_in, w_out)
    context = Context(
        provider=_provider() if found.needs_provider else None,
        workspace=_take_on_gpu if device == "cuda" else _kept.take_workspace,
        threads=threads, team=partial(_kept.take_team, threads), caches=_caches(), device=device,
        far_weights=True,  # between two calls of a layer a model reads the weights of its others
    )  # fmt: skip
    if found.tensor_pass is None:
        return _on_flat(partial(_prepare_anew, found, problem, context)), True
    keeps = device == "cuda" or found.workspace_bytes(problem) <= KEPT_BYTES
    run = found.tensor_pass(problem, context)
    # A view of x and one of y take as long as a pass over one token.
    return run if found.by_address else _on_flat(run), keeps


def _on_flat(run: TensorPass) -> TensorPass:
    """Return a pass that takes x and y with any leading dimensions."""

    def on_flat(x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, y: torch.Tensor) -> None:
        run(torch_operands.flatten(x), w_in, w_out, torch_operands.flatten(y))

    return on_flat


def _on_current(run: TensorPass) -> TensorPass:
    """Return a pass that makes its tensors' device the current one while it runs."""

    def on_device(x: torch.Tensor, *others: torch.Tensor) -> None:
        with torch.cuda.device(x.device):
            run(x, *others)

    return on_device


def _key(
    asked: str, x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor
) -> tuple[Any, ...]:  # fmt: skip
    """Return all that a pass and the checks of its operands depend on."""
    return (
        asked, torch.get_num_threads(), x.shape, w_in.shape, w_out.shape,
        x.dtype, w_in.dtype, w_out.dtype, x.device, w_in.device, w_out.device,
    )  # fmt: skip


def find(
    asked: str, x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor
) -> Pass | None:  # fmt: skip
    """Return the pass that the thread keeps for what was asked and such operands, which were checked then."""
    return _kept.passes.get(_key(asked, x, w_in, w_out))


def _keep(key: tuple[Any, ...], found: Any) -> None:
    if len(_kept.passes) >= MOST_PASSES:
        _kept.passes.clear()
    _kept.passes[key] = found


def _output(run: TensorPass, x: torch.Tensor, w_out: torch.Tensor) -> Pass:
    """Return a pass that makes y, and takes operands that are not contiguous."""
    shape = (*x.shape[:-1], w_out.shape[-1])
    make = torch_outputs.maker(x, shape)

    def compute(x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
        y = make(x, shape)
        run(x.contiguous(), w_in.contiguous(), w_out.contiguous(), y)
        return y

    return compute


def bind(
    asked: str, name: str, x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor
) -> Pass:  # fmt: skip
    """Return a pass of an implementation of the registry, kept for the next call that asks for the same.

    Its operands are of one dtype and on one device.

    Raises UnavailableError where it can't run here, ValueError where it does not take the dtype, the device
    or the shapes.
    """
    threads = _count_threads(x, w_in)
    if x.is_cuda:
        # Modules are loaded and kernels launched on the device that is current, which torch leaves alone.
        with torch.cuda.device(x.device):
            found, keep = _bind(name, x, w_in, w_out, threads)
        found = _on_current(found)
    else:
        found, keep = _bind(name, x, w_in, w_out, threads)
    made = _output(found, x, w_out)
    if keep:
        _keep(_key(asked, x, w_in, w_out), made)
    return made


# ---- backward passes ----------------------------------------------------------------------------

BACKWARD = "fff_cpu_backward"


def takes_backward(x: torch.Tensor, w_in: torch.Tensor) -> bool:
    """Say whether the backward pass in C takes such operands: trees of several nodes, on a CPU."""
    known = native.BACKWARD[BACKWARD].dtypes
    trees = w_in.ndim == 3 and w_in.shape[1] > 1
    return trees and x.is_cpu and torch_operands.name_dtype(x.dtype) in known


def run_backward(
    x: torch.Tensor, w_in: torch.Tensor, w_out: torch.Tensor, dy: torch.Tensor,
    wanted: Sequence[bool],
) -> list[torch.Tensor]:  # fmt: skip
    """Return those of the gradients of x, w_in and w_out that are wanted, from that of the output."""
    key = _key(BACKWARD, x, w_in, w_out)
    run: Any = _kept.passes.get(key)
    if run is None:
        problem = torch_operands.make_problem(x, w_in, w_out)
        size, threads = native.backward_workspace_bytes(BACKWARD, problem), torch.get_num_threads()
        around = native.Surroundings(
            threads=threads,
            caches=_caches(),
            team=_kept.take_team(threads) if threads > 1 else None,
        )
        run = native.bind_backward(BACKWARD, problem, around, _kept.take_workspace(size))
        if size <= KEPT_BYTES:
            _keep(key, run)
    operands = (x.contiguous(), w_in.contiguous(), w_out.contiguous(), dy.contiguous())
    made = [
        torch_outputs.make(of, of.shape) if want else None
        for of, want in zip((x, w_in, w_out), wanted, strict=True)
    ]
    run(*(t.data_ptr() for t in operands), *(0 if t is None else t.data_ptr() for t in made))
    return [t for t in made if t is not None]
