"""What this package is as files, and the fresh Python that runs it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from harness import package


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a small package that is taken for this one."""
    folder = tmp_path / "harness"
    (folder / "measure").mkdir(parents=True)
    for name in ("__init__.py", "measure/__init__.py", "_native.cpython-311.so", "notes.md"):
        (folder / name).write_text(name, encoding="utf-8")
    monkeypatch.setattr(package, "FOLDER", folder)
    return folder


def digest() -> str:
    """Return the digest of the package as it is now."""
    return package.identify.__wrapped__().digest


@pytest.mark.parametrize("name", ["__init__.py", "measure/__init__.py", "_native.cpython-311.so"])
def test_every_file_of_code_counts(copied: Path, name: str) -> None:
    """A change in any module, however deep, or in the compiled part is another digest."""
    before = digest()
    assert digest() == before
    (copied / name).write_text("changed", encoding="utf-8")
    assert digest() != before


def test_what_is_no_code_does_not_count(copied: Path) -> None:
    """Text beside the code and compiled bytes of Python do not change the digest; a new module does."""
    before = digest()
    (copied / "notes.md").write_text("changed", encoding="utf-8")
    (copied / "__pycache__").mkdir()
    (copied / "__pycache__" / "a.cpython-311.pyc").write_text("x", encoding="utf-8")
    assert digest() == before
    (copied / "new.py").write_text("", encoding="utf-8")
    assert digest() != before


def test_this_harness_is_itself() -> None:
    """What is found here is no other harness."""
    assert package.why_another(package.identify()) == ""


@pytest.mark.parametrize("name", ["version", "license"])
def test_citation_says_what_the_package_says(name: str) -> None:
    """CITATION.cff names the version and the license of pyproject.toml."""
    root = Path(__file__).parents[1]
    own = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"][name]
    lines = (root / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"{name}: {own}" in lines
