"""Own what the page is made of: tables of texts, numbers of the raw table, lines of prose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup

_INLINE = MarkdownIt("commonmark", {"html": False})


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Hold a table of texts with what it is called."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """Hold a cell of the raw table. value: as the CSV has it, empty where it is no number."""

    shown: str
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Hold what a run says at one point beside the paper. notes: on its tables."""

    title: str
    tables: Sequence[Table]
    notes: Sequence[Markup]


def make_table(caption: str, frame: pd.DataFrame) -> Table:
    """Return a frame of texts as a table."""
    return Table(
        caption=caption, columns=list(frame.columns), rows=frame.astype(str).values.tolist()
    )


def render_prose(lines: Sequence[str]) -> list[Markup]:
    """Return lines of Markdown, whose texts of a run are escaped, as HTML without the marks of a list."""
    return [Markup(_INLINE.renderInline(line.removeprefix("- "))) for line in lines if line]
