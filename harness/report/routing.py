"""Own the words about routing: its table of speedups under each routing of a run."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.analysis.routing import RoutedSpeedup
from harness.problem import axes
from harness.problem.models import title
from harness.report.formats import NONE, format_markdown_table, format_ratio


def _called(routing: str) -> str:
    return routing.rpartition("/")[2]


def routing_frame(found: Sequence[RoutedSpeedup]) -> pd.DataFrame:
    """Return each FFF over the fastest FF under each routing, and how many times the others' that is."""
    routings = list(dict.fromkeys(s.conditions.routing for s in found))
    return pd.DataFrame(
        {
            "implementation": s.implementation,
            "model": title(s.model),
            "provider": s.provider or NONE,
            "batch": s.batch,
            "width": s.width,
            "conditions": axes.title(s.conditions) or "default",
            "over the fastest FF": format_ratio(s.speedup),
            **{f"times {_called(r)}'s": format_ratio(s.times.get(r)) for r in routings},
            "nodes touched": s.nodes_touched or NONE,
        }
        for s in found
    )


def routing_lines(found: Sequence[RoutedSpeedup]) -> list[str]:
    """Return the section of what routing does to the speedups; none where a run has one routing."""
    if not found:
        return []
    lines = [
        "", "## What routing does to the speedup", "",
        "Each FFF over the fastest FF under the same routing, and how many times the speedup under another "
        "routing that is: below 1, the FFF is worth less under this one. Uniform touches the most nodes.",
    ]  # fmt: skip
    if any(s.conditions.routing == "trained" for s in found):
        lines[-1] += (
            " Trained: the leaves of text in trees that were distilled from a small encoder's layers, "
            "not UltraFastBERT's own (docs/trained-routing.md)."
        )
    return [*lines, "", format_markdown_table(routing_frame(found))]
