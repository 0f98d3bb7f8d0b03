"""Own how figures become files: drawn in memory without a user's settings, then written whole."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records.files import write_whole
from harness.records.text import printable

if TYPE_CHECKING:  # tables go without it, which takes longer to load than they to print
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
STYLES = ("screen", "paper")  # whose settings figure_style has, which loads matplotlib
_BACKEND = "MPLBACKEND"
# What makes two files of the same figure differ.
_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


class FigureError(RuntimeError):
    """Say which figure could not be drawn, and why."""


@contextmanager
def plain_matplotlib(settings: Any = None) -> Iterator[None]:
    """Load matplotlib and draw by its own defaults, whatever the environment and a matplotlibrc ask for.

    A notebook's kernel exports a backend that need not be installed where a command is started from it, and
    the import then fails. A matplotlibrc is read from the current folder, a stranger's run for one: it must
    not hand texts to TeX. settings: those of a style.
    """
    asked = os.environ.pop(_BACKEND, None)
    try:
        import matplotlib as mpl
    finally:
        if asked is not None:
            os.environ[_BACKEND] = asked
    # A glyph that the font lacks, labels too long for their panel: the figure is drawn as it can be.
    # Nor is it anybody's that a font that matplotlib ships has a date of 1904.
    fonts = logging.getLogger("fontTools")
    level = fonts.level
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fonts.setLevel(logging.ERROR)
        mpl.rcdefaults()
        # Fixed ids and no date: the same samples give the same bytes.
        mpl.rcParams.update({"svg.hashsalt": "fff-harness"})
        mpl.rcParams.update(settings or {})
        try:
            yield
        finally:
            fonts.setLevel(level)


def find_settings(style: str) -> Mapping[str, Any]:
    """Return matplotlib's settings of a style, by its name."""
    with plain_matplotlib():
        from harness.report import figure_style
    return figure_style.STYLES[style].settings


def write_figures(
    folder: Path, draws: Mapping[str, Callable[[], Figure]], formats: tuple[str, ...],
    settings: Mapping[str, Any],
) -> list[Path]:  # fmt: skip
    """Draw figures by name, write each in each format into a folder and return the files.

    settings: of matplotlib, those of a style.

    One that can't be drawn or written costs no other. Raises the first trouble, FigureError or OSError, when
    all are done.
    """
    written: list[Path] = []
    troubles: list[Exception] = []
    with plain_matplotlib(settings):
        for name, draw in draws.items():
            try:
                for path, data in _render(folder, name, draw, formats).items():
                    write_whole(path, data)
                    written.append(path)
            except (OSError, FigureError) as error:
                troubles.append(error)
    if troubles:
        raise troubles[0]
    return written


def _render(
    folder: Path, name: str, draw: Callable[[], Figure], formats: tuple[str, ...]
) -> dict[Path, bytes]:
    """Return the content of a figure's files. Raises FigureError."""
    found = {}
    try:
        figure = draw()
        # Laid out once, for all formats: that takes as long as one of them takes to draw.
        if engine := figure.get_layout_engine():
            # Twice: what stands beside the axes moves with them, and a label at the edge was cut by a hair.
            engine.execute(figure)
            engine.execute(figure)
            figure.set_layout_engine("none")
        for extension in formats:
            metadata = _UNDATED.get(extension, {})
            data = io.BytesIO()
            figure.savefig(data, format=extension, metadata=metadata)
            found[folder / f"{name}.{extension}"] = data.getvalue()
    except Exception as error:  # what a drawing library makes of numbers and texts is beyond a list
        why = printable(str(error).partition("\n")[0], 200)
        raise FigureError(f"can't draw {name}: {type(error).__name__}: {why}") from error
    return found
