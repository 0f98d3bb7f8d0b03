"""Sweeps on a device from end to end, through the command line, on a device that keeps time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import device_worker
import pytest
from device_worker import (
    COLD,
    DRIFTING,
    FASTER,
    HOT,
    LOADING,
    LOADING_NS,
    OFF_STREAM,
    OWN_CLOCK,
    PASS_NS,
    THROTTLING,
    UNCAPTURABLE,
    WRONG_ON_DEVICE,
)
from fake_device import LAUNCH_NS, QUIET, SYNC_NS

from harness import cli
from harness.analysis.samples import by_cell
from harness.analysis.stats import pass_ns
from harness.backends import registry
from harness.errors import UsageError
from harness.gpu import probe
from harness.records.reader import Run, load_run
from harness.report.files import write_plots

TINY = ["--batch", "9", "--width", "16", "--models", "bert-base-4095,2x3", "--device", "cuda"]
ODD = f"{UNCAPTURABLE},{OFF_STREAM},{WRONG_ON_DEVICE},{OWN_CLOCK}"
WRITE_PLOTS = write_plots
FFF = "fff_torch_bmm/ultrafastbert-2x3/b9/w16"
FF = "ff_torch_native/bert-base-4095/b9/w16"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw no figures, and ask anew whether there is a device."""
    monkeypatch.setattr("harness.report.files.write_plots", lambda run, style: [])
    monkeypatch.setattr("harness.sweep.gpu._MATMUL_EXTENT", 64)
    probe.find_cuda.cache_clear()
    yield
    probe.find_cuda.cache_clear()


def _install(monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str = "") -> None:
    monkeypatch.setattr(registry, "_known", device_worker.known())
    monkeypatch.setattr(sys, "executable", str(device_worker.stand_in(folder, kind)))


