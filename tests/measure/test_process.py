"""The sweep's end of a measuring process, against processes that are made up."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from harness import package
from harness.errors import UsageError
from harness.measure import protocol
from harness.measure.process import ForeignAnswerError, MeasuringProcess, ProcessDiedError
from harness.measure.process_key import ProcessKey
from harness.measure.protocol import Answer, Hello, MemoryAnswer, MemoryRequest

HELLO = Hello(
    package=package.identify(), provider=None, pools=[], variables={}, flush_to_zero=[],
    cpus_allowed=1, huge_page_share=None,
)  # fmt: skip
Start = Callable[..., MeasuringProcess]

pytestmark = pytest.mark.usefixtures("fresh_processes")


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return what starts a process that does what a shell script says, after some answers."""
    begun: list[MeasuringProcess] = []

    def begin(*answers: tuple[int, Answer], then: str = "cat >/dev/null") -> MeasuringProcess:
        lines = b"".join(protocol.encode_answer(*answer) for answer in answers)
        (tmp_path / "answers").write_bytes(lines)
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\ncat '{tmp_path}/answers'\n{then}\n", encoding="utf-8")
        script.chmod(0o755)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(script))
            begun.append(MeasuringProcess(ProcessKey(provider="p"), threads=1, keep_blas_env=False))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()


def test_a_process_of_another_version_is_refused(start: Start) -> None:
    """A process that speaks another version of the messages is a usage error that names both."""
    with pytest.raises(UsageError, match="speaks version 99 of the messages, this sweep 1"):
        start((0, replace(HELLO, version=99)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"folder": "/elsewhere"}, "runs the harness in /elsewhere, not the one in"),
        ({"digest": "0" * 12}, "runs other code than this one .* was changed"),
    ],
)
def test_a_process_of_another_harness_is_refused(
    start: Start, changes: dict[str, str], says: str
) -> None:
    """A process that runs a harness of another folder, or whose files differ, is a usage error."""
    with pytest.raises(UsageError, match=says):
        start((0, replace(HELLO, package=replace(HELLO.package, **changes))))


