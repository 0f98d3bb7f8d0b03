"""Own the page of the ladder: its text, its CSV and the files that it is written to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from harness.analysis.analysis import Analysis
from harness.analysis.stats import Ratio
from harness.paper import ladder as paper_ladder
from harness.paper.ladder import LEVELS
from harness.problem.models import BASELINE, parse_model
from harness.report import drawing, escape, formats, header
from harness.report.files import write_texts
from harness.report.ladder_words import (
    TITLES,
    describe_effect,
    describe_gap,
    describe_product,
    describe_step,
    find_claim,
    format_factor,
    format_own,
    format_speedup,
    strict_rung,
)
from harness.report.quality import quality_lines

EXPLAIN_FILES = ("explain.md", "explain.csv")


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report", "templates"), undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )  # fmt: skip


def _rows(analysis: Analysis) -> list[dict[str, Any]]:
    climbs, rows = analysis.require_ladder().climbs, []
    for number, step in enumerate(paper_ladder.STEPS):
        at = {level: climbs[level][number] for level in LEVELS}
        rows.append(
            {
                "number": number, "mended": step.mended, "title": TITLES[step.key],
                "text": describe_step(analysis, step.key),
                "speedup": {level: format_speedup(r) for level, r in at.items()},
                "factor": {level: format_factor(r) for level, r in at.items()},
                "effect": {level: describe_effect(r) for level, r in at.items()},
            }
        )  # fmt: skip
    return rows


def _problems(analysis: Analysis) -> list[str]:
    found = [
        f"{c.status.upper()}: {c.cell}: {c.reason}"
        for c in analysis.cells.values()
        if c.status != "ok"
    ]
    if analysis.end is None:
        found.append("The run did not end: it was killed, or is still going.")
    elif analysis.end.reason != "complete":
        found.append(f"The run ended early ({analysis.end.reason}).")
    return [*found, *(f"Record damaged: {w}" for w in analysis.warnings)]


def _span(loops: Sequence[int]) -> str:
    """Return the passes behind one mean: `250`, or `12 to 250` where they differ between cells."""
    return f"{loops[0]}" if len(loops) == 1 else f"{loops[0]} to {loops[-1]}" if loops else "0"


def format_page(analysis: Analysis) -> str:
    """Return the page as Markdown. Raises UsageError where the run has no ladder."""
    analysis = escape.each_text(analysis, escape.markdown)
    ladder = analysis.require_ladder()
    climbs = ladder.climbs
    base, tree = parse_model(BASELINE), parse_model(paper_ladder.FFF_MODEL)
    sweep, record = analysis.head.sweep, analysis.head.machine
    example = next(
        (
            format_speedup(r)
            for rungs in climbs.values()
            for r in rungs
            if r.speedup and r.speedup.known
        ),
        formats.format_ratio(Ratio(value=2.0, low=1.9, high=2.1, blocks=2)),
    )
    text: str = _environment().get_template("ladder.md.j2").render(
        quick=sweep.quick, levels=LEVELS, used=tree.trees * (tree.depth + 1), neurons=base.hidden,
        claim={level: find_claim(level).text for level in LEVELS},
        provenance={level: find_claim(level).provenance for level in LEVELS},
        limit=f"{paper_ladder.limit():.0f} times", example=example,
        published={level: format_speedup(climbs[level][0]) for level in LEVELS},
        strict={level: format_speedup(strict_rung(climbs[level])) for level in LEVELS},
        own=format_own(climbs[LEVELS[-1]]), gap={level: describe_gap(climbs, level) for level in LEVELS},
        rows=_rows(analysis), product={n: describe_product(rungs) for n, rungs in climbs.items()},
        machine=header.format_machine(record),
        providers=[header.format_provider(p) for p in header.first_providers(analysis)],
        first_provider=sweep.blas[0].rsplit("/", 1)[-1],
        batch=sweep.batches[0], width=sweep.widths[0], threads=sweep.threads,
        started=analysis.head.started_utc, code=f"{record.harness_version}, {record.commit}",
        passes=_span(ladder.passes["fff"]), ff_passes=_span(ladder.passes["ff"]),
        processes=analysis.processes, problems=_problems(analysis),
        quality=quality_lines(analysis.quality),
    )  # fmt: skip
    return text


def _numbers(ratio: Ratio | None, name: str) -> dict[str, float | None]:
    names = (name, f"{name}_low", f"{name}_high")
    return dict(zip(names, formats.plain_ratio(ratio), strict=True))


def csv_frame(analysis: Analysis) -> pd.DataFrame:
    """Return the ladder as rows of plain numbers, one a step and level."""
    return pd.DataFrame(
        {
            "step": number, "key": rung.step.key, "mended": rung.step.mended, "level": level,
            "changes": "neither" if rung.same else rung.step.changes[level],
            "ff": rung.ff, "fff": rung.fff, **_numbers(rung.speedup, "speedup"),
            **_numbers(rung.factor, "factor"),
            "blocks": rung.speedup.blocks if rung.speedup else 0, "reason": rung.reason,
        }
        for level, rungs in analysis.require_ladder().climbs.items()
        for number, rung in enumerate(rungs)
    )  # fmt: skip


def write_page(analysis: Analysis, style: str = drawing.STYLES[0]) -> list[Path]:
    """Write explain.md, explain.csv and the figure, explain, into the run's folder and return the files.

    Raises UsageError where the run has no ladder, OSError or FigureError where a file can't be made; the
    texts are written before the figure is drawn.
    """
    texts = (format_page(analysis), formats.format_csv(csv_frame(analysis)))
    paths = (analysis.folder / name for name in EXPLAIN_FILES)
    written = write_texts(dict(zip(paths, texts, strict=True)))
    with drawing.plain_matplotlib():
        from harness.report.figure_style import STYLES
        from harness.report.ladder_figure import ladder_figure

    chosen = STYLES[style]
    draws = {"explain": partial(ladder_figure, analysis, chosen)}
    return written + drawing.write_figures(analysis.folder, draws, drawing.FORMATS, chosen.settings)
