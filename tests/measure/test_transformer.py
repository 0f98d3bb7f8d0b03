"""The bench of whole models: what it times, by the host's clock and by a device's."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fabricated_models import PUBLISHED  # noqa: E402
from fake_device import FakeDevice  # noqa: E402

from harness.backends import torch_compiled  # noqa: E402
from harness.measure.protocol import (  # noqa: E402
    GateAnswer,
    SampleAnswer,
    SampleRequest,
    TransformerRequest,
    Unavailable,
    WrongOutput,
)
from harness.measure.transformer import Bench  # noqa: E402
from harness.problem.transformer import DENSE, STEP_PARTS, Transformer  # noqa: E402

KERNEL_NS = 1e6  # of each product on the device, far longer than its launch


def _request(**changes: Any) -> TransformerRequest:
    whole = Transformer(architecture=PUBLISHED, sequences=2, tokens=8, **changes)
    return TransformerRequest(
        cell="own", transformer=whole, seed=0, loops=2, min_sample_ns=1, threads=1, check_seed=1
    )


def _prepare(bench: Bench, **changes: Any) -> Any:
    answer, cell = bench.prepare(_request(**changes))
    assert isinstance(answer, GateAnswer)
    assert answer.verdict.ok, answer.verdict.reason
    assert cell is not None
    return cell


def _sample(cell: Any, *, check: bool = False) -> Any:
    return cell.sample(SampleRequest(cell="own", loops=2, turn=0, expected_ns=1e9, check=check))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("in_parts", [False, True])
def test_the_host_times_passes_and_steps(training: bool, in_parts: bool) -> None:
    """A sample has its time, that of its parts where asked for, and a right output behind it."""
    cell = _prepare(Bench(), ff="1x3", training=training, in_parts=in_parts)
    answer = _sample(cell, check=True)
    assert isinstance(answer, SampleAnswer)
    parts = answer.sample.parts_ns
    assert sum(parts.values()) == (answer.sample.elapsed_ns if in_parts else 0)
    if in_parts and training:
        assert tuple(parts) == STEP_PARTS


@pytest.mark.parametrize("training", [False, True])
def test_a_wrong_pass_behind_the_gate_is_no_sample(training: bool) -> None:
    """Where a later pass leaves something else than the checked one, its sample is refused."""
    cell = _prepare(Bench(), ff=DENSE, training=training)
    bench_model = cell.of._step.model if training else cell.of._model
    with torch.no_grad():
        bench_model.encoder.layers[0].ffn.dense_out.weight *= 1.01
    assert isinstance(_sample(cell, check=True), WrongOutput)


@pytest.mark.parametrize("training", [False, True])
def test_forms_share_what_is_not_their_ff(training: bool) -> None:
    """Of one bench all forms have the same weights, and in training one optimiser for them."""
    bench = Bench()
    first, second = (_prepare(bench, ff=ff, training=training) for ff in (DENSE, "1x3"))
    if training:
        assert first.of._step.others is second.of._step.others
        assert first.of._step.own is not second.of._step.own


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch.compile can't work here a compiled pass is unavailable, with the reason, and no failure."""
    monkeypatch.setattr(torch_compiled, "unavailable", lambda: "no C++ compiler")
    answer, cell = Bench().prepare(_request(ff=DENSE, compiled=True))
    assert answer == Unavailable(reason="no C++ compiler")
    assert cell is None


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """Return a device that keeps time, on which every product of a model takes a while."""
    found, real = FakeDevice(), torch.nn.Linear.forward

    def forward(self: Any, x: Any) -> Any:
        found.launch("product", KERNEL_NS, KERNEL_NS)
        return real(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    return found


def test_a_device_times_between_its_events(device: FakeDevice) -> None:
    """On a device a pass takes what its kernels take, by events, and the host waits outside of them."""
    cell = _prepare(Bench(device), ff=DENSE)
    answer = _sample(cell)
    products = 2 * 4 + 1  # of two layers, and the head
    assert answer.sample.elapsed_ns == pytest.approx(2 * products * KERNEL_NS, rel=0.05)
    assert answer.sample.wall_ns >= answer.sample.elapsed_ns
    assert answer.sample.sm_clock_mhz == 1800


def test_parts_on_a_device_are_its_events(device: FakeDevice) -> None:
    """The parts of a pass are told by events around modules, and are the whole of its time."""
    cell = _prepare(Bench(device), ff=DENSE, in_parts=True)
    parts = _sample(cell).sample.parts_ns
    assert parts["ff"] == pytest.approx(2 * 2 * 2 * KERNEL_NS, rel=0.05)
    for part in ("qkv", "projection"):
        assert parts[part] == pytest.approx(2 * 2 * KERNEL_NS, rel=0.05)
    assert parts["head"] == pytest.approx(2 * KERNEL_NS, rel=0.05)


def test_a_step_on_a_device(device: FakeDevice) -> None:
    """A step of training is timed by events too, what launches in it by its part."""
    cell = _prepare(Bench(device), ff=DENSE, training=True, in_parts=True)
    parts = _sample(cell).sample.parts_ns
    assert parts["ff"] == pytest.approx(2 * 2 * 2 * KERNEL_NS, rel=0.05)
    assert parts["forward"] == pytest.approx(2 * (2 * 2 + 1) * KERNEL_NS, rel=0.05)
    assert parts["update"] == pytest.approx(0, abs=0.05 * KERNEL_NS)
