"""Own the text of a run: Markdown, CSV and LaTeX; only this and plot format numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from harness import conditions, ledger, stability, vector_width, view
from harness.axes import BASELINE, PAPER_BATCH, PAPER_WIDTH
from harness.published import FASTEST_FF, PublishedCell
from harness.records import FORCING, ProviderRecord, Run
from harness.stats import Ratio
from harness.view import Entry, Point, Speed, Versus

TABLE_FILES = ("table.md", "table.csv", "speeds.csv", "table.tex", "ledger.json")
_UNCONFIRMED = "†"
_NONE = "–"
_REMARKED = "‡"


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
    if entry.model == BASELINE:
        return "1"
    return _format_judged(entry)


def _format_judged(found: Entry | Versus) -> str:
    """Return a ratio with what is to be said of it: not resolved, above its limit, impossible."""
    text = format_ratio(found.ratio) + _mark(found.remark, found.impossible)
    return text if found.resolved else f"no difference ({text})"


def _mark(remark: str, impossible: bool) -> str:
    """Return what stands behind a speedup above its limit."""
    return " IMPOSSIBLE" if impossible else _REMARKED if remark else ""


def format_place(point: Point) -> str:
    """Return where a section stands: its batch, its width, and what differs from the default conditions."""
    differs = conditions.title(point.conditions)
    return f"Batch {point.batch}, width {point.width}" + (f", {differs}" if differs else "")


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
            "over the fastest FF": _format_judged(v),
            "paper": format_published(v.published),
            "limit": format_limit(v.model),
        }
        for v in point.versus
    )


def speed_frame(speeds: list[Speed]) -> pd.DataFrame:
    """Return absolute figures: time, rate, share of the measured sgemm and of the ceiling, samples."""
    return pd.DataFrame(
        {
            "implementation": s.implementation,
            "model": view.title(s.model) if s.model else _NONE,
            "provider": s.provider or _NONE,
            "a pass": format_time(s.pass_ns),
            "a token": format_time(s.token_ns) if s.model else _NONE,
            "GFLOP/s": _format_rate(s.gflops),
            "of sgemm": _format_share(s.share),
            "of its ceiling": _format_share(s.of_ceiling),
            "samples": s.samples,
            "remarks": _remarks(s),
        }
        for s in speeds
    )


def _remarks(speed: Speed) -> str:
    if speed.status != "ok":
        return f"{speed.status.upper()}: {speed.reason}"
    above = "IMPOSSIBLE: faster than its ceiling allows" if speed.impossible else ""
    unstable = f"UNSTABLE: {', '.join(speed.unstable)}" if speed.unstable else ""
    return ", ".join(part for part in (above, unstable, speed.note) if part)


def ceiling_frame(speeds: list[Speed]) -> pd.DataFrame:
    """Return the machine's ceilings: rates of the median sample and of the fastest, which counts."""
    rows = []
    for s in speeds:
        rate, unit = (s.gbs, "GB/s") if math.isfinite(s.gbs) else (s.gflops, "GFLOP/s")
        rows.append(
            {
                "ceiling": s.implementation.removeprefix("ceiling_"),
                "set in": s.place or _NONE,
                "width": s.width,
                "provider": s.provider or "own code",
                "a pass": format_time(s.pass_ns),
                "rate": f"{_format_rate(rate)} {unit}",
                "fastest sample": f"{_format_rate(rate * s.pass_ns / s.fastest_ns)} {unit}",
                "samples": s.samples,
                "remarks": _remarks(s),
            }
        )
    return pd.DataFrame(rows)


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
        **dict(zip(conditions.COLUMNS, point.conditions, strict=True)),
    }  # fmt: skip


def csv_frame(run: Run) -> pd.DataFrame:
    """Return every speedup as a row of plain numbers, for other programs."""
    rows: list[Any] = []
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
             "share", "of_ceiling", "place", "gbs", "samples", "note")  # fmt: skip
    return pd.DataFrame([{n: getattr(s, n) for n in names} for s in speeds])


# ---- the document -------------------------------------------------------------------------------


def _markdown(frame: pd.DataFrame) -> str:
    text: str = tabulate(
        frame.astype(str).values.tolist(), headers=list(frame.columns), tablefmt="github",
        disable_numparse=True,
    )  # fmt: skip
    return text


def format_markdown_table(frame: pd.DataFrame) -> str:
    """Return a frame of texts as a table of Markdown."""
    return _markdown(frame)


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


