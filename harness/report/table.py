"""Own the report of a run: Markdown and LaTeX, and the files that it is written to."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis import ledger
from harness.analysis.analysis import Analysis
from harness.analysis.contrasts import Contrast
from harness.analysis.reach import Cause
from harness.analysis.rows import Entry, Point, Versus
from harness.analysis.stats import Ratio
from harness.paper.published import PAPER_BATCH, PAPER_WIDTH
from harness.problem import axes
from harness.problem.models import title
from harness.report import controls as report_controls
from harness.report import escape
from harness.report import gpu as report_gpu
from harness.report import ledger as report_ledger
from harness.report import quality as report_quality
from harness.report import routing as report_routing
from harness.report import transformer as report_transformer
from harness.report.formats import (
    UNCONFIRMED,
    format_markdown_table,
    format_rate,
    format_ratio,
    format_reasons,
    format_share,
    format_source,
    format_time,
    format_unavailable,
)
from harness.report.frames import (
    REMARKED,
    ceiling_frame,
    contrast_frame,
    paper_frame,
    speed_frame,
    versus_frame,
)
from harness.report.header import head_lines

_PAPER_MACHINES = {"cpu": "i7-6700HQ, MKL 2023.2", "gpu": "RTX A6000"}


def format_place(point: Point) -> str:
    """Return where a section stands: its batch, its width, and what differs from the default conditions."""
    differs = axes.title(point.conditions)
    return f"Batch {point.batch}, width {point.width}" + (f", {differs}" if differs else "")


def impossible(points: Sequence[Point]) -> list[str]:
    """Return a line for each figure that passes its limit or ceiling without an explanation."""
    lines = []
    for point in points:
        at = format_place(point).lower()
        for provider, entries in point.entries.items():
            lines += [
                f"{title(e.model)} at level {e.level}, {provider}, {at}: {e.remark}"
                for e in entries
                if e.impossible
            ]
        lines += [
            f"{title(v.model)}, {v.implementation}, over the fastest FF, {at}: {v.remark}"
            for v in point.versus
            if v.impossible
        ]
        lines += [f"{s.cell}: faster than its ceiling allows" for s in point.speeds if s.impossible]
    return lines


def _point_lines(analysis: Analysis, point: Point) -> list[str]:
    lines = ["", f"## {format_place(point)}"]
    for provider, entries in point.entries.items():
        lines += [
            "",
            f"Speedup over {title(point.baseline)} at the same BLAS level, provider {provider}:",
            "",
            format_markdown_table(paper_frame(entries, point.baseline)),
        ]
        lines += remark_lines([(f"{title(e.model)}, level {e.level}", e) for e in entries])
    lines += report_gpu.point_lines(point)
    if point.versus:
        lines += [
            "",
            best_line(analysis, point),
            *reach_lines(analysis, point),
            "",
            format_markdown_table(versus_frame(point)),
        ]
        lines += remark_lines([(f"{title(v.model)}, {v.implementation}", v) for v in point.versus])
    lines += report_controls.controls_lines(point.controls)
    if point.aa is not None:
        lines += ["", aa_line(point.aa)]
    lines += [
        "",
        "Absolute figures (median over all samples):",
        "",
        format_markdown_table(speed_frame(point.speeds)),
    ]
    lacking = [(s.implementation, s.reason) for s in point.speeds if s.status == "unavailable"]
    return [*lines, *[f"\n{line}." for line in format_unavailable(lacking)]]


def aa_line(aa: Ratio) -> str:
    """Return what the FF that was measured twice says of what this machine resolves."""
    text = f"The fastest FF against itself under a second name (A/A): {format_ratio(aa)}."
    if not aa.known:
        return f"{text} One block tells nothing of what this machine resolves."
    if not aa.includes(1.0):
        return (
            f"{text} **UNSTABLE: this misses 1. The machine was disturbed unevenly; every row here is "
            "uncertain by at least as much.**"
        )
    return f"{text} Smaller differences are not resolved here and print as `no difference`."


def remark_lines(found: Sequence[tuple[str, Entry | Versus]]) -> list[str]:
    """Return a list of Markdown with the remark on each figure (its name, the figure) that has one."""
    remarks = [
        f"- {name}{'' if x.impossible else REMARKED}: {x.remark}." for name, x in found if x.remark
    ]
    return ["", *remarks] if remarks else []


def best_line(analysis: Analysis, point: Point) -> str:
    """Return which FF the speedups of best against best are over."""
    speed = analysis.find_speed(point.fastest)
    if speed is None:
        return "Best against best: no FF was measured."
    named = f"{speed.implementation} ({format_source(speed.implementation, speed.provider)})"
    if point.stand_in:
        return (
            f"Best against best: no FF of {point.conditions.dtype} was measured "
            f"({_why_no_ff(point)}), so the speedups are over the fastest float32 "
            f"FF, which moves twice the bytes: {named}, "
            f"{format_time(speed.pass_ns)} a pass."
        )
    share = f", {format_share(speed.share)} of this provider's sgemm" if speed.share > 0 else ""
    return (
        f"Best against best: the fastest FF is {named}, "
        f"{format_time(speed.pass_ns)} a pass, {format_rate(speed.gflops)} GFLOP/s{share}."
    )


_TRIES: dict[Cause, str] = {
    "forced": "measuring without {}, which forces its kernels",
    "narrow": "a newer build, or a wider core by OPENBLAS_CORETYPE and --keep-blas-env (it chose {})",
    "provider": "another provider than {} (--blas)",
    "pages": "huge pages ({} % of a buffer like the operands lies in them)",
    "threads": "other --threads, or pinning them (it ran on {})",
}


def reach_lines(analysis: Analysis, point: Point) -> list[str]:
    """Return a line where the baseline's level 3 stays well below the peak, and what could be tried."""
    reach = point.reach
    if reach is None or not reach.is_low:
        return []
    tries = [_TRIES[remedy.cause].format(remedy.seen) for remedy in analysis.remedies]
    several = len({p.name for p in analysis.providers})
    tried = f"; the best of {several} providers" if several > 1 else ""
    return [
        "",
        f"**Level 3 reaches {format_rate(reach.gflops)} of the {format_rate(reach.peak)} GFLOP/s that "
        f"multiply-adds alone reach here, {format_share(reach.gflops / reach.peak)}** "
        f"({reach.implementation}, {reach.provider}{tried}): a level 3 that got more of the machine would "
        f"make the speedups over it smaller. To try: {'; '.join(tries) or 'a newer build of the library'}.",
    ]


def _why_no_ff(point: Point) -> str:
    """Return why a section has no FF of its own dtype."""
    found = sorted(point.lacking, key=lambda pair: pair[1])
    return "; ".join(format_reasons(found)) or "none was asked for"


def _contrast_lines(contrasts: Sequence[Contrast]) -> list[str]:
    if not contrasts:
        return []
    return [
        "", "## What data and locality change", "",
        "Each cell under the conditions that it was measured under; `times the first`: how many times "
        "longer a pass takes than under the first line's. Leaf bits: entropy of the tokens over the "
        "leaves. Default: " + ", ".join(map(" ".join, zip(axes.COLUMNS, axes.DEFAULTS,
                                                          strict=True))) + ".",
        "", format_markdown_table(contrast_frame(contrasts)),
    ]  # fmt: skip


def _foot_lines(analysis: Analysis) -> list[str]:
    lines = ["", "## Reading this", ""]
    if analysis.ceiling_speeds:
        threads = analysis.ceilings.threads
        several = f", of {threads} threads together" if threads > 1 else ""
        lines += [f"The machine's own ceilings, measured in the same run{several}:", ""]
        lines += [format_markdown_table(ceiling_frame(analysis.ceiling_speeds)), ""]
    return lines + reading_lines(analysis)


def reading_lines(analysis: Analysis) -> list[str]:
    """Return what every figure of the report means and how it was taken, a list of Markdown."""
    lines = [
        "- `91x [88, 94]`: geometric mean over blocks of interleaved samples and its 95 % interval "
        "(Student's, with the fresh processes as units); digits stop where the interval does. "
        "`~91x`: one block, no interval.",
        *_call_lines(analysis),
        *report_gpu.reading_lines(analysis),
        "- limit: the baseline's neurons over those computed, the most that fewer operations alone give. "
        "A same-level speedup can pass it where the baseline is bound by memory.",
        "- of its ceiling: the least time of a pass here over its time. The least time is the larger of the "
        "operations at the peak rate and the bytes that any pass moves (x, y, each touched weight row once) "
        "at the bandwidth of the caches or memory that hold them; rates of the fastest samples. Above 105 % "
        "a figure is impossible.",
        "- share of floor: the same with the sum of the two in place of the larger, the time of a pass that "
        "computes and moves one after the other. An aim, not a bound: what computes while it loads may pass "
        "it. Cold weights count at the memory's bandwidth.",
        *_peakless_lines(analysis),
        f"- {REMARKED} above the limit: the line below the table says what explains it, or why it is not "
        "judged.",
        *_paper_lines(analysis),
    ]
    if analysis.checked_tokens:
        fewest, most = analysis.checked_tokens
        tokens = f"{most}" if fewest == most else f"{fewest} to {most}"
        lines.append(
            f"- Every cell was compared with a float64 oracle on its timed buffers, {tokens} tokens each, "
            "and every output element was seen to be written."
        )
    return lines


def _paper_lines(analysis: Analysis) -> list[str]:
    """Return where the published figures are from, where any of them stands in a table."""
    if not any(point.is_beside_paper for point in analysis.points):
        return []
    return [
        f"- paper: Table 2 of arXiv 2311.10770 (batch {PAPER_BATCH}, width {PAPER_WIDTH}, "
        f"{_PAPER_MACHINES[ledger.paper_device(analysis.head)]}); {UNCONFIRMED} in no source that could be "
        "opened."
    ]


def _peakless_lines(analysis: Analysis) -> list[str]:
    """Return why rows of a precision have no shares."""
    return [
        f"- of its ceiling, share of floor in {name}: blank, since no peak of its products was measured"
        + (f" ({'; '.join(reasons)})." if reasons else ".")
        for name, reasons in analysis.peakless.items()
    ]


def _call_lines(analysis: Analysis) -> list[str]:
    """Return what the call from Python costs beside the timed interval, where the samples tell it."""
    if analysis.call_ns is None:
        return []
    return [
        "- The timed interval holds the loop in C and two readings of the clock; the call from Python "
        f"around it took {format_time(analysis.call_ns)} (median of {analysis.samples} samples) and "
        "is not in it."
    ]


def format_markdown(analysis: Analysis) -> str:
    """Return the whole report of a run as Markdown."""
    analysis = escape.each_text(analysis, escape.markdown)
    lines = head_lines(analysis)
    if analysis.head.sweep.architecture is not None:
        return "\n".join([*lines, *report_transformer.whole_model_lines(analysis)]) + "\n"
    lines += [f"- **IMPOSSIBLE**: {line}" for line in impossible(analysis.points)]
    for point in analysis.points:
        lines += _point_lines(analysis, point)
    lines += report_gpu.contest_lines(analysis)
    lines += _contrast_lines(analysis.contrasts)
    lines += report_routing.routing_lines(analysis.routed)
    lines += _foot_lines(analysis)
    lines += report_ledger.ledger_lines(analysis)
    lines += report_quality.quality_lines(analysis.quality)
    return "\n".join(lines) + "\n"
