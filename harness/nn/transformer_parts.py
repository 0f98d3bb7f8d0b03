"""Own the times of a pass's parts: hooks around the modules of a whole model, on the host or on a device."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Any, Protocol

import torch

from harness.gpu.device import DeviceClock
from harness.problem.transformer import PARTS, STEP_PARTS

# The modules that each part is the time of, in BERT, GPT-2 and UltraFastBERT; what stands inside another
# one counts for itself alone.
_PARTS = {
    "qkv": r"layer\.\d+\.attention\.self\.(query|key|value)|h\.\d+\.attn\.c_attn|query_key_value",
    "scores": r"layer\.\d+\.attention\.self|h\.\d+\.attn|self_attention",
    "projection": r"layer\.\d+\.attention\.output\.dense|h\.\d+\.attn\.c_proj|attn\.dense",
    "ff": r"layer\.\d+\.(intermediate|output\.dense)|h\.\d+\.mlp|ffn",
    "norms": r"LayerNorm|h\.\d+\.ln_[12]|ln_f|norm[12]?|final_norm",
    "head": r"lm_head|decoder",
}


def find_modules(model: torch.nn.Module, part: str) -> list[torch.nn.Module]:
    """Return the modules whose time is that of a part, in their order."""
    # A module named as a part's pattern ends, whatever stands around the layers.
    pattern = re.compile(rf"(.*\.)?({_PARTS[part]})")
    return [module for name, module in model.named_modules() if pattern.fullmatch(name)]


# ---- marks --------------------------------------------------------------------------------------


class Marks(Protocol):
    """Make points in time, and tell what lies between two of them."""

    def make(self) -> Any:
        """Return the point that the work has come to."""

    def between(self, first: Any, second: Any) -> float:
        """Return the ns between two points; on a device both have been waited for."""


class HostMarks:
    """Read the host's clock."""

    def make(self) -> int:
        """Return its ns."""
        return perf_counter_ns()

    def between(self, first: int, second: int) -> float:
        """Return the ns between two readings."""
        return second - first


class DeviceMarks:
    """Record events of a device on its current stream: the host waits for none of them."""

    def __init__(self, device: DeviceClock) -> None:
        """Take the device."""
        self._device = device

    def make(self) -> Any:
        """Return a recorded event."""
        event = self._device.make_event()
        event.record()
        return event

    def between(self, first: Any, second: Any) -> float:
        """Return the device's ns between two events."""
        return float(first.elapsed_ns(second))


# ---- timers -------------------------------------------------------------------------------------


class PartTimers:
    """Take the time of each part of a model's passes, by hooks around its modules.

    Time counts for the innermost module that has a part, so that no time counts twice; what is left of a pass
    is the rest. Hooks cost some microseconds a module.
    """

    parts: tuple[str, ...] = PARTS

    def __init__(self, model: torch.nn.Module, marks: Marks | None = None) -> None:
        """Find the modules that have a part; nothing is timed before `running`. marks: the host's if None."""
        self._modules = [(m, part) for part in self._hooked() for m in find_modules(model, part)]
        self._open: list[str] = []
        self._taken: list[tuple[str, Any]] = []
        self._marks = marks or HostMarks()

    def _hooked(self) -> list[str]:
        return list(_PARTS)

    def _switch(self) -> None:
        """Count from here on for the innermost part that is open."""
        self._taken.append((self._open[-1] if self._open else "", self._marks.make()))

    def _enter(self, part: str) -> None:
        self._open.append(part)
        self._switch()

    def _leave(self) -> None:
        self._open.pop()
        self._switch()

    def _hook(self, module: torch.nn.Module, part: str) -> list[Any]:
        return [
            module.register_forward_pre_hook(lambda *_: self._enter(part)),
            module.register_forward_hook(lambda *_: self._leave()),
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Begin at 0 and take the times of what runs inside."""
        self._taken, self._open = [], []
        handles: list[Any] = []
        try:
            for module, part in self._modules:
                handles += self._hook(module, part)
            yield
        finally:
            for handle in handles:
                handle.remove()

    def parts_ns(self) -> dict[str, int]:
        """Return the time of each part in ns without the rest, of what ran and was waited for."""
        found = dict.fromkeys(self.parts, 0.0)
        for (part, first), (_, second) in zip(self._taken, self._taken[1:], strict=False):
            if part:
                found[part] += self._marks.between(first, second)
        return {part: round(ns) for part, ns in found.items()}

    def parts_of(self, elapsed_ns: int) -> dict[str, int]:
        """Return the time of each part of an interval, the rest among them."""
        found = self.parts_ns()
        found["rest"] = elapsed_ns - sum(found.values())
        return found


class StepTimers(PartTimers):
    """Take the time of each part of a step of training: the way forward, the way back, the update.

    A step says itself where each of these begins (`begin`). Hooks find the FFs within them, on the way back
    by when the gradients of a module's output and of its input are there.
    """

    parts = STEP_PARTS

    def _hooked(self) -> list[str]:
        return ["ff"]

    def _hook(self, module: torch.nn.Module, part: str) -> list[Any]:
        handles = super()._hook(module, part)
        if isinstance(module, torch.nn.Identity):  # what is left out has no way back
            return handles
        return [
            *handles,
            module.register_full_backward_pre_hook(lambda *_: self._enter("ff_backward")),
            module.register_full_backward_hook(lambda *_: self._leave()),
        ]

    def begin(self, part: str) -> None:
        """Count from here on for a part of a step, empty behind its end."""
        self._open = [part] if part else []
        self._switch()

    def parts_of(self, elapsed_ns: int) -> dict[str, int]:
        """Return the time of each part of an interval; what lies between steps goes to the way forward."""
        found = self.parts_ns()
        found["forward"] += elapsed_ns - sum(found.values())
        return found
