"""Stand in for the measuring processes: answers with times from a script, so that runs cost nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import package
from harness.cli.progress import Display
from harness.cli.sweep_options import make_spec as ask
from harness.measure.clock import Sample
from harness.measure.process_key import ProcessKey
from harness.measure.protocol import (
    Answer,
    AnyRequest,
    GateAnswer,
    GateRequest,
    Hello,
    PublishedAnswer,
    PublishedRequest,
    SampleAnswer,
    SampleRequest,
)
from harness.paper.published import PAPER_BATCH, PAPER_WIDTH
from harness.problem.check import Verdict
from harness.problem.working_set import Touched
from harness.records.facts import ProviderFacts
from harness.records.reader import Run, load_run
from harness.sweep import processes
from harness.sweep import run as sweep_run
from harness.sweep.plan import Plan
from harness.sweep.spec import SweepSpec

Script = Callable[[str, str], float]  # implementation, protocol -> seconds a pass; below 0: wrong

_RIGHT = Verdict(ok=True, reason="", worst=0.1, tokens=16, near_ties=0, unwritten=0)


def _sample(loops: int, pass_ns: int) -> Sample:
    return Sample(loops=loops, elapsed_ns=loops * pass_ns, switches=0, faults=0, steal_ticks=0)


class ScriptedProcess:
    """Answer the sweep's requests from a script; times scatter by half a percent."""

    script: Script

    def __init__(self, key: ProcessKey, **_options: Any) -> None:
        """Begin; what a real process was asked for beside its key is of no meaning here."""
        provider = key.provider or key.library
        self.dropped: list[str] = []
        self.cells: dict[str, str] = {}
        self.rng = np.random.default_rng(len(provider))
        facts = ProviderFacts(
            name=provider, path=f"/lib/{provider}.so", version="OpenBLAS 1", architecture="Test",
            threads=1, threading_layer="", int_bits=32, routines=["sdot"],
        )  # fmt: skip
        self.hello = Hello(
            package=package.identify(),
            provider=facts,
            pools=[],
            variables={},
            flush_to_zero=[],
            cpus_allowed=1,
            huge_page_share=None,
        )

    def _time(self, implementation: str, protocol: str) -> tuple[Verdict, int]:
        seconds = type(self).script(implementation, protocol)
        if seconds < 0:
            return replace(_RIGHT, ok=False, reason="planted"), 0
        return _RIGHT, int(seconds * 1e9 * self.rng.normal(1.0, 0.005))

    def ask(self, request: AnyRequest, _timeout_s: float) -> Answer:
        """Answer one request."""
        if isinstance(request, GateRequest):
            self.cells[request.cell] = request.implementation
            verdict, elapsed = self._time(request.implementation, "strict")
            return GateAnswer(
                verdict=verdict, gate_ns=elapsed, pass_ns=float(elapsed), notes={}, loops=1, slices=1,
                touched=Touched(nodes=9, entropy_bits=[], working_set_bytes=0),
            )  # fmt: skip
        if isinstance(request, PublishedRequest):
            buffers = "never written" if request.unwritten else "written"
            verdict, elapsed = self._time(request.kernel, buffers)
            notes = {"protocol": "published", "buffers": buffers}
            return PublishedAnswer(
                verdict=verdict, notes=notes, sample=_sample(request.loops, elapsed)
            )
        assert isinstance(request, SampleRequest)
        _, elapsed = self._time(self.cells[request.cell], "strict")
        return SampleAnswer(sample=_sample(request.loops, elapsed))

    def alive(self) -> bool:
        """Say that it runs."""
        return True

    def peak_resident_bytes(self) -> int:
        """Return a size."""
        return 1 << 20

    def close(self) -> None:
        """End."""

    def kill(self) -> None:
        """End at once."""


def make_spec(out: Path, **changes: Any) -> SweepSpec:
    """Return what was asked for: the paper's problem, six blocks over two processes."""
    asked: dict[str, Any] = {
        "levels": "1,2,3", "device": "cpu", "models": "bert-base-4095,ultrafastbert-1x11",
        "batch": str(PAPER_BATCH), "width": str(PAPER_WIDTH), "only": [], "skip": [],
        "blas_names": ["scipy"], "threads": 1, "seed": 0, "passes": 6, "budget": None,
        "processes": 2, "quick": False, "keep_blas_env": False, "out": out,
    }  # fmt: skip
    return ask(**{**asked, **changes})


def run(monkeypatch: pytest.MonkeyPatch, made: Plan, script: Script) -> Run:
    """Carry out a plan with scripted processes and return the run as it is read."""
    process = type("Process", (ScriptedProcess,), {"script": staticmethod(script)})
    monkeypatch.setattr(processes, "MeasuringProcess", process)
    return load_run(sweep_run.run(made, Display()).folder)
