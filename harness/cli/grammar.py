"""Own the grammar of the axes: lists, ranges, model names and patterns of ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from harness.errors import UsageError
from harness.problem import recipes
from harness.problem.models import split
from harness.problem.problem import DTYPES

LEVELS = (1, 2, 3)
_NUMBER = r"(\d+)(?:\^(\d+))?"


def _unique(items: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(items))


def _number(option: str, text: str) -> tuple[int, int | None]:
    """Return a number and its exponent, if it was written as a power."""
    match = re.fullmatch(_NUMBER, text)
    if not match:
        raise UsageError(f"{option}: need numbers such as 1,16,2^4..2^14, got {text!r}")
    base, exponent = int(match.group(1)), match.group(2)
    return (base ** int(exponent), int(exponent)) if exponent else (base, None)


def parse_extents(option: str, text: str) -> list[int]:
    """Return the positive integers of a list such as `1,16,2^4..2^14`.

    A range between powers of one base takes every power between them; a range between plain numbers
    doubles from the first to the last.

    Raises UsageError for anything else, and for values below 1.
    """
    values: list[int] = []
    for part in split(text):
        first, dots, last = part.partition("..")
        if not dots:
            values.append(_number(option, part)[0])
        else:
            values.extend(_expand(option, part, first, last))
    if not values:
        raise UsageError(f"{option}: need at least one number, got {text!r}")
    bad = [v for v in values if v < 1]
    if bad:
        raise UsageError(f"{option}: need values of at least 1, got {bad[0]}")
    return _unique(values)


def _expand(option: str, part: str, first: str, last: str) -> list[int]:
    low, low_power = _number(option, first)
    high, high_power = _number(option, last)
    if low < 1 or high < low:
        raise UsageError(f"{option}: need a rising range of positive numbers, got {part!r}")
    if low_power is not None and high_power is not None:
        base, other = int(first.split("^")[0]), int(last.split("^")[0])
        if base != other or base < 2:
            raise UsageError(f"{option}: need powers of one base of at least 2, got {part!r}")
        return [base**e for e in range(low_power, high_power + 1)]
    values = [low]
    while values[-1] * 2 <= high:
        values.append(values[-1] * 2)
    return values


def parse_levels(text: str) -> list[int]:
    """Return the BLAS levels of a list such as `1,2,3`. Raises UsageError for an unknown one."""
    levels = []
    for part in split(text):
        if part not in {str(level) for level in LEVELS}:
            raise UsageError(f"--levels: unknown level {part!r}; known: 1, 2, 3")
        levels.append(int(part))
    if not levels:
        raise UsageError(f"--levels: need at least one of 1, 2, 3, got {text!r}")
    return sorted(set(levels))


def parse_choices(option: str, text: str, known: Sequence[str]) -> list[str]:
    """Return the words of a list, each one of `known`. Raises UsageError for another."""
    words = list(dict.fromkeys(split(text)))
    for word in words:
        if word not in known:
            raise UsageError(f"{option}: unknown value {word!r}; known: {', '.join(known)}")
    if not words:
        raise UsageError(f"{option}: need at least one of {', '.join(known)}, got {text!r}")
    return words


def parse_dtypes(text: str) -> list[str]:
    """Return the dtypes of a list. Raises UsageError for an unknown one."""
    return parse_choices("--dtype", text, DTYPES)


def parse_order(text: str) -> Literal["interleaved", "blocked"]:
    """Return the order of the samples. Raises UsageError for an unknown one."""
    if text not in ("interleaved", "blocked"):
        raise UsageError(f"--order: unknown value {text!r}; known: interleaved, blocked")
    return "blocked" if text == "blocked" else "interleaved"


def parse_routing(text: str) -> list[str]:
    """Return the routings of a list such as `uniform,zipf,trace:FILE`; a trace's path becomes absolute.

    Raises UsageError for an unknown routing or a trace whose file can't be read.
    """
    known = (*recipes.ROUTINGS, f"{recipes.TRACE}FILE")
    found = []
    for word in split(text):
        if not recipes.is_known(word):
            raise UsageError(f"--routing: unknown value {word!r}; known: {', '.join(known)}")
        if word.startswith(recipes.TRACE):
            path = Path(word.removeprefix(recipes.TRACE))
            if not path.is_file():
                raise UsageError(f"--routing: there is no trace file {str(path)!r}")
            word = f"{recipes.TRACE}{path.resolve()}"
        found.append(word)
    if not found:
        raise UsageError(f"--routing: need at least one of {', '.join(known)}, got {text!r}")
    return list(dict.fromkeys(found))
