"""Own what a run's texts are in each format: shown as they stand, never read as that format's own marks.

A run folder may be a stranger's, and any text of it may be written in the language of what shows it. So a
printer takes all that it prints through the function of its format, as a whole, before it puts a word to it:
the printer's own marks stand, those of the run are none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from harness.records.text import printable

ValueT = TypeVar("ValueT")

# What begins HTML, a table's column or code has no spelling with a backslash that all readers agree on.
_MARKDOWN = {
    **{c: f"&#{ord(c)};" for c in "|`"}, "<": "&lt;", ">": "&gt;", "&": "&amp;",
    **{c: f"\\{c}" for c in "\\*~#$"},
}  # fmt: skip
_IN_MARKDOWN = str.maketrans(_MARKDOWN)
# Inside of a word, as in the id of an implementation, an underscore is no mark.
_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
# Brackets are a link's where a target, a name or a definition follows: by themselves they stand as they are,
# so that a command with an extra, which is read in a terminal too, can be copied.
_OPENS_A_LINK = re.compile(r"\](?=[(\[:]|$)|^\[")
_IN_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        **{c: f"\\{c}" for c in "&%$#_{}"},
    }
)  # fmt: skip


def markdown(text: str) -> str:
    """Return a text as it stands in Markdown, and in the HTML that is made of it, as one line."""
    escaped = _UNDERSCORE.sub(r"\\_", printable(text).translate(_IN_MARKDOWN))
    escaped = _OPENS_A_LINK.sub(r"\\\g<0>", escaped)
    return f"\\{escaped}" if escaped[:1] in ("-", "+") else escaped


def latex(text: str) -> str:
    """Return a text as it stands in LaTeX, as one line; a row may begin with it."""
    escaped = printable(text).translate(_IN_LATEX)
    return f"{{}}{escaped}" if escaped[:1] in ("[", "*") else escaped


def latex_comment(text: str) -> str:
    """Return a line of LaTeX that is a comment to its end, whatever the text."""
    return f"% {printable(text)}"


def figure(text: str) -> str:
    """Return a text as it stands in a figure: a dollar sign begins no formula."""
    return printable(text).replace("$", r"\$")


def comma_separated(text: str) -> str:
    """Return a text as it stands in CSV: none is a formula to a spreadsheet."""
    shown = printable(text)
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") else shown


def each_text(value: ValueT, escape: Callable[[str], str]) -> ValueT:
    """Return a value with every text in it escaped: in records, in mappings and their keys, in sequences.

    Texts that were equal stay equal, and of the words that a harness itself writes (names of models,
    implementations, findings) none changes: what is looked up by them is found.
    """
    return _each(value, escape)  # type: ignore[no-any-return]


def _each(value: Any, escape: Callable[[str], str]) -> Any:
    if value is None or isinstance(value, int | float):  # most of what a run holds
        return value
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, Path):
        return Path(escape(str(value)))
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: _each(own, escape) for name, own in value})
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: _each(getattr(value, f.name), escape) for f in fields(value)})
    if isinstance(value, dict):
        return {_each(key, escape): _each(own, escape) for key, own in value.items()}
    if isinstance(value, tuple):
        parts = [_each(own, escape) for own in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [_each(own, escape) for own in value]
    return value
