"""The page of runs in a real browser: Debian's Chromium, driven by playwright."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fabricated_models import FakeModels
from hostile import AFTER_LINE, spoil

from harness.analysis.analysis import analyse
from harness.records.reader import load_run
from harness.report import page as report_page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
)
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
]
_ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Seen:
    """Hold an opened page and what it did that it should not."""

    page: Any
    troubles: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


Open = Callable[..., Seen]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a running browser."""
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Return what opens the page of some runs; nothing was complained of or asked for when it closes."""
    contexts, pages = [], []

    def open_runs(*folders: Path, width: int = 1280, **how: Any) -> Seen:
        path = tmp_path / f"{len(pages)}.html"
        report_page.write_pages([analyse(load_run(folder)) for folder in folders], path)
        context = browser.new_context(viewport={"width": width, "height": 900}, **how)
        contexts.append(context)
        seen = Seen(page=context.new_page())
        pages.append((seen, path.as_uri()))
        seen.page.on("console", lambda message: seen.troubles.append(message.text))
        seen.page.on("pageerror", lambda error: seen.troubles.append(str(error)))
        seen.page.on("dialog", lambda dialog: seen.troubles.append(dialog.message))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.goto(path.as_uri())
        return seen

    yield open_runs
    for seen, address in pages:
        assert seen.troubles == []
        assert {url for url in seen.requests if not url.startswith("data:")} == {address}
    for context in contexts:
        context.close()


@pytest.fixture
def shipped() -> Path:
    """Return the shipped run of several batches, whose page has every figure but the ladder's."""
    root = Path(__file__).parents[2] / "results"
    return root / "20261125T221419Z-vm-53cd3bd598"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a run of whole models, compiled ones among them."""
    return FakeModels(compiled=(False, True)).write(tmp_path / "models")


@pytest.mark.parametrize(("width", "scheme"), [(320, "dark"), (1600, "light")])
def test_all_can_use_it(
    opened: Open, shipped: Path, data_folder: Path, models: Path, width: int, scheme: str
) -> None:
    """Narrow and dark, wide and light, axe finds nothing serious on a sweep, a ladder and models."""
    runs = shipped, data_folder / "run-ladder", models
    page = opened(*runs, width=width, color_scheme=scheme).page
    found = axe.Axe().run(page).response["violations"]
    grave = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in grave] == []


def test_nothing_is_cut(opened: Open, shipped: Path, data_folder: Path, models: Path) -> None:
    """From 320 pixels on the page does not scroll sideways, though its tables do in their own frames."""
    page = opened(shipped, data_folder / "run-ladder", models).page
    for width in (320, 480, 800, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def _column(page: Any, name: str) -> list[str]:
    """Return what stands in a column of the first raw table, of the rows that are shown."""
    return page.evaluate(  # type: ignore[no-any-return]
        """name => {
            const table = document.querySelector("table.raw");
            const column = [...table.tHead.rows[0].cells].findIndex(c => c.textContent === name);
            return [...table.tBodies[0].rows].filter(r => !r.hidden)
                .map(r => r.cells[column].dataset.value ?? r.cells[column].textContent);
        }""",
        name,
    )


def test_table_sorts_filters_and_downloads(opened: Open, shipped: Path) -> None:
    """A heading sorts its column up, then down; words filter the rows; the CSV has the same numbers."""
    page = opened(shipped).page
    every = _column(page, "a pass")
    button = page.get_by_role("button", name="a pass", exact=True)
    button.click()
    rising = _column(page, "a pass")
    assert rising == sorted(every, key=float) != every
    assert page.locator("table.raw th[aria-sort=ascending]").inner_text() == "a pass"
    button.click()
    assert _column(page, "a pass") == sorted(every, key=float, reverse=True)
    page.get_by_role("searchbox").fill("FFF_cpu 1024")
    names = _column(page, "implementation")
    assert set(names) == {"fff_cpu_auto", "fff_cpu_fused", "fff_cpu_grouped"}
    assert set(_column(page, "batch")) == {"1024"}
    assert page.locator(".filter output").inner_text() == f"{len(names)} of {len(every)} cells"
    page.get_by_role("searchbox").fill("")
    with page.expect_download() as download:
        page.get_by_text("Download as CSV").click()
    assert download.value.suggested_filename == f"{shipped.name}-speeds.csv"
    lines = csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8")))
    times = {line["cell"]: line["pass_ns"] for line in lines}
    shown = dict(zip(_column(page, "cell"), _column(page, "a pass"), strict=True))
    assert {cell: float(ns) for cell, ns in shown.items()} == {
        c: float(ns) for c, ns in times.items()
    }


def test_marks_tell_by_key_and_by_pointer(opened: Open, shipped: Path) -> None:
    """A figure is one stop of the Tab key, arrows go from mark to mark; each says n and how to repeat it."""
    page = opened(shipped).page
    figure = page.locator("#roofline")
    marks = figure.locator(".mark")
    assert marks.count() == 50
    assert figure.locator(".mark[tabindex='0']").count() == 1
    figure.locator(".mark[tabindex='0']").focus()
    first = figure.locator(".told").inner_text()
    page.keyboard.press("ArrowRight")
    second = figure.locator(".told").inner_text()
    assert first != second
    for told in (first, second):
        assert re.search(r"median of n = \d+ \(mean .* 95 % interval\)", told)
        assert "of the floor" in told
        assert "python -m harness sweep --only " in told
    marks.nth(30).hover(force=True)
    assert figure.locator(".told").inner_text() not in (first, second)


def test_it_works_without_scripts(opened: Open, shipped: Path) -> None:
    """With scripts off every figure and table is there, marks have titles, and the CSV is a link."""
    page = opened(shipped, java_script_enabled=False).page
    assert page.locator("#roofline .mark title").count() == 50
    assert page.locator("table.raw tbody tr").count() == 68
    assert page.get_by_role("searchbox").count() == 0
    row = page.locator("#speedups summary").first
    assert not page.locator("#speedups .detail").first.is_visible()
    row.press("Enter")
    assert page.locator("#speedups .detail").first.is_visible()


def test_a_hostile_run_does_nothing(opened: Open, golden_run: Path) -> None:
    """Markup and scripts in every text of a run are words on its page: none runs, loads or asks."""
    spoil(golden_run, AFTER_LINE)
    seen = opened(golden_run)
    assert seen.page.locator("img").count() == 0
    assert seen.page.locator("script").count() == 1
    assert "<script>alert(1)</script>" in seen.page.locator("h2").inner_text()
    # A script that got into the page in another way would not run either.
    seen.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), "
        "{textContent: 'window.ran = 1'}))"
    )
    assert seen.page.evaluate("window.ran") is None
    assert len(seen.troubles) == 1
    assert "Content Security Policy" in seen.troubles.pop()


def test_it_prints(opened: Open, shipped: Path) -> None:
    """On paper there is nothing to click: no filter and no links to parts."""
    page = opened(shipped).page
    page.emulate_media(media="print")
    for name in ("nav", ".filter", ".download"):
        assert not page.locator(name).first.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
