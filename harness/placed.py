"""Own operands that may lie on a device: what an implementation gets, and what a check reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness import check
from harness.device import Device
from harness.problem import Operands


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
        own, host = (
            Operands(x=o.x[chosen], w_in=o.w_in, w_out=o.w_out, y=o.y[chosen])
            for o in (self.own, self.host)
        )
        return replace(self, own=own, host=own if self.own is self.host else host)

    def poison(self) -> None:
        """Fill the output, where the pass will write it, with the NaN that shows what is not written."""
        check.poison(self.host.y)
        if self.device is not None:
            self.device.write(self.own.y, self.host.y)

    def fetch(self) -> Operands:
        """Return the operands as a check reads them, the output as the last pass left it."""
        if self.device is not None:
            self.device.read(self.own.y, self.host.y)
        return self.host


def on_host(operands: Operands) -> Placed:
    """Return operands whose passes run on the CPU."""
    return Placed(own=operands, host=operands)
