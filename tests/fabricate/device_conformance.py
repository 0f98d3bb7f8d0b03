"""Own the conformance verdict of an implementation on a device: as on the CPU, in the device's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from conformance import Guarded, guard

from harness.backends.registry import Context, Implementation
from harness.gpu.device import Device
from harness.measure.gpu_clock import make_timer
from harness.problem.check import check, poison
from harness.problem.operands import Operands, make_operands, make_weights
from harness.problem.problem import Array, Problem


@dataclass(frozen=True, slots=True)
class Held:
    """Hold guarded operands, and the device's copy of their memory with all canaries."""

    device: Device
    guarded: Guarded
    whole: Any

    def tensor(self, array: Array) -> Any:
        """Return the device's copy of an array of the guarded memory."""
        first = array.ctypes.data - self.guarded.memory.ctypes.data
        part = self.whole[first : first + array.nbytes]
        return part.view(getattr(torch, array.dtype.name)).reshape(array.shape)

    def send(self) -> None:
        """Copy the memory to the device."""
        self.device.write(self.whole, self.guarded.memory)

    def fetch(self) -> None:
        """Copy the memory back, once what was queued is done."""
        self.device.read(self.whole, self.guarded.memory)


def _hold(device: Device, guarded: Guarded) -> Held:
    memory = guarded.memory
    held = Held(device, guarded, device.empty(memory.shape, memory.dtype))
    held.send()
    return held


def _inputs(held: Held) -> list[bytes]:
    operands = held.guarded.operands
    return [a.tobytes() for a in (operands.x, *operands.weights())]


def judge_on(device: Device, implementation: Implementation, problem: Problem) -> str:
    """Return the first fault that an implementation shows on a device, or an empty string.

    Every pass is judged on poisoned output: two, one inside `time`, two with the sets of weights in turn,
    and one from a graph. All must leave the operands and every canary as they were, and the same bytes for
    the same weights.
    """
    first = _hold(device, guard(make_operands(problem), implementation.workspace_bytes(problem)))
    host = first.guarded.operands
    names = problem.weights()
    further: dict[str, Any] = dict(zip(names, make_weights(problem, 1), strict=True))
    second = _hold(device, guard(replace(host, **further)))
    other = second.guarded.operands
    weights = {name: first.tensor(getattr(host, name)) for name in names}
    own = Operands(
        x=first.tensor(host.x), y=first.tensor(host.y), **weights,
        rotation=(tuple(second.tensor(getattr(other, name)) for name in names),),
    )  # fmt: skip
    context = Context(
        provider=None, workspace=lambda size: first.tensor(first.guarded.workspace)[:size],
        device="cuda", timer=make_timer(device),
    )  # fmt: skip
    prepared = implementation.prepare(problem, own, context)
    passes: list[tuple[Callable[[], object], int]] = [
        (prepared.forward, 0), (prepared.forward, 0), (lambda: prepared.time(1), 0),
        (lambda: prepared.time(2), prepared.sets - 1),
    ]  # fmt: skip
    if implementation.capturable:
        passes.append((lambda: device.capture(prepared.forward)(), 0))
    before = _inputs(first), _inputs(second)
    outputs: tuple[set[bytes], set[bytes]] = (set(), set())
    for run, turn in passes:
        poison(host.y)
        first.send()
        run()
        first.fetch()
        used = (host, replace(host, **{name: getattr(other, name) for name in names}))[turn]
        verdict = check(problem, used)
        if not verdict.ok:
            return verdict.reason
        outputs[turn].add(host.y.tobytes())
    second.fetch()
    if not (first.guarded.intact() and second.guarded.intact()):
        return "something outside of the arrays was written"
    if (_inputs(first), _inputs(second)) != before:
        return "an operand was changed"
    if max(map(len, outputs)) > 1:
        return "passes over the same operands left different bytes"
    return ""
