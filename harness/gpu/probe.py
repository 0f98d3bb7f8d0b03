"""Own the question whether a device is there, asked in a process of its own: a driver may hang."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

from harness.errors import UnavailableError
from harness.records.facts import DeviceFacts

PATIENCE_S = (
    60.0  # torch from a cold disk takes some tens of seconds; a driver that hangs has no end
)
CUDA = "cuda"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Hold what a device is, or why there is none."""

    facts: DeviceFacts | None = None
    reason: str = ""


def ask(patience_s: float) -> Found:
    """Return what the CUDA device is, or the reason in one line; ends within `patience_s` in any case."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "harness.gpu.probe"], capture_output=True, text=True,
            timeout=patience_s, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Found(reason=f"no answer within {patience_s:.0f} s: torch or the driver hangs")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Found(reason=f"asking for it ended with exit status {done.returncode}: {last}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["reason"]:
        return Found(reason=answer["reason"])
    return Found(facts=DeviceFacts.model_validate(answer["facts"]))


@cache
def find_cuda() -> Found:
    """Return what the CUDA device is, or why there is none; asked once a process."""
    return ask(PATIENCE_S)


def why_not(device: str) -> str:
    """Return why nothing can run on a device here, or an empty string."""
    return find_cuda().reason if device == CUDA else ""


def open_facts() -> DeviceFacts:
    """Return what torch's CUDA device is. Raises UnavailableError with the reason where there is none."""
    try:
        from harness.gpu import torch_cuda
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"{error.name} is not installed: pip install 'fff-harness[cuda]'"
        ) from None
    except (ImportError, OSError) as error:  # a CUDA library that torch was built for is missing
        raise UnavailableError(f"torch can't be loaded: {str(error).splitlines()[0]}") from None
    return torch_cuda.TorchDevice().facts


def main() -> None:
    """Print the device's facts, or the reason, as one line of JSON."""
    try:
        answer: dict[str, object] = {"facts": open_facts().model_dump(), "reason": ""}
    except UnavailableError as error:
        answer = {"facts": None, "reason": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
