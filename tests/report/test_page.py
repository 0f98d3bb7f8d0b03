"""The page of runs, as text: what it shows, and what it lets run."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hostile import AFTER_LINE, spoil

from harness import cli
from harness.analysis import by_batch, verdict
from harness.analysis.analysis import Analysis, analyse
from harness.analysis.stats import Ratio
from harness.records.reader import load_run
from harness.report import page, palette
from harness.report.formats import format_ratio

# What HTML closes by itself.
_VOID = {"meta", "link", "br", "input"}


class _Reader(HTMLParser):
    """Collect the elements of a page, the texts of its scripts and styles, and whether all are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.code: dict[str, list[str]] = {"script": [], "style": []}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.code:
            self.code[self.open[-1]].append(data)


def read(text: str) -> _Reader:
    """Return what a page consists of; every element in it is closed in its place."""
    reader = _Reader()
    reader.feed(text)
    assert not reader.open
    return reader


def make(*folders: Path) -> str:
    """Return the page of some runs."""
    return page.format_page([analyse(load_run(folder)) for folder in folders])


def test_nothing_runs_but_what_is_shipped(golden_run: Path) -> None:
    """The policy names the page's one script and one style by their digests, and allows nothing else."""
    found = read(make(golden_run))
    policy = next(a["content"] for t, a in found.elements if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    for tag, source in (("script", "script-src"), ("style", "style-src")):
        assert sum(t == tag for t, _ in found.elements) == 1
        digest = base64.b64encode(hashlib.sha256("".join(found.code[tag]).encode()).digest())
        assert f"{source} 'sha256-{digest.decode()}';" in policy
    names = {name for _, attributes in found.elements for name in attributes}
    assert "style" not in names
    assert not {name for name in names if name.startswith("on")}
    # Links lead inside the page or hold what they name.
    addresses = [a[n] or "" for _, a in found.elements for n in ("href", "src") if n in a]
    assert all(address.startswith(("#", "data:")) for address in addresses)


def test_no_text_of_a_run_is_markup(golden_run: Path, tmp_path: Path) -> None:
    """A run whose every text is markup has the elements of one whose texts are words, and shows them."""
    plain = shutil.copytree(golden_run, tmp_path / "plain")
    spoil(plain, "words")
    spoil(golden_run, AFTER_LINE)
    text = make(golden_run)
    found = read(text)
    assert [t for t, _ in found.elements] == [t for t, _ in read(make(plain)).elements]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "img" not in {t for t, _ in found.elements}


def _csv_of(text: str) -> list[dict[str, str]]:
    address = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', text)
    assert address is not None
    return [*csv.DictReader(io.StringIO(base64.b64decode(address[1]).decode()))]


def test_numbers_of_the_raw_table_are_those_of_the_csv(golden_run: Path) -> None:
    """Each cell's row holds the numbers of its line in the CSV, which is speeds.csv."""
    text = make(golden_run)
    rows = re.findall(r"<tr>(.*?)</tr>", text[text.index('<table class="raw">') :])[1:]
    lines = _csv_of(text)
    assert len(rows) == len(lines) > 5
    columns = ("pass_ns", "token_ns", "gflops", "gbs", "of_ceiling", "of_floor", "samples")
    for row, line in zip(rows, lines, strict=True):
        values = [float(v) for v in re.findall(r'data-value="([^"]*)"', row)][2:]  # batch, width
        assert values == [float(line[c]) for c in columns if line[c]]
        assert f"<td>{line['cell']}</td>" in row
    cli.run(["table", str(golden_run)])
    with (golden_run / "speeds.csv").open(encoding="utf-8") as file:
        assert lines == [*csv.DictReader(file)]


def test_verdict_names_its_interval_and_its_opponent(golden_run: Path) -> None:
    """The first thing said is the fastest FFF's ratio, with its interval, over the fastest FF by name."""
    analysis = analyse(load_run(golden_run))
    found = verdict.find_verdict(analysis.points, analysis.points[0])
    assert found is not None
    assert found.opponent.cell == analysis.points[0].fastest
    assert found.ratio.value == max(v.ratio.value for v in analysis.points[0].versus if v.ratio)
    text = page.format_page([analysis])
    head = text[text.index('class="verdict"') : text.index("The paper's table")]
    value, _, interval = format_ratio(found.ratio).partition(" ")
    assert f"<strong>{value}</strong>" in head
    assert interval.strip("[]").replace(", ", " to ") in head
    assert found.opponent.implementation in head


def test_several_runs_have_a_row_each_and_anchors_of_their_own(
    golden_run: Path, data_folder: Path
) -> None:
    """The page of two runs begins with a row each, and no anchor stands in it twice."""
    text = make(golden_run, data_folder / "run-ladder")
    found = read(text)
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for t, a in found.elements if t == "a"]
    assert {link[1:] for link in links if link and link[0] == "#"} <= set(ids)
    summary = text[text.index("All runs") : text.index("<article")]
    assert summary.count('<th scope="row">') == 2
    assert " ms" not in summary


