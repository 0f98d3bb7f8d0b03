"""The tables and the figure of whole models: what is printed for given runs."""

from __future__ import annotations

import csv
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from fabricated_models import DECODER, FFF, STEP_TIMES, TIMES, TINY, FakeModels
from fabricated_runs import Fake

from harness.analysis.analysis import Analysis, analyse
from harness.records.reader import load_run
from harness.report import files, page, table


@pytest.fixture
def analysis(tmp_path: Path) -> Analysis:
    """Return what is said of a run of one model at two batches."""
    return analyse(load_run(FakeModels(shapes=((2, 8), (1, 8))).write(tmp_path / "run")))


def _section(text: str, heading: str) -> str:
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_the_page_answers_the_question(analysis: Analysis) -> None:
    """The first lines of each model say whether it is faster, by how much, and what bounds that."""
    text = table.format_markdown(analysis)
    for heading in ("tiny, 2 layers, 2 x 8 tokens", "tiny, 2 layers, 1 x 8 tokens"):
        answer = _section(text, heading)
        assert "With UltraFastBERT-1x3 as its FF the model is **faster, 2." in answer
        assert "The FF takes 6" in answer
        assert "(A/A)" in answer
    assert "Why not 78x" in text
    assert text.startswith("# Whole models")


def test_each_form_and_part_has_its_place(analysis: Analysis) -> None:
    """The tables have a row a form; that of the parts names them all."""
    answer = _section(table.format_markdown(analysis), "tiny, 2 layers, 2 x 8 tokens")
    rows = [[c.strip() for c in r.split("|")[1:-1]] for r in answer.splitlines() if r[:1] == "|"]
    names = [row[0] for row in rows if not row[0].startswith("-")]
    assert names == 2 * ["the FF is", "as it is", "left out", "UltraFastBERT-1x3"]
    heads = [row for row in rows if row[0] == "the FF is"]
    assert heads[1][1:] == ["QKV", "scores", "projection", "FF", "norms", "rest"]
    of_dense = next(row for row in rows if row[0] == "as it is" and "%" in row[1])
    assert "65 %" in of_dense[4]


def test_a_decoder_has_a_head(tmp_path: Path) -> None:
    """A step of generation is called so, and the time of its head stands among the parts."""
    times = {ff: {**parts, "head": 4e6} for ff, parts in TIMES.items()}
    fake = FakeModels(architecture=DECODER, times=times)
    text = table.format_markdown(analyse(load_run(fake.write(tmp_path / "run"))))
    answer = _section(text, "tiny-decoder, 2 layers, a step of 2 sequences behind 8 tokens")
    assert "| norms " in answer
    assert "| head " in answer
    assert "(17 %)" in answer


def test_what_is_slower_is_called_so(tmp_path: Path) -> None:
    """A model that is slower with an FFF is said to be, and one that can't be told is not."""
    slow = FakeModels(untimed={FFF: 4.0}).write(tmp_path / "slow")
    assert "the model is **slower, 0.6" in table.format_markdown(analyse(load_run(slow)))
    same = FakeModels(untimed={FFF: 2.5}, noise=0.3, processes=2).write(tmp_path / "same")
    assert "not told from as fast" in table.format_markdown(analyse(load_run(same)))


def test_a_wrong_form_stands_with_its_reason(tmp_path: Path) -> None:
    """What failed its gate is no figure but a reason."""
    text = table.format_markdown(analyse(load_run(FakeModels(lost=(FFF,)).write(tmp_path / "run"))))
    assert "UltraFastBERT-1x3: wrong: layer 1: it is made up." in text


def test_plain_numbers(analysis: Analysis) -> None:
    """model.csv has a row a batch and form, with every ratio's interval and every part."""
    paths = files.write_tables(analysis)
    assert [path.name for path in paths] == list(files.MODEL_FILES)
    rows = list(csv.DictReader(StringIO(paths[1].read_text(encoding="utf-8"))))
    assert len(rows) == 2 * 3
    row = next(r for r in rows if (r["sequences"], r["ff"]) == ("2", FFF))
    assert float(row["speedup_low"]) < 2.5 < float(row["speedup_high"])
    assert float(row["ff_ns"]) == pytest.approx(1e6, rel=0.05)
    assert row["computed_by"] == "fff_cpu_auto"


