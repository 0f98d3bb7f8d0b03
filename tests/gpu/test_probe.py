"""The question whether a CUDA device is there, with interpreters that answer, fail or hang."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from harness import package
from harness.gpu import probe
from harness.records.facts import DeviceFacts

ANOTHER = probe.format_answer(probe.Found(reason="x")).replace(str(package.FOLDER), "/elsewhere")


def _interpreter(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_device_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line that the process prints is the answer, whatever torch prints before it."""
    facts = DeviceFacts(name="Fake 1", free_bytes=7)
    answer = probe.format_answer(probe.Found(facts=facts))
    _interpreter(tmp_path, f"echo a greeting; echo '{answer}'", monkeypatch)
    assert probe.ask(60) == probe.Found(facts=facts)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (f"echo '{probe.format_answer(probe.Found(reason='no GPU here'))}'", "no GPU here"),
        ("echo a", "was not answered: Invalid JSON"),
        ("true", "was not answered: Invalid JSON"),
        ("""echo '{"facts": null, "reason": ""}'""", "was not answered: Field required"),
        (f"echo '{ANOTHER}'", "runs the harness in /elsewhere, not the one in"),
        ("echo a; echo libcuda broke >&2; exit 3", "ended with exit status 3: libcuda broke"),
        ("kill -SEGV $$", "ended with exit status -11: no message"),
    ],
)
def test_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    """Where the process says no, fails or crashes, there is no device and one line says why."""
    _interpreter(tmp_path, script, monkeypatch)
    found = probe.ask(60)
    assert found.facts is None
    assert reason in found.reason
    assert "\n" not in found.reason


def test_a_driver_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver call that never returns ends the question, not the sweep."""
    _interpreter(tmp_path, "exec sleep 600", monkeypatch)
    assert "hangs" in probe.ask(patience_s=0.2).reason


def test_the_question_runs_nothing_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules that lie in the current folder are not run by the process that asks."""
    for name in ("json.py", "torch.py", "harness.py"):
        (tmp_path / name).write_text("raise SystemExit('a stray module ran')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = probe.ask(60)
    assert "stray" not in found.reason
    assert found.facts is not None or "torch" in found.reason or "CUDA" in found.reason


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_without_torch() -> None:
    """Without torch the reason names it and how it is installed."""
    assert probe.ask(60).reason == ("torch is not installed: pip install 'fff-harness[cuda]'")


def test_the_host_is_always_there() -> None:
    """The CPU is never asked for."""
    assert probe.why_not("cpu") == ""
