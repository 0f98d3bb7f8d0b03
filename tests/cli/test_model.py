"""The command `model`: its plan, and what it refuses."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from fabricated_models import STEP_TIMES, TINY, FakeModels
from fabricated_runs import Fake
from made_checkpoint import write_checkpoint
from made_machines import SMALL

from harness import cli
from harness.cli.progress import Display
from harness.cli.sweep_options import make_spec
from harness.errors import UsageError
from harness.sweep import transformer as sweep_transformer


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


def test_the_ladder_is_of_layers(tmp_path: Path) -> None:
    """A run of whole models is no ladder, and `explain` says so in one line."""
    run = str(FakeModels().write(tmp_path / "run"))
    with pytest.raises(UsageError, match="is not a run of the ladder"):
        cli.run(["explain", run])


@pytest.mark.parametrize("command", ["compare", "merge"])
def test_models_and_layers_do_not_mix(command: str, tmp_path: Path) -> None:
    """A run of whole models and one of layers have nothing to be set against each other."""
    model, layers = FakeModels().write(tmp_path / "a"), Fake().write(tmp_path / "b")
    out = ["--out", str(tmp_path / "x.md")] if command == "merge" else []
    for runs in ((model, layers), (layers, model)):
        with pytest.raises(UsageError, match="is a run of whole models and") as caught:
            cli.run([command, *map(str, runs), *out])
        assert "\n" not in str(caught.value)


def test_runs_of_models_merge(tmp_path: Path) -> None:
    """Two runs of models stand in one table, a row for each form of each, with their plain numbers."""
    runs = [str(FakeModels().write(tmp_path / name)) for name in "ab"]
    (tmp_path / "b" / "run.json").write_text(
        (tmp_path / "b" / "run.json").read_text(encoding="utf-8").replace("2026-01-02T03", "2026-01-02T04"),
        encoding="utf-8",
    )  # fmt: skip
    assert cli.run(["merge", *runs, "--out", str(tmp_path / "all")]) == 0
    text = (tmp_path / "all" / "merged.md").read_text(encoding="utf-8")
    assert text.count("| UltraFastBERT-1x3 ") == 2
    assert text.count("| left out ") == 2
    numbers = (tmp_path / "all" / "merged.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(StringIO(numbers)))
    assert [row["run"] for row in rows] == 3 * ["a"] + 3 * ["b"]
    assert {row["ff"] for row in rows} == {"dense", "left-out", "ultrafastbert-1x3"}


@pytest.mark.parametrize(
    "form", ["pytest-benchmark", "google-benchmark", "bencher", "github-action-benchmark", "openmetrics"]
)  # fmt: skip
def test_models_are_exported(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every cell of a run of models stands in each format of text under its id."""
    run = FakeModels().write(tmp_path / "run")
    assert cli.run(["export", str(run), "--format", form]) == 0
    text = capsys.readouterr().out
    for ff in ("dense", "left-out", "ultrafastbert-1x3"):
        assert f"tiny-2/{ff}/2x8" in text
        assert f"tiny-2/{ff}/2x8/parts" in text


def test_a_device_that_is_not_here_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Without CUDA one line says what is missing, and nothing is measured."""
    with pytest.raises(UsageError, match="--device cuda: ") as caught:
        sweep_transformer.make_plan(
            replace(make_spec(models="1x3", batch="1", width="1", blas_names=None, seed=0, passes=1,
                              budget=None, processes=1, quick=False, out=None, device="cuda"),
                    architecture=TINY, shapes=["1x8"]),
            SMALL,
        )  # fmt: skip
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_ways_are_planned_beside_plain_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """Steps of training, bfloat16 and compiled passes stand beside plain ones, and what can't be says why."""
    words = ["--dry-run", "--layers", "2", "--batch", "1x128", "--train", "--compile", "--controls"]
    assert cli.run(["model", *words, "--dtype", "float32,bfloat16"]) == 0
    text = capsys.readouterr().out
    for way in ("", "/train", "/bfloat16", "/compiled", "/train/compiled", "/bfloat16/compiled"):
        assert f"bert-base-2/ultrafastbert-1x11/1x128{way} " in text
    assert "bert-base-2/topk-12/1x128/parts" in text
    assert "/compiled/parts" not in text
    assert "/train/bfloat16" not in text
    assert "a topk layer has no backward pass here" in text
    assert "a control is no operator of torch" in text


def test_a_checkpoint_says_what_it_is_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan of a checkpoint's model has its own FFFs and their dense control, by the file's header."""
    path = tmp_path / "own.safetensors"
    write_checkpoint(path)
    assert cli.run(["model", "--dry-run", "--weights", str(path), "--batch", "1x16"]) == 0
    text = capsys.readouterr().out
    assert "own-2/ultrafastbert-1x3/1x16/parts" in text
    assert "own-2/ff-4/1x16/parts" in text
    with pytest.raises(UsageError, match="--arch and --weights"):
        cli.run(["model", "--dry-run", "--weights", str(path), "--arch", "bert-base"])


def test_the_display_tells_passes_in_parts() -> None:
    """While a run goes on, each form stands twice, and which one is timed in parts is said."""
    display, fake = Display(), FakeModels()
    for order, cell in enumerate(fake.cells()):
        display.cell(cell)
        display.sample(fake.sample(cell, 0, 0, order))
    rows = display._table().columns[1]
    told = list(rows.cells)
    assert told.count("ultrafastbert-1x3") == told.count("ultrafastbert-1x3, in parts") == 1
    display, fake = Display(), FakeModels(training=True, times=STEP_TIMES, compiled=(False, True))
    for order, cell in enumerate(fake.cells()):
        display.cell(cell)
        display.sample(fake.sample(cell, 0, 0, order))
    told = list(display._table().columns[1].cells)
    for way in ("train", "train, in parts", "train, compiled"):
        assert told.count(f"ultrafastbert-1x3, {way}") == 1