def test_ladder_has_a_row_a_step(data_folder: Path) -> None:
    """The page of a ladder's run draws each step at each level."""
    text = make(data_folder / "run-ladder")
    for level in (1, 2):
        figure = text[text.index(f'<figure id="ladder-{level}"') :]
        assert figure[: figure.index("</figure>")].count("<summary>") == 9


@pytest.mark.parametrize("kinds", [(), ("provider",), ("provider", "cell")], ids=str)
def test_a_run_without_samples_has_a_page(golden_run: Path, kinds: Sequence[str]) -> None:
    """A run that was ended before anything was sampled says so, and every part that it has is there."""
    path = golden_run / "records.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(x for x in lines if json.loads(x)["kind"] in kinds), encoding="utf-8")
    text = make(golden_run)
    read(text)
    assert "so there is no ratio" in text


def test_command_writes_one_file(
    golden_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`report RUN` writes into the run's folder, `--out` elsewhere, and several runs ask for it."""
    assert cli.run(["report", str(golden_run)]) == 0
    text = (golden_run / "report.html").read_text(encoding="utf-8")
    assert str(golden_run / "report.html") in capsys.readouterr().out
    again = shutil.copytree(golden_run, tmp_path / "again")
    assert cli.run(["report", str(golden_run), "--out", str(tmp_path / "new" / "p.html")]) == 0
    assert (tmp_path / "new" / "p.html").read_text(encoding="utf-8") == text
    with pytest.raises(cli.UsageError, match="--out"):
        cli.run(["report", str(golden_run), str(again)])
    with pytest.raises(cli.UsageError, match="folder"):
        cli.run(["report", str(golden_run), "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({1: 4.0, 16: 2.0}, []),
        ({1: 4.0, 16: 0.25}, [(1, 16, 4.0, True)]),
        ({1: 0.25, 16: 4.0, 64: 0.25}, [(1, 16, 4.0, False), (16, 64, 32.0, True)]),
    ],
)
def test_crossings(values: dict[int, float], expected: list[tuple[int, int, float, bool]]) -> None:
    """A curve crosses 1 between two batches, where a straight line on log axes does."""
    speedups = {b: Ratio(value=v, low=v / 1.1, high=v * 1.1, blocks=3) for b, v in values.items()}
    found = by_batch.crossings(speedups)
    assert [(c.before, c.after, pytest.approx(c.at), c.falls) for c in found] == expected
    assert all(c.sure for c in found)


def test_a_crossing_inside_an_interval_is_not_sure() -> None:
    """Where an interval beside the crossing holds 1 it may lie elsewhere, and is not called sure."""
    speedups = {
        1: Ratio(value=2.0, low=1.8, high=2.2, blocks=3),
        4: Ratio(value=0.9, low=0.7, high=1.1, blocks=3),
    }
    assert [c.sure for c in by_batch.crossings(speedups)] == [False]


def test_colours_tell_the_layers_apart() -> None:
    """No FF has a colour of an FFF, and eight implementations of a layer have eight markers."""
    names = [f"{layer}_{i}" for layer in ("ff", "fff") for i in range(8)]
    styles = palette.make_styles(names)
    by_layer: dict[bool, list[palette.Style]] = {True: [], False: []}
    for name, style in styles.items():
        by_layer[palette.is_conditional(name)].append(style)
    assert not {s.colour for s in by_layer[True]} & {s.colour for s in by_layer[False]}
    assert all(len({s.marker for s in own}) == 8 for own in by_layer.values())


def test_each_row_names_the_command_that_measures_it_again(golden_run: Path) -> None:
    """The command of an FFF's row names its opponent too, and is one that the sweep takes."""
    analysis: Analysis = analyse(load_run(golden_run))
    point = analysis.points[0]
    opponent = analysis.cells[point.fastest].implementation
    text = page.format_page([analysis])
    commands = re.findall(r"<code>python -m harness (sweep [^<]*)</code></td>", text)
    assert len(commands) == sum(s.status == "ok" for p in analysis.points for s in p.speeds)
    assert all(f"{opponent} " in c or f"{opponent}," in c for c in commands)
