"""The memory of large outputs: taken again when nothing holds it, and never before."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from harness import nn  # noqa: E402
from harness.backends import torch_outputs  # noqa: E402

SHAPE = (8, 32)
BYTES = 8 * 32 * 4


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Count outputs as large from one byte on, and begin and end with nothing kept."""
    monkeypatch.setattr(torch_outputs, "FROM_BYTES", 0)
    torch_outputs._free.clear()
    yield
    torch_outputs._free.clear()


def _make(dtype: Any = None) -> Any:
    return torch_outputs.make(torch.empty(1, dtype=dtype), SHAPE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_memory_is_taken_again(dtype: Any) -> None:
    """An output that nothing holds leaves its memory to the next of its size, and to no other."""
    one = _make(dtype)
    assert (one.shape, one.dtype, one.is_contiguous()) == (SHAPE, dtype, True)
    where = one.data_ptr()
    assert _make(dtype).data_ptr() != where
    del one
    assert torch_outputs.make(torch.empty(1, dtype=dtype), (8, 33)).data_ptr() != where
    assert where in {_make(dtype).data_ptr() for _ in range(2)}


@pytest.mark.parametrize(
    "hold",
    [
        lambda y: y[2:3], lambda y: y.detach(), lambda y: y.numpy(), lambda y: y.untyped_storage(),
        lambda y: y.view(torch.int32), lambda y: (y.requires_grad_() * y).grad_fn,
        lambda y: torch.from_dlpack(y), lambda y: memoryview(y.numpy()),
    ],
    ids=["row", "detached", "array", "storage", "other dtype", "graph", "dlpack", "buffer"],
)  # fmt: skip
def test_memory_that_something_holds_is_not_taken(hold: Callable[[Any], Any]) -> None:
    """A view, an array, a storage or a graph keeps the output's memory for itself."""
    y = _make()
    where, held = y.data_ptr(), hold(y)
    del y
    others = [_make() for _ in range(3)]
    assert where not in {other.data_ptr() for other in others}
    del held
    assert _make().data_ptr() == where


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more memory is kept than the bound says."""
    monkeypatch.setattr(torch_outputs, "MOST_FREE_BYTES", 3 * BYTES)
    held = [_make() for _ in range(5)]
    del held
    assert len(torch_outputs._free) == 3


def test_small_outputs_are_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the size that malloc keeps, an output is an ordinary tensor."""
    monkeypatch.setattr(torch_outputs, "FROM_BYTES", BYTES)
    y = _make()
    y.untyped_storage().resize_(2 * BYTES)  # which memory of another's can't
    del y
    assert not torch_outputs._free


def test_outputs_differ_while_they_live() -> None:
    """Outputs of a module that are held at once, by several threads too, do not write over each other."""
    module, inputs = nn.FFF(16, 32, 4), torch.randn(6, 8, 16)
    with torch.no_grad():
        expected = [module(x).clone() for x in inputs]

        def call(_: int) -> bool:
            found = [module(x) for x in inputs]
            return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(call, range(40)))


def test_outputs_train_and_pickle() -> None:
    """Gradients through outputs of kept memory are right, and a pickle of one is a copy."""
    module, x = nn.FFF(16, 32, 4), torch.randn(8, 16, requires_grad=True)
    y = module(x)
    copied = pickle.loads(pickle.dumps(y.detach()))
    assert torch.equal(copied, y)
    for _ in range(3):  # each pass over memory that the one before left
        y = module(x)
        found = torch.autograd.grad(y.square().sum(), (x, module.w_in, module.w_out))
        kept = [g.clone() for g in found]
        del found, y
        again = torch.autograd.grad(module(x).square().sum(), (x, module.w_in, module.w_out))
        assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


def test_outputs_are_changed_in_place() -> None:
    """What follows the layer may work in place, as on any output of torch's, with gradients to come."""
    module, x = nn.FFF(16, 32, 4), torch.randn(8, 16, requires_grad=True)
    y = module(x)
    assert not y._is_view()
    expected = torch.autograd.grad(torch.relu(module(x)).sum(), x)
    found = torch.autograd.grad(torch.relu_(y).sum(), x)
    assert torch.equal(found[0], expected[0])
