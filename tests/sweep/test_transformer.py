"""Whole models from end to end: planned, gated, sampled, recorded, taken up again."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from fabricated_models import PUBLISHED, TINY
from made_machines import SMALL

from harness import cli
from harness.cli.sweep_options import make_spec
from harness.errors import UnavailableError, UsageError
from harness.problem.architecture import ARCHITECTURES
from harness.problem.transformer import DENSE, LEFT_OUT, Transformer
from harness.records.reader import load_run
from harness.sweep import repro, resume, twins
from harness.sweep import transformer as sweep_transformer
from harness.sweep.plan import Plan
from harness.sweep.spec import SweepSpec
from harness.sweep.state import CellTable

CONFIGURATION = {
    "model_type": "bert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "vocab_size": 50, "max_position_embeddings": 16,
}  # fmt: skip
FORMS = (DENSE, LEFT_OUT, "ultrafastbert-1x3", "ff-4")


def _spec(**changes: object) -> SweepSpec:
    spec = make_spec(
        models="1x3,ff-4", batch="16", width="32", blas_names=None, seed=0, passes=2, budget=None,
        processes=1, quick=False, out=None,
    )  # fmt: skip
    return replace(spec, **{"architecture": TINY, "shapes": ["2x8"], "blas": [], **changes})


def _plan(**changes: object) -> Plan:
    return sweep_transformer.make_plan(_spec(**changes), SMALL)


# ---- plans --------------------------------------------------------------------------------------


def test_every_form_is_planned_twice() -> None:
    """A plan has each form of the model as it is timed and in parts, all in one process of torch."""
    plan = _plan()
    assert [c.id for c in plan.cells] == [
        *(f"tiny-2/{ff}/2x8" for ff in FORMS), *(f"tiny-2/{ff}/2x8/parts" for ff in FORMS)
    ]  # fmt: skip
    assert [key.library for key in plan.process_keys()] == ["torch"]
    assert {c.role for c in plan.cells} == {"model"}
    assert plan.predicted_s() > 0
    assert plan.memory_bytes() > 0


def test_what_is_gated_first_was_planned_first() -> None:
    """The model as it is comes before all that is set against it."""
    states = CellTable.begin(_plan(shapes=["1x8", "4x8"])).states
    assert [s.cell.id for s in states][:2] == ["tiny-2/dense/4x8", "tiny-2/left-out/4x8"]


def test_the_model_as_it_is_has_a_twin() -> None:
    """Each batch's model as it is, without timers, is measured a second time; no other cell is."""
    table = CellTable.begin(_plan(shapes=["1x8", "2x4"]))
    for state in table.states:
        state.pass_s = 1.0
    made = [state.cell.id for state in twins.make_missing(table, "bert-base-4095", 0)]
    assert sorted(made) == ["tiny-2/dense/1x8/again", "tiny-2/dense/2x4/again"]


def test_what_failed_names_the_command_that_repeats_it() -> None:
    """A cell of a known architecture can be measured again by itself; a file's name is not in the run."""
    spec, bert = _spec(), replace(ARCHITECTURES["bert-base"], layers=2)
    whole = Transformer(architecture=bert, sequences=2, tokens=8, ff="ultrafastbert-1x3")
    words = shlex.split(repro.command(spec, sweep_transformer.make_cell(whole, 0), 7))
    assert words[:4] == ["python", "-m", "harness", "model"]
    assert cli.run([*words[3:], "--dry-run"]) == 0
    own = replace(whole, architecture=TINY)
    assert repro.command(spec, sweep_transformer.make_cell(own, 0), 7) == ""


def test_too_large_models_are_refused() -> None:
    """A model that does not fit into memory is refused before anything is built."""
    large = replace(TINY, width=8192, hidden=32768, layers=96)
    with pytest.raises(UsageError, match="the operands need"):
        _plan(architecture=large)


def test_each_way_of_a_model_has_a_twin() -> None:
    """The model as it is, in every way that it is run, is measured a second time."""
    table = CellTable.begin(_plan(train=True, compile=True))
    for state in table.states:
        state.pass_s = 1.0
    made = [state.cell.id for state in twins.make_missing(table, "bert-base-4095", 0)]
    ways = ("", "/compiled", "/train", "/train/compiled")
    assert sorted(made) == sorted(f"tiny-2/dense/2x8{way}/again" for way in ways)


