"""Own the page of runs: one HTML file that shows all that is said of them and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from harness.analysis import by_batch, ledger
from harness.analysis.analysis import Analysis
from harness.analysis.merge import label
from harness.analysis.rows import Point, Speed
from harness.analysis.verdict import Verdict, find_verdict
from harness.paper.published import FASTEST_FF, table2
from harness.problem import axes
from harness.problem.models import title
from harness.records.files import write_whole
from harness.report import escape, page_figures, page_transformer, palette, table
from harness.report import gpu as report_gpu
from harness.report import ledger as report_ledger
from harness.report import transformer as report_transformer
from harness.report.controls import controls_frame
from harness.report.csv import speeds_csv_frame
from harness.report.formats import (
    NONE,
    format_csv,
    format_limit,
    format_rate,
    format_ratio,
    format_share,
    format_source,
    format_time,
)
from harness.report.frames import ceiling_frame, contrast_frame, paper_frame, versus_frame
from harness.report.header import head_lines
from harness.report.page_figures import Figure
from harness.report.page_parts import Number, Place, Table, make_table, render_prose
from harness.report.quality import claimed_frame, claimed_line, measured_frame, measured_line
from harness.report.routing import routing_frame

PAGE_FILE = "report.html"
_FIGURES = ("paper", "batch", "time", "machine", "ladder")


# ---- the parts of a run ---------------------------------------------------------------------------


def _where(point: Point) -> str:
    return table.format_place(point).lower()


def _source(speed: Speed) -> str:
    return f"{speed.implementation} ({format_source(speed.implementation, speed.provider)})"


def _published(analysis: Analysis, model: str) -> str:
    """Return what the paper prints for a model over the fastest FF, on the kind of device of this run."""
    device = ledger.paper_device(analysis.head)
    found = [c for c in table2() if (c.model, c.device, c.baseline) == (model, device, FASTEST_FF)]
    parts = [f"{c.text}x ({c.implementation})" for c in found]
    return " and ".join(parts)


def _verdict(analysis: Analysis) -> dict[str, str] | None:
    found = next(filter(None, (find_verdict(analysis.points, p) for p in analysis.points)), None)
    if found is None:
        return None
    speed = analysis.find_speed(found.best.cell)
    value, _, interval = format_ratio(found.ratio).partition(" ")
    return {
        "model": title(found.best.model),
        "value": value,
        "interval": f"95 % interval {interval.strip('[]').replace(', ', ' to ')}" if interval
        else "one block of samples, so no interval",
        "best": _source(speed) if speed else found.best.implementation,
        "opponent": _source(found.opponent),
        "opponent_time": format_time(found.opponent.pass_ns),
        "time": format_time(speed.pass_ns) if speed else NONE,
        "place": _where(found.point),
        "limit": format_limit(found.best.model, found.point.baseline),
        "published": _published(analysis, found.best.model),
        "rivals": str(found.rivals),
        "stand_in": "float32 " if found.point.stand_in else "",
    }  # fmt: skip


def _verdict_row(found: Verdict) -> dict[str, str]:
    point = found.point
    aa = format_ratio(point.aa) if point.aa else NONE
    return {
        "batch": str(point.batch), "width": str(point.width),
        "conditions": axes.title(point.conditions) or "default",
        "fastest FF": _source(found.opponent), "a pass": format_time(found.opponent.pass_ns),
        "fastest FFF": f"{found.best.implementation}, {title(found.best.model)}",
        "speedup": format_ratio(found.ratio),
        "limit": format_limit(found.best.model, point.baseline), "A/A": aa,
    }  # fmt: skip


def _verdict_table(analysis: Analysis) -> Table | None:
    found = [find_verdict(analysis.points, p) for p in analysis.points]
    rows = [_verdict_row(v) for v in found if v]
    return make_table("The fastest FFF over the fastest FF", pd.DataFrame(rows)) if rows else None


def _cautions(analysis: Analysis, marked: Analysis) -> list[Markup]:
    """Return what to know before quoting a figure of a run. marked: the same with its texts escaped."""
    lines = []
    if analysis.head.sweep.quick:
        lines.append("A quick run: small batch, few samples; not for quoting.")
    lines += [f"Impossible: {line}" for line in table.impossible(marked.points)]
    bad = [c for c in marked.cells.values() if c.status in ("wrong", "failed")]
    lines += [f"{c.cell} is {c.status}: {c.reason}" for c in bad]
    lines += [
        f"{table.format_place(p)}: the fastest FF against itself misses 1, {format_ratio(p.aa)}; the "
        "machine was disturbed unevenly."
        for p in analysis.points
        if p.aa is not None and p.aa.known and not p.aa.includes(1.0)
    ]
    lines += [line for line in head_lines(marked)[2:] if "**" in line]
    return render_prose(lines)


def _place(analysis: Analysis, marked: Point, point: Point, whole: Analysis) -> Place:
    tables, notes = [], list[str]()
    for provider, entries in point.entries.items():
        frame = paper_frame(entries, point.baseline)
        caption = (
            f"Speedup over {title(point.baseline)} at the same BLAS level, provider {provider}"
        )
        tables.append(make_table(caption, frame))
    for entries in marked.entries.values():
        notes += table.remark_lines([(f"{title(e.model)}, level {e.level}", e) for e in entries])
    if point.gpu:
        caption = f"Speedup over {title(point.baseline)} in the same column"
        tables.append(make_table(caption, report_gpu.gpu_frame(point)))
    if point.versus:
        tables.append(make_table("Speedup over the fastest FF", versus_frame(point)))
        notes += [table.best_line(whole, marked), *table.reach_lines(whole, marked)]
        notes += table.remark_lines(
            [(f"{title(v.model)}, {v.implementation}", v) for v in marked.versus]
        )
    if point.controls:
        tables.append(make_table("What the tree buys", controls_frame(point.controls)))
    if marked.aa is not None:
        notes.append(table.aa_line(marked.aa))
    return Place(title=table.format_place(point), tables=tables, notes=render_prose(notes))


_RAW = (
    "implementation", "model", "provider", "batch", "width", "conditions", "a pass", "a token", "GFLOP/s",
    "GB/s", "of its ceiling", "share of floor", "samples", "status", "remarks", "cell", "measure again",
)  # fmt: skip


def _plain(value: float) -> str:
    """Return a number as the CSV has it."""
    return repr(float(value)) if math.isfinite(value) else ""


def _raw_row(analysis: Analysis, point: Point | None, s: Speed) -> list[Number]:
    cell = analysis.cells[s.cell]
    again = (
        page_figures.describe_speed(analysis, point, s)[-1]
        if point and s.status == "ok"
        else cell.repro
    )
    remarks = "; ".join(part for part in (s.reason, *s.unstable, s.note) if part)
    texts = [s.implementation, title(s.model) if s.model else NONE, s.provider or NONE]
    return [
        *(Number(shown=text) for text in texts),
        Number(shown=str(cell.batch), value=str(cell.batch)),
        Number(shown=str(cell.d_in), value=str(cell.d_in)),
        Number(shown=s.place or axes.title(cell.conditions) or "default"),
        Number(shown=format_time(s.pass_ns), value=_plain(s.pass_ns)),
        Number(shown=format_time(s.token_ns) if s.model else NONE, value=_plain(s.token_ns)),
        Number(shown=format_rate(s.gflops), value=_plain(s.gflops)),
        Number(shown=format_rate(s.gbs), value=_plain(s.gbs)),
        Number(shown=format_share(s.of_ceiling), value=_plain(s.of_ceiling)),
        Number(shown=format_share(s.of_floor), value=_plain(s.of_floor)),
        Number(shown=str(s.samples), value=str(s.samples)),
        *(Number(shown=text) for text in (s.status, remarks, s.cell, again)),
    ]


def _raw_rows(analysis: Analysis) -> list[list[Number]]:
    rows = [_raw_row(analysis, p, s) for p in analysis.points for s in p.speeds]
    return rows + [_raw_row(analysis, None, s) for s in analysis.ceiling_speeds]


def _data_address(text: str) -> str:
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _ledger_words(analysis: Analysis) -> tuple[str, Table]:
    """Return what the ledger counts in a sentence, and its rows that stand beside a figure of this run."""
    device = ledger.paper_device(analysis.head)
    shown = [e for e in analysis.ledger if e.device == device and e.provenance != "arithmetic"]
    counts = ", ".join(f"{n} {finding}" for finding, n in ledger.count(shown).items() if n)
    says = (
        f"Of the paper's {len(shown)} figures for a {device.upper()}: {counts}. Reproduced means that the "
        f"measured 95 % interval overlaps the published value within {100 * ledger.BAND:.0f} % to either "
        "side; the paper gives no interval."
    )
    return says, make_table(
        "Each published figure and what this run says of it", report_ledger.ledger_frame(shown)
    )


def _leaf_ledger(analysis: Analysis) -> list[tuple[str, Table]]:
    """Return the published speedups of leaf FFFs beside those here, with words; empty without any."""
    measured = report_ledger.find_measured(analysis.leaf_ledger)
    caption = "Each published speedup of a leaf FFF and what this run says of it"
    shown = make_table(caption, report_ledger.ledger_frame(measured))
    return [(report_ledger.leaf_words(analysis.leaf_ledger), shown)] if measured else []


def _quality(analysis: Analysis) -> list[tuple[Markup, Table]]:
    """Return what the paper claims of its models and what students miss here, each with its words before."""
    found, parts = analysis.quality, []
    if found.claimed:
        caption = "Claimed: GLUE scores of the paper's Table 1"
        parts.append((claimed_line(), make_table(caption, claimed_frame(found.claimed))))
    caption = "Measured: errors of distilled layers"
    parts.append((measured_line(found), make_table(caption, measured_frame(found.measured))))
    return [(render_prose([line])[0], shown) for line, shown in parts]


def _absent(analysis: Analysis) -> list[str]:
    """Return what a run has no data for, and what would measure it: a line each."""
    lines = []
    if not by_batch.has_several_batches(analysis.points):
        lines.append(
            "No curve over the batch: one batch was measured (--batch 1,16,2^8..2^14 takes several)."
        )
    if analysis.points and not _figures(analysis)["time"]:
        lines.append(
            "No account of where the time goes: no peak of the layers' precision was measured."
        )
    if analysis.ladder is None:
        lines.append(
            "No ladder of the published benchmark's faults: `python -m harness explain` measures it."
        )
    if analysis.cache_curve is None:
        lines.append(
            "No curve of reading many working sets: the run did not begin with it, as sweeps of the CPU do."
        )
    if not analysis.contrasts:
        lines.append("No contrasts: every cell was measured under one set of conditions (--routing, "
                     "--weights, --data and others take several).")  # fmt: skip
    return lines


def _figures(analysis: Analysis) -> dict[str, list[Figure]]:
    """Return the figures of each section that has any."""
    point = analysis.points[0] if analysis.points else None
    found: dict[str, list[Figure | None]] = {
        "paper": [page_figures.speedup_figure(analysis, point)] if point else [],
        "batch": [page_figures.by_batch_figure(analysis)] if point else [],
        "time": [page_figures.time_figure(analysis, point)] if point else [],
        "machine": [
            page_figures.bandwidth_figure(analysis),
            page_figures.roofline_figure(analysis),
        ],
        "ladder": [*page_figures.ladder_figures(analysis)],
    }
    return {name: [f for f in figures if f] for name, figures in found.items()}


def _layer_run(analysis: Analysis, prefix: str) -> dict[str, Any]:
    """Return what the template shows of a run of layers. prefix: of the anchors in its part of the page."""
    marked = escape.each_text(analysis, escape.markdown)
    says, cells = _ledger_words(analysis)
    return {
        **_told(analysis, marked, prefix),
        "of_models": False, "models": [], "answer": None,
        "verdict": _verdict(analysis), "verdicts": _verdict_table(analysis),
        "places": [_place(analysis, dark, plain, marked)
                   for plain, dark in zip(analysis.points, marked.points, strict=True)],
        "figures": _figures(analysis),
        "contests": [make_table(f"Over the fastest FF of each precision, {_where(c.point)}",
                            report_gpu.contest_frame(c)) for c in analysis.contests if c.rows],
        "ledger": says, "ledger_table": cells, "leaf_ledger": _leaf_ledger(marked),
        "contrasts": make_table("Each cell under each of its conditions", contrast_frame(analysis.contrasts))
        if analysis.contrasts else None,
        "routed": make_table("What routing does to the speedup over the fastest FF",
                         routing_frame(analysis.routed)) if analysis.routed else None,
        "quality": _quality(analysis),
        "ceilings": make_table("The ceilings that this run measured", ceiling_frame(analysis.ceiling_speeds))
        if analysis.ceiling_speeds else None,
        "raw_columns": _RAW, "raw": _raw_rows(analysis),
        "csv": _data_address(format_csv(speeds_csv_frame(analysis))),
        "method": render_prose(table.reading_lines(marked)),
        "absent": render_prose(_absent(analysis)),
    }  # fmt: skip


def _told(analysis: Analysis, marked: Analysis, prefix: str) -> dict[str, Any]:
    """Return what the template shows of any run: its name, its machine, and what doctor found."""
    m = analysis.head.machine
    return {
        "prefix": prefix, "name": analysis.folder.name, "machine": label(analysis.head),
        "started": analysis.head.started_utc[:10], "quick": analysis.head.sweep.quick,
        "threads": analysis.head.sweep.threads, "cautions": _cautions(analysis, marked),
        "head": render_prose(head_lines(marked)[2:]),
        "findings": [f for f in m.findings if f.severity != "ok"],
        "passed": sum(f.severity == "ok" for f in m.findings),
        "processes": analysis.processes, "samples": analysis.samples,
    }  # fmt: skip


def _model_run(analysis: Analysis, prefix: str) -> dict[str, Any]:
    """Return what the template shows of a run of whole models; of layers it has nothing."""
    marked = escape.each_text(analysis, escape.markdown)
    wholes = [model.transformer for model in analysis.whole_models]
    numbers = report_transformer.csv_frame(analysis.whole_models)
    return {
        **_told(analysis, marked, prefix),
        "of_models": True, "models": page_transformer.find_sections(analysis, marked),
        "answer": page_transformer.find_verdict(analysis),
        "figures": dict.fromkeys(_FIGURES, ()),
        "verdict": None, "verdicts": None, "places": [], "contests": [],
        "ledger": "", "ledger_table": None, "leaf_ledger": [], "contrasts": None, "routed": None,
        "quality": [], "ceilings": None, "absent": [],
        "raw_columns": page_transformer.RAW, "raw": page_transformer.find_raw(analysis),
        "csv": _data_address(format_csv(numbers)),
        "method": render_prose(report_transformer.reading_lines(wholes)[3:]),
    }  # fmt: skip


def _run(analysis: Analysis, prefix: str) -> dict[str, Any]:
    """Return what the template shows of one run. prefix: of the anchors in its part of the page."""
    of_models = analysis.head.sweep.architecture is not None
    return (_model_run if of_models else _layer_run)(analysis, prefix)


def _summary(analyses: Sequence[Analysis]) -> Table | None:
    """Return a row for each of several runs of layers: ratios, since no time of one stands over another's."""
    rows = []
    for number, analysis in enumerate(analyses, 1):
        if analysis.head.sweep.architecture is not None:
            continue
        found = next(
            filter(None, (find_verdict(analysis.points, p) for p in analysis.points)), None
        )
        row = {
            "run": str(number), "machine": label(analysis.head),
            "started": analysis.head.started_utc[:10], "threads": str(analysis.head.sweep.threads),
        }  # fmt: skip
        own = _verdict_row(found) if found else {}
        names = (
            "batch",
            "width",
            "conditions",
            "fastest FF",
            "fastest FFF",
            "speedup",
            "limit",
            "A/A",
        )
        rows.append(row | {name: own.get(name, NONE) for name in names})
    frame = pd.DataFrame(rows)
    return (
        make_table("The fastest FFF over the fastest FF of the same run", frame) if rows else None
    )


