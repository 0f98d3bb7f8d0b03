"""Time what `harness.nn` adds to a pass, and gradients, in pytest-benchmark's own table.

The groups `a call of N tokens` hold the kernel over fixed arrays beside the module over it, those of
`gradients of N tokens` the backward pass in C beside torch's own operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from harness import native, nn  # noqa: E402
from harness.backends import torch_operator, torch_passes  # noqa: E402
from harness.machine import resources  # noqa: E402
from harness.problem import gradients  # noqa: E402
from harness.problem.gradients import Gradients  # noqa: E402
from harness.problem.operands import make_aligned  # noqa: E402
from harness.problem.problem import Problem  # noqa: E402

WIDTH, DEPTH = 768, 11


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Leave torch one thread, as kernels are compared with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def module() -> Any:
    """Return the paper's layer."""
    torch.manual_seed(0)
    return nn.FFF(WIDTH, WIDTH, DEPTH)


def _kernel(module: Any, x: Any) -> Callable[[], None]:
    """Return a pass of the kernel that the module takes, over arrays that are bound once."""
    problem = Problem(
        layer="fff", batch=len(x), d_in=WIDTH, d_out=WIDTH, depth=DEPTH, trees=1
    )  # fmt: skip
    name = torch_operator.choose("fff", "cpu", "float32", few=len(x) < torch_operator.FEW)
    workspace = make_aligned((native.workspace_bytes(name, problem),), np.uint8)
    around = native.Surroundings(caches=resources.caches())
    run = native.bind_shape(name, problem, around, workspace)
    operands = (x, module.w_in, module.w_out, torch.empty(len(x), WIDTH))
    addresses = [t.data_ptr() for t in operands]

    def forward(_alive: Any = operands) -> None:
        run(*addresses)

    return forward


@pytest.mark.parametrize("way", ["kernel", "module", "module with gradients to come"])
@pytest.mark.parametrize("batch", [1, 64, 16384])
def test_call(benchmark: Any, module: Any, batch: int, way: str) -> None:
    """Time a pass of the kernel alone, and the module's call."""
    x = torch.randn(batch, WIDTH)
    benchmark.group = f"a call of {batch} tokens"
    with torch.set_grad_enabled(way.endswith("to come")):
        benchmark(_kernel(module, x) if way == "kernel" else lambda: module(x))


@pytest.mark.parametrize("way", [torch_passes.BACKWARD, torch_operator.REFERENCE])
@pytest.mark.parametrize("batch", [64, 4096])
def test_gradients(benchmark: Any, module: Any, batch: int, way: str) -> None:
    """Time all three gradients, after those of the first tokens have been checked."""
    implementation = "" if way == torch_passes.BACKWARD else way
    drawn = torch.randn(batch, WIDTH)
    weights = [w.detach() for w in (module.w_in, module.w_out)]
    problem = Problem(
        layer="fff", batch=batch, d_in=WIDTH, d_out=WIDTH, depth=DEPTH, trees=1
    )  # fmt: skip
    arrays = [w.numpy() for w in weights]
    x = torch.from_numpy(gradients.without_near_ties(problem, drawn.numpy(), *arrays))
    dy = torch.randn(batch, WIDTH)

    def run(tokens: int = batch) -> list[Any]:
        found: list[Any] = torch_operator.layer_backward(
            x[:tokens], *weights, dy[:tokens], [True] * 3, implementation
        )
        return found

    few = 32
    truth = gradients.fff_gradients(x[:few].numpy(), *arrays, dy[:few].numpy(), DEPTH)
    names = ("dx", "dw_in", "dw_out")
    checked = dict(zip(names, (g.numpy() for g in run(few)), strict=True))
    assert gradients.find_fault(Gradients(**checked), truth) == ""
    benchmark.group = f"gradients of {batch} tokens"
    benchmark(run)
