"""What a plan for a device holds, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import device_worker
import pytest
from fake_device import FakeDevice
from made_machines import SMALL

from harness.backends import registry
from harness.backends.registry import Prepared
from harness.cli.sweep_options import make_spec
from harness.errors import UsageError
from harness.gpu import probe
from harness.gpu.device import flush_bytes
from harness.measure.gpu_clock import make_timer
from harness.measure.process_key import ProcessKey
from harness.measure.timing import DeviceTiming
from harness.records.facts import DeviceFacts
from harness.sweep import estimate, plan
from harness.sweep import gpu as sweep_gpu
from harness.sweep.cell import Cell
from harness.sweep.estimate import LONG_PASS_S
from harness.sweep.spec import SweepSpec

FACTS = DeviceFacts(name="Fake 1", memory_bytes=8 << 30, free_bytes=6 << 30, l2_bytes=6 << 20)
MACHINE = dataclasses.replace(SMALL, gpu=probe.Found(facts=FACTS))


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know of nothing for CUDA but what the fake device runs."""
    monkeypatch.setattr(registry, "_known", device_worker.known())


def _spec(**changes: object) -> SweepSpec:
    asked = {
        "device": "cuda", "models": "bert-base-4095,ultrafastbert-1x11", "batch": "16384", "width": "768",
        "blas_names": None, "seed": 0, "passes": 1, "budget": None, "processes": 1, "quick": False,
        "out": None,
    }  # fmt: skip
    return make_spec(**{**asked, **changes})  # type: ignore[arg-type]


def _cells(**changes: object) -> list[Cell]:
    return list(plan.make_plan(_spec(**changes), MACHINE).cells)


def test_the_ways_of_a_device() -> None:
    """Each dtype and math is measured hot launched, hot replayed, and cold replayed; TF32 where there are
    float32 products to round."""
    native = [c for c in _cells() if c.implementation == "ff_torch_native"]
    ways = {(c.problem.dtype, c.problem.math, c.weights, c.launch) for c in native}
    each = {("hot", "eager"), ("hot", "graph"), ("flushed", "graph")}
    precisions = (("float32", "ieee"), ("float32", "tf32"), ("bfloat16", "ieee"))
    assert ways == {(*p, *w) for p in precisions for w in each}
    assert {c.problem.math for c in _cells() if c.implementation == "ff_cuda_naive"} == {"ieee"}
    assert len({c.id for c in _cells()}) == len(_cells())


def test_cold_passes_are_launched_where_they_are_not_replayed() -> None:
    """Without graphs cold passes are launched; rotated ones, whose launches show as hot ones' do, are
    measured in both ways."""
    one = {"only": ("ff_torch_native",), "skip": ("ceiling*",)}
    launched = _cells(launch="eager", weights="flushed", **one)
    assert {c.launch for c in launched} == {"eager"}
    assert {c.launch for c in _cells(weights="rotated", **one)} == {"eager", "graph"}


def test_ceilings_of_a_device() -> None:
    """A copy within the L2 and one beyond it, and a product in each precision, all replayed from graphs."""
    found = [c for c in _cells() if c.role == "ceiling"]
    copies = {c.place: c.work()[1] for c in found if c.implementation == "ceiling_cuda_copy"}
    assert set(copies) == {"L2", "memory"}
    products = [c.problem for c in found if c.implementation == "ceiling_cuda_matmul"]
    assert {(p.dtype, p.math) for p in products} == {
        ("float32", "ieee"), ("float32", "tf32"), ("bfloat16", "ieee"),
    }  # fmt: skip
    assert {c.launch for c in found} == {"graph"}
    assert not any(c.role == "ceiling" for c in _cells(skip=["ceiling*"]))


def test_the_cpus_implementations_stay_out() -> None:
    """A plan for the device holds no cell of a CPU kernel, and needs no BLAS provider."""
    made = plan.make_plan(_spec(), MACHINE)
    assert all("cuda" in registry.get(c.implementation).devices for c in made.cells)
    assert made.process_keys() == [ProcessKey()]


def test_memory_counts_what_is_shared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process holds is the sum of distinct weights, x and y, the largest workspace, what launched
    passes allocate, and of every graph what its passes allocate."""
    allocating = dataclasses.replace(
        registry.get("ff_torch_native"), cuda_workspace_bytes=lambda problem: 1 << 10,
        cuda_allocates_bytes=lambda problem: 1 << 20,
    )  # fmt: skip
    monkeypatch.setitem(registry._known, "ff_torch_native", allocating)
    cells = _cells(
        only=["ff_torch_native"], dtype="float32", math="ieee", weights="hot", skip=["ceiling*"]
    )
    weights = 4095 * 2 * 768 * 4
    x = y = 16384 * 768 * 4
    assert len(cells) == 2  # launched and replayed
    shared = weights + x + y + (1 << 10) + flush_bytes(FACTS.l2_bytes)
    graph = sweep_gpu.total_bytes(cells, FACTS) - shared - (1 << 20)
    assert graph > 1 << 20
    both = _cells(
        only=["ff_torch_native"], dtype="float32", math="ieee", skip=["ceiling*"],
        weights="hot,flushed",
    )  # fmt: skip
    assert len(both) == 3  # one more graph
    assert sweep_gpu.total_bytes(both, FACTS) == shared + (1 << 20) + 2 * graph


@pytest.mark.parametrize(
    ("l2", "least"),
    [(0, 128 << 20), (4 << 20, 256 << 20), (50 << 20, 256 << 20), (200 << 20, 400 << 20)],
)
def test_a_flush_is_large(l2: int, least: int) -> None:
    """What is flushed is twice the L2 or more, and never little: an L2 may not hold a line in one place."""
    assert flush_bytes(l2) >= least


def test_what_does_not_fit_together_is_refused() -> None:
    """Cells that fit one by one and not together are refused, with what is needed and what is free."""
    facts = FACTS.model_copy(update={"free_bytes": 2 << 30})
    full = dataclasses.replace(SMALL, gpu=probe.Found(facts=facts))
    spec = _spec(
        models="ff-60000,ff-61000,ff-62000,ff-63000", batch="64", dtype="float32", math="ieee"
    )
    with pytest.raises(
        UsageError, match=r"need \d\.\d GiB on Fake 1 and 2\.0 GiB of 8\.0 GiB are free"
    ):
        plan.make_plan(spec, full)


def test_one_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell whose workspace alone exceeds the device is unavailable with both figures; the others stay."""
    greedy = dataclasses.replace(
        registry.get("fff_torch_bmm"), workspace_bytes=lambda problem: 40 << 30
    )
    monkeypatch.setitem(registry._known, "fff_torch_bmm", greedy)
    made = plan.make_plan(_spec(), MACHINE)
    reasons = {
        reason for cell, reason in made.unavailable if cell.implementation == "fff_torch_bmm"
    }
    assert len({cell.id for cell, _ in made.unavailable}) == 9
    assert all("workspace 40.00 GiB" in r and "6.00 GiB are free" in r for r in reasons)
    assert any(c.implementation == "fff_cuda_naive" for c in made.cells)