# ---- the file -------------------------------------------------------------------------------------


def _shipped(name: str) -> str:
    return resources.files("harness.report.templates").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report", "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    ).get_template("page.html.j2")  # fmt: skip


def _style() -> str:
    """Return the style sheet, with the palette of the figures before it."""
    hues = ";".join(f"--c{i}:{colour}" for i, colour in enumerate(palette.COLOURS))
    marks = "".join(f".c{i}{{--c:var(--c{i})}}" for i in range(len(palette.COLOURS)))
    return f":root{{{hues}}}{marks}\n{_shipped('page.css')}"


def _digest(text: str) -> str:
    """Return how a content security policy names a script or style sheet of exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def format_page(analyses: Sequence[Analysis]) -> str:
    """Return the page of one run or of several: HTML that loads and sends nothing.

    Its policy lets no script and no style run but the two that are shipped, whatever a run's texts hold.
    """
    style, script = _style(), _shipped("page.js")
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    several = len(analyses) > 1
    text: str = _template().render(
        runs=[_run(a, f"run{i}-" if several else "") for i, a in enumerate(analyses, 1)],
        summaries=list(filter(None, (_summary(analyses), page_transformer.find_summary(analyses))))
        if several
        else [],
        style=Markup(style), script=Markup(script), policy=policy,
        version=analyses[0].head.machine.harness_version,
    )  # fmt: skip
    return text


def write_page(analysis: Analysis) -> list[Path]:
    """Write the page of a run into its folder and return the file. Raises OSError."""
    path = analysis.folder / PAGE_FILE
    write_pages([analysis], path)
    return [path]


def write_pages(analyses: Sequence[Analysis], path: Path) -> None:
    """Write the page of one run or of several to a file. Raises OSError."""
    write_whole(path, format_page(analyses))