@pytest.fixture
def machine_with_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stand on a machine whose CUDA device is the fake one."""
    _install(monkeypatch, tmp_path)


def _sweep(out: Path, *words: str) -> int:
    asked = ["sweep", *TINY, "--passes", "2", "--processes", "1", "--out", str(out), *words]
    return cli.run(asked)


def _run(out: Path, *words: str) -> Run:
    assert _sweep(out, *words) == 0
    return load_run(out)


@pytest.mark.slow
def test_the_whole_half(
    machine_with_device: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no more than --device cuda every implementation is checked and sampled hot and cold, launched
    and replayed, in both dtypes and with TF32 where it has any, and the ceilings beside it; the report
    has the paper's GPU columns, the wall times, and best against best over each precision."""
    monkeypatch.setattr("harness.report.files.write_plots", WRITE_PLOTS)  # the figures too, once
    # A made-up pass is faster than the made-up ceilings allow, which ends a sweep with 1.
    assert _sweep(tmp_path / "run", "--skip", ODD) == 1
    run = load_run(tmp_path / "run")
    assert "IMPOSSIBLE" in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")
    assert set(run.cells["status"]) == {"ok"}
    layers = run.cells[run.cells["role"] == "layer"]
    names = ["dtype", "math", "weights", "launch"]
    hot_and_cold = {("hot", "eager"), ("hot", "graph"), ("flushed", "graph")}
    precisions = {("float32", "ieee"), ("float32", "tf32"), ("bfloat16", "ieee")}
    wanted = {p + w for p in precisions for w in hot_and_cold}
    assert set(layers[names].itertuples(index=False, name=None)) == wanted
    assert set(layers.loc[layers["math"] == "tf32", "implementation"]) == {
        "ff_torch_native", "ff_torch_bmm", "fff_torch_bmm",
    }  # fmt: skip
    ceilings = run.cells[run.cells["role"] == "ceiling"]
    assert sorted(ceilings["implementation"]) == [
        *["ceiling_cuda_copy"] * 2, *["ceiling_cuda_matmul"] * 3,
    ]  # fmt: skip
    assert run.samples.groupby(["cell", "block"]).size().unstack().notna().all().all()
    assert run.head.machine.device is not None
    assert run.head.machine.device.name == "Fake 1"
    assert {"speedup.png", "time_per_token.png", "roofline.png"} <= {
        p.name for p in run.folder.iterdir()
    }
    text = (tmp_path / "run" / "table.md").read_text(encoding="utf-8")
    for words in (
        "# Speedups of conditional over dense feedforward layers, CUDA", "- Device: Fake 1 (sm_86)",
        "| paper, native fused", "| paper, pytorch bmm", "| paper, naive cuda", "| with launches",
        "## Best against best on this device", "| over FF, float32, TF32 off",
        "| over FF, TF32 on tensor cores", "| over FF, bfloat16", "| tf32 ",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.slow
def test_times_are_the_devices(machine_with_device: None, tmp_path: Path) -> None:
    """Each figure is the device's own: hot, cold behind a flush, halved by TF32; a wall time is no less."""
    words = ("--only", "ff_torch_native,fff_torch_bmm", "--dtype", "float32", "--skip", "ceiling*")
    samples = _run(tmp_path / "run", *words).samples
    times = by_cell(samples)
    assert pass_ns(times, FF) == pytest.approx(PASS_NS, rel=0.02)
    assert pass_ns(times, f"{FF}/graph") == pytest.approx(PASS_NS, rel=0.02)
    assert pass_ns(times, f"{FF}/flushed/graph") == pytest.approx(COLD * PASS_NS, rel=0.02)
    assert pass_ns(times, f"{FF}/tf32") == pytest.approx(PASS_NS / 2, rel=0.02)
    assert pass_ns(times, FFF) == pytest.approx(PASS_NS / FASTER["fff_torch_bmm"], rel=0.02)
    assert (samples["wall_ns"] >= samples["elapsed_ns"]).all()
    alone = samples[samples["cell"] == f"{FF}/flushed/graph"]
    waits = (alone["wall_ns"] - alone["elapsed_ns"]) / alone["loops"]
    assert waits.tolist() == pytest.approx([LAUNCH_NS + SYNC_NS] * len(alone))
    assert (samples["sm_clock_mhz"] == QUIET.sm_clock_mhz).all()
    assert (samples["power_w"] == QUIET.power_w).all()


def test_weights_are_rotated(machine_with_device: None, tmp_path: Path) -> None:
    """Rotated weights go through the gate set by set, on the device, launched and replayed."""
    words = (
        "--only",
        "ff_torch_native",
        "--dtype",
        "float32",
        "--weights",
        "rotated",
        "--math",
        "ieee",
    )
    cells = _run(tmp_path / "run", *words, "--skip", "ceiling*").cells
    notes = [notes["weights"] for notes in cells["notes"]]
    assert notes
    assert all("sets in turn" in note for note in notes)


def test_what_is_wrong_with_one_costs_no_other(
    machine_with_device: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong output, a clock of one's own and work on another stream are refused before they are timed; what
    can't be captured is launched alone; the rest is sampled."""
    words = ("--only", f"ff_torch_native,{ODD}", "--dtype", "float32", "--math", "ieee")
    assert _sweep(tmp_path / "run", *words, "--weights", "hot", "--skip", "ceiling*") == 1
    run = load_run(tmp_path / "run")
    cells = run.cells.set_index("cell")
    where = "ultrafastbert-2x3/b9/w16"
    for name, status, reason in (
        (WRONG_ON_DEVICE, "wrong", "times the tolerance"),
        (OWN_CLOCK, "failed", "comes from the context's `timer`"),
        (OFF_STREAM, "failed", "launch on another stream than the one that is current"),
    ):
        for launch in ("", "/graph"):
            cell = cells.loc[f"{name}/{where}{launch}"]
            if launch and name == OFF_STREAM:
                continue  # what a graph captures of another stream is its own story
            assert (cell["status"], name) == (status, name)
            assert reason in cell["reason"]
        assert f"{name}/{where}" not in set(run.samples["cell"])
    assert cells.loc[f"{UNCAPTURABLE}/{where}", "status"] == "ok"
    replayed = cells.loc[f"{UNCAPTURABLE}/{where}/graph"]
    assert replayed["status"] == "unavailable"
    assert "can't be captured" in replayed["reason"]
    assert "ff_torch_native" in set(run.samples["implementation"])


def test_throttled_samples_are_marked_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A sample at whose end the driver tells of throttling bears its reasons; none is dropped."""
    _install(monkeypatch, tmp_path, THROTTLING)
    words = (
        "--only",
        "ff_torch_native",
        "--dtype",
        "float32",
        "--math",
        "ieee",
        "--weights",
        "hot",
    )
    run = _run(tmp_path / "run", *words, "--skip", "ceiling*", "--passes", "6")
    marked = run.samples[run.samples["throttle"].str.len() > 0]
    assert 0 < len(marked) < len(run.samples)
    assert set(map(tuple, marked["throttle"])) == {HOT.throttle}
    assert run.samples.groupby("cell")["block"].nunique().eq(6).all()
    text = (tmp_path / "run" / "table.md").read_text(encoding="utf-8")
    assert "THROTTLED in" in text
    assert "(power cap)" in text


@pytest.mark.slow
def test_graphs_of_another_length_sample_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where a later process puts another number of passes into a graph, its samples are of whole replays and
    about as many passes as those of the first."""
    _install(monkeypatch, tmp_path, DRIFTING)
    words = ("--only", "ff_torch_native,fff_torch_bmm", "--dtype", "float32", "--math", "ieee",
             "--weights", "hot", "--launch", "graph", "--skip", "ceiling*")  # fmt: skip
    run = _run(tmp_path / "run", *words, "--passes", "4", "--processes", "4")
    loops = run.samples[run.samples["cell"] == f"{FFF}/graph"].groupby("process")["loops"].first()
    assert len(loops) == 4
    assert loops.nunique() > 1
    assert loops.max() < 1.1 * loops.min()


@pytest.mark.slow
def test_a_first_launch_that_loads_decides_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the first cell's first pass holds what torch does once a process, its samples are as long as
    those of any other, and none of them holds it."""
    words = ("--only", "ff_torch_native,fff_torch_bmm", "--dtype", "float32", "--math", "ieee",
             "--weights", "hot", "--skip", "ceiling*", "--passes", "4", "--processes", "2")  # fmt: skip
    _install(monkeypatch, tmp_path, LOADING)
    run = _run(tmp_path / "run", *words)
    assert run.cells["gate_ns"].max() > LOADING_NS
    own = run.samples[run.samples["role"] == "layer"]
    assert (own["elapsed_ns"] > 10_000_000).all()
    assert own["pass_ns"].max() < 2 * PASS_NS
    assert own.groupby("cell")["loops"].min().min() > 100


def test_what_does_not_fit_is_refused_with_the_figure(
    machine_with_device: None, tmp_path: Path
) -> None:
    """Operands beyond the device's free memory are refused before anything runs, with both figures."""
    with pytest.raises(
        UsageError, match=r"needs 8\.25 GiB on the device .* of which 8\.00 GiB are free"
    ):
        _sweep(
            tmp_path / "run", "--only", "ff_torch_native", "--batch", "2^26", "--dtype", "float32"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_cut_run_is_taken_up(machine_with_device: None, tmp_path: Path) -> None:
    """A run on a device that was cut is completed on it, and refused on another one of the same name, under
    another driver and with other compilers."""
    out = tmp_path / "run"
    words = (
        "--only",
        "ff_torch_native",
        "--dtype",
        "float32",
        "--math",
        "ieee",
        "--weights",
        "hot",
    )
    _run(out, *words, "--skip", "ceiling*", "--passes", "4")
    lines = (out / "records.jsonl").read_text(encoding="utf-8").splitlines()
    cut = [x for x in lines if '"kind":"end"' not in x][:-3]
    (out / "records.jsonl").write_text("\n".join(cut) + "\n", encoding="utf-8")
    assert cli.run(["sweep", "--resume", str(out)]) == 0
    run = load_run(out)
    assert run.samples.groupby("cell")["block"].nunique().eq(4).all()
    head = out / "run.json"
    (out / "records.jsonl").write_text("\n".join(cut) + "\n", encoding="utf-8")
    text = head.read_text(encoding="utf-8")
    for told in ("Fake 1", "fake", "2.99", "13.0", "580.1", "13.1", "3.99"):
        assert text.count(f'"{told}"') == 1
        head.write_text(text.replace(f'"{told}"', f'"{told}x"'), encoding="utf-8")
        with pytest.raises(UsageError, match="device"):
            cli.run(["sweep", "--resume", str(out)])


def _no_device(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            f"echo '{probe.format_answer(probe.Found(reason='torch is not installed'))}'",
            "torch is not installed",
        ),
        ("exec sleep 600", "hangs"),
        ("exit 1", "exit status 1"),
    ],
)
def test_no_device_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, reason: str
) -> None:
    """Without a device, or with a driver that hangs, --device cuda is a usage error of one line."""
    monkeypatch.setattr(probe, "PATIENCE_S", 0.5)
    _no_device(monkeypatch, tmp_path, script)
    with pytest.raises(UsageError, match=r"^--device cuda: ") as caught:
        _sweep(tmp_path / "run")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_this_machine_without_cuda(tmp_path: Path) -> None:
    """On a machine without CUDA, as it is, the command exits with 2 and says in one line what is missing."""
    if probe.find_cuda().facts:
        pytest.skip("this machine has CUDA")
    words = [
        sys.executable,
        "-m",
        "harness",
        "sweep",
        "--device",
        "cuda",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --device cuda: ")
    assert "torch" in line


def test_list_gives_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`list` says of each implementation for CUDA why it can't run, and of others that they can."""
    answer = probe.format_answer(probe.Found(reason="no GPU in here"))
    script = f"""case "$*" in *{probe.__name__}*) echo '{answer}';; """
    _no_device(monkeypatch, tmp_path, f'{script} *) exec {sys.executable} "$@";; esac')
    assert cli.run(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    of = {line.split("│")[1].strip(): line for line in lines if line.count("│") > 5}
    for i in registry.all():
        if i.devices == ("cuda",):
            assert "no GPU in here" in of[i.id] or "not installed" in of[i.id], of[i.id]
    assert "yes" in of["ff_l3_blas"]
