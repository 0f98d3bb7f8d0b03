"""Own the question whether a device is there, asked in a process of its own: a driver may hang."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache

from pydantic import BaseModel, ConfigDict, ValidationError

from harness import package
from harness.errors import UnavailableError
from harness.package import Identity
from harness.records.facts import DeviceFacts

# torch's libraries have gigabytes: from a cold or a shared disk they take minutes to load. A driver that
# hangs has no end.
PATIENCE_S = 300.0
CUDA = "cuda"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Hold what a device is, or why there is none."""

    facts: DeviceFacts | None = None
    reason: str = ""


class _Answer(BaseModel):
    """What the process that asks says: what it found, and the harness that it runs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    package: Identity
    facts: DeviceFacts | None
    reason: str


def format_answer(found: Found) -> str:
    """Return the line by which the process that asks tells what it found."""
    answer = _Answer(package=package.identify(), facts=found.facts, reason=found.reason)
    return answer.model_dump_json()


def ask(patience_s: float) -> Found:
    """Return what the CUDA device is, or the reason in one line; ends within `patience_s` in any case."""
    try:
        done = subprocess.run(
            package.command("harness.gpu.probe"), capture_output=True, text=True,
            timeout=patience_s, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Found(
            reason=f"no answer within {patience_s:.0f} s: the driver hangs, or torch takes longer "
            "to load from this disk (a second try finds it in memory)"
        )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Found(reason=f"asking for it ended with exit status {done.returncode}: {last}")
    try:
        answer = _Answer.model_validate_json(done.stdout.strip().rpartition("\n")[2])
    except ValidationError as error:
        return Found(reason=f"asking for it was not answered: {error.errors()[0]['msg']}")
    if reason := package.why_another(answer.package):
        return Found(reason=f"the process that asks for it {reason}")
    return Found(facts=answer.facts, reason=answer.reason)


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
        print(format_answer(Found(facts=open_facts())))
    except UnavailableError as error:
        print(format_answer(Found(reason=str(error))))
