"""The command `model`: its plan, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fabricated_models import FakeModels

from harness import cli
from harness.cli.progress import Display
from harness.errors import UsageError


def test_dry_run_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """--dry-run names every cell with its predicted time, and needs neither torch nor transformers."""
    assert cli.run(["model", "--dry-run", "--layers", "2", "--batch", "1x128"]) == 0
    text = capsys.readouterr().out
    for ff in ("dense", "left-out", "ultrafastbert-1x11", "ff-12"):
        assert f"bert-base-2/{ff}/1x128/parts" in text
    assert "predicted" in text


def test_a_decoder_is_planned_by_its_cache(capsys: pytest.CaptureFixture[str]) -> None:
    """Of gpt2-small a step behind 128 tokens is planned where no batch is asked for."""
    assert cli.run(["model", "--dry-run", "--arch", "gpt2-small"]) == 0
    assert "gpt2-small-12/dense/1x128/parts" in capsys.readouterr().out


def test_a_printed_plan_loads_no_torch() -> None:
    """The plan of whole models is printed without what would compute them."""
    code = (
        "import sys; from harness.cli import run; run(['model', '--dry-run'])\n"
        "assert not {'pandas', 'scipy', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--arch", "bert-huge"], "architecture"),
        (["--layers", "0"], "--layers"),
        (["--batch", "8"], "--batch"),
        (["--batch", "1x513"], "512 positions"),
        (["--models", "leaf-4x3"], "leaf-4x3"),
        (["--models", "nothing"], "nothing"),
        (["--passes", "2", "--budget", "3"], "--passes and --budget"),
        (["--threads", "4096"], "--threads"),
        (["--resume", "/nowhere"], "is not a run"),
    ],
)
def test_mistakes_are_one_line(words: list[str], says: str) -> None:
    """What can't be asked for is refused by the option's name before anything is measured."""
    with pytest.raises(UsageError) as caught:
        cli.run(["model", "--dry-run", *words])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["report", "compare", "merge", "explain"])
def test_what_reads_layers_refuses_models(command: str, tmp_path: Path) -> None:
    """Commands that know layers alone say so of a run of whole models, in one line."""
    run = str(FakeModels().write(tmp_path / "run"))
    words = {
        "report": [run], "compare": [run, run], "merge": [run, "--out", str(tmp_path / "x.md")],
        "explain": [run],
    }  # fmt: skip
    with pytest.raises(UsageError):
        cli.run([command, *words[command]])


def test_the_display_tells_passes_in_parts() -> None:
    """While a run goes on, each form stands twice, and which one is timed in parts is said."""
    display, fake = Display(), FakeModels()
    for order, cell in enumerate(fake.cells()):
        display.cell(cell)
        display.sample(fake.sample(cell, 0, 0, order))
    rows = display._table().columns[1]
    told = list(rows.cells)
    assert told.count("ultrafastbert-1x3") == told.count("ultrafastbert-1x3, in parts") == 1
