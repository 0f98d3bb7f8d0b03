"""Own the report of a run: Markdown and LaTeX, and the files that it is written to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harness import conditions, device_table, ledger, measured, view
from harness.axes import PAPER_BATCH, PAPER_WIDTH
from harness.frames import (
    REMARKED,
    ceiling_frame,
    contrast_frame,
    csv_frame,
    ledger_frame,
    paper_frame,
    speed_frame,
    speeds_csv_frame,
    versus_frame,
)
from harness.notation import (
    NONE,
    UNCONFIRMED,
    format_markdown_table,
    format_rate,
    format_ratio,
    format_share,
    format_source,
    format_time,
    format_unavailable,
)
from harness.reader import Run
from harness.rows import Entry, Point, Versus
from harness.stats import Ratio
from harness.table_head import head_lines
from harness.writer import write_whole

_PAPER_MACHINES = {"cpu": "i7-6700HQ, MKL 2023.2", "gpu": "RTX A6000"}
TABLE_FILES = ("table.md", "table.csv", "speeds.csv", "table.tex", "ledger.json")


def format_place(point: Point) -> str:
    """Return where a section stands: its batch, its width, and what differs from the default conditions."""
    differs = conditions.title(point.conditions)
    return f"Batch {point.batch}, width {point.width}" + (f", {differs}" if differs else "")


def impossible(points: list[Point]) -> list[str]:
    """Return a line for each figure that passes its limit or ceiling without an explanation."""
    lines = []
    for point in points:
        at = f"batch {point.batch}, width {point.width}"
        for provider, entries in point.entries.items():
            lines += [
                f"{view.title(e.model)} at level {e.level}, {provider}, {at}: {e.remark}"
                for e in entries
                if e.impossible
            ]
        lines += [
            f"{view.title(v.model)}, {v.implementation}, over the fastest FF, {at}: {v.remark}"
            for v in point.versus
            if v.impossible
        ]
        lines += [f"{s.cell}: faster than its ceiling allows" for s in point.speeds if s.impossible]
    return lines


def _point_lines(run: Run, point: Point) -> list[str]:
    lines = ["", f"## {format_place(point)}"]
    for provider, entries in point.entries.items():
        lines += [
            "",
            f"Speedup over {view.title(point.baseline)} at the same BLAS level, provider {provider}:",
            "",
            format_markdown_table(paper_frame(run, entries)),
        ]
        lines += _remark_lines([(f"{view.title(e.model)}, level {e.level}", e) for e in entries])
    lines += device_table.point_lines(run, point)
    if point.versus:
        lines += ["", _best_line(run, point), "", format_markdown_table(versus_frame(point))]
        lines += _remark_lines(
            [(f"{view.title(v.model)}, {v.implementation}", v) for v in point.versus]
        )
    if point.aa is not None:
        lines += ["", _aa_line(point.aa)]
    lines += [
        "",
        "Absolute figures (median over all samples):",
        "",
        format_markdown_table(speed_frame(point.speeds)),
    ]
    lacking = [(s.implementation, s.reason) for s in point.speeds if s.status == "unavailable"]
    return [*lines, *[f"\n{line}." for line in format_unavailable(lacking)]]


def _aa_line(aa: Ratio) -> str:
    text = f"The fastest FF against itself under a second name (A/A): {format_ratio(aa)}."
    if not aa.known:
        return f"{text} One block tells nothing of what this machine resolves."
    if not aa.includes(1.0):
        return (
            f"{text} **UNSTABLE: this misses 1. The machine was disturbed unevenly; every row here is "
            "uncertain by at least as much.**"
        )
    return f"{text} Smaller differences are not resolved here and print as `no difference`."


def _remark_lines(found: Sequence[tuple[str, Entry | Versus]]) -> list[str]:
    remarks = [
        f"- {name}{'' if x.impossible else REMARKED}: {x.remark}." for name, x in found if x.remark
    ]
    return ["", *remarks] if remarks else []


def _best_line(run: Run, point: Point) -> str:
    speed = view.find_speed(run, point.fastest)
    if speed is None:
        return "Best against best: no FF was measured."
    named = f"{speed.implementation} ({format_source(speed.implementation, speed.provider)})"
    if point.stand_in:
        return (
            f"Best against best: no FF of {point.conditions[0]} was measured "
            f"({view.why_no_ff(run, point)}), so the speedups are over the fastest float32 FF, which moves "
            f"twice the bytes: {named}, "
            f"{format_time(speed.pass_ns)} a pass."
        )
    share = f", {format_share(speed.share)} of this provider's sgemm" if speed.share > 0 else ""
    return (
        f"Best against best: the fastest FF is {named}, "
        f"{format_time(speed.pass_ns)} a pass, {format_rate(speed.gflops)} GFLOP/s{share}."
    )


def _contrast_lines(run: Run) -> list[str]:
    frame = contrast_frame(run)
    if frame.empty:
        return []
    return [
        "", "## What data and locality change", "",
        "Each cell under the conditions that it was measured under; `times the first`: how many times "
        "longer a pass takes than under the first line's. Leaf bits: entropy of the tokens over the "
        "leaves. Default: " + ", ".join(map(" ".join, zip(conditions.COLUMNS, conditions.DEFAULTS,
                                                          strict=True))) + ".",
        "", format_markdown_table(frame),
    ]  # fmt: skip


def _foot_lines(run: Run) -> list[str]:
    lines = ["", "## Reading this", ""]
    if view.ceilings(run):
        threads = measured.count_threads(run)
        several = f", of {threads} threads together" if threads > 1 else ""
        lines += [f"The machine's own ceilings, measured in the same run{several}:", ""]
        lines += [format_markdown_table(ceiling_frame(view.ceilings(run))), ""]
    lines += [
        "- `91x [88, 94]`: geometric mean over blocks of interleaved samples and its 95 % interval "
        "(Student's, with the fresh processes as units); digits stop where the interval does. "
        "`~91x`: one block, no interval.",
        *_call_lines(run),
        *device_table.reading_lines(run),
        "- limit: the baseline's neurons over those computed, the most that fewer operations alone give. "
        "A same-level speedup can pass it where the baseline is bound by memory.",
        "- of its ceiling: the least time of a pass here over its time. The least time is the larger of the "
        "operations at the peak rate and the bytes that any pass moves (x, y, each touched weight row once) "
        "at the bandwidth of the caches or memory that hold them; rates of the fastest samples. Above 105 % "
        "a figure is impossible.",
        "- share of floor: the same with the sum of the two in place of the larger, the time of a pass that "
        "computes and moves one after the other. An aim, not a bound: what computes while it loads may pass "
        "it. Cold weights count at the memory's bandwidth, operations without a peak of their own at that of "
        "float32.",
        f"- {REMARKED} above the limit, explained by where the weights lie: see the line below the table.",
        f"- paper: Table 2 of arXiv 2311.10770 (batch {PAPER_BATCH}, width {PAPER_WIDTH}, "
        f"{_PAPER_MACHINES[ledger.paper_device(run)]}); {UNCONFIRMED} in no source that could be opened.",
    ]
    judged = (run.cells["status"] == "ok") & ~run.cells["role"].isin(["ceiling", "ladder"])
    checked = run.cells.loc[judged, "checked_tokens"]
    if len(checked):
        fewest, most = checked.min(), checked.max()
        tokens = f"{most}" if fewest == most else f"{fewest} to {most}"
        lines.append(
            f"- Every cell was compared with a float64 oracle on its timed buffers, {tokens} tokens each, "
            "and every output element was seen to be written."
        )
    return lines


def _call_lines(run: Run) -> list[str]:
    """Return what the call from Python costs beside the timed interval, where the samples tell it."""
    calls = run.samples["call_ns"]
    if not calls.any():
        return []
    return [
        "- The timed interval holds the loop in C and two readings of the clock; the call from Python "
        f"around it took {format_time(float(calls.median()))} (median of {len(calls)} samples) and "
        "is not in it."
    ]


def _ledger_lines(run: Run) -> list[str]:
    entries = ledger.make_ledger(run)
    by_arithmetic = [e for e in entries if e.provenance == "arithmetic"]
    other = "CPU" if ledger.paper_device(run) == "gpu" else "GPU"
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
    ]


def format_markdown(run: Run) -> str:
    """Return the whole report of a run as Markdown."""
    points = view.points(run)
    lines = head_lines(run) + [f"- **IMPOSSIBLE**: {line}" for line in impossible(points)]
    for point in points:
        lines += _point_lines(run, point)
    lines += device_table.contest_lines(run)
    lines += _contrast_lines(run)
    lines += _foot_lines(run)
    lines += _ledger_lines(run)
    return "\n".join(lines) + "\n"


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        **{c: f"\\{c}" for c in "&%$#_{}"},
    }
)  # fmt: skip


def _latex_table(frame: pd.DataFrame, caption: str) -> str:
    plain = frame.replace({UNCONFIRMED: "*", NONE: "--"}, regex=True)
    style = plain.style.hide(axis="index").format(escape="latex")
    style = style.format_index(escape="latex", axis=1)
    text: str = style.to_latex(
        hrules=True, caption=caption.translate(_LATEX),
        column_format="l" + "r" * (len(frame.columns) - 1),
        position_float="centering",
    )  # fmt: skip
    return text


def format_latex(run: Run) -> str:
    """Return the paper's table and the best-against-best table as LaTeX (package booktabs)."""
    parts = [f"% {line.removeprefix('- ')}" for line in head_lines(run) if line.startswith("-")]
    parts += ["% Needs \\usepackage{booktabs}. * unconfirmed in any source that could be opened."]
    for point in view.points(run):
        at = format_place(point).lower()
        for provider, entries in point.entries.items():
            caption = f"Speedup over {view.title(point.baseline)} at the same BLAS level ({provider}, {at})"
            parts.append(_latex_table(paper_frame(run, entries), caption))
        if point.versus:
            parts.append(_latex_table(versus_frame(point), f"Speedup over the fastest FF ({at})"))
    return "\n".join(parts)


def write_tables(run: Run) -> list[Path]:
    """Write table.md, table.csv, speeds.csv and table.tex into the run's folder and return them."""
    texts = (
        format_markdown(run),
        csv_frame(run).to_csv(index=False),
        speeds_csv_frame(run).to_csv(index=False),
        format_latex(run),
        ledger.format_json(run),
    )
    paths = [run.folder / name for name in TABLE_FILES]
    for path, text in zip(paths, texts, strict=True):
        write_whole(path, text)
    return paths
