"""Own the marks of the page's figures: scales, ticks, lines and markers as SVG that is laid out by shares.

Every x is a percentage of the figure's width and every y a number of pixels, so a figure takes the width that
a reader's screen has without its letters growing or shrinking. What a mark says goes through markupsafe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

# About the point (0, 0), by a marker's place in the palette: the shapes that matplotlib's names stand for.
_PATHS = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "M-4.5 -4.5h9v9h-9z",
    "M0 -6L5.5 4H-5.5z",
    "M0 -6L6 0L0 6L-6 0z",
    "M0 6L5.5 -4H-5.5z",
    "M-2 -6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "M-5 -2L-2 -5L0 -3L2 -5L5 -2L3 0L5 2L2 5L0 3L-2 5L-5 2L-3 0z",
    "M0 -6.5L1.7 -2H6.3L2.6 1L4 6L0 3L-4 6L-2.6 1L-6.3 -2H-1.7z",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Hold the ends of an axis and whether it is logarithmic."""

    low: float
    high: float
    log: bool = True

    def share(self, value: float) -> float:
        """Return where a value lies between the ends, from 0 to 1; one beyond them lies at the end."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = (math.log(max(x, 1e-300)) for x in (low, high, value))
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def holds(self, value: float) -> bool:
        """Say whether a value lies between the ends."""
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Hold a labelled place of an axis. minor: left out where there is little room."""

    value: float
    label: str
    minor: bool = False


def spread(values: Iterable[float], *, margin: float = 1.25, log: bool = True) -> Scale:
    """Return a log scale that holds some positive values with a margin, at least an octave wide."""
    found = [v for v in values if math.isfinite(v) and v > 0] or [1.0]
    low, high = min(found) / margin, max(found) * margin
    if high < 2 * low:
        low, high = low / 1.5, high * 1.5
    return Scale(low=low, high=high, log=log)


def log_ticks(scale: Scale, label: Callable[[float], str]) -> list[Tick]:
    """Return the ticks of a log scale: 1, 2 and 5 times a power of ten, or the powers where they abound.

    Those at 2 and 5 are minor where there are several powers.
    """
    first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    powers = [p for p in range(first, last + 1) if scale.holds(10.0**p)]
    digits: Sequence[int] = (1, 2, 5) if len(powers) <= 3 else (1,)
    found = [
        Tick(
            value=digit * 10.0**power,
            label=label(digit * 10.0**power),
            minor=digit > 1 and len(powers) > 1,
        )
        for power in range(first, last + 1)
        for digit in digits
        if scale.holds(digit * 10.0**power)
    ]
    if len(found) > 8:  # a tick every other power
        found = [t if i % 2 == 0 else Tick(value=t.value, label=t.label, minor=True)
                 for i, t in enumerate(found)]  # fmt: skip
    return found


def marker(shape: int) -> Markup:
    """Return a marker about the point (0, 0)."""
    return Markup('<path d="{}"/>').format(_PATHS[shape % len(_PATHS)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Hold the axes of a figure. height: of the part between its axes, in pixels."""

    x: Scale
    y: Scale
    height: int

    def _at(self, x: float, y: float) -> tuple[str, str]:
        return f"{100 * self.x.share(x):.2f}%", f"{self.height * (1 - self.y.share(y)):.1f}"

    def line(self, start: tuple[float, float], end: tuple[float, float], kind: str) -> Markup:
        """Return a line between two points (x, y) of the axes."""
        (x1, y1), (x2, y2) = self._at(*start), self._at(*end)
        return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
            kind, x1, y1, x2, y2
        )

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> Markup:
        """Return the lines from point to point."""
        pairs = pairwise(points)
        return Markup("").join(self.line(a, b, kind) for a, b in pairs)

    def mark(
        self, point: tuple[float, float], shape: int, kind: str, *, name: str, detail: str
    ) -> Markup:
        """Return a marker to point at or reach by key. name: what it is; detail: lines on it."""
        x, y = self._at(*point)
        return Markup(
            '<svg class="mark {}" x="{}" y="{}" overflow="visible" tabindex="0" role="img" '
            'aria-label="{}" data-detail="{}"><title>{}</title>'
            '<circle class="halo" r="11"/>{}</svg>'
        ).format(kind, x, y, name, detail, detail, marker(shape))

    def text(
        self, point: tuple[float, float], words: str, kind: str = "", *, dx: int = 0, dy: int = 0
    ) -> Markup:
        """Return words at a point, moved by some pixels."""
        x, y = self._at(*point)
        return Markup(
            '<svg x="{}" y="{}" overflow="visible"><text class="{}" x="{}" y="{}">{}</text></svg>'
        ).format(x, y, kind, dx, dy, words)

    def axes(self, x_ticks: Sequence[Tick], y_ticks: Sequence[Tick]) -> Markup:
        """Return grid lines and labels: those of y left of the figure, those of x below it."""
        parts = []
        for tick in y_ticks:
            y = f"{self.height * (1 - self.y.share(tick.value)):.1f}"
            parts.append(
                Markup(
                    '<line class="grid" x1="0%" x2="100%" y1="{0}" y2="{0}"/>'
                    '<text class="y-label" x="-8" y="{0}" dy="0.32em">{1}</text>'
                ).format(y, tick.label)
            )
        for tick in x_ticks:
            x = f"{100 * self.x.share(tick.value):.2f}%"
            parts.append(
                Markup(
                    '<line class="grid" x1="{0}" x2="{0}" y1="0" y2="{1}"/>'
                    '<text class="x-label{2}" x="{0}" y="{3}">{4}</text>'
                ).format(
                    x, self.height, " minor" if tick.minor else "", self.height + 18, tick.label
                )
            )
        return Markup("").join(parts)


def strip(scale: Scale, parts: Iterable[Markup], height: int = 16) -> Markup:
    """Return the drawn part of a bar, which the text beside it says in words."""
    return Markup(
        '<svg class="strip" height="{}" aria-hidden="true" focusable="false">{}</svg>'
    ).format(height, Markup("").join(parts))


def bar(
    scale: Scale, start: float, end: float, kind: str, *, top: int = 3, height: int = 10
) -> Markup:
    """Return a bar of a strip from one value to another."""
    low, high = sorted((scale.share(start), scale.share(end)))
    return Markup('<rect class="{}" x="{:.2f}%" width="{:.2f}%" y="{}" height="{}"/>').format(
        kind, 100 * low, 100 * (high - low), top, height
    )


def rule(scale: Scale, value: float, kind: str, height: int = 16) -> Markup:
    """Return an upright line through a strip at a value."""
    x = f"{100 * scale.share(value):.2f}%"
    return Markup('<line class="{}" x1="{}" x2="{}" y1="0" y2="{}"/>').format(kind, x, x, height)


def whisker(scale: Scale, low: float, high: float, *, middle: int = 8) -> Markup:
    """Return an interval of a strip, with its ends."""
    x1, x2 = (f"{100 * scale.share(v):.2f}%" for v in (low, high))
    return Markup(
        '<line class="whisker" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
        '<line class="whisker" x1="{0}" x2="{0}" y1="{3}" y2="{4}"/>'
        '<line class="whisker" x1="{1}" x2="{1}" y1="{3}" y2="{4}"/>'
    ).format(x1, x2, middle, middle - 4, middle + 4)
