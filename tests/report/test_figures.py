"""The figures of a run."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from harness.analysis import stats
from harness.analysis.analysis import Analysis, analyse
from harness.analysis.stats import Ratio
from harness.records.reader import load_run
from harness.report import figure_by_batch, figures
from harness.report import files as report_files
from harness.report.drawing import FigureError
from harness.report.files import FIGURES, write_plots


def test_files_are_written_and_deterministic(golden_run: Path) -> None:
    """Each figure is written as PNG and SVG, and the same samples give the same bytes."""
    run = load_run(golden_run)
    first = {p.name: p.read_bytes() for p in write_plots(analyse(run))}
    assert set(first) == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    for name, data in first.items():
        if name.endswith(".png"):
            assert data.startswith(b"\x89PNG")
        else:
            assert ElementTree.fromstring(data).tag.endswith("svg")
    again = {p.name: p.read_bytes() for p in write_plots(analyse(run))}
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

    def fail(_: Analysis) -> Figure:
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
def test_the_bandwidth_is_of_the_ceilings_threads(
    golden_run: Path, threads: int, said: str
) -> None:
    """The axis names how many threads the rates beside it are of."""
    analysis = analyse(load_run(golden_run))
    drawn = figures.ceilings_figure(
        replace(analysis, ceilings=replace(analysis.ceilings, threads=threads))
    )
    assert said in drawn.axes[0].get_xlabel()
