"""Own the grammar of the axes: lists, ranges, model names and patterns of ids."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from harness.errors import UnknownNameError, UsageError
from harness.problem import axes, models
from harness.problem.axes import Axis
from harness.problem.models import Model, split

_T = TypeVar("_T")
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


_MOST_SEEDS = 1000  # each is a sweep of minutes


def parse_seeds(option: str, text: str) -> list[int]:
    """Return the seeds of a list such as `0,3..7`, in which a range takes every number.

    Raises UsageError for anything else, for none, and for more than a thousand.
    """
    values: list[int] = []
    for part in split(text):
        first, dots, last = part.partition("..")
        if not (first.isdecimal() and (last.isdecimal() if dots else True)):
            raise UsageError(f"{option}: need numbers of 0 or more such as 0,3..7, got {part!r}")
        low, high = int(first), int(last if dots else first)
        if high < low or high - low >= _MOST_SEEDS:
            raise UsageError(
                f"{option}: need a rising range of at most {_MOST_SEEDS} numbers, got {part!r}"
            )
        values += range(low, high + 1)
    if not values or len(set(values)) > _MOST_SEEDS:
        raise UsageError(f"{option}: need 1 to {_MOST_SEEDS} numbers, got {len(set(values))}")
    return _unique(values)


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


def _parse(option: str, parse: Callable[[str], _T], text: str) -> _T:
    """Return what a parser that knows no options makes of one's text; its mistakes name the option."""
    try:
        return parse(text)
    except UnknownNameError:  # says itself what it is a name of
        raise
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from None


def parse_models(text: str) -> list[Model]:
    """Return the models of a list. Raises UsageError for one that can't be, UnknownNameError."""
    return _parse("--models", models.parse_models, text)


def parse_baseline(text: str) -> str:
    """Return the name of the FF that ratios are over. Raises UsageError for an FFF, UnknownNameError."""
    return _parse("--baseline", models.parse_baseline, text)


def parse_axes(device: str, asked: Mapping[str, str | None]) -> dict[str, list[str]]:
    """Return the values on each axis: what was asked for, else what is usual on the device.

    Raises UsageError for an unknown value, UnknownNameError for what is no axis.
    """
    found = axes.usual(device)
    for name, text in asked.items():
        if text is not None:
            found[name] = parse_axis(axes.find(name), device, text)
    return found


def parse_axis(axis: Axis, device: str, text: str) -> list[str]:
    """Return the values of a list such as `uniform,zipf,trace:FILE`; a file's path becomes absolute.

    Raises UsageError for an unknown value, a file that is not there, or what the device does not have.
    """
    option, known = f"--{axis.name}", ", ".join(axis.known)
    found = []
    for word in split(text):
        if not axis.takes(word):
            raise UsageError(f"{option}: unknown value {word!r}; known: {known}")
        found.append(word if word in axis.values else _resolve(axis, word))
    if not found:
        raise UsageError(f"{option}: need at least one of {known}, got {text!r}")
    if axis.device and device == "cpu" and set(found) != {axis.default}:
        raise UsageError(
            f"{option}: the CPU has {axis.default} alone, got {text!r}; take --device {axis.device}"
        )
    return list(dict.fromkeys(found))


def _resolve(axis: Axis, word: str) -> str:
    """Return a value that names a file with the file's absolute path."""
    start = next(start for start in axis.files if word.startswith(start))
    path = Path(word.removeprefix(start))
    if not path.is_file():
        raise UsageError(f"--{axis.name}: there is no {start.removesuffix(':')} file {str(path)!r}")
    return f"{start}{path.resolve()}"


def parse_order(text: str) -> Literal["interleaved", "blocked"]:
    """Return the order of the samples. Raises UsageError for an unknown one."""
    if text not in ("interleaved", "blocked"):
        raise UsageError(f"--order: unknown value {text!r}; known: interleaved, blocked")
    return "blocked" if text == "blocked" else "interleaved"
