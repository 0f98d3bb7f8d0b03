"""Stand in for the interpreter of a machine with a device that keeps time (fake_device.py).

Both processes that a sweep starts are served: the question whether a device is there, and the measuring
process. `stand_in` makes an interpreter that hands their words to this file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import forked
import planted
from fake_device import QUIET, FakeDevice, FakeTensor

import harness
from harness import package
from harness.backends import registry
from harness.backends.registry import Context, Implementation, Prepared
from harness.cli import main as cli_main
from harness.gpu import probe
from harness.gpu.device import DeviceState
from harness.measure import worker
from harness.problem.operands import Operands
from harness.problem.problem import DTYPES, Problem
from harness.sweep import gpu as sweep_gpu

# Of the device's time for a pass: hot, and cold over hot.
PASS_NS, COLD = 40_000.0, 3.0
FASTER = {"fff_torch_bmm": 2.0, "fff_cuda_naive": 4.0}
UNCAPTURABLE, OFF_STREAM, WRONG_ON_DEVICE, OWN_CLOCK = (
    "fff_cuda_uncapturable", "fff_cuda_off_stream", "fff_cuda_wrong", "fff_cuda_own_clock",
)  # fmt: skip
# A device of this name throttles in its second half of a second.
THROTTLING = "throttling"
# The passes of one of this name take 3 % longer in each measuring process than in the one before.
DRIFTING = "drifting"
# The first launch in each measuring process of one of this name loads and compiles for so long.
LOADING, LOADING_NS = "loading", 300e6
HOT = DeviceState(sm_clock_mhz=900, power_w=300.0, throttle=("power cap",))


slowdown = 1.0  # of all passes in this process
loading_ns = 0.0  # of the next launch in this process


def _host(operands: Operands) -> Operands:
    arrays = {name: getattr(operands, name).memory for name in ("x", "w_in", "w_out", "y")}
    return Operands(**arrays)


def _device_of(context: Context) -> FakeDevice:
    (device,) = [c.cell_contents for c in context.timer.__closure__ or ()]
    assert isinstance(device, FakeDevice)
    return device


def _load() -> float:
    """Return how long the launch that comes now loads before it runs: the first of all, and no other."""
    global loading_ns
    taken, loading_ns = loading_ns, 0.0
    return taken


def _prepare(name: str, problem: Problem, operands: Operands, context: Context) -> Prepared:
    device, layer = _device_of(context), name.partition("_")[0]
    assert isinstance(context.workspace(64), FakeTensor)
    hot_ns = slowdown * PASS_NS / FASTER.get(name, 1.0) / (2.0 if device.math == "tf32" else 1.0)
    fault = "scale_one" if name == WRONG_ON_DEVICE else ""
    sets = [(operands.w_in, operands.w_out), *operands.rotation]

    def make_pass(w_in: FakeTensor, w_out: FakeTensor) -> Callable[[], None]:
        own = Operands(x=operands.x, w_in=w_in, w_out=w_out, y=operands.y)
        right = planted.make(layer, fault).prepare(problem, _host(own), context)

        def forward() -> None:
            if name == UNCAPTURABLE and device.capturing is not None:
                device.synchronise()
            if name == OFF_STREAM:
                with device.stream("side"):
                    device.launch(name, 1e6, 1e6, right.forward)
            else:
                loading = _load()
                device.launch(name, hot_ns + loading, COLD * hot_ns + loading, right.forward)

        return forward

    passes = [make_pass(*weights) for weights in sets]
    time = context.timer(*passes)
    if name == OWN_CLOCK:
        return Prepared(forward=passes[0], time=lambda loops: time(loops) // 1000)
    return Prepared(forward=passes[0], time=time, sets=len(passes))


def _ceiling(name: str, problem: Problem, operands: Operands, context: Context) -> Prepared:
    device, host = _device_of(context), _host(operands)

    def effect() -> None:
        if name == "ceiling_cuda_copy":
            host.y[...] = host.x * host.w_out[-1, 0]
        else:
            host.y[...] = (host.x.astype("f8") @ host.w_out.astype("f8")).astype(host.y.dtype)

    def forward() -> None:
        device.launch(name, 20_000.0, 20_000.0, effect)

    return Prepared(forward=forward, time=context.timer(forward))


def _make(name: str) -> Implementation:
    def prepare(problem: Problem, operands: Operands, context: Context) -> Prepared:
        run = _ceiling if name.startswith("ceiling") else _prepare
        return run(name, problem, operands, context)

    return Implementation(
        id=name, layer=name.partition("_")[0], level=None, devices=("cuda",),  # type: ignore[arg-type]
        summary="made up", prepare=prepare, workspace_bytes=lambda problem: 64, dtypes=DTYPES,
        tf32=name in ("ff_torch_native", "ff_torch_bmm", "fff_torch_bmm", "ceiling_cuda_matmul"),
    )  # fmt: skip


IMPLEMENTATIONS = {
    name: _make(name)
    for name in (
        "ff_torch_native", "ff_torch_bmm", "ff_cuda_naive", "fff_torch_bmm", "fff_cuda_naive",
        "ceiling_cuda_copy", "ceiling_cuda_matmul", UNCAPTURABLE, OFF_STREAM, WRONG_ON_DEVICE,
        OWN_CLOCK,
    )
}  # fmt: skip


def known() -> dict[str, Implementation]:
    """Return the table of implementations of a machine with the device: ours and the CPU's."""
    cpu = {i.id: i for i in registry.all() if i.devices == ("cpu",)}
    return cpu | IMPLEMENTATIONS


