"""Own the memory of large outputs: taken again once nothing holds it any more.

What is larger than glibc's malloc keeps in its heap is mapped anew in every call, and each page of it
faults when it is first written: longer than a pass takes to compute it.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import torch

from harness.problem.problem import Array

FROM_BYTES = 32 << 20  # below, memory that is freed stays in the heap, at glibc's largest threshold
MOST_FREE_BYTES = 256 << 20  # of memory that is kept while nothing holds it

_free: list[Array] = []


def _give_back(block: Array) -> None:
    if block.nbytes + sum(b.nbytes for b in _free) <= MOST_FREE_BYTES:
        _free.append(block)


def _take(size: int) -> Array:
    for block in list(_free):
        if block.nbytes == size:
            try:
                _free.remove(block)
            except ValueError:  # another thread was faster
                continue
            return block
    return np.asarray(torch.empty(size, dtype=torch.uint8).numpy())


def _size(like: torch.Tensor, shape: Sequence[int]) -> int:
    return int(math.prod(shape) * like.dtype.itemsize)


def _make_large(like: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    block = _take(_size(like, shape))
    lease = block.view()  # held by the tensor's storage, and by nothing else
    weakref.finalize(lease, _give_back, block).atexit = False
    storage = torch.frombuffer(lease, dtype=torch.uint8).untyped_storage()
    # Not a view of another tensor: a view that a Function returns may not be changed in place.
    return like.new_empty(0).set_(storage, 0, shape)


def maker(like: torch.Tensor, shape: Sequence[int]) -> Callable[..., torch.Tensor]:
    """Return `make` for tensors like another one of a shape, with what it chooses by their size chosen."""
    large = like.is_cpu and _size(like, shape) > FROM_BYTES
    return _make_large if large else torch.Tensor.new_empty


def make(like: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return an uninitialised, contiguous tensor of a shape, of the dtype and on the device of another.

    A large one on a CPU is of memory that an earlier one left. Its storage can't be resized.
    """
    return maker(like, shape)(like, shape)
