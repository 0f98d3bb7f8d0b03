"""Own how a number is written: with its unit, and no more digits than it has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tabulate import tabulate

from harness.paper.published import PublishedCell
from harness.problem.models import BASELINE, speedup_limit
from harness.report import escape

if TYPE_CHECKING:  # seconds to load, and a plan is printed without them
    import pandas as pd

    from harness.analysis.stats import Ratio

NONE = "–"
UNCONFIRMED = "†"
# The word behind the layer in an id that is not of a provider.
_LIBRARIES = {"torch": "torch", "triton": "Triton"}


# From this quotient of its ends on an interval is written on a log scale, each number with its own digits.
_WIDE = 4.0


def _decimals(resolution: float) -> int:
    """Return the decimals that a resolution leaves: 1 for 0.3, 0 for 3, -1 for 30; at most 3."""
    if resolution <= 0:
        return 3
    return min(3, -math.floor(math.log10(resolution)))


def _rounded(value: float, decimals: int) -> str:
    return f"{round(value, decimals):.{max(0, decimals)}f}"


def _significant(value: float, digits: int) -> str:
    """Return a positive number with so many significant digits at the most, never as a power of ten."""
    decimals = digits - 1 - math.floor(math.log10(value))
    text = _rounded(value, decimals)
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_ratio(ratio: Ratio | None) -> str:
    """Return `91x [88, 94]`: digits stop where the interval does; `~91x` where one block gives none.

    The digits are those that the shorter arm of the interval leaves. The ends of one that is wide,
    `3x [0.4, 22]`, have no digit in common: each number then has two of its own.
    """
    if ratio is None:
        return NONE
    if not ratio.known:
        return f"~{_significant(ratio.value, 2)}x"
    numbers = (ratio.value, ratio.low, ratio.high)
    if ratio.high >= _WIDE * ratio.low or ratio.high < 0.1:
        value, low, high = (_significant(number, 2) for number in numbers)
    else:
        decimals = _decimals(min(ratio.value - ratio.low, ratio.high - ratio.value))
        value, low, high = (_rounded(number, decimals) for number in numbers)
    return f"{value}x [{low}, {high}]"


def format_time(ns: float) -> str:
    """Return a time with three digits and its unit."""
    if not math.isfinite(ns):
        return NONE
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= scale:
            return f"{ns / scale:.3g} {unit}"
    return f"{ns:.3g} ns"


def format_rate(gflops: float) -> str:
    """Return a rate in GFLOP/s or GB/s with three digits."""
    return f"{gflops:.3g}" if math.isfinite(gflops) else NONE


def format_share(share: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * share:.0f} %" if math.isfinite(share) else NONE


def format_published(cell: PublishedCell | None) -> str:
    """Return a published speedup, marked where no source that could be opened confirms it."""
    if cell is None:
        return NONE
    return f"{cell.text}x" + ("" if cell.confirmed else UNCONFIRMED)


def format_source(implementation: str, provider: str) -> str:
    """Return whose code computes: a BLAS provider, the library in the implementation's id, or our own."""
    behind_layer = implementation.partition("_")[2].partition("_")[0]
    return provider or _LIBRARIES.get(behind_layer, "own code")


def format_limit(model: str, baseline: str = BASELINE) -> str:
    """Return the limit of a model's speedup as the paper prints it: 1.00, 1.33, 341.25."""
    return f"{speedup_limit(model, baseline):.2f}x"


def format_bytes(size: int) -> str:
    """Return a size in MiB, or in KiB below one."""
    return f"{size / 2**20:.0f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def format_caches(caches: Mapping[str, int]) -> str:
    """Return the sizes of caches by name: L1d 32 KiB, L2 1 MiB."""
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in caches.items())


def format_markdown_table(frame: pd.DataFrame) -> str:
    """Return a frame of texts as a table of Markdown."""
    text: str = tabulate(
        frame.astype(str).values.tolist(), headers=list(frame.columns), tablefmt="github",
        disable_numparse=True,
    )  # fmt: skip
    return text


def format_csv(frame: pd.DataFrame) -> str:
    """Return a frame of plain numbers and texts as CSV."""
    shown = frame.map(
        lambda value: escape.comma_separated(value) if isinstance(value, str) else value
    )
    text: str = shown.to_csv(index=False)
    return text


def format_reasons(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return a part for each reason, with all the implementations (id, reason) that it holds for."""
    ids: dict[str, dict[str, None]] = {}
    for implementation, reason in found:
        ids.setdefault(reason, {})[implementation] = None
    return [f"{', '.join(names)}: {reason}" for reason, names in ids.items()]


def format_unavailable(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each reason why implementations (id, reason) are unavailable."""
    return [f"unavailable: {part}" for part in format_reasons(found)]


# ---- for other programs -------------------------------------------------------------------------


def plain(value: float | None) -> float | None:
    """Return a number as it is, None where there is none or it is not finite."""
    return value if value is not None and math.isfinite(value) else None


def plain_ratio(ratio: Ratio | None) -> tuple[float | None, float | None, float | None]:
    """Return a ratio's value and the ends of its interval, None for each that there is not."""
    if ratio is None:
        return None, None, None
    return plain(ratio.value), plain(ratio.low), plain(ratio.high)