def format_narrow_kernels(run: Run) -> list[str]:
    """Return a line a provider whose recorded kernels use narrower vectors than the recorded processor."""
    isa, lines = run.head.machine.isa, []
    for provider in _first_providers(run):
        if not vector_width.is_narrower(provider.architecture, isa):
            continue
        what = (
            f"{provider.name} chose {provider.architecture} kernels on a processor with "
            f"{vector_width.of_processor(isa)}"
        )
        if vector_width.is_veiled(provider.architecture):
            lines.append(f"{what}; MKL may hold faster paths behind that name: see its sgemm rate")
        else:
            lines.append(f"**{what}: its FF may be slow, and speedups over it too large**")
    return lines


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
    lines += [f"- {text}" for text in format_narrow_kernels(run)]
    lines += [
        f"- **Serious for measuring, when the run began: {f.found}**"
        for f in machine.findings
        if f.severity == "serious" and not f.id.startswith("blas-")  # those stand above
    ]
    lines.append(
        f"- float32, {sweep.threads} thread{'s' if sweep.threads != 1 else ''}, seed {sweep.seed}; "
        f"started {run.head.started_utc}; fff-harness {machine.harness_version}, {machine.commit}; "
        f"{machine.build['isa']} kernels, {machine.build['compiler']}"
    )
    if sweep.order == "blocked":
        lines.append(
            "- Order: blocked. Each process takes all samples of one cell, then those of the next: a drift "
            "of the machine enters the ratios, and blocks pair samples by their number alone."
        )
    if run.end is None:
        lines.append("- **The run did not end: it was killed, or is still going.**")
    elif run.end.reason != "complete":
        lines.append(f"- The run ended early ({run.end.reason}); what was finished is shown.")
    lines += [
        f"- Taken up again at {r.resumed_utc} from block {r.block} on, in fresh processes."
        for r in run.resumes
    ]
    lines += [f"- **Record damaged**: {w}" for w in run.warnings]
    moved = view.clock_change(run)
    if moved > stability.MAX_CLOCK_CHANGE:
        lines.append(
            f"- **UNSTABLE: the processor's clock moved by {100 * moved:.0f} % between blocks** "
            "(a loop in registers alone changed its time by that)."
        )
    if sweep.threads > 1:
        lines.append(
            "- Threads are the provider's own: products large enough are split (level 3, the gemv of "
            "the FF); dots, axpys and the FFF's one-row products run on one thread."
        )
    return lines


def _point_lines(run: Run, point: Point) -> list[str]:
    lines = ["", f"## {format_place(point)}"]
    for provider, entries in point.entries.items():
        lines += [
            "",
            f"Speedup over {view.title(BASELINE)} at the same BLAS level, provider {provider}:",
            "",
            _markdown(paper_frame(run, entries)),
        ]
        lines += _remark_lines([(f"{view.title(e.model)}, level {e.level}", e) for e in entries])
    if point.versus:
        speed = next((s for s in point.speeds if s.cell == point.fastest), None)
        lines += ["", _best_line(speed), "", _markdown(versus_frame(point))]
        lines += _remark_lines(
            [(f"{view.title(v.model)}, {v.implementation}", v) for v in point.versus]
        )
    if point.aa is not None:
        lines += ["", _aa_line(point.aa)]
    lines += [
        "",
        "Absolute figures (median over all samples):",
        "",
        _markdown(speed_frame(point.speeds)),
    ]
    return lines


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
        f"- {name}{'' if x.impossible else _REMARKED}: {x.remark}." for name, x in found if x.remark
    ]
    return ["", *remarks] if remarks else []


def _best_line(speed: Speed | None) -> str:
    if speed is None:
        return "Best against best: no FF was measured."
    share = f", {_format_share(speed.share)} of this provider's sgemm" if speed.share > 0 else ""
    return (
        f"Best against best: the fastest FF is {speed.implementation} ({speed.provider or 'own code'}), "
        f"{format_time(speed.pass_ns)} a pass, {_format_rate(speed.gflops)} GFLOP/s{share}."
    )


