"""torch's operators of the layers: their gradients in C, and the way past the dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from harness.backends import torch_operator, torch_passes, torch_reference  # noqa: E402
from harness.problem import gradients  # noqa: E402
from harness.problem.gradients import Gradients  # noqa: E402
from harness.problem.operands import make_operands  # noqa: E402
from harness.problem.problem import Problem  # noqa: E402

PROBLEM = Problem(layer="fff", batch=33, d_in=9, d_out=7, depth=3, trees=2, seed=1)


def _inputs(problem: Problem = PROBLEM) -> list[Any]:
    o = make_operands(problem)
    x = gradients.without_near_ties(problem, o.x, o.w_in, o.w_out)
    return [torch.from_numpy(a.copy()).requires_grad_() for a in (x, o.w_in, o.w_out)]


def _count(monkeypatch: pytest.MonkeyPatch, home: Any, name: str) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []
    function = getattr(home, name)

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(home, name, counted)
    return calls


# ---- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_are_the_truths(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients in C agree with the float64 truth, for contiguous ones of y and for others."""
    ran = _count(monkeypatch, torch_passes, "run_backward")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        inputs, made = _inputs(), torch.randn(PROBLEM.d_out, PROBLEM.batch)
        for dy in (made.t(), made.t().contiguous(), torch.ones(1).expand(33, 7)):
            y = torch_operator.apply(*inputs, "")
            found = torch.autograd.grad(y, inputs, dy)
            arrays = [t.detach().numpy() for t in (*inputs, dy.contiguous())]
            truth = gradients.fff_gradients(*arrays, PROBLEM.depth)
            named = dict(zip(("dx", "dw_in", "dw_out"), (g.numpy() for g in found), strict=True))
            assert gradients.find_fault(Gradients(**named), truth) == ""
    finally:
        torch.set_num_threads(before)
    assert len(ran) == 3


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_only_what_is_wanted_is_made(
    wanted: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen operand gets no gradient, and the others the one that they get beside it."""
    ran = _count(monkeypatch, torch_passes, "run_backward")
    inputs = _inputs()
    full = torch.autograd.grad(torch_operator.apply(*inputs, "").sum(), inputs)
    few = [t if i in wanted else t.detach() for i, t in enumerate(inputs)]
    found = torch.autograd.grad(
        torch_operator.apply(*few, "").sum(), [inputs[i] for i in wanted]
    )  # fmt: skip
    assert all(torch.equal(g, full[i]) for g, i in zip(found, wanted, strict=True))
    assert ran[-1][-1] == [i in wanted for i in range(3)]


@pytest.mark.parametrize(
    ("shape", "dtype", "implementation"),
    [
        ((1, 7), torch.float64, ""), ((1, 7), torch.bfloat16, ""), ((3, 1), torch.float32, ""),
        ((13,), torch.float32, ""), ((1, 7), torch.float32, torch_operator.REFERENCE),
    ],
    ids=["float64", "bfloat16", "depth 0", "ff", "reference"],
)  # fmt: skip
def test_others_are_the_references(
    shape: tuple[int, ...], dtype: Any, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the pass in C does not take, and who asks for the reference, gets torch's own operations."""
    ran = _count(monkeypatch, torch_passes, "run_backward")
    inputs = [
        torch.randn(*lead, 5, dtype=dtype, requires_grad=True) for lead in ((6,), shape, shape)
    ]
    found = torch.autograd.grad(torch_operator.apply(*inputs, implementation).sum(), inputs)
    expected = torch_reference.backward(
        *(t.detach() for t in inputs), torch.ones(6, 5, dtype=dtype)
    )
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not ran


def test_trees_of_one_node_are_a_plain_layer() -> None:
    """Gradients of trees without turns are those of the FF of their neurons, by its products."""
    x, w_in, w_out = (torch.randn(*s, dtype=torch.float64) for s in ((6, 5), (3, 1, 5), (3, 1, 4)))
    dy = torch.randn(6, 4, dtype=torch.float64)
    found = torch_reference.backward(x, w_in, w_out, dy)
    plain = torch_reference.backward(x, w_in[:, 0], w_out[:, 0], dy)
    for own, other in zip(found, plain, strict=True):
        assert torch.equal(own, other.reshape(own.shape))


def test_gradients_have_gradients() -> None:
    """A gradient that is asked for with a graph has the reference's own gradient."""
    inputs, found = _inputs(), []
    for implementation in ("", torch_operator.REFERENCE):
        y = torch_operator.apply(*inputs, implementation)
        (dx,) = torch.autograd.grad(y.square().sum(), inputs[0], create_graph=True)
        found.append(torch.autograd.grad(dx.square().sum(), inputs))
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)


