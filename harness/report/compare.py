"""Own the text of a comparison of two runs: Markdown, CSV, JSON and JUnit's XML."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from harness.analysis.compare import TOLERANCE, Change, Comparison, Verdict
from harness.analysis.stats import Ratio
from harness.records.reader import Run
from harness.records.text import printable
from harness.report import escape
from harness.report.formats import (
    NONE,
    format_csv,
    format_markdown_table,
    format_time,
    plain,
    plain_ratio,
)
from harness.report.header import format_machine


def format_change(change: Ratio | None) -> str:
    """Return `+5.2 % [+4.1, +6.3]`; digits stop where the interval does."""
    if change is None:
        return NONE
    if not change.known:
        return f"~{100 * (change.value - 1):+.0f} %"
    half = 100 * (change.high - change.low) / 2
    decimals = 2 if half <= 0 else max(0, min(2, -math.floor(math.log10(half))))
    value, low, high = (
        f"{100 * (x - 1):+.{decimals}f}" for x in (change.value, change.low, change.high)
    )
    return f"{value} % [{low}, {high}]"


def summarize(comparison: Comparison) -> str:
    """Return the one line that says how the comparison came out."""
    counts = Counter(change.verdict for change in comparison.changes)
    order: tuple[Verdict, ...] = ("broken", "slower", "faster", "same", "ambiguous", "reference")
    parts = [f"{counts[v]} {v}" for v in order if counts[v]]
    text = f"{len(comparison.changes)} cells: {', '.join(parts)}"
    if comparison.unmatched:
        text += f"; {len(comparison.unmatched)} not in both runs"
    return text


def format_verdicts(comparison: Comparison) -> str:
    """Return a row for each cell as a table of Markdown: both times, the change, the verdict and why."""
    over = "the model as it is" if comparison.of_models else "the fastest FF"
    what = "time, B over A" if comparison.same_machine else f"time over {over}, B over A"
    frame = pd.DataFrame(
        {
            "cell": c.cell,
            "A": format_time(c.a_ns),
            "B": format_time(c.b_ns),
            what: format_change(c.change),
            "verdict": c.verdict.upper() if c.verdict in ("slower", "broken") else c.verdict,
            "remarks": c.reason,
        }
        for c in comparison.changes
    )
    return format_markdown_table(frame)


def resolution_line(comparison: Comparison) -> str:
    """Return what the verdicts of a comparison mean."""
    return (
        "- slower, faster: the whole 95 % interval lies beyond "
        f"{100 * comparison.resolution:.1f} %, what the A/A pairs of the two runs resolve. "
        f"same: it lies within {100 * TOLERANCE:.0f} % of no change. "
        "ambiguous: it is too wide to tell; take more blocks."
    )


def _run_line(name: str, run: Run) -> str:
    code = run.head.machine.commit
    return f"- {name}: {run.folder}, {code}, {run.head.started_utc}; {format_machine(run.head.machine)}"


def _build_lines(comparison: Comparison) -> list[str]:
    """Return what differs of the two builds of our own kernels, as far as both tell."""
    then, now = comparison.a.head.machine.build, comparison.b.head.machine.build
    differing = [name for name in then if name in now and then[name] != now[name]]
    told = "; ".join(f"{name} {then[name]} in A, {now[name]} in B" for name in differing)
    return [f"- Our own kernels were built otherwise: {told}"] if told else []


def _reference_line(comparison: Comparison) -> str:
    if comparison.of_models:
        return _models_line(comparison)
    first, second = comparison.references
    which = first if first == second else f"{first} in A, {second} in B"
    if comparison.same_machine:
        return (
            f"- One machine: times are compared, each over that of {which} in the same block, so that a "
            "drift of the whole machine cancels. That reference itself took "
            f"{comparison.drift:.3g} times as long in B."
        )
    return (
        "- **Two machines: ratios are compared, not times.** Each is over the fastest FF of its own run at "
        f"the same batch, width and conditions ({which} at the largest): slower means that the speedup over "
        "it is smaller in B."
    )


def _models_line(comparison: Comparison) -> str:
    told = (
        "- Whole models: each time, of a model or of a part of one, is over that of the model as it is of "
        "the same batch, run in the same way, in the same block"
    )
    if comparison.same_machine:
        return (
            f"{told}, so that a drift of the whole machine cancels. {comparison.references[0]} itself took "
            f"{comparison.drift:.3g} times as long in B."
        )
    return f"{told}. **Two machines: ratios are compared, not times.**"


def format_comparison(comparison: Comparison) -> str:
    """Return a comparison as Markdown."""
    comparison = escape.each_text(comparison, escape.markdown)
    lines = ["# B compared with A", "", _run_line("A", comparison.a), _run_line("B", comparison.b)]
    lines += _build_lines(comparison)
    lines.append(_reference_line(comparison))
    for name, run in (("A", comparison.a), ("B", comparison.b)):
        lines += [f"- **Record of {name} damaged**: {w}" for w in run.warnings]
        if run.head.sweep.quick:
            lines.append(f"- {name} is a quick run: few samples")
    lines += ["", format_verdicts(comparison), ""]
    lines += [f"- {text}" for text in comparison.unmatched]
    lines += [resolution_line(comparison), "", summarize(comparison)]
    return "\n".join(lines) + "\n"


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a comparison as rows of plain numbers, for other programs."""
    return [
        {
            "cell": c.cell, "a_ns": plain(c.a_ns), "b_ns": plain(c.b_ns),
            **dict(zip(("change", "low", "high"), plain_ratio(c.change), strict=True)),
            "blocks": c.change.blocks if c.change else 0,
            "verdict": c.verdict, "reason": c.reason,
        }
        for c in comparison.changes
    ]  # fmt: skip


