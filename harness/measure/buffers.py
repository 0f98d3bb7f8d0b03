"""Own operands that may lie on a device: what an implementation gets, and what a check reads."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.gpu.device import Device
from harness.measure import locality
from harness.problem import check
from harness.problem.operands import Operands, make_aligned, make_weights, make_x
from harness.problem.problem import Array, Problem

# What a pass reads and must leave as it is, where the layer has it.
_READ = ("x", "w_in", "w_out", "router", "router_bias", "b_in", "b_out")
_POISON_BYTE = 0xFF  # four or two of them are a NaN


def _digest(array: Array) -> int:
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Hold the operands of a problem twice: `own` where the pass runs, `host` in NumPy arrays.

    On the CPU both are the same. With a device, host.y is what was last read back.
    """

    own: Operands
    host: Operands
    device: Device | None = None

    def tokens(self, chosen: slice) -> Placed:
        """Return the operands of a range of the batch, on the same buffers."""
        own, host = (replace(o, x=o.x[chosen], y=o.y[chosen]) for o in (self.own, self.host))
        return replace(self, own=own, host=own if self.own is self.host else host)

    def poison(self) -> None:
        """Fill the output, where the pass will write it, with the NaN that shows what is not written."""
        check.poison(self.host.y)
        if self.device is not None:
            self.device.write(self.own.y, self.host.y)

    def negate_x(self) -> None:
        """Turn the sign of every element of x where it lies; a second time restores its bits."""
        bits = self.host.x.view(f"u{self.host.x.itemsize}")
        np.bitwise_xor(bits, bits.dtype.type(1 << (8 * bits.itemsize - 1)), out=bits)
        if self.device is not None:
            self.device.write(self.own.x, self.host.x)

    def digest_host(self) -> dict[str, int]:
        """Return a digest of each array that a pass only reads, by its name."""
        arrays = {name: getattr(self.host, name) for name in _READ}
        return {name: _digest(array) for name, array in arrays.items() if array is not None}

    def find_changed(self, digests: Mapping[str, int]) -> list[str]:
        """Return the names of the arrays, where the pass reads them, that are not what they were."""
        return [
            name for name, before in digests.items() if _digest(self._read_back(name)) != before
        ]

    def _read_back(self, name: str) -> Array:
        host: Array = getattr(self.host, name)
        if self.device is None:
            return host
        copy = np.empty_like(host)
        self.device.read(getattr(self.own, name), copy)
        return copy

    def fetch(self) -> Operands:
        """Return the operands as a check reads them, the output as the last pass left it."""
        if self.device is not None:
            self.device.read(self.own.y, self.host.y)
        return self.host


def on_host(operands: Operands) -> Placed:
    """Return operands whose passes run on the CPU."""
    return Placed(own=operands, host=operands)


class Arena:
    """Lend one touched buffer to all cells: only one of them runs at a time."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        """Begin with nothing. make: returns a buffer of so many bytes."""
        self._make, self._size, self._buffer = make, 0, make(0)

    def take(self, size: int) -> Any:
        """Return the first `size` bytes; a larger request than any before makes a new buffer."""
        if size > self._size:
            self._buffer = None  # before the new one: both may not fit
            self._buffer, self._size = self._make(size), size
        return self._buffer[:size]


def _host_bytes(size: int) -> Array:
    return make_aligned((size,), np.uint8)


class Store:
    """Hold the operands of all cells of a process, on the host and on its device where it has one.

    Problems of one recipe share the bytes; smaller batches are the head of larger ones.
    """

    def __init__(self, device: Device | None = None) -> None:
        """Begin with nothing. device: where the passes run, None for the CPU."""
        self.device = device
        self._outputs = Arena(_host_bytes)
        self._workspace = Arena(self._device_bytes if device else _host_bytes)
        self._inputs: dict[tuple[Any, ...], Array] = {}
        self._weights: dict[tuple[Any, ...], tuple[Array, ...]] = {}
        self._tensors: dict[tuple[Any, ...], Any] = {}

    def _device_bytes(self, size: int) -> Any:
        assert self.device is not None
        return self.device.empty((size,), np.dtype(np.uint8))

    def workspace(self, size: int) -> Any:
        """Lend `size` bytes where the passes run, the same to all. Raises MemoryError naming what is free."""
        return self._workspace.take(size)

    def poison_workspace(self, size: int) -> None:
        """Fill the bytes that a pass may use: what it finds there is of no meaning, and must not have any."""
        lent = self._workspace.take(size)
        if self.device is not None:
            self.device.fill(lent, _POISON_BYTE)
        else:
            lent.fill(_POISON_BYTE)

    def operands(self, problem: Problem, turn: int = 0) -> Placed:
        """Return a problem's operands. turn: which set of weights, where several are rotated.

        Raises MemoryError naming what is free where they do not fit the device.
        """
        x_key, w_key = problem.input_key(), locality.weight_key(problem, turn)
        x = self._inputs.get(x_key)
        if x is None or len(x) < problem.batch:
            x = self._inputs[x_key] = make_x(problem)
        if w_key not in self._weights:
            self._weights[w_key] = make_weights(problem, turn)
        names = problem.weights()
        weights: dict[str, Any] = dict(zip(names, self._weights[w_key], strict=True))
        size = problem.item_bytes * problem.batch * problem.d_out
        y = self._outputs.take(size).view(problem.stored).reshape(problem.batch, problem.d_out)
        host = Operands(x=x[: problem.batch], y=y, **weights)
        if self.device is None:
            return on_host(host)
        own = Operands(
            x=self._uploaded(("x", *x_key), x)[: problem.batch],
            **{name: self._uploaded((name, *w_key), array) for name, array in weights.items()},
            y=self._tensor(("y", problem.d_out, problem.dtype), y)[: problem.batch],
        )  # fmt: skip
        return Placed(own=own, host=host, device=self.device)

    def _tensor(self, key: tuple[Any, ...], array: Array) -> Any:
        """Return the device's tensor of a name, a new one where it has fewer rows than the array."""
        assert self.device is not None
        if len(self._tensors.get(key, ())) < len(array):
            self._tensors.pop(key, None)  # before the new one: both may not fit
            self._tensors[key] = self.device.empty(array.shape, array.dtype)
        return self._tensors[key]

    def _uploaded(self, key: tuple[Any, ...], array: Array) -> Any:
        assert self.device is not None
        known = self._tensors.get(key)
        tensor = self._tensor(key, array)
        if tensor is not known:
            self.device.write(tensor, array)
        return tensor
