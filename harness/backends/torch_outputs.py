"""Own the memory of large outputs: taken again once nothing holds it any more.

What is larger than glibc's malloc keeps in its heap is mapped anew in every call, and each page of it
faults when it is first written: longer than a pass takes to compute it.
"""

from __future__ import annotations

import weakref

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


def make(like: torch.Tensor, *shape: int) -> torch.Tensor:
    """Return an uninitialised, contiguous tensor of a shape, of the dtype and on the device of another.

    A large one on a CPU is of memory that an earlier one left. Its storage can't be resized.
    """
    size = like.dtype.itemsize
    for extent in shape:
        size *= extent
    if size <= FROM_BYTES or not like.is_cpu:
        return like.new_empty(shape)
    block = _take(size)
    lease = block.view()  # held by the tensor's storage, and by nothing else
    weakref.finalize(lease, _give_back, block).atexit = False
    storage = torch.frombuffer(lease, dtype=torch.uint8).untyped_storage()
    # Not a view of another tensor: a view that a Function returns may not be changed in place.
    return like.new_empty(0).set_(storage, 0, shape)
