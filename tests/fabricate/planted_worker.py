"""Stand in for the interpreter of a measuring process: register planted implementations, then serve.

The sweep starts `harness.measure.worker` by package.command; `stand_in` makes an interpreter that hands these
words to this file.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

import forked
import planted

import harness
from harness import package
from harness.backends import registry
from harness.backends.registry import Context, Implementation, Prepared
from harness.measure.protocol import Unavailable, encode_answer
from harness.problem.operands import Operands
from harness.problem.problem import Problem

if TYPE_CHECKING:  # every planted process starts by this file, and needs none of it
    import pytest

RIGHT, WRONG, KILLED, EXITS, RAISES, DIES_TIMED, WRITES, ANSWERS, NO_INTEGER = (
    "fff_numpy_right",
    "fff_numpy_wrong",
    "fff_numpy_killed",
    "fff_numpy_exits",
    "fff_numpy_raises",
    "fff_numpy_dies_timed",
    "fff_numpy_writes",
    "fff_numpy_answers",
    "fff_numpy_no_integer",
)
TURNS_WRONG = "fff_numpy_turns_wrong"  # fmt: skip


def _with_prepare(name: str, act: Callable[[], None]) -> Implementation:
    """Return the right implementation, that does something beside when it is prepared."""
    right = planted.make("fff", name=name)

    def prepare(problem: Problem, operands: Operands, context: Context) -> Prepared:
        act()
        return right.prepare(problem, operands, context)

    return replace(right, prepare=prepare)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit() -> None:
    print("giving up", file=sys.stderr, flush=True)
    os._exit(3)


def _raise() -> None:
    raise RuntimeError("no such luck")


def _write_to_the_sweep(text: bytes) -> None:
    """Write into the pipe that answers go through, as a child could that was forked with it open."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and os.readlink(f"/proc/self/fd/{name}").startswith("pipe:"):
            os.write(int(name), text)


def _write() -> None:
    _write_to_the_sweep(b"100 %|##########| 1/1 [00:00]\n")


def _answer() -> None:
    """Answer a request that was never made, as a forked copy of the process would."""
    _write_to_the_sweep(encode_answer(0, Unavailable(reason="forged")))


def _with_time(
    name: str, make: Callable[[Prepared, Operands], Callable[[int], float]]
) -> Implementation:
    """Return the right implementation with a timer of its own. make: returns it for one that is prepared."""
    right = planted.make("fff", name=name)

    def prepare(problem: Problem, operands: Operands, context: Context) -> Prepared:
        prepared = right.prepare(problem, operands, context)
        time: Any = make(prepared, operands)  # of which one tells no integer
        return replace(prepared, time=time)

    return replace(right, prepare=prepare)


def _tells_no_integer(prepared: Prepared, _operands: Operands) -> Callable[[int], float]:
    """Tell a time that is no integer."""
    return lambda loops: prepared.time(loops) + 0.5


def _dies_timed(prepared: Prepared, _operands: Operands) -> Callable[[int], float]:
    """Pass the gate and calibration, and die in the second sample."""
    calls = itertools.count(1)

    def time(_loops: int) -> int:
        elapsed = prepared.time(1)
        if next(calls) > 4:  # two passes of the gate, one calibration, one sample
            _kill()
        sleep(0.5)  # long enough that no pass warms up before a sample
        return elapsed + 500_000_000

    return time


def _turns_wrong(prepared: Prepared, operands: Operands) -> Callable[[int], float]:
    """Be right in the gate and in the first samples, and wrong ever after."""
    calls = itertools.count(1)

    def time(loops: int) -> int:
        elapsed = prepared.time(loops)
        operands.y[0, 0] += next(calls) > 8
        return elapsed

    return time


IMPLEMENTATIONS = {
    i.id: i
    for i in (
        planted.make("fff", name=RIGHT),
        planted.make("fff", "scale_one", name=WRONG),
        _with_prepare(KILLED, _kill),
        _with_prepare(EXITS, _exit),
        _with_prepare(RAISES, _raise),
        _with_time(DIES_TIMED, _dies_timed),
        _with_prepare(WRITES, _write),
        _with_prepare(ANSWERS, _answer),
        _with_time(NO_INTEGER, _tells_no_integer),
        _with_time(TURNS_WRONG, _turns_wrong),
    )
}


def stand_in(folder: Path) -> Path:
    """Write an executable that starts a measuring process in which IMPLEMENTATIONS are registered."""
    paths = (Path(__file__).parent, Path(harness.__file__).parent.parent)
    script = folder / "python"
    script.write_text(
        "#!/bin/sh\n"
        f"PYTHONPATH='{os.pathsep.join(map(str, paths))}' exec '{sys.executable}' '{__file__}' \"$@\"\n",
        encoding="utf-8",
    )
    script.chmod(0o755)
    forked.STAND_INS[str(script)] = [__file__]
    return script


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Know the planted implementations in this process and in every measuring process. folder: for a file."""
    registry.all()
    monkeypatch.setattr(registry, "_known", dict(registry._known) | IMPLEMENTATIONS)
    monkeypatch.setattr(sys, "executable", str(stand_in(folder)))


def main() -> None:
    """Serve as `harness.measure.worker` does."""
    from harness.measure import worker

    for implementation in IMPLEMENTATIONS.values():
        registry.register(implementation)
    words = sys.argv[1:]
    began = package.command(worker.__name__)[1:]
    if words[: len(began)] != began:
        sys.exit(f"not how a measuring process is started: {words}")
    worker.main(*words[len(began) :])


if __name__ == "__main__":
    main()
