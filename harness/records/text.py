"""Own what of a stranger's text may be shown: no character of it may steer what shows it."""

from __future__ import annotations

from typing import Any

MOST = 2000  # of one text: what a report quotes is a line, never a file


def printable(text: str, most: int = MOST) -> str:
    """Return a text as one line of visible characters, the others as escapes; cut behind `most` of them."""
    if text.isprintable() and len(text) <= most:
        return text
    shown = visible(text[:most])
    return shown if len(text) <= most else f"{shown} ... ({len(text)} characters)"


def visible(text: str) -> str:
    """Return a text as one line of visible characters, the others as escapes."""
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    """Return a character, or its escape where it is a control, a separator, a mark of direction or none."""
    return character if character.isprintable() else ascii(character)[1:-1]


def printable_values(data: Any) -> Any:
    """Return JSON's values with every text in them, names of fields included, made printable."""
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, list):
        return [printable_values(value) for value in data]
    if isinstance(data, dict):
        return {printable(name): printable_values(value) for name, value in data.items()}
    return data
