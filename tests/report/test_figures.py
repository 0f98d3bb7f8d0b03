"""The figures of a run."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from fabricated_ceilings import ceiling_records, cell_record, make_run
from made_curves import VIRTUAL, analyse_walk
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from harness import cli
from harness.analysis import stats
from harness.analysis.analysis import Analysis, analyse
from harness.analysis.stats import Ratio
from harness.errors import UsageError
from harness.records.reader import load_run
from harness.report import figure_bandwidth, figure_by_batch, figures
from harness.report import files as report_files
from harness.report.drawing import FORMATS, STYLES, FigureError, plain_matplotlib
from harness.report.figure_style import STYLES as ALL_STYLES
from harness.report.files import BANDWIDTH, CACHES, FIGURES, find_figures, write_plots
from harness.report.palette import COLOURS

# The first draws all figures too; another has each of them once more.
SOME_STYLES = [s if s == STYLES[0] else pytest.param(s, marks=pytest.mark.slow) for s in STYLES]


@pytest.mark.parametrize("style", SOME_STYLES)
def test_files_are_written_and_deterministic(golden_run: Path, style: str) -> None:
    """Each figure is written as PNG, SVG and PDF, in each style, and the same samples give the same bytes."""
    run = load_run(golden_run)
    first = {p.name: p.read_bytes() for p in write_plots(analyse(run), style)}
    assert set(first) == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "pdf")}
    for name, data in first.items():
        if name.endswith(".svg"):
            assert ElementTree.fromstring(data).tag.endswith("svg")
        else:
            assert data.startswith(b"%PDF" if name.endswith(".pdf") else b"\x89PNG")
    again = {p.name: p.read_bytes() for p in write_plots(analyse(run), style)}
    assert {n for n in first if first[n] != again[n]} == set()


def test_speedups_drawn(golden_run: Path) -> None:
    """The speedup figure has a bar a measured figure, the published one beside it, on a log axis."""
    figure = figures.speedup_figure(analyse(load_run(golden_run)))
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    # Two speedups of BERT-base-3072, one of the tree over its level, one over the fastest FF.
    assert len(axes.get_yticks()) == 4
    assert len(axes.patches) == 8
    widths = sorted(round(p.get_width(), 2) for p in axes.patches)
    assert widths == sorted([1.33, 1.55, 1.33, 1.39, 200.0, 130.7, 40.0, 48.0])


def test_time_bars_and_lines(golden_run: Path) -> None:
    """One batch is drawn as bars; several batches as lines over the batch."""
    figure = figures.time_figure(analyse(load_run(golden_run)))
    assert len(figure.axes[0].patches) == 6
    path = golden_run / "records.jsonl"
    text = path.read_text(encoding="utf-8")
    smaller = []
    for line in text.splitlines():
        data = json.loads(line)
        if data["kind"] in ("cell", "sample") and not data["cell"].startswith("ceiling"):
            data["cell"] = data["cell"].replace("/b64/", "/b32/")
            if data["kind"] == "cell":
                data["batch"] = 32
            smaller.append(json.dumps(data))
    path.write_text(text + "\n".join(smaller) + "\n", encoding="utf-8")
    lines = figures.time_figure(analyse(load_run(golden_run))).axes[0].get_lines()
    assert len(lines) == 6
    assert all(list(line.get_xdata()) == [32, 64] for line in lines)


@pytest.mark.parametrize(
    ("kinds", "files"), [(("provider",), 0), (("provider", "cell"), len(FIGURES))]
)
def test_a_run_without_samples(
    golden_run: Path, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, ...], files: int
) -> None:
    """A run that was ended before its first sample is drawn empty, one without a cell not at all."""
    monkeypatch.setattr(report_files, "_FORMATS", ("svg",))
    path = golden_run / "records.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(x for x in lines if json.loads(x)["kind"] in kinds), encoding="utf-8")
    assert len(write_plots(analyse(load_run(golden_run)))) == files


@pytest.mark.parametrize("draw", [figures.speedup_figure, figure_by_batch.draw])
def test_an_endless_interval_does_not_push_the_figure_away(
    draw: Callable[[Analysis], Figure], golden_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interval that reaches to 1e40 leaves the axes where the values are, and the figure is written."""
    wide = Ratio(value=3.0, low=1e-40, high=1e40, blocks=2)
    monkeypatch.setattr(stats, "ratio", lambda *_: wide)
    figure = draw(analyse(load_run(golden_run)))
    figure.savefig(io.BytesIO())
    limits = [*figure.axes[0].get_xlim(), *figure.axes[0].get_ylim()]
    assert max(limits) < 1e5


