"""The implementations in torch beyond the conformance suite: chunks, compilation, their own processes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripted
from conformance import Case, judge, prepare
from extents import EXTENTS
from made_machines import SMALL

from harness import cli
from harness.backends import registry, torch_compiled, torch_layers, torch_library
from harness.backends.registry import Context, Implementation
from harness.measure.process import MeasuringProcess
from harness.measure.process_key import ProcessKey
from harness.problem.operands import make_aligned, make_operands
from harness.problem.problem import Problem
from harness.records.reader import load_run
from harness.sweep import plan

needs_torch = pytest.mark.skipif(
    bool(torch_library.unavailable()), reason=torch_library.unavailable()
)
# Those that a sweep of the paper's models takes; of a leaf FFF see the suites that the registry fills.
TORCH = [
    i
    for i in registry.layers()
    if i.library is torch_library.TORCH and "cpu" in i.devices and i.layer in ("ff", "fff")
]
FFF = Problem(layer="fff", batch=70, d_in=17, d_out=9, depth=4, trees=2)
FF = Problem(layer="ff", batch=70, d_in=17, d_out=9, hidden=33)


def _case(implementation: str) -> Case:
    return Case(implementation=registry.get(implementation), provider="", isa="")


def test_harness_does_not_import_torch() -> None:
    """The package, its registry and a plan come without importing torch."""
    code = (
        "import sys, harness; from harness.backends import registry\n"
        "[i.unavailable() for i in registry.layers() if 'cpu' in i.devices]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_absent_torch_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without torch a sweep's plan says so in one line for all that need it, and how to install it."""
    reason = torch_library.INSTALL
    for i in TORCH:
        monkeypatch.setitem(registry._known, i.id, replace(i, unavailable=lambda: reason))
    assert cli.run(["sweep", "--quick", "--dry-run"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "torch" in line]
    (line,) = lines
    assert line.startswith("unavailable: ")
    assert line.endswith(f": {reason}")
    assert all(i.id in line for i in TORCH)


def test_without_a_compiler_torch_compile_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a C++ compiler the compiled layer says what to install."""
    monkeypatch.setattr(torch_library, "unavailable", lambda: "")
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert torch_compiled.unavailable() == "torch.compile needs a C++ compiler: apt install g++"


# ---- memory -------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("implementation", ["ff_torch_native", "ff_torch_bmm", "fff_torch_bmm"])
@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_chunks_of_any_size_are_right(
    monkeypatch: pytest.MonkeyPatch, implementation: str, tokens: int
) -> None:
    """However few tokens are computed together, the last of them fewer, the output is right."""
    problem = FFF if implementation.startswith("fff") else FF
    rows = torch_layers._fff_parts(problem) if problem is FFF else torch_layers._ff_parts(problem)
    token = sum(torch_layers._size(part, problem, 64) for part in rows) / 64
    monkeypatch.setitem(torch_layers.CHUNK_BYTES, "cpu", int(token * tokens) + 1)
    _, prepared = prepare(_case(implementation), problem)
    assert prepared.notes["tokens_together"] == str(tokens)
    assert judge(_case(implementation), problem) == ""


@pytest.mark.parametrize("implementation", ["ff_torch_native", "ff_torch_bmm", "fff_torch_bmm"])
def test_memory_is_bounded(implementation: str) -> None:
    """At the paper's shape the workspace keeps to its bound; a token that is larger alone is announced."""
    found = registry.get(implementation)
    shape = {"depth": 11, "trees": 1} if found.layer == "fff" else {"hidden": 4095}
    paper = Problem(layer=found.layer, batch=16384, d_in=768, d_out=768, **shape)  # type: ignore[arg-type]
    assert 2**24 < found.workspace_bytes(paper) <= torch_layers.CHUNK_BYTES["cpu"] + 4096
    wide = {"depth": 0, "trees": 1 << 14} if found.layer == "fff" else {"hidden": 1 << 24}
    large = Problem(layer=found.layer, batch=4, d_in=4096, d_out=4096, **wide)  # type: ignore[arg-type]
    row = (1 << 14) * 4096 * 4 if found.layer == "fff" else (1 << 24) * 4
    assert found.workspace_bytes(large) >= row


@pytest.mark.parametrize(
    "name", ["ff_torch_native", "ff_torch_bmm", "fff_torch_bmm", "ff_torch_compile"]
)
def test_a_device_takes_what_is_announced_for_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device a layer takes its buffers from the workspace that all share, and no more of it than is
    announced for a device; it makes no large tensor of its own."""
    pytest.importorskip("torch", reason="torch is not installed")
    found, asked = registry.get(name), list[int]()
    shape = {"depth": 4, "trees": 1} if found.layer == "fff" else {"hidden": 300}
    problem = Problem(layer=found.layer, batch=1024, d_in=64, d_out=64, **shape)  # type: ignore[arg-type]
    for device in ("cpu", "cuda"):  # pieces as small as the figures of this test
        monkeypatch.setitem(
            torch_layers.CHUNK_BYTES, device, {"cpu": 1 << 14, "cuda": 1 << 17}[device]
        )

    def lend(size: int) -> Any:
        asked.append(size)
        return make_aligned((size,), np.uint8)

    context = Context(provider=None, device="cuda", workspace=lend)
    if name != "ff_torch_compile":
        found.prepare(problem, make_operands(problem), context)
    given, allocated = found.memory_bytes(problem, "cuda")
    assert sum(asked) == given
    assert given >= found.memory_bytes(problem, "cpu")[0]
    assert (allocated == 1024 * 300 * 4) == (name == "ff_torch_compile")


# ---- torch.compile ------------------------------------------------------------------------------


@needs_torch
def test_compiled_once_before_the_clock() -> None:
    """Preparing compiles one graph for each size of a call; passes compile nothing more."""
    torch_compiled._compiled.clear()
    _, prepared = prepare(_case("ff_torch_compile"), FF)
    (layer,) = torch_compiled._compiled.values()
    assert layer.graphs == 1
    assert layer.seconds > 0
    prepared.forward()
    prepared.time(2)
    assert layer.graphs == 1
    assert prepared.notes["compiled"].startswith("1 graph, ")


@needs_torch
def test_compiled_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch in chunks is right, the shorter last one too, which has a graph of its own."""
    monkeypatch.setattr(torch_compiled, "CHUNK_BYTES", 4 * FF.hidden * 30)
    _, prepared = prepare(_case("ff_torch_compile"), FF)
    assert prepared.notes["tokens_together"] == "24"
    assert prepared.notes["compiled"].startswith("2 graphs")
    assert judge(_case("ff_torch_compile"), FF) == ""


@needs_torch
def test_compiling_again_is_an_error() -> None:
    """A call that would compile a second graph fails: a timed pass never compiles unseen."""
    import torch

    arguments = tuple(torch.ones(shape) for shape in ((5, 3), (4, 3), (4, 2), (5, 2)))
    layer = torch_compiled._compile(arguments)
    layer.run(*arguments)
    with pytest.raises(Exception, match="compiled again"):
        layer.run(arguments[0][:3], *arguments[1:3], arguments[3][:3])


@needs_torch
def test_a_layer_that_is_not_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch.compile hands the function back as it was, preparing fails."""
    import torch

    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    arguments = tuple(torch.ones(shape) for shape in ((5, 3), (4, 3), (4, 2), (5, 2)))
    with pytest.raises(RuntimeError, match=r"torch.compile made 0 graphs of the layer"):
        torch_compiled._compile(arguments)


@needs_torch
def test_a_broken_graph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that torch can't take as one graph fails when it is prepared."""

    def broken(x, w_in, w_out, y):  # type: ignore[no-untyped-def]
        import torch

        torch._dynamo.graph_break()
        y.copy_(x @ w_in.t() @ w_out)

    import torch

    monkeypatch.setattr(torch_compiled, "_layer", broken)
    arguments = tuple(torch.ones(shape) for shape in ((5, 3), (4, 3), (4, 2), (5, 2)))
    with pytest.raises(RuntimeError, match=r"torch.compile failed: Unsupported"):
        torch_compiled._compile(arguments)


# ---- measuring processes ------------------------------------------------------------------------


@needs_torch
def test_torch_has_a_process_of_its_own(tmp_path: Path) -> None:
    """What is in torch shares one measuring process, and no provider's cells are in it."""
    cells = plan.make_plan(scripted.make_spec(tmp_path), SMALL).cells
    homes = {c.implementation: c.runs_in for c in cells}
    here = {home for i, home in homes.items() if "torch" in i}
    assert here == {ProcessKey(library="torch")}
    assert not here & {home for i, home in homes.items() if "torch" not in i}


@needs_torch
@pytest.mark.parametrize("threads", [1, 2])
def test_process_says_what_torch_is(threads: int) -> None:
    """The process tells torch's version, BLAS and pools; each is as wide as was asked for."""
    process = MeasuringProcess(ProcessKey(library="torch"), threads=threads, keep_blas_env=False)
    facts, pools = process.hello.provider, process.hello.pools
    process.close()
    assert facts is not None
    assert facts.name == "torch"
    assert facts.threads == threads
    assert facts.version == torch_library.describe()
    assert any("torch" in pool.filepath for pool in pools)
    assert {pool.num_threads for pool in pools} <= {1, threads}


@needs_torch
def test_sweep_of_torch(tmp_path: Path) -> None:
    """A sweep times all that is in torch, and its record names torch's versions and who timed."""
    out = tmp_path / "run"
    assert cli.run(["sweep", "--only", "*torch*", *_WORDS, "--out", str(out)]) == 0
    run = load_run(out)
    layers = run.cells[run.cells["role"] == "layer"]
    assert set(layers["status"]) == {"ok"}
    assert set(layers["implementation"]) == {i.id for i in TORCH}
    for notes in layers["notes"]:
        assert dict(notes)["torch"] == torch_library.describe()
        assert dict(notes)["timed_by"].startswith("Python clock and loop, ")
    assert "torch" in {p.name for p in run.providers}
    assert "timed by a loop in Python" in (out / "table.md").read_text(encoding="utf-8")
    assert (run.samples["elapsed_ns"] > 0).all()


@needs_torch
@pytest.mark.parametrize("implementation", [i.id for i in TORCH])
def test_weights_are_rotated(implementation: str) -> None:
    """Several sets of weights are taken in turn from the first: after two passes y is of the second."""
    problem = FFF if implementation.startswith("fff") else FF
    case = _case(implementation)
    guarded, _ = prepare(case, problem)
    o = guarded.operands
    second = tuple(a * np.float32(0.5) for a in (o.w_in, o.w_out))
    context = registry.Context(provider=None, workspace=lambda size: np.zeros(size, np.uint8))
    operands = replace(o, rotation=(second,))  # type: ignore[arg-type]
    prepared = case.implementation.prepare(problem, operands, context)
    assert prepared.sets == 2
    prepared.time(2)
    rotated = o.y.copy()
    case.implementation.prepare(
        problem, replace(o, w_in=second[0], w_out=second[1]), context
    ).forward()
    np.testing.assert_array_equal(rotated, o.y)


_WORDS = ["--models", "ff-16,1x3", "--batch", "20", "--width", "24", "--passes", "2", "--processes", "1",
          "--skip", "ceiling_*"]  # fmt: skip


@needs_torch
def test_a_failure_in_onednn_is_no_slow_result_and_harms_no_other_cell() -> None:
    """Where passes make torch switch oneDNN off, their timer fails and it is on again; a user's off stays."""
    import torch

    onednn = torch.backends.mkldnn

    def switch_off(loops: int) -> int:
        onednn.set_flags(False)
        return loops

    was_on = onednn.enabled
    try:
        onednn.set_flags(True)
        with pytest.raises(RuntimeError, match="failed in oneDNN"):
            torch_library.keep_onednn(switch_off)(1)
        assert onednn.enabled
        onednn.set_flags(False)
        assert torch_library.keep_onednn(switch_off)(3) == 3
        assert not onednn.enabled
    finally:
        onednn.set_flags(was_on)


@needs_torch
def test_a_batched_product_copies_no_more_than_a_chunk() -> None:
    """In bfloat16 the tokens of one batched product are as few as copies of the weights fit a chunk."""
    large = Problem(layer="ff", batch=16384, d_in=768, d_out=768, hidden=4095, dtype="bfloat16")
    together = torch_layers._together(large, torch_layers._ff_bmm_parts(large), "cpu")
    assert 1 <= together <= torch_layers.CHUNK_BYTES["cpu"] // (4095 * 768 * 2)
    on_gpu = torch_layers._together(large, torch_layers._ff_bmm_parts(large), "cuda")
    assert on_gpu > 16 * together
    narrow = replace(large, dtype="float32")
    assert torch_layers._together(narrow, torch_layers._ff_bmm_parts(narrow), "cpu") > together


@needs_torch
@pytest.mark.parametrize(
    "implementation",
    [
        pytest.param(i, id=i.id)
        for i in registry.layers()
        if i.library is torch_library.TORCH and "cuda" in i.devices and not i.costly_prepare
    ],
)
def test_a_device_gets_the_weights_of_every_layer(implementation: Implementation) -> None:
    """The verdict on a device, here the host's memory, takes all operands of each layer and a second set."""
    from device_conformance import judge_on
    from shim_torch import HostDevice

    for dtype in implementation.dtypes:
        problem = Problem(
            layer=implementation.layer, batch=13, d_in=9, d_out=7, dtype=dtype,
            **EXTENTS[implementation.layer],
        )  # fmt: skip
        assert judge_on(HostDevice(), implementation, problem) == ""
