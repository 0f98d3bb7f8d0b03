"""Sweeps on a device from end to end, through the command line, on a device that keeps time."""

from __future__ import annotations

import sys
from pathlib import Path

import device_worker
import pytest
from device_worker import OFF_STREAM, OWN_CLOCK, UNCAPTURABLE, WRONG_ON_DEVICE

from harness import cli, device_probe, registry
from harness.reader import Run, load_run

TINY = ["--batch", "9", "--width", "16", "--models", "bert-base-4095,2x3", "--device", "cuda"]
ODD = f"{UNCAPTURABLE},{OFF_STREAM},{WRONG_ON_DEVICE},{OWN_CLOCK}"
FFF = "fff_torch_bmm/ultrafastbert-2x3/b9/w16"
FF = "ff_torch_native/bert-base-4095/b9/w16"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, and ask anew whether there is a device."""
    monkeypatch.setattr("harness.plot.write_plots", lambda run: [])
    monkeypatch.setattr("harness.on_device._MATMUL_EXTENT", 64)
    device_probe.find_cuda.cache_clear()
    yield
    device_probe.find_cuda.cache_clear()


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


def test_the_whole_half(machine_with_device: None, tmp_path: Path) -> None:
    """With no more than --device cuda every implementation is checked and sampled hot and cold, launched
    and replayed, in both dtypes and with TF32 where it has any, and the ceilings beside it."""
    run = _run(tmp_path / "run", "--skip", ODD)
    print(run.cells[["cell", "status", "reason"]].to_string())
    assert set(run.cells["status"]) == {"ok"}
    layers = run.cells[run.cells["role"] == "layer"]
    ways = set(
        zip(layers["dtype"], layers["math"], layers["weights"], layers["launch"], strict=True)
    )
    hot_and_cold = {("hot", "eager"), ("hot", "graph"), ("flushed", "eager")}
    precisions = {("float32", "ieee"), ("float32", "tf32"), ("bfloat16", "ieee")}
    assert ways == {p + w for p in precisions for w in hot_and_cold}
    assert set(layers.loc[layers["math"] == "tf32", "implementation"]) == {
        "ff_torch_native", "ff_torch_bmm", "fff_torch_bmm",
    }  # fmt: skip
    ceilings = run.cells[run.cells["role"] == "ceiling"]
    assert (
        sorted(ceilings["implementation"])
        == ["ceiling_cuda_copy"] * 2 + ["ceiling_cuda_matmul"] * 3
    )
    per_block = run.samples.groupby(["cell", "block"]).size().unstack()
    assert per_block.notna().all().all()
    assert run.head.machine.device is not None
    assert run.head.machine.device.name == "Fake 1"