def test_steps_of_training_are_of_float32() -> None:
    """A step of training in bfloat16 is not planned, and the plan says why."""
    axes = {**_spec().axes, "dtype": ["bfloat16"]}
    plan = _plan(train=True, axes=axes)
    assert {c.transformer.training for c in plan.cells if c.transformer} == {False}
    assert all("float32" in why for _, why in plan.unavailable)


def test_leaf_networks_are_refused() -> None:
    """What is no tree of neurons, no FF and no control of one can't stand in a model."""
    spec = make_spec(
        models="leaf-4x2", batch="1", width="1", blas_names=None, seed=0, passes=1, budget=None,
        processes=1, quick=False, out=None,
    )  # fmt: skip
    with pytest.raises(UsageError, match="leaf-4x2"):
        sweep_transformer.check_models(spec.models)


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_missing_packages_are_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch or transformers one line says what to install."""
    monkeypatch.setattr(
        sweep_transformer.torch_library, "unavailable",
        lambda: "torch is not installed: pip install 'fff-harness[torch]'" if missing == "torch" else "",
    )  # fmt: skip
    monkeypatch.setattr(
        sweep_transformer.importlib.util,
        "find_spec",
        lambda name: None if name == missing else name,
    )
    with pytest.raises(UnavailableError, match=r"pip install 'fff-harness\[model\]'") as caught:
        sweep_transformer.require_packages(TINY)
    assert missing in str(caught.value)


def test_the_published_model_needs_torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """UltraFastBERT is built in plain torch: without transformers it is measured all the same."""
    monkeypatch.setattr(sweep_transformer.torch_library, "unavailable", lambda: "")
    monkeypatch.setattr(sweep_transformer.importlib.util, "find_spec", lambda name: None)
    sweep_transformer.require_packages(PUBLISHED)


# ---- runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the configuration of a tiny model."""
    path = tmp_path_factory.mktemp("models") / "small.json"
    path.write_text(json.dumps(CONFIGURATION), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(configuration: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a whole run of it at one batch, made once."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    out = tmp_path_factory.mktemp("runs") / "run"
    words = ["--models", "1x3,ff-4", "--batch", "2x8", "--passes", "4", "--processes", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.measure.clock.MIN_SAMPLE_NS", 1000)
        status = cli.run(
            ["model", "--arch", str(configuration), *words, "--no-figures", "--out", str(out)]
        )
    assert status == 0
    return out


def test_whole_run(whole: Path) -> None:
    """A run of a model ends with every cell right, gated in each process, and sampled in every block."""
    run = load_run(whole)
    assert run.warnings == []
    assert run.end is not None
    assert run.end.reason == "complete"
    ids = [*(f"small-2/{ff}/2x8" for ff in FORMS), *(f"small-2/{ff}/2x8/parts" for ff in FORMS)]
    assert set(run.cells["cell"]) == {*ids, "small-2/dense/2x8/again"}
    assert set(run.cells["status"]) == {"ok"}
    assert (run.cells["checked_tokens"] == 16).all()
    sampled = run.samples.groupby("cell")["block"].agg(lambda blocks: set(blocks))
    assert all(blocks == {0, 1, 2, 3} for blocks in sampled)
    assert set(run.samples["process"]) == {0, 1}
    assert run.samples["order"].tolist() == list(range(len(run.samples)))


def test_a_step_of_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of generation is measured as a pass of an encoder is, with its head among the parts."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    monkeypatch.setattr("harness.measure.clock.MIN_SAMPLE_NS", 1000)
    words = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32,
             "vocab_size": 50}  # fmt: skip
    (tmp_path / "step.json").write_text(json.dumps(words), encoding="utf-8")
    out = tmp_path / "run"
    assert cli.run(
        ["model", "--arch", str(tmp_path / "step.json"), "--models", "1x3", "--batch", "2x9",
         "--passes", "2", "--processes", "1", "--no-figures", "--out", str(out)]
    ) == 0  # fmt: skip
    run = load_run(out)
    assert set(run.cells["status"]) == {"ok"}
    assert set(run.cells["batch"]) == {2}
    in_parts = run.samples[run.samples["cell"].str.endswith("/parts")]
    assert len(in_parts)
    assert all(parts["head"] > 0 for parts in in_parts["parts_ns"])
    assert "a step of 2 sequences behind 9 tokens" in (out / "table.md").read_text(encoding="utf-8")


def test_parts_are_recorded_of_their_cells_alone(whole: Path) -> None:
    """Samples in parts tell where the whole of their time went; all others tell nothing of it."""
    samples = load_run(whole).samples
    in_parts = samples["cell"].str.endswith("/parts")
    assert in_parts.any()
    for _, sample in samples[in_parts].iterrows():
        assert sum(sample["parts_ns"].values()) == sample["elapsed_ns"]
    assert all(parts == {} for parts in samples[~in_parts]["parts_ns"])


def test_what_computes_is_recorded(whole: Path) -> None:
    """The record says what computed the layer, and how many nodes the tokens of the first one touched."""
    cells = load_run(whole).cells.set_index("cell")
    fff, dense = cells.loc["small-2/ultrafastbert-1x3/2x8"], cells.loc["small-2/dense/2x8"]
    assert fff["notes"]["computed_by"].startswith("fff_")
    assert dense["notes"] == {}
    assert 1 <= fff["nodes_touched"] <= 15
    assert dense["nodes_touched"] == 0


def test_the_table_is_made_anew(whole: Path) -> None:
    """`table` writes the very files that the run ended with."""
    before = {name: (whole / name).read_bytes() for name in ("table.md", "model.csv")}
    for name in before:
        (whole / name).unlink()
    assert cli.run(["table", str(whole)]) == 0
    assert {name: (whole / name).read_bytes() for name in before} == before


def test_a_cut_run_is_taken_up(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed in its second process goes on with what is missing, under the same names."""
    monkeypatch.setattr("harness.measure.clock.MIN_SAMPLE_NS", 1000)
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "run.json").write_bytes((whole / "run.json").read_bytes())
    lines = (whole / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    first = [line for line in lines if '"process":0' in line]
    (cut / "records.jsonl").write_text("".join(first) + '{"kind":"sam', encoding="utf-8")
    assert cli.run(["model", "--resume", str(cut), "--no-figures"]) == 0
    run = load_run(cut)
    assert run.end is not None
    assert run.end.reason == "complete"
    assert len(run.resumes) == 1
    sampled = run.samples.groupby("cell")["block"].agg(lambda blocks: len(set(blocks)))
    assert set(sampled) == {4}
    assert resume.find_spec(run).architecture == replace(
        TINY, name="small", hidden=64, vocabulary=50, positions=16
    )


def test_a_whole_run_of_all_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded weights, steps of training, bfloat16 and controls in one run; what can't be has a reason."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr("harness.measure.clock.MIN_SAMPLE_NS", 1000)
    made = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=16,
    )  # fmt: skip
    folder, out = tmp_path / "own", tmp_path / "run"
    transformers.BertModel(made).save_pretrained(folder)
    assert cli.run(
        ["model", "--weights", str(folder), "--models", "1x3", "--controls", "--batch", "2x8",
         "--passes", "1", "--processes", "1", "--train", "--dtype", "float32,bfloat16",
         "--no-figures", "--out", str(out)]
    ) == 0  # fmt: skip
    run = load_run(out)
    cells = run.cells.set_index("cell")
    right = cells[cells["status"] == "ok"]
    for way in ("", "/train", "/bfloat16", "/parts", "/train/parts", "/bfloat16/parts"):
        assert f"own-2/ultrafastbert-1x3/2x8{way}" in right.index
    for control in ("ff-4", "hash-4", "topk-4of15", "peer-4of16"):
        assert right.loc[f"own-2/{control}/2x8", "notes"]["computed_by"].startswith(control[:2])
    rest = cells[cells["status"] != "ok"]
    assert set(rest["status"]) == {"unavailable"}
    assert rest.loc["own-2/hash-4/2x8/train", "reason"] == "a hash layer has no backward pass here"
    assert rest.loc["own-2/dense/2x8/train/bfloat16", "reason"].startswith("steps of training")
    text = (out / "table.md").read_text(encoding="utf-8")
    assert "## own, 2 layers, a step of training, 2 x 8 tokens" in text
    assert "Weights are those of own@" in text
    assert (out / "report.html").is_file()
    # Taken up it is with the same weights alone.
    assert run.head.sweep.checkpoint == str(folder)
    transformers.BertModel(made).save_pretrained(folder)
    with pytest.raises(UsageError, match="now, the run was measured with own@"):
        cli.run(["model", "--resume", str(out)])


def test_each_command_takes_up_its_own_runs(whole: Path) -> None:
    """A run of models is no sweep's to take up, and options that say otherwise are refused."""
    with pytest.raises(UsageError, match="take it up with `model`"):
        cli.run(["sweep", "--resume", str(whole)])
    with pytest.raises(UsageError, match="--batch"):
        cli.run(["model", "--resume", str(whole), "--batch", "1x8"])
