"""Own the cells of whole models in a measuring process: built, checked, timed as they are and in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Any

from harness.backends import torch_library, torch_operator
from harness.backends.timer import TimePasses
from harness.errors import UnavailableError
from harness.measure import clock
from harness.measure.protocol import (
    GateAnswer,
    SampleAnswer,
    SampleRequest,
    TransformerRequest,
    Unavailable,
    WrongOutput,
)
from harness.nn import transformer as nn_transformer
from harness.nn import transformer_check
from harness.nn.transformer import PartTimers
from harness.nn.transformer_check import Checked
from harness.problem.architecture import Architecture
from harness.problem.check import Verdict
from harness.problem.transformer import DENSE, LEFT_OUT, Transformer


class _Passes:
    """Run passes of a model over its inputs, and keep what the last one left."""

    def __init__(self, model: Any, inputs: Any, *, in_parts: bool) -> None:
        self.timers = PartTimers(model) if in_parts else None
        self._model, self._inputs = model, inputs
        self.output: Any = None

    def _repeat(self, loops: int) -> int:
        start = perf_counter_ns()
        for _ in range(loops):
            self.output = nn_transformer.run(self._model, self._inputs)
        return perf_counter_ns() - start

    def time(self, loops: int) -> int:
        """Run passes and return their wall time in ns; the timers' hooks come and go outside of it."""
        if self.timers is None:
            return self._repeat(loops)
        with self.timers.running():
            return self._repeat(loops)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyTransformer:
    """Hold a whole model that can be sampled. expected: its output in the checked pass. layers: it has."""

    passes: _Passes
    time: TimePasses
    expected: Any
    layers: int

    def judge(self) -> Verdict:
        """Compare what the last pass left with what the checked one did."""
        worst = transformer_check.disagreement(self.passes.output, self.expected, self.layers)
        reason = "" if worst <= 1 else (
            f"the output is off by {worst:.3g} times the tolerance from that of the checked pass"
        )  # fmt: skip
        tokens = int(self.expected.shape[0] * self.expected.shape[1])
        return Verdict(
            ok=not reason, reason=reason, worst=worst, tokens=tokens, near_ties=0, unwritten=0
        )

    def sample(self, request: SampleRequest) -> SampleAnswer | WrongOutput:
        """Take one sample, with the times of the parts where the cell is of them; judge it where asked to."""
        if request.check:
            self.passes.output = None
        taken = clock.sample(self.time, request.loops, request.expected_ns)
        if self.passes.timers is not None:
            taken = replace(taken, parts_ns=self.passes.timers.parts_of(taken.elapsed_ns))
        if request.check and not (verdict := self.judge()).ok:
            return WrongOutput(
                verdict=replace(verdict, reason=f"behind a sample: {verdict.reason}")
            )
        return SampleAnswer(sample=taken)


def _kept(known: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    if key not in known:
        known[key] = make()
    return known[key]


class Bench:
    """Take cells of whole models through their gate; all of one architecture share what is not their FF."""

    def __init__(self) -> None:
        """Begin without a model."""
        self._bases: dict[Architecture, Any] = {}
        self._models: dict[tuple[Architecture, str], Any] = {}
        self._checked: dict[Transformer, Checked] = {}

    def _model(self, transformer: Transformer, seed: int) -> Any:
        architecture = transformer.architecture
        base = _kept(self._bases, architecture, lambda: nn_transformer.build(architecture, seed))
        return _kept(
            self._models, (architecture, transformer.ff),
            lambda: nn_transformer.with_ff(base, transformer, seed),
        )  # fmt: skip

    def prepare(
        self, request: TransformerRequest
    ) -> tuple[GateAnswer | Unavailable, ReadyTransformer | None]:
        """Build a cell's model, check it, warm up and calibrate; the cell is None where it can't be sampled.

        Cells of one model and batch (a twin, the passes in parts) share the verdict on it, and each is
        shown to leave what the checked pass left.
        """
        whole = request.transformer
        try:
            model = self._model(whole, request.seed)
        except UnavailableError as error:
            return Unavailable(reason=str(error)), None
        inputs = nn_transformer.make_inputs(model, whole, request.seed)
        passes = _Passes(model, inputs, in_parts=whole.in_parts)
        gate_ns = passes.time(1)
        checked: Checked = _kept(
            self._checked, whole.without_timers(),
            lambda: transformer_check.check_model(
                model, whole, inputs, seed=request.check_seed, touches=request.count_nodes
            ),
        )  # fmt: skip
        cell = ReadyTransformer(
            passes=passes, time=torch_library.keep_onednn(passes.time), expected=checked.output,
            layers=whole.architecture.layers,
        )  # fmt: skip
        own = cell.judge()
        verdict = checked.verdict if own.ok or not checked.verdict.ok else own
        answer = GateAnswer(
            verdict=verdict, gate_ns=gate_ns, notes=_notes(whole), loops=request.loops, slices=1,
            touched=checked.touched if request.count_nodes else None,
        )  # fmt: skip
        if not verdict.ok:
            return answer, None
        found = clock.calibrate(cell.time, request.min_sample_ns)
        loops = request.loops or found.loops
        return replace(answer, loops=loops, pass_ns=found.pass_ns), cell


def _notes(whole: Transformer) -> dict[str, str]:
    """Return what the record should say of how the FF is computed."""
    if whole.ff in (DENSE, LEFT_OUT):
        return {}
    few = whole.batch < torch_operator.FEW
    return {"computed_by": torch_operator.choose(whole.layer().layer, "cpu", "float32", few=few)}
