"""The pages as a site: it builds without a network, and no link leads nowhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytest.importorskip("sphinx")
pytest.importorskip("myst_parser")
pytest.importorskip("furo")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as its page says; a warning, such as a link that leads nowhere, ends it."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "sphinx", "-W", "-q", "-d", str(folder / "kept")]
    done = subprocess.run(
        [*words, "docs", str(folder / "site")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.mark.slow
def test_every_page_is_in_it(site: Path) -> None:
    """Each page of docs has one in the site, which the first page's list leads to."""
    start = (site / "index.html").read_text(encoding="utf-8")
    pages = {
        p.relative_to(ROOT / "docs").with_suffix(".html") for p in (ROOT / "docs").rglob("*.md")
    }
    assert len(pages) > 15
    for page in pages:
        assert (site / page).is_file()
        assert f'href="{page}"' in start or page.name == "index.html"


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """No page asks for a script, style or picture of another host: it is read without a network."""
    loads = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:)?//[^"]*"')
    for page in site.rglob("*.html"):
        assert not loads.search(page.read_text(encoding="utf-8")), page