def _open(kind: str) -> FakeDevice:
    device = FakeDevice()
    if kind == THROTTLING:
        device.throttle = lambda now: HOT if now % 1e9 > 5e8 else QUIET
    return device


def _drift(folder: Path) -> float:
    """Return how much longer passes take in the process that begins now; each adds a line to a file."""
    with (folder / "started").open("a+", encoding="utf-8") as file:
        file.seek(0)
        count = len(file.readlines())
        file.write("one more\n")
    return 1.0 + 0.03 * count


def stand_in(folder: Path, kind: str = "") -> Path:
    """Write an executable that starts processes of a machine with the device.

    kind: THROTTLING, DRIFTING, LOADING, or empty.
    """
    paths = (Path(__file__).parent, Path(harness.__file__).parent.parent)
    script = folder / "python"
    script.write_text(
        "#!/bin/sh\n"
        f"PYTHONPATH='{os.pathsep.join(map(str, paths))}' exec '{sys.executable}' '{__file__}' "
        f"'{kind}' '{folder}' \"$@\"\n",
        encoding="utf-8",
    )
    script.chmod(0o755)
    forked.STAND_INS[str(script)] = [__file__, kind, str(folder)]
    return script


def _be_parent(folder: Path, words: list[str]) -> None:
    """Run the command line, or a script, on the machine with the device."""
    registry._known, sys.executable = known(), str(folder / "python")
    # What the machine takes for a product is no more than this file's kernels take.
    sweep_gpu._MATMUL_EXTENT = 64
    if words[0] == "-c":
        exec(words[1], {"__name__": "__main__"})
        sys.exit(0)
    sys.argv = ["harness", *words[2:]]
    cli_main.main()


def main() -> None:
    """Serve as `harness.measure.worker` or `harness.gpu.probe` does."""
    global slowdown, loading_ns
    kind, folder, words = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    if words == package.command(probe.__name__)[1:]:
        print(probe.format_answer(probe.Found(facts=_open(kind).facts)))
        return
    if words[:2] == ["-m", "harness"] or (words[:1] == ["-c"] and len(words) == 2):
        _be_parent(folder, words)
    began = package.command(worker.__name__)[1:]
    if words[: len(began)] != began:
        sys.exit(f"not how a measuring process is started: {words}")
    if kind == DRIFTING:
        slowdown = _drift(folder)
    if kind == LOADING:
        loading_ns = LOADING_NS
    registry._known = known()
    worker.open_device = lambda name: _open(kind) if name == "cuda" else None  # type: ignore[assignment]
    worker.main(*words[len(began) :])


if __name__ == "__main__":
    main()