def test_a_device_that_is_not_there_is_refused_with_the_reason() -> None:
    """What the machine says of its missing device is what the caller reads."""
    without = dataclasses.replace(SMALL, gpu=probe.Found(reason="the driver hangs"))
    with pytest.raises(UsageError, match=r"^--device cuda: the driver hangs$"):
        plan.make_plan(_spec(), without)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blas_names": ["mkl"]}, "--blas: a BLAS library of the CPU"),
        ({"device": "cpu", "math": "tf32"}, "--math: the CPU has ieee alone"),
        ({"device": "cpu", "launch": "graph"}, "--launch: the CPU has eager alone"),
        ({"threads": 2}, "--threads: of the CPU"),
        ({"math": "fp8"}, "--math: unknown value 'fp8'"),
    ],
)
def test_options_of_the_other_device(changes: dict[str, object], message: str) -> None:
    """Options that mean nothing on a device are refused by name."""
    with pytest.raises(UsageError, match=message):
        _spec(**changes)


def test_the_prediction_is_of_a_device() -> None:
    """The paper's half is predicted to fit the default budget, and the naive columns to take the longest."""
    spec = _spec(passes=None)
    made = plan.make_plan(spec, MACHINE)
    assert made.predicted_s() < 2 * spec.budget_s
    longest = max(made.cells, key=lambda cell: cell.predicted_s())
    assert longest.implementation == "ff_cuda_naive"
    assert all(cell.on_device for cell in made.cells)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_only_a_device_is_asked_for(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """A plan asks implementations whether they can run for its own device alone: to ask one of CUDA takes
    seconds, or as long as a driver hangs."""
    asked = set[str]()

    def note(name: str) -> Callable[[], str]:
        return lambda: asked.add(name) or ""  # type: ignore[func-returns-value]

    of_both = [*registry._known.values()]
    monkeypatch.setattr(
        registry, "_known", {i.id: dataclasses.replace(i, unavailable=note(i.id)) for i in of_both}
    )
    plan.make_plan(_spec(device=device), MACHINE)
    assert asked
    assert asked <= {i.id for i in of_both if device in i.devices}


@pytest.mark.parametrize("weights", ["hot", "flushed"])
@pytest.mark.parametrize("launch", ["eager", "graph"])
def test_the_passes_before_the_first_sample_are_known(weights: str, launch: str) -> None:
    """What a long pass is run for before its first sample is what the prediction counts."""
    device, flushed = FakeDevice(), weights == "flushed"

    def run() -> None:
        device.launch("pass", 2e9, 2e9)

    timing = DeviceTiming(device)  # type: ignore[arg-type]
    prepared = Prepared(forward=run, time=make_timer(device)(run))
    prepared.time(1)
    if launch == "graph":
        prepared = timing.captured(prepared, flushed=flushed)
        device.log.append("pass")  # torch runs what it is to capture once
        prepared.time(prepared.sets)
    if flushed:
        timing.flushed(prepared, 20_000_000, {}, 1)
    else:
        timing.calibrate(prepared, 20_000_000)
    ran = sum(device.log.count(name) for name in ("pass", "replay"))
    assert ran == estimate.count_gate_passes(weights, launch)


def test_slow_kernels_are_in_the_prediction() -> None:
    """The gates of a kernel that is naive on purpose take their whole passes in every process, and their
    prediction says so; only what is hot and launched is checked by its head later on."""
    (eager, graph, cold) = _cells(
        only=("ff_cuda_naive",), models="bert-base-4095", dtype="float32", skip=["ceiling*"]
    )  # fmt: skip
    assert [(c.weights, c.launch) for c in (eager, graph, cold)] == [
        ("hot", "eager"), ("hot", "graph"), ("flushed", "graph"),
    ]  # fmt: skip
    pass_s = eager.predicted_s()
    assert pass_s > LONG_PASS_S
    assert [round(c.gate_s() / pass_s) for c in (eager, graph, cold)] == [3, 6, 8]
    assert [c.is_checked_by_head() for c in (eager, graph, cold)] == [True, False, False]