def test_a_figure_that_fails_costs_no_other(
    golden_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures beside one that can't be drawn are written, then it is named with the reason."""

    def fail(_: Analysis, __: object) -> Figure:
        raise ValueError("no such number\nand more")

    monkeypatch.setattr(figures, "speedup_figure", fail)
    with pytest.raises(FigureError, match=r"^can't draw speedup: ValueError: no such number$"):
        write_plots(analyse(load_run(golden_run)))
    found = {path.stem for path in golden_run.glob("*.png")}
    assert found == set(FIGURES) - {"speedup"}


@pytest.mark.slow
def test_a_figure_replaces_a_link(golden_run: Path, tmp_path: Path) -> None:
    """A link that lies in a stranger's folder under a figure's name is replaced, never followed."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (golden_run / "speedup.svg").symlink_to(victim)
    write_plots(analyse(load_run(golden_run)))
    assert victim.read_text() == "mine"
    assert not (golden_run / "speedup.svg").is_symlink()


@pytest.mark.slow
def test_settings_of_a_user_change_no_figure(
    golden_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that is not installed and a matplotlibrc that hands texts to TeX are put aside, then back."""
    analysis = analyse(load_run(golden_run))
    before = {path.name: path.read_bytes() for path in write_plots(analysis)}
    monkeypatch.setenv("MPLBACKEND", "module://no_such_backend")
    with mpl.rc_context({"text.usetex": True, "axes.facecolor": "red"}):
        assert {path.name: path.read_bytes() for path in write_plots(analysis)} == before
        assert mpl.rcParams["text.usetex"]
    assert os.environ["MPLBACKEND"] == "module://no_such_backend"


@pytest.mark.parametrize(
    ("threads", "said"), [(1, "of one thread,"), (3, "of 3 threads together,")]
)
def test_the_bandwidth_is_of_the_ceilings_threads(tmp_path: Path, threads: int, said: str) -> None:
    """The axis names how many threads the rates beside it are of."""
    analysis = analyse(make_run(tmp_path / "run", [*ceiling_records(), (cell_record("ff"), 1e9)]))
    drawn = figure_bandwidth.draw(
        replace(analysis, ceilings=replace(analysis.ceilings, threads=threads))
    )
    assert said in drawn.axes[0].get_ylabel()


# ---- print --------------------------------------------------------------------------------------


def drawn_figures(analysis: Analysis, style: str) -> Iterator[tuple[str, Figure]]:
    """Draw and lay out each figure of a run as it is written."""
    with plain_matplotlib(ALL_STYLES[style].settings):
        for name, draw in find_figures(analysis, style).items():
            figure = draw()
            for _ in range(2):
                figure.draw_without_rendering()
            yield name, figure


def find_beyond(panel: Any) -> set[Text]:
    """Return the labels of ticks beyond the ends of their axis, which are not drawn."""
    found = set()
    for axis in (panel.xaxis, panel.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        found |= {t.label1 for t in ticks if not low <= t.get_loc() <= high}
    return found


@pytest.fixture(params=["shipped", "models", "device", "walk"])
def varied(request: pytest.FixtureRequest, data_folder: Path, tmp_path: Path) -> Analysis:
    """Return the analysis of a run on a CPU, of models, on a device, and of one that began with a walk."""
    if request.param == "walk":
        return analyse_walk(tmp_path / "walk", VIRTUAL)
    results = data_folder.parents[1] / "results"
    runs = {
        "shipped": results / "20261125T221419Z-vm-53cd3bd598",
        "models": results / "20261127T172329Z-vm-f78b9d9d3f",
        "device": data_folder / "run-gpu",
    }
    return analyse(load_run(runs[request.param]))


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_no_text_is_cut_and_none_lies_on_another(varied: Analysis, style: str) -> None:
    """In each figure and style every text lies inside the picture, and no two of one axis overlap."""
    for name, figure in drawn_figures(varied, style):
        canvas = figure.bbox.padded(1)
        for panel in figure.axes:
            boxes, beyond = [], find_beyond(panel)
            for text in panel.findobj(Text):
                if not (text.get_visible() and text.get_text()) or text in beyond:
                    continue
                box = text.get_window_extent()
                assert canvas.x0 <= box.x0, (name, text)
                assert box.x1 <= canvas.x1, (name, text)
                assert canvas.y0 <= box.y0, (name, text)
                assert box.y1 <= canvas.y1, (name, text)
                if not text.get_rotation():  # a slanted one fills its box in part
                    boxes.append((text.get_text(), box.padded(-1)))
            for (text, box), (other, beside) in combinations(boxes, 2):
                assert text == other or not box.overlaps(beside), (name, text, other)


@pytest.mark.slow
def test_paper_has_the_width_of_a_column(varied: Analysis) -> None:
    """A figure for a paper is 3.3 inches wide, in Computer Modern, each underscore an underscore."""
    for _, figure in drawn_figures(varied, "paper"):
        assert figure.get_figwidth() == 3.3
        for text in figure.findobj(Text):
            assert text.get_fontfamily()[0] == "cmr10"
            assert "_" not in re.sub(r"\$[^$]*\$", "", text.get_text())


def test_a_style_that_is_none_is_named(golden_run: Path) -> None:
    """A style that is not known is a usage error that lists those that are."""
    with pytest.raises(UsageError, match="unknown style 'slide'; known: screen, paper"):
        cli.run(["plot", str(golden_run), "--style", "slide"])


def test_command_draws_in_a_style(golden_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`plot --style paper` writes the figures of a column, in all formats."""
    assert cli.run(["plot", str(golden_run), "--style", "paper"]) == 0
    assert "speedup.pdf" in capsys.readouterr().out
    assert {path.suffix[1:] for path in golden_run.glob("speedup.*")} == set(FORMATS)
    assert b"Cmr10" in (golden_run / "speedup.pdf").read_bytes()


@pytest.mark.slow
def test_no_layer_has_the_colours_of_what_is_none(varied: Analysis) -> None:
    """Ceilings and caches are drawn in black and grey: a colour is a layer's, in every figure."""
    hues = {to_hex(colour) for colour in COLOURS[:7]}
    for name, figure in drawn_figures(varied, "screen"):
        if name in (BANDWIDTH, CACHES):
            lines = [line for panel in figure.axes for line in panel.get_lines()]
            assert not hues & {to_hex(line.get_color()) for line in lines}
