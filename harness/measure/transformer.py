"""Own the cells of whole models in a measuring process: built, checked, timed as they are and in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Any, Protocol

from harness.backends import torch_compiled, torch_library, torch_operator
from harness.backends.registry import Prepared
from harness.errors import UnavailableError
from harness.gpu.device import Device
from harness.measure.gpu_clock import DeviceTimer, Timing
from harness.measure.protocol import (
    GateAnswer,
    SampleAnswer,
    SampleRequest,
    TransformerRequest,
    Unavailable,
    WrongOutput,
)
from harness.measure.timing import DeviceTiming, HostTiming
from harness.nn import training, transformer_check, transformer_checkpoint, transformer_compiled
from harness.nn import transformer as nn_transformer
from harness.nn.controls import Control
from harness.nn.training import TrainingStep
from harness.nn.transformer_check import Checked
from harness.nn.transformer_gradients import check_step
from harness.nn.transformer_parts import DeviceMarks, PartTimers, StepTimers
from harness.problem.check import Verdict
from harness.problem.transformer import DENSE, LEFT_OUT, Transformer

# ---- passes -------------------------------------------------------------------------------------


class _Pass(Protocol):
    """Run one pass, and compare what it left with what the checked one did."""

    def run(self, timers: Any) -> None:
        """Run it. timers: of a step's parts, which says where they begin; None without."""

    def forget(self) -> None:
        """Drop what the last one left."""

    def disagreement(self, expected: Any) -> float:
        """Return what the last one left is off by, as a share of what is allowed."""


class _Forward:
    """Run passes without gradients and keep what the last one left."""

    def __init__(self, model: Any, inputs: Any, call: Any, layers: int) -> None:
        self._model, self._inputs, self._call, self._layers = model, inputs, call, layers
        self.output: Any = None

    def run(self, timers: Any = None) -> None:
        self.output = nn_transformer.run(self._model, self._inputs, self._call)

    def forget(self) -> None:
        self.output = None

    def disagreement(self, expected: Any) -> float:
        return transformer_check.disagreement(self.output, expected, self._layers)


class _Step:
    """Run steps of training and keep the loss of the last one; its gradients are kept by the model."""

    def __init__(self, step: TrainingStep, layers: int) -> None:
        self._step, self._layers = step, layers
        self.loss: Any = None

    def run(self, timers: Any = None) -> None:
        self.loss = self._step.run(timers)

    def forget(self) -> None:
        self._step.forget()

    def disagreement(self, expected: Any) -> float:
        left = training.fingerprint(self._step.model, self.loss)
        most = transformer_check.allowed(self._layers, self.loss.dtype)
        return training.disagreement(left, expected, most)


# ---- clocks -------------------------------------------------------------------------------------


class _HostTimer:
    """Time passes by the host's clock; the timers' hooks come and go outside of it."""

    def __init__(self, of: _Pass, timers: PartTimers | None) -> None:
        self._pass, self._timers = of, timers

    def _repeat(self, loops: int) -> int:
        timers = self._timers if isinstance(self._timers, StepTimers) else None
        start = perf_counter_ns()
        for _ in range(loops):
            self._pass.run(timers)
        return perf_counter_ns() - start

    def __call__(self, loops: int) -> int:
        """Run passes and return their wall time in ns."""
        if self._timers is None:
            return self._repeat(loops)
        with self._timers.running():
            return self._repeat(loops)


@dataclass(frozen=True, slots=True)
class _DeviceTimer(DeviceTimer):
    """Time passes between events of a device, those of their parts among them."""

    timers: PartTimers | None = None

    def measure(self, loops: int, look: Callable[[], None] | None = None) -> Timing:
        """Return the device's and the host's time of some passes."""
        if self.timers is None:
            return DeviceTimer.measure(self, loops, look)
        with self.timers.running():
            return DeviceTimer.measure(self, loops, look)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyTransformer:
    """Hold a whole model that can be sampled. expected: what the checked pass left. tokens: of a pass."""

    of: _Pass
    prepared: Prepared
    timing: HostTiming | DeviceTiming
    timers: PartTimers | None
    expected: Any
    tokens: int

    def judge(self) -> Verdict:
        """Compare what the last pass left with what the checked one did."""
        worst = self.of.disagreement(self.expected)
        reason = "" if worst <= 1 else (
            f"what it left is off by {worst:.3g} times the tolerance from that of the checked pass"
        )  # fmt: skip
        return Verdict(
            ok=not reason, reason=reason, worst=worst, tokens=self.tokens, near_ties=0, unwritten=0
        )

    def sample(self, request: SampleRequest) -> SampleAnswer | WrongOutput:
        """Take one sample, with the times of the parts where the cell is of them; judge it where asked to."""
        if request.check:
            self.of.forget()
        taken = self.timing.sample(self.prepared, request.loops, request.expected_ns)
        if self.timers is not None:
            taken = replace(taken, parts_ns=self.timers.parts_of(taken.elapsed_ns))
        if request.check and not (verdict := self.judge()).ok:
            return WrongOutput(
                verdict=replace(verdict, reason=f"behind a sample: {verdict.reason}")
            )
        return SampleAnswer(sample=taken)


# ---- the bench ----------------------------------------------------------------------------------