def test_nothing_of_the_current_folder_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a package of this one's name nor a stray module in the current folder is run."""
    (tmp_path / "harness").mkdir()
    for name in ("harness/__init__.py", "json.py", "numpy.py"):
        (tmp_path / name).write_text("raise SystemExit('a stray module ran')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    process = MeasuringProcess(ProcessKey(), threads=1, keep_blas_env=False)
    process.close()
    assert process.hello.package == package.identify()


def test_another_harness_on_the_path_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where PYTHONPATH leads to another harness first, this one is run all the same."""
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "__init__.py").write_text("raise SystemExit(1)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = MeasuringProcess(ProcessKey(), threads=1, keep_blas_env=False)
    process.close()
    assert process.hello.package == package.identify()


@pytest.mark.parametrize(
    ("answers", "then", "says"),
    [
        ([], "echo '{\"pools\": []}'", "no message of version 1"),
        ([(0, MemoryAnswer(peak_resident_bytes=1))], "", "began with 'memory'"),
        ([(1, HELLO)], "", "answers 1, asked was 0"),
        ([], "head -c 2000000 /dev/zero", "no line end within 1 MiB"),
    ],
)
def test_what_begins_otherwise_is_no_measuring_process(
    start: Start, answers: list[tuple[int, Answer]], then: str, says: str
) -> None:
    """A first line that is no greeting is a typed error, not a crash of the sweep."""
    with pytest.raises(ForeignAnswerError, match=says):
        start(*answers, then=f"{then}\nsleep 600")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((1, HELLO), "answered with 'hello'"),
        ((7, MemoryAnswer(peak_resident_bytes=1)), "answers 7, asked was 1"),
    ],
)
def test_an_answer_to_something_else_ends_the_process(
    start: Start, answer: tuple[int, Answer], says: str
) -> None:
    """An answer of another kind or to another request is refused, and the process with it."""
    process = start((0, HELLO), answer, then="sleep 600")
    with pytest.raises(ForeignAnswerError, match=says):
        process.ask(MemoryRequest(), 60.0)
    assert not process.alive()


def test_answers_come_in_turn(start: Start) -> None:
    """Each request gets the answer that bears its number."""
    process = start(
        (0, HELLO),
        (1, MemoryAnswer(peak_resident_bytes=5)),
        (2, MemoryAnswer(peak_resident_bytes=6)),
    )
    assert process.hello == HELLO
    asked = [process.ask(MemoryRequest(), 60.0).peak_resident_bytes for _ in range(2)]
    assert asked == [5, 6]
    process.close()
    assert not process.alive()


def is_gone(pid: int) -> bool:
    """Say whether a process ended within ten seconds; who should reap it may not."""
    for _ in range(1000):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


CHILD = "sleep 600 >/dev/null & echo $! >child"
HOLDS_THE_PIPE = "sleep 600 & echo $! >child"


@pytest.mark.parametrize(
    ("then", "end"),
    [
        (f"{CHILD}; sleep 600", lambda process: process.kill()),
        (f"{CHILD}; cat >/dev/null", lambda process: process.close()),
        (f"{CHILD}; exit 3", lambda process: process.ask(MemoryRequest(), 60.0)),
        (f"{HOLDS_THE_PIPE}; exit 3", lambda process: process.ask(MemoryRequest(), 60.0)),
        (f"{CHILD}; sleep 600", lambda process: process.ask(MemoryRequest(), 0.1)),
    ],
    ids=["killed", "closed", "died", "died, its pipe held open", "gave no answer"],
)
def test_children_end_with_their_process(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str,
    end: Callable[[MeasuringProcess], object],
) -> None:  # fmt: skip
    """What a process started ends with it, however it ends: it would run beside what is timed later."""
    monkeypatch.chdir(tmp_path)
    process = start((0, HELLO), then=then)
    while not (text := (tmp_path / "child").read_text() if (tmp_path / "child").exists() else ""):
        time.sleep(0.01)
    with suppress(ProcessDiedError):
        end(process)
    assert is_gone(int(text))


@pytest.mark.parametrize(
    ("number", "name"),
    [(9, "SIGKILL"), (11, "SIGSEGV"), (34, "SIGRTMIN"), (40, "SIGRTMIN+6"), (64, "SIGRTMAX")],
)
def test_how_a_process_died_is_said(start: Start, number: int, name: str) -> None:
    """The signal that ended a process is named, real-time signals too."""
    process = start((0, HELLO), then=f"kill -{number} $$")
    with pytest.raises(ProcessDiedError, match=f"ended with signal {re.escape(name)}$"):
        process.ask(MemoryRequest(), 60.0)


@pytest.mark.parametrize("number", [1, 2, 15])
def test_the_end_of_a_job_is_no_failure_of_a_cell(
    start: Start, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Where a process was ended by a signal that ends a whole job, that of the sweep itself is waited for."""

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    process = start((0, HELLO), then=f"kill -{number} $$")
    monkeypatch.setattr("harness.measure.process.time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        process.ask(MemoryRequest(), 60.0)


def test_a_process_that_closes_its_answers_is_ended(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that goes on without a way to answer is ended, and its sweep does not wait for it."""
    monkeypatch.setattr("harness.measure.process._LAST_WORDS_S", 0.1)
    process = start((0, HELLO), then="exec >/dev/null; sleep 600")
    with pytest.raises(ProcessDiedError, match="closed its answers and was ended"):
        process.ask(MemoryRequest(), 60.0)
    assert not process.alive()


def test_silence_ends(start: Start) -> None:
    """A process that does not answer in time is ended."""
    process = start((0, HELLO), then="sleep 600")
    with pytest.raises(ProcessDiedError, match=r"no answer within 0\.1 s"):
        process.ask(MemoryRequest(), 0.1)
    assert not process.alive()


def test_time_that_the_sweep_was_stopped_for_is_no_silence(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A sweep that is taken up after minutes gives the process the patience that it had left."""
    answer = protocol.encode_answer(1, MemoryAnswer(peak_resident_bytes=5))
    (tmp_path / "late").write_bytes(answer)
    process = start((0, HELLO), then=f"sleep 1.5; cat '{tmp_path}/late'; cat >/dev/null")
    stops = itertools.count(step=100)
    stopped = SimpleNamespace(monotonic=lambda: time.monotonic() + next(stops), sleep=time.sleep)
    monkeypatch.setattr("harness.measure.process.time", stopped)
    assert process.ask(MemoryRequest(), 60.0) == MemoryAnswer(peak_resident_bytes=5)


def test_a_process_that_reads_no_end_ends_with_its_sweep() -> None:
    """Where the sweep's process is killed its measuring process ends too, also one that waits for no input's
    end: as it hangs in a pass, or, here, as another process holds its input open."""
    script = (
        "import os, time\n"
        "from harness.measure.process import MeasuringProcess\n"
        "from harness.measure.process_key import ProcessKey\n"
        "process = MeasuringProcess(ProcessKey(), threads=1, keep_blas_env=False)\n"
        "holder = os.fork()\n"
        "if holder:\n"
        "    print(process._process.pid, holder, flush=True)\n"
        "time.sleep(600)\n"
    )
    sweep = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert sweep.stdout is not None
    measuring, holder = map(psutil.Process, map(int, sweep.stdout.readline().split()))
    try:
        sweep.kill()
        sweep.wait()
        psutil.wait_procs([measuring], timeout=20)
        assert not measuring.is_running() or measuring.status() == psutil.STATUS_ZOMBIE
    finally:
        for process in (measuring, holder):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        sweep.stdout.close()
