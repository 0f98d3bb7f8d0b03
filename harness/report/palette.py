"""Own the palette: which colour and marker an implementation has in every figure of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.analysis.analysis import Analysis

# Okabe and Ito's palette: told apart by readers of every colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# A cold colour is a conditional layer, a warm one an FF, in every figure; what is no layer is grey or black.
COLD, WARM = (0, 4, 2), (5, 1, 3)
GREY = "#767676"


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Hold how an implementation is drawn: its colour's place in `COLOURS`, and its marker's in `MARKERS`."""

    hue: int
    shape: int

    @property
    def colour(self) -> str:
        """Return the colour as matplotlib and CSS take it."""
        return COLOURS[self.hue]

    @property
    def marker(self) -> str:
        """Return the marker as matplotlib takes it."""
        return MARKERS[self.shape]


def is_conditional(implementation: str) -> bool:
    """Say whether an implementation computes a conditional layer, an FFF of either paper, by its id."""
    return not implementation.startswith("ff_")


def layer_colour(implementation: str) -> str:
    """Return the colour of a layer where its implementations are told apart by words."""
    return COLOURS[(COLD if is_conditional(implementation) else WARM)[0]]


def find_styles(analysis: Analysis) -> dict[str, Style]:
    """Return the style of each implementation of a run's layers."""
    return make_styles(s.implementation for p in analysis.points for s in p.speeds)


def make_styles(implementations: Iterable[str]) -> dict[str, Style]:
    """Return the style of each implementation of a run: those of one layer share no marker before eight do.

    Given by the ids in alphabetical order, so that all figures of a run agree.
    """
    found, seen = {}, {True: 0, False: 0}
    for name in sorted(set(implementations)):
        place = seen[cold := is_conditional(name)]
        seen[cold] += 1
        found[name] = Style(
            hue=(COLD if cold else WARM)[place % 3], shape=place % len(MARKERS)
        )  # fmt: skip
    return found