def _kept(known: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    if key not in known:
        known[key] = make()
    return known[key]


class Bench:
    """Take cells of whole models through their gate; all of one architecture share what is not their FF."""

    def __init__(self, device: Device | None = None) -> None:
        """Begin without a model. device: that passes are timed on, None for the CPU."""
        self._device = device
        self._timing = HostTiming() if device is None else DeviceTiming(device)
        self._bases: dict[Any, Any] = {}
        self._models: dict[Any, Any] = {}
        self._calls: dict[Any, Any] = {}
        self._optimisers: dict[Any, Any] = {}
        self._checked: dict[Transformer, Checked] = {}

    def _model(self, whole: Transformer, request: TransformerRequest) -> Any:
        def build() -> Any:
            return transformer_checkpoint.build(whole, request.seed, request.checkpoint)

        base = _kept(self._bases, _base_key(whole), build)
        return _kept(
            self._models, (*_base_key(whole), whole.ff),
            lambda: transformer_checkpoint.with_ff(base, whole, request.seed, request.checkpoint),
        )  # fmt: skip

    def _call(self, model: Any, whole: Transformer) -> Any:
        """Return what runs a model; one for all cells that are compiled alike."""
        if not whole.compiled:
            return nn_transformer.caller(model)
        return _kept(
            self._calls, (*_base_key(whole), whole.ff),
            lambda: nn_transformer.caller(model, transformer_compiled.compile_model(model)),
        )  # fmt: skip

    def _step(self, model: Any, whole: Transformer, inputs: Any) -> TrainingStep:
        """Return a step of training; optimisers keep their moments from cell to cell of a model."""
        others = _kept(
            self._optimisers, _base_key(whole),
            lambda: training.make_optimiser(training.find_other_weights(model)),
        )  # fmt: skip
        own = _kept(
            self._optimisers, (*_base_key(whole), whole.ff),
            lambda: training.make_optimiser(training.find_ff_weights(model)),
        )  # fmt: skip
        call = self._call(model, whole)
        return TrainingStep(model=model, call=call, inputs=inputs, own=own, others=others)

    def _check(
        self, model: Any, whole: Transformer, inputs: Any, request: TransformerRequest
    ) -> Checked:
        options: dict[str, Any] = {"seed": request.check_seed, "touches": request.count_nodes}
        if whole.training:
            return check_step(self._step(model, whole, inputs), whole, **options)
        call = self._call(model, whole)
        return transformer_check.check_model(model, whole, inputs, call=call, **options)

    def _timer(self, of: _Pass, timers: PartTimers | None) -> Any:
        if self._device is None:
            return torch_library.keep_onednn(_HostTimer(of, timers))
        step = timers if isinstance(timers, StepTimers) else None
        return _DeviceTimer(self._device, (lambda: of.run(step),), timers=timers)

    def prepare(
        self, request: TransformerRequest
    ) -> tuple[GateAnswer | Unavailable, ReadyTransformer | None]:
        """Build a cell's model, check it, warm up and calibrate; the cell is None where it can't be sampled.

        Cells of one model and batch (a twin, the passes in parts) share the verdict on it, and each is
        shown to leave what the checked pass left.
        """
        whole = request.transformer
        if whole.compiled and (reason := torch_compiled.unavailable()):
            return Unavailable(reason=reason), None
        try:
            model = self._model(whole, request)
        except UnavailableError as error:
            return Unavailable(reason=str(error)), None
        inputs = nn_transformer.make_inputs(model, whole, request.seed)
        layers = whole.architecture.layers
        of: _Pass = (
            _Step(self._step(model, whole, inputs), layers)
            if whole.training
            else _Forward(model, inputs, self._call(model, whole), layers)
        )
        timers = self._timers(model, whole)
        prepared = Prepared(
            forward=lambda: of.run(None), time=self._timer(of, timers), notes=_notes(model, whole)
        )
        gate_ns = prepared.time(1)
        checked: Checked = _kept(
            self._checked, whole.without_timers(),
            lambda: self._check(model, whole, inputs, request),
        )  # fmt: skip
        if (
            whole.training
        ):  # the gradients are now those of the checked step: what is judged is a timed one's
            prepared.time(1)
        cell = ReadyTransformer(
            of=of, prepared=prepared, timing=self._timing, timers=timers, expected=checked.output,
            tokens=whole.batch,
        )  # fmt: skip
        own = cell.judge()
        verdict = checked.verdict if own.ok or not checked.verdict.ok else own
        answer = GateAnswer(
            verdict=verdict, gate_ns=gate_ns, notes=prepared.notes, loops=request.loops, slices=1,
            touched=checked.touched if request.count_nodes else None,
        )  # fmt: skip
        if not verdict.ok:
            return answer, None
        found = self._timing.calibrate(prepared, request.min_sample_ns)
        loops = request.loops or found.loops
        return replace(answer, loops=loops, pass_ns=found.pass_ns), cell

    def _timers(self, model: Any, whole: Transformer) -> PartTimers | None:
        if not whole.in_parts:
            return None
        marks = None if self._device is None else DeviceMarks(self._device)
        return StepTimers(model, marks) if whole.training else PartTimers(model, marks)


def _base_key(whole: Transformer) -> tuple[Any, ...]:
    """Return what models must share to have their weights in common."""
    return whole.architecture, whole.dtype, whole.device, whole.checkpoint


def _notes(model: Any, whole: Transformer) -> dict[str, str]:
    """Return what the record should say of how the FF is computed."""
    if whole.ff in (DENSE, LEFT_OUT):
        return {}
    first = nn_transformer.find_layers(model)[0]
    if isinstance(first, Control):
        return {"computed_by": first.implementation()}
    few = whole.batch < torch_operator.FEW
    name = torch_operator.choose(whole.layer().layer, whole.device, whole.dtype, few=few)
    return {"computed_by": name}
