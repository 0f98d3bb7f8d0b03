"""Own how figures become files: drawn in memory without a user's settings, then written whole."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records.files import write_whole
from harness.records.text import printable

if TYPE_CHECKING:  # tables go without it, which takes longer to load than they to print
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
_BACKEND = "MPLBACKEND"


class FigureError(RuntimeError):
    """Say which figure could not be drawn, and why."""


@contextmanager
def plain_matplotlib() -> Iterator[None]:
    """Load matplotlib and draw by its own defaults, whatever the environment and a matplotlibrc ask for.

    A notebook's kernel exports a backend that need not be installed where a command is started from it, and
    the import then fails. A matplotlibrc is read from the current folder, a stranger's run for one: it must
    not hand texts to TeX.
    """
    asked = os.environ.pop(_BACKEND, None)
    try:
        import matplotlib as mpl
    finally:
        if asked is not None:
            os.environ[_BACKEND] = asked
    # A glyph that the font lacks, labels too long for their panel: the figure is drawn as it can be.
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mpl.rcdefaults()
        # Fixed ids and no date: the same samples give the same bytes.
        mpl.rcParams.update({"svg.hashsalt": "fff-harness", "font.family": "DejaVu Sans"})
        yield


def write_figures(
    folder: Path, draws: Mapping[str, Callable[[], Figure]], formats: tuple[str, ...]
) -> list[Path]:
    """Draw figures by name, write each in each format into a folder and return the files.

    One that can't be drawn or written costs no other. Raises the first trouble, FigureError or OSError, when
    all are done.
    """
    written: list[Path] = []
    troubles: list[Exception] = []
    with plain_matplotlib():
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
            engine.execute(figure)
            figure.set_layout_engine("none")
        for extension in formats:
            metadata = {"Date": None} if extension == "svg" else {}
            data = io.BytesIO()
            figure.savefig(data, format=extension, dpi=150, metadata=metadata)
            found[folder / f"{name}.{extension}"] = data.getvalue()
    except Exception as error:  # what a drawing library makes of numbers and texts is beyond a list
        why = printable(str(error).partition("\n")[0], 200)
        raise FigureError(f"can't draw {name}: {type(error).__name__}: {why}") from error
    return found
