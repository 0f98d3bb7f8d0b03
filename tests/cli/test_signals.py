"""Signals that end a sweep: it ends in order, with what is finished, and says so by its exit status."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from harness.cli import signals
from harness.cli.exit_status import ExitStatus
from harness.records.reader import load_run

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["sweep", "--batch", "8", "--width", "8", "--models", "bert-base-4095,1x1", "--skip", "ceiling*",
         "--only", "ff_l3_blas,fff_l1_blas", "--passes", "5000", "--processes", "1",
         "--no-figures"]  # fmt: skip
FABRICATE = ROOT / "tests" / "fabricate"
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{FABRICATE}"}
# Makes the terminal that stands on standard input the controlling one of this session.
ON_A_TERMINAL = (
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "from told_caches import main; main()"
)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Put the handlers of the test's own process back; behind a shell's `&` it would ignore Ctrl-C."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(*numbers: int) -> Callable[[], ExitStatus]:
    """Return a sweep that gets signals, each while what the one before interrupted is cleaned up."""

    def sweep() -> ExitStatus:
        try:
            os.kill(os.getpid(), numbers[0])
        finally:
            for number in numbers[1:]:
                os.kill(os.getpid(), number)
        return ExitStatus.CLEAN

    return sweep


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ([signal.SIGTERM], 143), ([signal.SIGHUP], 129), ([signal.SIGINT], 130),
        ([signal.SIGHUP, signal.SIGTERM], 129), ([signal.SIGTERM, signal.SIGTERM], 143),
    ],
)  # fmt: skip
def test_a_signal_interrupts_once(handlers: None, numbers: list[int], status: int) -> None:
    """The first signal interrupts and gives the status; a second one cuts nothing short."""
    assert signals.end_in_order(send(*numbers)) == status


def test_what_ended_in_order_says_whether_it_can_be_taken_up(handlers: None) -> None:
    """What kept all that is finished has the status of a run to resume; without one, that of the signal."""

    def sweep() -> ExitStatus | None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            return None
        return ExitStatus.CLEAN

    assert signals.end_in_order(sweep) == 143
    assert signals.end_in_order(lambda: None) == 130
    for status in (ExitStatus.BAD, ExitStatus.RESUMABLE):
        assert signals.end_in_order(lambda status=status: status) is status


def test_what_is_ignored_stays_ignored(handlers: None) -> None:
    """Under nohup a closed terminal ends nothing."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert signals.end_in_order(send(signal.SIGHUP)) == 0


def test_handlers_are_put_back(handlers: None) -> None:
    """After a sweep the signals do what they did before it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert signals.end_in_order(lambda: ExitStatus.CLEAN) == 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_late_signal_takes_no_status(handlers: None) -> None:
    """Behind an ending signal the next ones are ignored: the status stands until the process has ended."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert signals.end_in_order(send(signal.SIGTERM)) == 143
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGHUP)


def wait_for_samples(folder: Path, process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Wait until a sweep samples, and return its measuring processes."""
    records = folder / "records.jsonl"
    while not records.exists() or '"kind":"sample"' not in records.read_text(encoding="utf-8"):
        assert process.poll() is None, "the sweep ended too early"
        time.sleep(0.05)
    return psutil.Process(process.pid).children(recursive=True)


def check_ended_in_order(folder: Path, children: list[psutil.Process]) -> None:
    """Check that a sweep kept its samples, its end and its table, and left no process behind."""
    run = load_run(folder)
    assert run.warnings == []
    assert run.end is not None
    assert run.end.reason == "interrupted"
    assert not run.samples.empty
    assert "The run ended early (interrupted)" in (folder / "table.md").read_text(encoding="utf-8")
    assert children
    assert psutil.wait_procs(children, timeout=10)[1] == []


# SIGHUP comes as the closed terminal below sends it.
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_sweep_ends_in_order(tmp_path: Path, number: int) -> None:
    """A real sweep that gets a signal writes its end and its tables, and ends as one to resume."""
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, str(FABRICATE / "told_caches.py"), *WORDS, "--out", str(folder)],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    children = wait_for_samples(folder, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == ExitStatus.RESUMABLE, errors.decode()
    assert "sweep --resume" in errors.decode()
    check_ended_in_order(folder, children)


def test_a_closed_terminal_ends_a_sweep_in_order(tmp_path: Path) -> None:
    """A sweep whose terminal goes away still writes its end and its tables, to its folder alone."""
    folder = tmp_path / "run"
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, *WORDS, "--out", str(folder)], cwd=ROOT,
        env=ENVIRONMENT, stdin=its, stdout=its, stderr=its, start_new_session=True,
    )  # fmt: skip
    os.close(its)
    os.set_blocking(ours, False)
    records = folder / "records.jsonl"
    while not records.exists() or '"kind":"sample"' not in records.read_text(encoding="utf-8"):
        assert process.poll() is None, "the sweep ended too early"
        try:
            os.read(ours, 1 << 16)  # else it would wait for a reader of its display
        except BlockingIOError:
            time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    os.close(ours)
    assert process.wait(timeout=60) == ExitStatus.RESUMABLE
    check_ended_in_order(folder, children)
