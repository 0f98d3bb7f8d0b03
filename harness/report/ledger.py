"""Own the printed ledger: its table, its lines, its JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from harness.analysis import ledger
from harness.analysis.analysis import Analysis
from harness.analysis.ledger import BAND
from harness.analysis.stats import Ratio
from harness.paper.published import FASTEST_FF
from harness.problem.models import title
from harness.report.formats import format_markdown_table, format_ratio


def _data(source: str, entries: Sequence[ledger.Entry]) -> dict[str, Any]:
    return {
        "source": source,
        "band": BAND,
        "counts": ledger.count(entries),
        "cells": [asdict(e) for e in entries],
    }


def format_json(entries: Sequence[ledger.Entry], leaves: Sequence[ledger.Entry]) -> str:
    """Return a ledger as JSON: the rule's band, the counts, a row for each published cell.

    leaves: those of the original FFF, which stand under `leaf` in the same form.
    """
    data = _data("arXiv 2311.10770, Table 2 and abstract", entries)
    data["leaf"] = _data("arXiv 2308.14711, Table 1", leaves)
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def ledger_frame(entries: Sequence[ledger.Entry]) -> pd.DataFrame:
    """Return each published cell with what this run says of it."""
    rows = []
    for e in entries:
        ratio = None
        if e.measured is not None:
            low, high = (e.low, e.high) if e.low is not None else (math.nan, math.nan)
            ratio = Ratio(value=e.measured, low=low, high=high or math.nan, blocks=e.blocks)
        over = e.baseline if e.baseline == FASTEST_FF else title(e.baseline)
        rows.append(
            {
                "published cell": f"{title(e.model)}, {e.column}, over {over}",
                "published": f"{e.published:g}x",
                "provenance": e.provenance,
                "measured here": format_ratio(ratio) + (f" ({e.provider})" if e.provider else ""),
                "finding": e.finding,
                "reason": e.reason,
            }
        )
    return pd.DataFrame(rows)


def ledger_lines(analysis: Analysis) -> list[str]:
    """Return the lines of the ledger: its counts, and each published cell that stands beside one here."""
    entries = analysis.ledger
    by_arithmetic = [e for e in entries if e.provenance == "arithmetic"]
    other = "CPU" if ledger.paper_device(analysis.head) == "gpu" else "GPU"
    elsewhere = [e for e in entries if e.device == other.lower() and e not in by_arithmetic]
    shown = [e for e in entries if e not in by_arithmetic and e not in elsewhere]
    counts = ", ".join(f"{n} {finding}" for finding, n in ledger.count(shown).items())
    return [
        "",
        "## Ledger of the published cells",
        "",
        f"Of {len(entries)} published cells {len(by_arithmetic)} follow by arithmetic and {len(elsewhere)} "
        f"were measured on a {other}, not comparable here; of the other {len(shown)}: {counts}. Reproduced "
        "means that the measured 95 % interval overlaps the published value within "
        f"{100 * ledger.BAND:.0f} % to either side; the paper gives no interval. "
        "All cells stand in ledger.json.",
        "",
        format_markdown_table(ledger_frame(shown)),
        *_leaf_lines(analysis),
    ]


def find_measured(entries: Sequence[ledger.Entry]) -> list[ledger.Entry]:
    """Return the published cells of which a run measured both layers."""
    return [e for e in entries if e.measured is not None]


def leaf_words(entries: Sequence[ledger.Entry]) -> str:
    """Return what a run says of the original FFF's published speedups, in a sentence or three."""
    measured = find_measured(entries)
    counts = ", ".join(f"{n} {finding}" for finding, n in ledger.count(measured).items() if n)
    return (
        f"Of {len(entries)} published speedups of leaf FFFs (arXiv 2308.14711, Table 1: over the FF of the "
        f"same training width) this run measured both layers of {len(measured)}: {counts}. A ratio is of "
        "the fastest implementation of either layer here, sampled side by side."
    )


def _leaf_lines(analysis: Analysis) -> list[str]:
    """Return the published speedups of leaf FFFs beside those here; nothing of a run that has none."""
    if not (measured := find_measured(analysis.leaf_ledger)):
        return []
    table = format_markdown_table(ledger_frame(measured))
    return ["", leaf_words(analysis.leaf_ledger), "", table]