def format_comparison_csv(comparison: Comparison) -> str:
    """Return a comparison as CSV."""
    return format_csv(pd.DataFrame(comparison_rows(comparison)))


def format_comparison_json(comparison: Comparison) -> str:
    """Return a comparison as JSON, with what it rests on."""
    document = {
        "a": str(comparison.a.folder), "b": str(comparison.b.folder),
        "same_machine": comparison.same_machine, "references": list(comparison.references),
        "drift": plain(comparison.drift), "resolution": comparison.resolution,
        "tolerance": TOLERANCE, "summary": summarize(comparison),
        "cells": comparison_rows(comparison), "unmatched": comparison.unmatched,
    }  # fmt: skip
    return json.dumps(document, indent=1) + "\n"


def describe_change(change: Change) -> str:
    """Return in one line what became of a cell: its verdict, by how much or why."""
    parts = [format_change(change.change) if change.change else "", change.reason]
    return f"{change.cell} is {change.verdict}: {', '.join(filter(None, parts))}"


def format_comparison_junit(
    comparison: Comparison, failed: Sequence[Change], lost: Sequence[str]
) -> str:
    """Return a comparison as JUnit's XML, which continuous integration shows as tests.

    failed: the changes that are regressions; lost: what was measured in A and not in B, each with why; both
    are failures. A cell is a test case whose time is that of a pass in B; one that can't be told is skipped.
    """
    untold = [c for c in comparison.changes if c.verdict == "ambiguous"]
    count, machine = len(comparison.changes) + len(lost), comparison.b.head.machine
    totals = {
        "tests": count,
        "failures": len(failed) + len(lost),
        "errors": 0,
        "skipped": len(untold),
    }
    texts = {name: str(number) for name, number in totals.items()}
    top = ElementTree.Element("testsuites", texts)
    suite = ElementTree.SubElement(top, "testsuite", {"name": "harness compare", **texts})
    properties = ElementTree.SubElement(suite, "properties")
    facts = {
        "a": printable(str(comparison.a.folder)), "b": printable(str(comparison.b.folder)),
        "summary": summarize(comparison), "machine": format_machine(machine), "commit": machine.commit,
        "same_machine": str(comparison.same_machine).lower(),
    }  # fmt: skip
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)
    for change in comparison.changes:
        case = ElementTree.SubElement(suite, "testcase", classname="compare", name=change.cell)
        if math.isfinite(change.b_ns):
            case.set("time", f"{change.b_ns / 1e9:.9f}")
        says = describe_change(change)
        if change in failed:
            ElementTree.SubElement(case, "failure", type=change.verdict, message=says).text = says
        elif change in untold:
            ElementTree.SubElement(case, "skipped", message=says)
        ElementTree.SubElement(case, "system-out").text = says
    for line in lost:
        case = ElementTree.SubElement(suite, "testcase", classname="compare", name=line)
        ElementTree.SubElement(case, "failure", type="lost", message=line).text = line
    ElementTree.indent(top)
    text = ElementTree.tostring(top, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'
