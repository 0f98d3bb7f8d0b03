"""What torch's operator keeps between calls: passes, memory and threads, and that no tensor is among it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from harness import native, nn  # noqa: E402
from harness.backends import registry, torch_library, torch_passes  # noqa: E402
from harness.backends.registry import Context, Implementation, Prepared  # noqa: E402
from harness.problem import check, oracle  # noqa: E402
from harness.problem.operands import Operands, make_aligned, make_operands  # noqa: E402
from harness.problem.problem import Problem  # noqa: E402

ROOT = Path(__file__).parents[2]
D_IN, D_OUT, DEPTH = 24, 16, 9


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """Begin and end with nothing kept, and leave torch's threads as they were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch_passes._kept.forget()
    yield
    torch_passes._kept.forget()
    torch.set_num_threads(threads)


def _count(monkeypatch: pytest.MonkeyPatch, home: Any, name: str) -> list[tuple[Any, ...]]:
    """Return a list that gets the arguments of every call to a function from here on."""
    calls: list[tuple[Any, ...]] = []
    function = getattr(home, name)

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(home, name, counted)
    return calls


def _make(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return nn.FFF(D_IN, D_OUT, DEPTH, **options)


def _assert_right(module: Any, x: Any) -> None:
    arrays = [t.detach().double().numpy() for t in (x, module.w_in, module.w_out)]
    found = module(x).detach().numpy()
    np.testing.assert_allclose(found, oracle.fff_oracle(*arrays, DEPTH).y, rtol=1e-5, atol=1e-6)


# ---- passes -------------------------------------------------------------------------------------


def test_a_pass_is_bound_once_for_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever x lies, and whichever module of the shape calls, nothing is bound a second time."""
    bound = _count(monkeypatch, native, "bind_shape")
    one, other = _make(1), _make(2)
    held = [torch.randn(3, D_IN) for _ in range(5)]  # all alive, so none lies where another did
    for x in held:
        _assert_right(one, x)
        _assert_right(other, x)
    assert len(bound) == 1
    _assert_right(one, torch.randn(4, D_IN))
    assert len(bound) == 2


def test_a_layer_of_a_model_has_its_weights_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two calls the weights of a model's other layers went through the caches: kernels are told."""
    bound = _count(monkeypatch, native, "bind_shape")
    _assert_right(_make(1), torch.randn(3, D_IN))
    around = [a for call in bound for a in call if isinstance(a, native.Surroundings)]
    assert [a.far_weights for a in around] == [True]


def _double(module: Any) -> None:
    with torch.no_grad():
        module.w_in.mul_(2)


def _write_data(module: Any) -> None:
    module.w_out.data[:] = torch.randn_like(module.w_out)


def _replace(module: Any) -> None:
    module.w_in = torch.nn.Parameter(torch.randn_like(module.w_in))


def _swap_data(module: Any) -> None:
    module.w_out.data = torch.randn_like(module.w_out)


def _there_and_back(module: Any) -> None:
    module.double().to("cpu").float()


def _load(module: Any) -> None:
    module.load_state_dict(_make(7).state_dict(), assign=True)


def _step(module: Any) -> None:
    module(torch.randn(3, D_IN)).sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.5).step()


@pytest.mark.parametrize(
    "change", [_double, _write_data, _replace, _swap_data, _there_and_back, _load, _step]
)
def test_weights_may_change_in_any_way(change: Callable[[Any], None]) -> None:
    """A pass reads the weights that the module has now, however they came there."""
    module, x = _make(), torch.randn(3, D_IN)
    _assert_right(module, x)
    change(module)
    _assert_right(module, x)


def test_modules_are_copied_and_pickled_after_a_call() -> None:
    """A copy and a pickle of a module that has run compute with weights of their own."""
    module, x = _make(), torch.randn(3, D_IN)
    y = module(x)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), y)
        with torch.no_grad():
            other.w_out.zero_()
        assert not other(x).any()
    assert torch.equal(module(x), y)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of ever new sizes do not pile up passes."""
    monkeypatch.setattr(torch_passes, "MOST_PASSES", 4)
    module = _make()
    for batch in range(1, 12):
        _assert_right(module, torch.randn(batch, D_IN))
        assert len(torch_passes._kept.passes) <= 4


@pytest.mark.parametrize("implementation", ["", "fff_l1_blas", "fff_torch_bmm"])
def test_large_workspaces_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, implementation: str
) -> None:
    """A pass that needs more memory than a thread keeps is right, and goes with its memory."""
    monkeypatch.setattr(torch_passes, "KEPT_BYTES", 64)
    module = _make(implementation=implementation)
    for _ in range(2):
        _assert_right(module, torch.randn(50, D_IN))
    assert not torch_passes._kept.passes


def test_passes_share_their_memory() -> None:
    """Passes of different needs, one after the other over the same workspace, do not disturb each other."""
    modules = [
        _make(implementation=i.id)
        for i in registry.layers()
        if i.layer == "fff" and "cpu" in i.devices and not i.unavailable()
    ]
    small, large = torch.randn(2, D_IN), torch.randn(700, D_IN)
    for _ in range(2):
        for module in modules:
            _assert_right(module, small)
            _assert_right(module, large)


def test_what_is_prepared_for_fixed_operands_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An implementation that offers no pass over tensors, as a plugin's, is prepared in every call."""
    fixed = replace(registry.get("fff_cpu_auto"), id="fff_fixed", tensor_pass=None)
    monkeypatch.setitem(registry._known, "fff_fixed", fixed)
    module = _make(implementation="fff_fixed")
    for dtype in (torch.float32, torch.bfloat16):
        module.to(dtype)
        for _ in range(2):
            x = torch.randn(5, D_IN).to(dtype)
            expected = _make().to(dtype)
            expected.load_state_dict(module.state_dict())
            assert torch.equal(module(x), expected(x))


@pytest.mark.parametrize("implementation", ["", "fff_torch_bmm", "fff_fixed"])
def test_no_tensor_is_kept(monkeypatch: pytest.MonkeyPatch, implementation: str) -> None:
    """Once the caller lets go of x, y and the module, nothing holds their memory."""
    fixed = replace(registry.get("fff_cpu_auto"), id="fff_fixed", tensor_pass=None)
    monkeypatch.setitem(registry._known, "fff_fixed", fixed)
    module, x = _make(implementation=implementation), torch.randn(5, D_IN)
    with torch.no_grad():
        y = module(x)
    held = [weakref.ref(t.untyped_storage()) for t in (x, y, module.w_in, module.w_out)]
    del module, x, y
    assert not any(ref() for ref in held)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["ff_torch_native", "ff_torch_bmm", "fff_torch_bmm"])
def test_the_layers_in_torch_take_tensors(name: str, dtype: str, device: str) -> None:
    """A pass of the layers in torch is right on tensors that come with each call."""
    shape = {"hidden": 70} if name.startswith("ff_") else {"depth": 4, "trees": 2}
    problem = Problem(layer=name.split("_")[0], batch=33, d_in=24, d_out=16, dtype=dtype, **shape)  # type: ignore[arg-type]
    context = Context(
        provider=None, device=device, workspace=lambda size: make_aligned((size,), np.uint8)
    )
    tensor_pass = registry.get(name).tensor_pass
    assert tensor_pass is not None
    run = tensor_pass(problem, context)
    for seed in (1, 2):
        operands = make_operands(replace(problem, seed=seed))
        check.poison(operands.y)
        arrays = (operands.x, operands.w_in, operands.w_out, operands.y)
        run(*map(torch_library.as_tensor, arrays))
        verdict = check.check(replace(problem, seed=seed), operands)
        assert verdict.ok, verdict.reason


# ---- several GPUs -------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False])
def test_a_pass_runs_where_its_tensors_are(monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    """A pass is bound, and runs, while its tensors' device is current, which the caller's then is again."""
    current, bound, ran = [0], [], []

    @contextmanager
    def use(device: Any) -> Iterator[None]:
        before, current[0] = current[0], device.index
        yield
        current[0] = before

    def bind(problem: Problem, context: Context) -> Callable[..., None]:
        bound.append(current[0])
        return lambda *tensors: ran.append(current[0])

    def prepare(problem: Problem, operands: Operands, context: Context) -> Prepared:
        run = bind(problem, context)
        return Prepared(forward=run, time=lambda loops: 0)

    monkeypatch.setattr(torch.cuda, "device", use)
    here = Implementation(
        id="fff_here", layer="fff", level=None, devices=("cuda",), summary="",
        prepare=prepare, tensor_pass=bind if kept else None, workspace_bytes=lambda problem: 0,
    )  # fmt: skip
    monkeypatch.setitem(registry._known, here.id, here)
    with FakeTensorMode():
        for index in (1, 0, 1):
            shapes = ((2, D_IN), (1, 7, D_IN), (1, 7, D_OUT))
            tensors = [torch.empty(s, device=f"cuda:{index}") for s in shapes]
            found = torch_passes.find(here.id, *tensors)
            y = (found or torch_passes.bind(here.id, here.id, *tensors))(*tensors)
            assert y.shape == (2, D_OUT)
            assert y.device.index == index
    assert bound == ([1, 0] if kept else [1, 0, 1])
    assert ran == [1, 0, 1]
    assert current == [0]


# ---- threads ------------------------------------------------------------------------------------


def test_threads_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All layers and batches of a thread share one team; another count of threads makes another."""
    made = _count(monkeypatch, native, "make_team")
    torch.set_num_threads(2)
    for seed in range(3):
        for batch in (2, 5, 600):
            _assert_right(_make(seed), torch.randn(batch, D_IN))
    assert made == [(2,)]
    torch.set_num_threads(3)
    for batch in (2, 600):
        _assert_right(_make(), torch.randn(batch, D_IN))
    assert made == [(2,), (3,)]


def test_one_token_takes_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No team is made for one token, whose path is a chain, nor for what brings threads of its own."""
    made = _count(monkeypatch, native, "make_team")
    torch.set_num_threads(2)
    _assert_right(_make(), torch.randn(1, D_IN))
    _assert_right(_make(implementation="fff_torch_bmm"), torch.randn(50, D_IN))
    assert made == []


def test_threads_end_with_what_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A team that is replaced, and one whose caller's thread has ended, are ended."""
    made = _count(monkeypatch, native, "make_team")
    ended = _count(monkeypatch, native, "_end_team")
    module, x = _make(), torch.randn(4, D_IN)
    torch.set_num_threads(5)
    module(x)
    assert (len(made), len(ended)) == (1, 0)
    torch.set_num_threads(2)
    module(x)
    assert (len(made), len(ended)) == (2, 1)
    other = threading.Thread(target=module, args=(x,))
    other.start()
    other.join()
    assert (len(made), len(ended)) == (3, 2)


def test_several_threads_at_once() -> None:
    """Calls from several threads at the same time give the bytes that they give one after the other."""
    torch.set_num_threads(2)
    modules = [_make(1), _make(2), _make(3, implementation="fff_torch_bmm")]
    inputs = [torch.randn(batch, D_IN) for batch in (1, 2, 7, 300, 900)]
    with torch.no_grad():
        expected = [[m(x) for x in inputs] for m in modules]

    def call(_: int) -> bool:
        with torch.no_grad():
            return all(
                torch.equal(m(x), y)
                for m, row in zip(modules, expected, strict=True)
                for x, y in zip(inputs, row, strict=True)
            )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(24)))


_FORK = """
import os, signal, sys, threading
import torch
from harness import nn

torch.set_num_threads(2)
layer, x = nn.FFF(24, 16, 9), torch.randn(600, 24)
expected = layer(x)
# A second thread's team goes to the child as well, without its thread.
second = threading.Event()
done = threading.Event()
other = threading.Thread(target=lambda: (layer(x), second.set(), done.wait()))
other.start()
second.wait()
child = os.fork()
if not child:
    signal.alarm(60)  # a child that waits for threads that it does not have is ended, too
    os._exit(0 if torch.equal(layer(x), expected) and torch.equal(layer(x), expected) else 1)
_, status = os.waitpid(child, 0)
done.set()
other.join()
assert torch.equal(layer(x), expected)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_the_child_of_a_fork_has_threads_of_its_own() -> None:
    """After a fork, both the child and its parent go on with as many threads as before."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORK], cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
