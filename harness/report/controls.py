"""Own the words about the controls: their table, and what a tree buys over each of them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.analysis.controls import Control
from harness.problem.models import title
from harness.report.formats import (
    NONE,
    format_markdown_table,
    format_ratio,
    format_share,
    format_source,
    format_time,
)

# What the ratio to a control of each layer is the price, or the worth, of.
_MEANS = {
    "ff": "a dense layer of as many neurons, so what finding them costs",
    "hash": "a path that a hash picks, so what deciding by what is computed costs",
    "topk": "the largest of all logits, so what not computing the others saves",
    "peer": "product keys, which find them by scores of their own",
    "moe": "a mixture of experts, which finds blocks of them by scores of its own",
}


def controls_frame(controls: Sequence[Control]) -> pd.DataFrame:
    """Return each control beside its FFF: what it uses, what its choice costs, how the tree compares."""
    return pd.DataFrame(
        {
            "FFF": title(c.fff),
            "control": title(c.model),
            "implementation": c.implementation,
            "provider": c.provider or NONE,
            "a pass": format_time(c.pass_ns),
            "neurons used": f"{c.used} of {c.neurons}",
            "operations that only route": format_share(c.routing_share)
            if c.routing_share
            else "none",
            "over the fastest FF": format_ratio(c.over_ff),
            "the FFF's speed over its own": format_ratio(c.buys),
        }
        for c in controls
    )


def _sentence(c: Control) -> str:
    source = format_source(c.implementation, c.provider)
    times = format_ratio(c.buys)
    return f"- {times} the speed of {title(c.model)} ({c.implementation}, {source}): {_MEANS[c.layer]}."


def controls_lines(controls: Sequence[Control]) -> list[str]:
    """Return what the trees of a point buy over each control, as Markdown; none where none was measured."""
    lines: list[str] = []
    for fff in dict.fromkeys(c.fff for c in controls):
        own = [c for c in controls if c.fff == fff]
        lines += [
            "",
            f"What the tree buys: {title(fff)} by {own[0].fff_implementation}, the fastest here, has",
            "",
            *map(_sentence, own),
        ]
    if controls:
        lines += ["", format_markdown_table(controls_frame(controls))]
    return lines