def test_the_figure_is_drawn(analysis: Analysis) -> None:
    """The one figure of such a run is written in each format, a panel a batch with a bar a form."""
    assert list(files.find_figures(analysis)) == ["model"]
    assert [p.name for p in files.write_plots(analysis)] == [
        "model.png", "model.svg", "model.pdf",
    ]  # fmt: skip
    figure = files.find_figures(analysis)["model"]()
    assert [len(axes.get_xticks()) for axes in figure.axes] == [3, 3]
    tops = {bar.get_x(): bar.get_y() + bar.get_height() for bar in figure.axes[0].patches}
    assert max(tops.values()) == pytest.approx(2e7, rel=0.05)


def test_a_step_of_training_has_its_own_parts(tmp_path: Path) -> None:
    """A step is called one, its parts are the ways of the FF and of all else, and the figure draws them."""
    fake = FakeModels(training=True, times=STEP_TIMES)
    analysis = analyse(load_run(fake.write(tmp_path / "run")))
    text = table.format_markdown(analysis)
    answer = _section(text, "tiny, 2 layers, a step of training, 2 x 8 tokens")
    for part in (
        "FF, backward",
        "FF, update",
        "other, forward",
        "other, backward",
        "other, update",
    ):
        assert f"| {part} " in answer
    assert "of a step of the model as it is" in answer
    assert "AdamW's update" in text
    figure = files.find_figures(analysis)["model"]()
    tops = [bar.get_y() + bar.get_height() for bar in figure.axes[0].patches]
    assert max(tops) == pytest.approx(2.5e7, rel=0.05)


def test_compiled_models_are_told(tmp_path: Path) -> None:
    """Compiled passes have a section with what compiling gained, and no column of parts."""
    fake = FakeModels(compiled=(False, True))
    text = table.format_markdown(analyse(load_run(fake.write(tmp_path / "run"))))
    answer = _section(text, "tiny, 2 layers, 2 x 8 tokens, compiled")
    assert "Run in this way the model as it is gets " in answer
    assert "Where the time of a pass goes" not in answer
    assert "compiled modules have no hooks" in text


def test_loaded_weights_are_named(tmp_path: Path) -> None:
    """A run with the weights of a checkpoint says which, and not that they are drawn."""
    fake = FakeModels(checkpoint="own@0123456789ab")
    text = table.format_markdown(analyse(load_run(fake.write(tmp_path / "run"))))
    assert "Weights are those of own@0123456789ab" in text
    assert "Weights are drawn, not trained" not in text


def test_the_page_shows_models(analysis: Analysis) -> None:
    """The page of a run of models has its answers, a figure and tables a model, all cells, and no ledger."""
    text = page.format_page([analysis])
    for shown in (
        "tiny, 2 layers, 2 x 8 tokens", "tiny, 2 layers, 1 x 8 tokens", "Where the time of a pass goes",
        "Each layer as the FF, over the model as it is", "faster, 2.", "Every cell of run",
        f"tiny-2/{FFF}/2x8",
    ):  # fmt: skip
        assert shown in text
    assert "Ledger of the published figures" not in text
    assert "No FFF could be set against an FF" not in text
    assert text.count('class="bars"') == 2


def test_the_page_of_several_kinds_of_runs(analysis: Analysis, tmp_path: Path) -> None:
    """Runs of models and of layers stand on one page, each with a row on top."""
    layers = analyse(load_run(Fake().write(tmp_path / "layers")))
    text = page.format_page([analysis, layers])
    assert "Whole models over the same as they are" in text
    assert "The fastest FFF over the fastest FF of the same run" in text
    assert "Ledger of the published figures" in text


def test_texts_of_a_run_of_models_are_no_markup(tmp_path: Path) -> None:
    """A name in a run of models is shown as it stands, and never read as HTML."""
    fake = FakeModels(architecture=replace(TINY, name="<b>bold</b>"), checkpoint="<i>x</i>@1")
    text = page.format_page([analyse(load_run(fake.write(tmp_path / "run")))])
    assert "<b>bold" not in text
    assert "<i>x" not in text
    assert "&lt;b&gt;bold" in text


def test_a_run_without_a_right_model_has_no_figure(tmp_path: Path) -> None:
    """Where every form failed its gate there is nothing to draw, and the tables and the page say so."""
    analysis = analyse(load_run(FakeModels(lost=tuple(TIMES)).write(tmp_path / "run")))
    assert files.find_figures(analysis) == {}
    assert [path.name for path in files.write_tables(analysis)] == list(files.MODEL_FILES)
    assert "No FFF could be set against" not in page.format_page([analysis])