def test_the_gradients_operator_is_well_made() -> None:
    """Its schema, shapes without data and autograd registration pass torch's own check."""
    x, w_in, w_out = _inputs()
    dy = torch.randn(PROBLEM.batch, PROBLEM.d_out)
    for wanted in ([True, True, True], [False, True, False]):
        arguments = (x.detach(), w_in.detach(), w_out.detach(), dy, wanted, "")
        # Without the compiled one, which takes seconds: a compiled layer stands below.
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(torch_operator.layer_backward, arguments, test_utils=checks)


def test_compiled_gradients_are_the_eager_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled graph runs the pass in C, and leaves the same bytes."""
    inputs = _inputs()
    eager = torch.autograd.grad(torch_operator.apply(*inputs, "").square().sum(), inputs)
    ran = _count(monkeypatch, torch_passes, "run_backward")

    def loss(x: Any, w_in: Any, w_out: Any) -> Any:
        return torch_operator.apply(x, w_in, w_out, "").square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*inputs), inputs)
    assert ran
    assert all(torch.equal(a, b) for a, b in zip(found, eager, strict=True))


# ---- past the dispatcher ------------------------------------------------------------------------


class _Recorder(TorchDispatchMode):
    """Note the operators that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        """Note one and go on."""
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("grad", [False, True])
def test_a_plain_call_goes_past_the_dispatcher(monkeypatch: pytest.MonkeyPatch, grad: bool) -> None:
    """Ordinary tensors that nothing watches are computed without the operator, to the same bytes."""
    inputs = _inputs()
    expected = torch_operator.layer(*inputs, "")
    calls = _count(monkeypatch, torch_operator, "layer")
    with torch.set_grad_enabled(grad):
        y = torch_operator.apply(*inputs, "")
    assert torch.equal(y, expected)
    assert y.requires_grad == grad
    assert not calls


def _by_mode(run: Callable[..., Any], inputs: list[Any]) -> list[str]:
    with _Recorder() as recorder:
        run(*inputs)
    return recorder.seen


def _by_profiler(run: Callable[..., Any], inputs: list[Any]) -> list[str]:
    with torch.profiler.profile() as profiler:
        run(*inputs)
    return [event.key for event in profiler.key_averages()]


def _by_trace(run: Callable[..., Any], inputs: list[Any]) -> list[str]:
    return [str(node.target) for node in make_fx(run)(*inputs).graph.nodes]


def _by_function_mode(run: Callable[..., Any], inputs: list[Any]) -> list[str]:
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        """Note the functions that pass."""

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:  # fmt: skip
            """Note one and go on."""
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Mode():
        run(*inputs)
    return seen


def _by_subclass(run: Callable[..., Any], inputs: list[Any]) -> list[str]:
    seen = []

    class Own(torch.Tensor):
        """Note the functions that it takes part in."""

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:  # fmt: skip
            """Note one and go on."""
            seen.append(str(func))
            return super().__torch_function__(func, types, args, kwargs or {})

    run(inputs[0].as_subclass(Own), *inputs[1:])
    return seen


@pytest.mark.parametrize(
    "watch", [_by_mode, _by_profiler, _by_trace, _by_function_mode, _by_subclass]
)
def test_who_watches_sees_the_operator(watch: Callable[..., list[str]]) -> None:
    """A mode, a profiler, a tracer and a subclass of tensors meet the operator, as any of torch's."""

    def run(x: Any, w_in: Any, w_out: Any) -> Any:
        with torch.no_grad():
            return torch_operator.apply(x, w_in, w_out, "")

    seen = watch(run, _inputs())
    assert any(name.startswith(("harness.layer", "harness::layer")) for name in seen)


@pytest.mark.parametrize("implementation", ["", torch_operator.REFERENCE])
def test_what_is_unfit_is_refused_past_the_dispatcher(implementation: str) -> None:
    """Checks of the operands hold there too, after calls that were right."""
    x, w_in, w_out = (t.detach() for t in _inputs())
    torch_operator.apply(x, w_in, w_out, implementation)
    for bad, said in (
        ((x.double(), w_in, w_out), "weights are float32, x is float64"),
        ((x, w_in.bfloat16(), w_out), "w_in is bfloat16, w_out is float32"),
        ((x.to("meta"), w_in, w_out), "weights are on cpu, x is on meta"),
        ((x[:, :-1], w_in, w_out), "w_in: need the d_in of x, 8, got 9"),
        ((x, w_in[:, :-1], w_out[:, :-1]), "a tree has"),
        ((x, w_in, w_out[:1]), "w_out: need the neurons of w_in"),
    ):
        with pytest.raises(ValueError, match=said):
            torch_operator.apply(*bad, implementation)
    assert np.isfinite(torch_operator.apply(x, w_in, w_out, implementation).numpy()).all()