def contrast_frame(run: Run) -> pd.DataFrame:
    """Return each cell that was measured under several conditions, beside its first ones."""
    return pd.DataFrame(
        {
            "implementation": c.implementation,
            "model": view.title(c.model),
            "provider": c.provider or _NONE,
            "batch": c.batch,
            "width": c.width,
            "conditions": conditions.title(c.conditions) or "default",
            "a pass": format_time(c.pass_ns) if c.status == "ok" else c.status.upper(),
            "times the first": format_ratio(c.ratio),
            "nodes touched": c.nodes_touched or _NONE,
            "leaf bits": f"{c.leaf_bits:.1f}" if math.isfinite(c.leaf_bits) else _NONE,
            "working set": f"{c.working_set_bytes / 2**20:.3g} MiB"
            if c.working_set_bytes
            else _NONE,
        }
        for c in conditions.contrasts(run)
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
        "", _markdown(frame),
    ]  # fmt: skip


def _foot_lines(run: Run) -> list[str]:
    lines = ["", "## Reading this", ""]
    if view.ceilings(run):
        lines += ["The machine's own ceilings, measured in the same run:", ""]
        lines += [_markdown(ceiling_frame(view.ceilings(run))), ""]
    lines += [
        "- `91x [88, 94]`: geometric mean over blocks of interleaved samples and its 95 % interval "
        "(resampled by process, then block); digits stop where the interval does. `~91x`: one block, "
        "no interval.",
        *_call_lines(run),
        "- limit: the baseline's neurons over those computed, the most that fewer operations alone give. "
        "A same-level speedup can pass it where the baseline is bound by memory.",
        "- of its ceiling: the least time of a pass here over its time. The least time is the larger of the "
        "operations at the peak rate and the bytes that any pass moves (x, y, each touched weight row once) "
        "at the bandwidth of the caches or memory that hold them; rates of the fastest samples. Above 105 % "
        "a figure is impossible.",
        f"- {_REMARKED} above the limit, explained by where the weights lie: see the line below the table.",
        f"- paper: Table 2 of arXiv 2311.10770 (batch {PAPER_BATCH}, width {PAPER_WIDTH}, i7-6700HQ, "
        f"MKL 2023.2); {_UNCONFIRMED} in no source that could be opened.",
    ]
    judged = (run.cells["status"] == "ok") & ~run.cells["role"].isin(["ceiling", "ladder"])
    checked = run.cells.loc[judged, "checked_tokens"]
    if len(checked):
        lines.append(
            f"- Every cell was compared with a float64 oracle on its timed buffers, {checked.min()} to "
            f"{checked.max()} tokens each, and every output element was seen to be written."
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


def ledger_frame(entries: list[ledger.Entry]) -> pd.DataFrame:
    """Return each published cell with what this run says of it."""
    rows = []
    for e in entries:
        ratio = None
        if e.measured is not None:
            low, high = (e.low, e.high) if e.low is not None else (math.nan, math.nan)
            ratio = Ratio(value=e.measured, low=low, high=high or math.nan, blocks=e.blocks)
        over = e.baseline if e.baseline == FASTEST_FF else view.title(e.baseline)
        rows.append(
            {
                "published cell": f"{view.title(e.model)}, {e.column}, over {over}",
                "published": f"{e.published:g}x",
                "provenance": e.provenance,
                "measured here": format_ratio(ratio) + (f" ({e.provider})" if e.provider else ""),
                "finding": e.finding,
                "reason": e.reason,
            }
        )
    return pd.DataFrame(rows)


def _ledger_lines(run: Run) -> list[str]:
    entries = ledger.make_ledger(run)
    by_arithmetic = [e for e in entries if e.provenance == "arithmetic"]
    elsewhere = [e for e in entries if e.device == "gpu" and e not in by_arithmetic]
    shown = [e for e in entries if e not in by_arithmetic and e not in elsewhere]
    counts = ", ".join(f"{n} {finding}" for finding, n in ledger.count(shown).items())
    return [
        "",
        "## Ledger of the published cells",
        "",
        f"Of {len(entries)} published cells {len(by_arithmetic)} follow by arithmetic and {len(elsewhere)} "
        f"were measured on a GPU, not comparable here; of the other {len(shown)}: {counts}. Reproduced means "
        f"that the measured 95 % interval overlaps the published value within {100 * ledger.BAND:.0f} % to "
        "either side; the paper gives no interval. All cells stand in ledger.json.",
        "",
        _markdown(ledger_frame(shown)),
    ]


def format_markdown(run: Run) -> str:
    """Return the whole report of a run as Markdown."""
    points = view.points(run)
    lines = _head_lines(run) + [f"- **IMPOSSIBLE**: {line}" for line in view.impossible(points)]
    for point in points:
        lines += _point_lines(run, point)
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
        at = format_place(point).lower()
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
        ledger.format_json(run),
    )
    paths = [run.folder / name for name in TABLE_FILES]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths
