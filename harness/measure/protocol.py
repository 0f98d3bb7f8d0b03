"""Own the measuring process's end of its pipe: JSON lines out, and nothing that a library prints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any


def open_channel() -> Callable[[dict[str, Any]], None]:
    """Return what sends a message to the sweep; standard output itself then goes to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    return send
