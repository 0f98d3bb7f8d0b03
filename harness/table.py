"""Own the text of a run: Markdown, CSV and LaTeX; only this and plot format numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from harness import view
from harness.axes import BASELINE
from harness.plan import PAPER_BATCH, PAPER_WIDTH
from harness.published import PublishedCell
from harness.records import FORCING, ProviderRecord, Run
from harness.stats import Ratio
from harness.view import Entry, Point, Speed

TABLE_FILES = ("table.md", "table.csv", "speeds.csv", "table.tex")
_UNCONFIRMED = "†"
_NONE = "–"


# ---- numbers ------------------------------------------------------------------------------------


def _decimals(resolution: float) -> int:
    """Return the decimals that a resolution leaves: 1 for 0.3, 0 for 3, -1 for 30; at most 3."""
    if resolution <= 0:
        return 3
    return min(3, -math.floor(math.log10(resolution)))


def _rounded(value: float, decimals: int) -> str:
    return f"{round(value, decimals):.{max(0, decimals)}f}"


def format_ratio(ratio: Ratio | None) -> str:
    """Return `91x [88, 94]`: digits stop where the interval does; `~91x` where one block gives none."""
    if ratio is None:
        return _NONE
    if not ratio.known:
        return f"~{_rounded(ratio.value, _decimals(ratio.value / 10))}x"
    d = _decimals((ratio.high - ratio.low) / 2)
    low, high = _rounded(ratio.low, d), _rounded(ratio.high, d)
    return f"{_rounded(ratio.value, d)}x [{low}, {high}]"


def format_time(ns: float) -> str:
    """Return a time with three digits and its unit."""
    if not math.isfinite(ns):
        return _NONE
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= scale:
            return f"{ns / scale:.3g} {unit}"
    return f"{ns:.3g} ns"


def _format_rate(gflops: float) -> str:
    return f"{gflops:.3g}" if math.isfinite(gflops) else _NONE


def _format_share(share: float) -> str:
    return f"{100 * share:.0f} %" if math.isfinite(share) else _NONE


def format_limit(model: str) -> str:
    """Return the limit of a model's speedup as the paper prints it: 1.00, 1.33, 341.25."""
    return f"{view.limit(model):.2f}x"


def format_published(cell: PublishedCell | None) -> str:
    """Return a published speedup, marked where no source that could be opened confirms it."""
    if cell is None:
        return _NONE
    return f"{cell.text}x" + ("" if cell.confirmed else _UNCONFIRMED)


def format_entry(entry: Entry) -> str:
    """Return the measured figure of a cell, or in capitals why there is none."""
    if entry.status == "none":
        return _NONE
    if entry.ratio is None:
        return entry.status.upper()
    return "1" if entry.model == BASELINE else format_ratio(entry.ratio)


# ---- frames -------------------------------------------------------------------------------------


def paper_frame(run: Run, entries: list[Entry]) -> pd.DataFrame:
    """Return the table in the paper's form: a row a model, a measured and a published column a level."""
    rows = []
    for model in view.models(run):
        row = {"model": view.title(model), "limit": format_limit(model)}
        for entry in entries:
            if entry.model == model:
                row[f"level {entry.level}"] = format_entry(entry)
                row[f"paper, level {entry.level}"] = format_published(entry.published)
        rows.append(row)
    return pd.DataFrame(rows)


def versus_frame(point: Point) -> pd.DataFrame:
    """Return each FFF against the fastest FF."""
    return pd.DataFrame(
        {
            "model": view.title(v.model),
            "FFF implementation": v.implementation,
            "provider": v.provider or _NONE,
            "over the fastest FF": format_ratio(v.ratio),
            "paper": format_published(v.published),
            "limit": format_limit(v.model),
        }
        for v in point.versus
    )


def speed_frame(speeds: list[Speed]) -> pd.DataFrame:
    """Return absolute figures: time, rate, share of the measured sgemm, samples."""
    return pd.DataFrame(
        {
            "implementation": s.implementation,
            "model": view.title(s.model) if s.model else _NONE,
            "provider": s.provider or _NONE,
            "a pass": format_time(s.pass_ns),
            "a token": format_time(s.token_ns) if s.model else _NONE,
            "GFLOP/s": _format_rate(s.gflops),
            "of sgemm": _format_share(s.share),
            "samples": s.samples,
            "remarks": s.note if s.status == "ok" else f"{s.status.upper()}: {s.reason}",
        }
        for s in speeds
    )


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _csv_row(point: Point, ratio: Ratio | None, cell: PublishedCell | None, **names: Any) -> Any:
    return {
        "batch": point.batch, "width": point.width, **names,
        "speedup": _number(ratio.value if ratio else None),
        "low": _number(ratio.low if ratio else None),
        "high": _number(ratio.high if ratio else None),
        "blocks": ratio.blocks if ratio else 0,
        "published": cell.speedup if cell else None,
        "provenance": cell.provenance if cell else None,
    }  # fmt: skip


def csv_frame(run: Run) -> pd.DataFrame:
    """Return every speedup as a row of plain numbers, for other programs."""
    rows = []
    for point in view.points(run):
        for provider, entries in point.entries.items():
            rows += [
                _csv_row(
                    point, e.ratio, e.published, provider=provider, model=e.model,
                    column=f"level {e.level}", baseline=BASELINE, status=e.status,
                    limit=view.limit(e.model),
                )
                for e in entries
            ]  # fmt: skip
        rows += [
            _csv_row(
                point, v.ratio, v.published, provider=v.provider, model=v.model,
                column=v.implementation, baseline=point.fastest,
                status="ok" if v.ratio else "no baseline", limit=view.limit(v.model),
            )
            for v in point.versus
        ]  # fmt: skip
    return pd.DataFrame(rows)


def speeds_csv_frame(run: Run) -> pd.DataFrame:
    """Return every cell's absolute figures as plain numbers, ceilings included."""
    speeds = [s for point in view.points(run) for s in point.speeds] + view.ceilings(run)
    names = ("cell", "implementation", "model", "provider", "status", "pass_ns", "token_ns", "gflops",
             "share", "samples", "note")  # fmt: skip
    return pd.DataFrame([{n: getattr(s, n) for n in names} for s in speeds])


# ---- the document -------------------------------------------------------------------------------


def _markdown(frame: pd.DataFrame) -> str:
    text: str = tabulate(
        frame.astype(str).values.tolist(), headers=list(frame.columns), tablefmt="github",
        disable_numparse=True,
    )  # fmt: skip
    return text


def _format_bytes(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def format_machine(run: Run) -> str:
    """Return the machine in one line."""
    m = run.head.machine
    caches = ", ".join(f"{name} {_format_bytes(size)}" for name, size in m.caches.items())
    where = f", virtual machine ({m.virtual_machine})" if m.virtual_machine else ""
    return (
        f"{m.processor} ({m.microarchitecture}), {m.cores} cores, {caches}, "
        f"{m.memory_bytes / 2**30:.0f} GiB{where}; {m.system}"
    )


def format_provider(record: ProviderRecord) -> str:
    """Return a provider in one line: what was really loaded."""
    batched = [r for r in record.routines if r.endswith("_batch")]
    facts = [
        record.version or "version unknown",
        f"kernels {record.architecture or 'unknown'}",
        f"{record.threads or 'unknown'} thread{'s' if record.threads != 1 else ''}",
        f"batched routines: {', '.join(batched)}" if batched else "no batched routines",
        record.path,
    ]
    return f"{record.name}: {'; '.join(facts)}"


def _first_providers(run: Run) -> list[ProviderRecord]:
    return list({p.name: p for p in reversed(run.providers)}.values())[::-1]


def _head_lines(run: Run) -> list[str]:
    sweep, machine = run.head.sweep, run.head.machine
    quick = " (QUICK: small batch, few samples; not for quoting)" if sweep.quick else ""
    lines = [f"# Speedups of conditional over dense feedforward layers, CPU{quick}", ""]
    lines += [f"- Machine: {format_machine(run)}"]
    lines += [f"- BLAS {format_provider(p)}" for p in _first_providers(run)]
    dropped = sorted({d for p in run.providers for d in p.dropped})
    if dropped:
        lines.append(f"- Taken out of the measuring processes' environment: {', '.join(dropped)}")
    forced = sorted({f"{k}={v}" for p in run.providers for k, v in p.variables.items()
                     if k in FORCING})  # fmt: skip
    if forced:
        lines.append(f"- **The BLAS kernel was forced by the environment: {', '.join(forced)}**")
    lines.append(
        f"- float32, {sweep.threads} thread{'s' if sweep.threads != 1 else ''}, seed {sweep.seed}; "
        f"started {run.head.started_utc}; fff-harness {machine.harness_version}, {machine.commit}; "
        f"{machine.build['isa']} kernels, {machine.build['compiler']}"
    )
    if run.end is None:
        lines.append("- **The run did not end: it was killed, or is still going.**")
    elif run.end.reason != "complete":
        lines.append(f"- The run ended early ({run.end.reason}); what was finished is shown.")
    lines += [f"- **Record damaged**: {w}" for w in run.warnings]
    if sweep.threads > 1:
        lines.append(
            "- Threads are the provider's own: products large enough are split (level 3, the gemv of "
            "the FF); dots, axpys and the FFF's one-row products run on one thread."
        )
    return lines


def _point_lines(run: Run, point: Point) -> list[str]:
    lines = ["", f"## Batch {point.batch}, width {point.width}"]
    for provider, entries in point.entries.items():
        lines += [
            "",
            f"Speedup over {view.title(BASELINE)} at the same BLAS level, provider {provider}:",
            "",
            _markdown(paper_frame(run, entries)),
        ]
    if point.versus:
        speed = next((s for s in point.speeds if s.cell == point.fastest), None)
        lines += ["", _best_line(speed), "", _markdown(versus_frame(point))]
    if point.aa is not None:
        lines += [
            "",
            f"The fastest FF against itself under a second name (A/A): {format_ratio(point.aa)}. "
            "Differences within this interval are not resolved here.",
        ]
    lines += [
        "",
        "Absolute figures (median over all samples):",
        "",
        _markdown(speed_frame(point.speeds)),
    ]
    return lines


def _best_line(speed: Speed | None) -> str:
    if speed is None:
        return "Best against best: no FF was measured."
    share = f", {_format_share(speed.share)} of this provider's sgemm" if speed.share > 0 else ""
    return (
        f"Best against best: the fastest FF is {speed.implementation} ({speed.provider or 'own code'}), "
        f"{format_time(speed.pass_ns)} a pass, {_format_rate(speed.gflops)} GFLOP/s{share}."
    )


def _foot_lines(run: Run) -> list[str]:
    lines = ["", "## Reading this", ""]
    if view.ceilings(run):
        lines += ["Ceiling of level 3, a large square product in the same run:", ""]
        lines += [_markdown(speed_frame(view.ceilings(run))), ""]
    lines += [
        "- `91x [88, 94]`: geometric mean over blocks of interleaved samples and its 95 % interval "
        "(resampled by process, then block); digits stop where the interval does. `~91x`: one block, "
        "no interval.",
        "- limit: the baseline's neurons over those computed, the most that fewer operations alone give. "
        "A same-level speedup can pass it where the baseline is bound by memory.",
        f"- paper: Table 2 of arXiv 2311.10770 (batch {PAPER_BATCH}, width {PAPER_WIDTH}, i7-6700HQ, "
        f"MKL 2023.2); {_UNCONFIRMED} in no source that could be opened.",
    ]
    checked = run.cells.loc[run.cells["status"] == "ok", "checked_tokens"]
    if len(checked):
        lines.append(
            f"- Every cell was compared with a float64 oracle on its timed buffers, {checked.min()} to "
            f"{checked.max()} tokens each, and every output element was seen to be written."
        )
    return lines


def format_markdown(run: Run) -> str:
    """Return the whole report of a run as Markdown."""
    lines = _head_lines(run)
    for point in view.points(run):
        lines += _point_lines(run, point)
    lines += _foot_lines(run)
    return "\n".join(lines) + "\n"


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        **{c: f"\\{c}" for c in "&%$#_{}"},
    }
)  # fmt: skip


def _latex_table(frame: pd.DataFrame, caption: str) -> str:
    plain = frame.replace({_UNCONFIRMED: "*", _NONE: "--"}, regex=True)
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
    parts = [f"% {line.removeprefix('- ')}" for line in _head_lines(run) if line.startswith("-")]
    parts += ["% Needs \\usepackage{booktabs}. * unconfirmed in any source that could be opened."]
    for point in view.points(run):
        at = f"batch {point.batch}, width {point.width}"
        for provider, entries in point.entries.items():
            caption = (
                f"Speedup over {view.title(BASELINE)} at the same BLAS level ({provider}, {at})"
            )
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
    )
    paths = [run.folder / name for name in TABLE_FILES]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths
