"""Own the page of the ladder: its text, its CSV and its figure, from the records of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness import axes, ladder, notation, published, table_head
from harness.canvas import COLOURS, new_figure, set_title
from harness.errors import UsageError
from harness.ladder import LEVELS, Rung
from harness.plan import PUBLISHED_ROUNDS
from harness.published import PublishedCell
from harness.reader import Run
from harness.stats import Ratio

Climbs = dict[int, list[Rung]]

EXPLAIN_FILES = ("explain.md", "explain.csv")
_NOT_MEASURED = "not measured"
_UP, _DOWN, _FIRST, _LAST = COLOURS[5], COLOURS[0], "#999999", COLOURS[2]

_TITLES = {
    "published": "As published",
    "written": "Buffers are written",
    "rows": "Each token has its own row",
    "w_out": "The right rows, scaled by the activation",
    "activation": "A vectorised activation everywhere",
    "allocation": "Nothing is allocated inside the timed call",
    "protocol": "Warm-up and interleaving",
    "baseline": "The fastest opponent",
    "own": "Our own kernels",
}
# What happens in each step, as facts about the mechanism; every number is filled in from the run.
_TEXTS = {
    "published": (
        "The inputs and the weights are allocated and never written. The level-1 FFF adds up rows "
        "of the output buffer where it should add rows of the weights. The level-2 FFF gives every "
        "token the address of one and the same input row and output row, and multiplies by 1 where "
        "it should multiply by the activation. The FF allocates and frees its intermediates inside "
        "the timed call. Nothing is warmed up, and no output is ever looked at."
    ),
    "written": (
        "On Linux, memory that nobody has written reads as zeros, and behind all of its addresses "
        "stands one and the same physical page: a layer of many megabytes is read from the "
        "first-level cache. With zeros every product is 0, every token takes the same path through "
        "the tree, and a BLAS library asked to add 0 times a row returns at once. Random values end"
        " all of that, on both sides: the FFF loses its reads from the nearest cache, the FF its "
        "cheap operands. The factor says which of them had gained more."
    ),
    "rows": (
        "A level-2 FFF that is given one row for all tokens walks one path: it reads the same "
        "12 rows of the weights again and again from the nearest caches, while a real batch spreads over the "
        "whole tree and reads and writes a row per token. Level 1 did not have this fault, nor has "
        "the level-3 FF."
    ),
    "w_out": (
        "The level-1 FFF added rows of the output, so it never read its output weights; now it "
        "does. The level-2 FFF multiplies by the activation instead of 1. From here on the FFF "
        "computes the right result."
    ),
    "activation": (
        "The published level-1 FF calls the C library's `erfc` for each neuron, where levels 2 and "
        "3 use a vectorised function. The fastest FF is of level 3 and the FFF has few activations,"
        " so neither side of this comparison changes and the factor is 1 by definition."
    ),
    "allocation": (
        "The FF took two blocks of (batch x 4095) floats from the system and gave them back in "
        "every pass: each page of them costs a fault and is set to zero by the system before it is "
        "written once. The caller's buffers replace them."
    ),
    "protocol": (
        "One mean of consecutive passes, first the FF and then the FFF, counts the first touch of "
        "every page, and whatever the machine does meanwhile, into one side. Samples of both sides "
        "in random alternation, after a warm-up, share it. They also find the caches as another "
        "kernel left them, where consecutive passes find their own weights in place."
    ),
    "baseline": (
        "An ordinary layer can be computed by several libraries, and in tiles that keep its "
        "intermediate in the cache. The one to beat is the fastest that this machine has."
    ),
    "own": (
        "So far the FFF was built from library routines that are made for large products. Kernels "
        "made for conditional execution can do better."
    ),
}


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("harness", "data"), undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )  # fmt: skip


def _claim(level: int) -> PublishedCell:
    found = published.find(ladder.FFF_MODEL, f"level {level}", baseline=published.FASTEST_FF)
    if found is None:
        raise LookupError(f"table2.csv has no level-{level} figure over the fastest FF")
    return found


def _speedup(rung: Rung) -> str:
    return notation.format_ratio(rung.speedup) if rung.speedup else _NOT_MEASURED


def _factor(rung: Rung) -> str:
    if rung.step.key == ladder.STEPS[0].key:
        return ""
    if rung.same:
        return "1"
    return notation.format_ratio(rung.factor) if rung.factor else _NOT_MEASURED


def _plain(value: float) -> str:
    """Return a number with three digits, for a product that the reader may work out again."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"


def _effect(run: Rung) -> str:
    """Return in words what a step did to the speedup."""
    where = {"neither": "neither side changes", "both": "both sides change",
             "FF": "the FF changes", "FFF": "the FFF changes"}[run.step.changes[run.level]]  # fmt: skip
    if run.speedup is None:
        return f"{_NOT_MEASURED}: {run.reason}."
    now = f"the speedup is {_speedup(run)}"
    if run.step.key == ladder.STEPS[0].key:
        return f"{now}; the paper says {_claim(run.level).text}x."
    if run.same:
        return f"nothing changes; {now}."
    if run.factor is None:
        return f"{where}; {now}; the factor is not known, since the step before was not measured."
    if not run.factor.known:
        return f"{where}; the factor is {_factor(run)} (one block, no interval); {now}."
    if run.factor.includes(1.0):
        return f"{where}, with no difference that this run can see ({_factor(run)}); {now}."
    word = "raises" if run.factor.value > 1 else "lowers"
    return f"{where}, which {word} the speedup by the factor {_factor(run)}; {now}."


def _product(rungs: Sequence[Rung]) -> str:
    """Return the first speedup times the factors, beside the last one as it was measured."""
    whole, last = ladder.product(rungs), rungs[-1].speedup
    if whole is None or last is None or rungs[0].speedup is None:
        return "a step was not measured, so there is no product."
    factors = [r.factor.value for r in rungs[1:] if r.factor and not r.same]
    terms = " x ".join(_plain(v) for v in [rungs[0].speedup.value, *factors])
    return (
        f"{terms} = {_plain(whole)}; measured at the last step: {_plain(last.value)} "
        "(steps that change nothing left out; the terms are rounded, the product is not)."
    )


def _gap(climbs: Climbs, level: int) -> str:
    """Return what the published protocol makes of the speedup at a level, in a sentence."""
    first, strict = climbs[level][0].speedup, _strict(climbs[level]).speedup
    if first is None or strict is None:
        return ""
    claim = _claim(level).speedup
    how = ladder.quotient(first, strict)
    if not how.known:
        made = f"multiplies it by {notation.format_ratio(how)} (one block, no interval)"
    elif how.includes(1.0):
        made = f"makes no difference that this run can see ({notation.format_ratio(how)})"
    elif how.value > 1:
        made = f"makes it larger by the factor {notation.format_ratio(how)}"
    else:
        made = f"makes it smaller: the factor is {notation.format_ratio(how)}"
    return (
        f"At level {level} the published way of measuring {made} on this machine; the strict figure is "
        f"{_plain(100 * strict.value / claim)} % of the published {_claim(level).text}x."
    )


def _strict(rungs: Sequence[Rung]) -> Rung:
    """Return the rung at which all faults are mended, before our own kernels come in."""
    return next(r for r in rungs if r.step.key == "baseline")


def _name(run: Run, cell: str) -> str:
    """Return an interleaved cell's implementation and provider."""
    row = run.cells[run.cells["cell"] == cell].iloc[0]
    return f"`{row['implementation']}` ({row['provider'] or 'own code'})"


def _text(run: Run, key: str, rungs: Sequence[Rung]) -> str:
    """Return a step's text, with what this run found of it."""
    text = _TEXTS[key]
    rung = next(r for r in rungs if r.step.key == key)
    if key == "activation":
        cost, batch = ladder.erfc_cost(run)
        if cost is not None:
            text += (
                " What it does to a comparison at level 1: the level-1 FF takes "
                f"{notation.format_ratio(cost)} as long with it (measured over {batch} tokens)."
            )
    if key == "baseline" and rung.ff:
        asked = ", ".join(run.head.sweep.blas)
        text += (
            f" Of those that this run measured (providers: {asked}) it is {_name(run, rung.ff)}."
        )
    if key == "own":
        own = ladder.own_fff(run)
        text += f" The fastest here is {_name(run, own)}." if own else " This run had none."
    return text


def _rows(run: Run, climbs: Climbs) -> list[dict[str, Any]]:
    rows = []
    for number, step in enumerate(ladder.STEPS):
        at = {level: climbs[level][number] for level in LEVELS}
        rows.append(
            {
                "number": number, "mended": step.mended, "title": _TITLES[step.key],
                "text": _text(run, step.key, climbs[LEVELS[0]]),
                "speedup": {level: _speedup(r) for level, r in at.items()},
                "factor": {level: _factor(r) for level, r in at.items()},
                "effect": {level: _effect(r) for level, r in at.items()},
            }
        )  # fmt: skip
    return rows


def _problems(run: Run) -> list[str]:
    bad = run.cells[run.cells["status"] != "ok"]
    found = [f"{c['status'].upper()}: {c['cell']}: {c['reason']}" for _, c in bad.iterrows()]
    if run.end is None:
        found.append("The run did not end: it was killed, or is still going.")
    elif run.end.reason != "complete":
        found.append(f"The run ended early ({run.end.reason}).")
    return [*found, *(f"Record damaged: {w}" for w in run.warnings)]


def _passes(run: Run) -> tuple[str, str]:
    """Return the passes behind one mean of the published protocol, for the FFF and for the FF."""
    cells = run.cells[(run.cells["role"] == "ladder") & (run.cells["loops"] > 0)]
    cells = cells[cells["batch"] == run.head.sweep.batches[0]]

    def span(layer: str) -> str:
        loops = sorted({int(n) for n in cells.loc[cells["layer"] == layer, "loops"]})
        return f"{loops[0]}" if len(loops) == 1 else f"{loops[0]} to {loops[-1]}" if loops else "0"

    return span("fff"), span("ff")


def _require_ladder(run: Run) -> None:
    if not (run.cells["role"] == "ladder").any():
        raise UsageError(
            f"{run.folder} is not a run of the ladder; make one with `python -m harness explain`"
        )


def format_page(run: Run, climbs: Climbs | None = None) -> str:
    """Return the page as Markdown. Raises UsageError where the run has no ladder.

    climbs: the run's rungs where they are known already.
    """
    _require_ladder(run)
    climbs = climbs or ladder.climb_all(run)
    base, tree = axes.parse_model(axes.BASELINE), axes.parse_model(ladder.FFF_MODEL)
    fff_passes, ff_passes = _passes(run)
    providers = list({p.name: p for p in reversed(run.providers)}.values())[::-1]
    sweep, record = run.head.sweep, run.head.machine
    example = next(
        (_speedup(r) for rungs in climbs.values() for r in rungs if r.speedup and r.speedup.known),
        notation.format_ratio(Ratio(value=2.0, low=1.9, high=2.1, blocks=2)),
    )
    text: str = _environment().get_template("explain.md.j2").render(
        quick=sweep.quick, levels=LEVELS, used=tree.trees * (tree.depth + 1), neurons=base.hidden,
        claim={level: _claim(level).text for level in LEVELS},
        provenance={level: _claim(level).provenance for level in LEVELS},
        limit=f"{ladder.limit():.0f} times", example=example,
        published={level: _speedup(climbs[level][0]) for level in LEVELS},
        strict={level: _speedup(_strict(climbs[level])) for level in LEVELS},
        gap={level: _gap(climbs, level) for level in LEVELS},
        rows=_rows(run, climbs), product={n: _product(rungs) for n, rungs in climbs.items()},
        machine=table_head.format_machine(run),
        providers=[table_head.format_provider(p) for p in providers],
        first_provider=sweep.blas[0].rsplit("/", 1)[-1],
        batch=sweep.batches[0], width=sweep.widths[0], threads=sweep.threads,
        started=run.head.started_utc, code=f"{record.harness_version}, {record.commit}",
        passes=fff_passes, ff_passes=ff_passes, rounds=PUBLISHED_ROUNDS,
        processes=run.samples["process"].nunique(), problems=_problems(run),
    )  # fmt: skip
    return text


def _numbers(ratio: Ratio | None, name: str) -> dict[str, float | None]:
    if ratio is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high}


def csv_frame(run: Run, climbs: Climbs | None = None) -> pd.DataFrame:
    """Return the ladder as rows of plain numbers, one a step and level."""
    climbs = climbs or ladder.climb_all(run)
    return pd.DataFrame(
        {
            "step": number, "key": rung.step.key, "mended": rung.step.mended, "level": level,
            "changes": "neither" if rung.same else rung.step.changes[level],
            "ff": rung.ff, "fff": rung.fff, **_numbers(rung.speedup, "speedup"),
            **_numbers(rung.factor, "factor"),
            "blocks": rung.speedup.blocks if rung.speedup else 0, "reason": rung.reason,
        }
        for level, rungs in climbs.items()
        for number, rung in enumerate(rungs)
    )  # fmt: skip


# ---- the figure ---------------------------------------------------------------------------------


def _draw_bars(panel: Any, rungs: Sequence[Rung], claim_x: float) -> None:
    """Draw each step as a bar from the speedup before it to that after it; `claim_x` holds a gap's label."""
    before = 0.1
    for i, rung in enumerate(rungs):
        if rung.speedup is None:
            panel.text(claim_x, i, _NOT_MEASURED, va="center", fontsize=8)
            continue
        s = rung.speedup
        if rung.same:
            panel.plot([s.value, s.value], [i - 0.36, i + 0.36], color=_FIRST, lw=2, zorder=3)
        else:
            colour = _FIRST if i == 0 else (_UP if s.value > before else _DOWN)
            panel.barh(i, s.value - before, left=before, height=0.6, color=colour, zorder=2)
            if s.known:
                spread = [[s.value - s.low], [s.high - s.value]]
                panel.errorbar(s.value, i, xerr=spread, color="black", capsize=3, zorder=4)
        edge = max(s.high if s.known else s.value, before)
        label = f"{_plain(s.value)}x" + ("" if i == 0 else f"  (x {_factor(rung).split('x')[0]})")
        panel.text(edge * 1.1, i, label, va="center", fontsize=8, zorder=5,
                   bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4})  # fmt: skip
        before = s.value


def ladder_figure(run: Run, climbs: Climbs | None = None) -> Figure:
    """Draw the speedup after each step as a waterfall on a log axis, a panel for each level."""
    _require_ladder(run)
    climbs = climbs or ladder.climb_all(run)
    figure = new_figure(12.5, 5.6)
    panels = figure.subplots(1, len(LEVELS), sharey=True)
    names = [f"{i}. {_TITLES[step.key]}" for i, step in enumerate(ladder.STEPS)]
    for panel, level in zip(panels, LEVELS, strict=True):
        rungs, claim = climbs[level], _claim(level)
        _draw_bars(panel, rungs, claim.speedup)
        panel.axvline(claim.speedup, color=_LAST, lw=1.6, ls="--", zorder=1)
        panel.axvline(ladder.limit(), color="black", lw=1.2, ls=":", zorder=1)
        panel.set_xscale("log")
        highest = max([ladder.limit(), *(r.speedup.value for r in rungs if r.speedup)])
        lowest = min([claim.speedup, *(r.speedup.value for r in rungs if r.speedup)])
        panel.set_xlim(lowest / 3, highest * 4)
        panel.xaxis.set_major_formatter(lambda x, _: f"{x:g}x")
        panel.set_xlabel("speedup over the fastest FF (log)")
        panel.set_title(f"FFF at level {level}; published: {claim.text}x", fontsize=9)
        panel.set_yticks(range(len(names)), names, fontsize=8)
    panels[0].invert_yaxis()
    set_title(figure, run, f"From the published protocol to a strict one, batch "
                            f"{run.head.sweep.batches[0]}")  # fmt: skip
    figure.legend(
        handles=[
            Patch(color=_FIRST, label="as published"), Patch(color=_DOWN, label="a step lowers it"),
            Patch(color=_UP, label="a step raises it"),
            Line2D([], [], color=_LAST, ls="--", label="published figure"),
            Line2D([], [], color="black", ls=":", label=f"limit by operations, {ladder.limit():.0f}x"),
        ],
        loc="outside lower center", ncols=5, fontsize=8, frameon=False,
    )  # fmt: skip
    return figure


def write_page(run: Run) -> list[Path]:
    """Write explain.md, explain.csv, explain.png and explain.svg into the run's folder and return them."""
    _require_ladder(run)
    climbs = ladder.climb_all(run)
    texts = (format_page(run, climbs), csv_frame(run, climbs).to_csv(index=False))
    paths = [run.folder / name for name in EXPLAIN_FILES]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    # Fixed ids and no date: the same samples give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "fff-harness", "font.family": "DejaVu Sans"}):
        figure = ladder_figure(run, climbs)
        for extension in ("png", "svg"):
            path = run.folder / f"explain.{extension}"
            figure.savefig(path, dpi=150, metadata={"Date": None} if extension == "svg" else {})
            paths.append(path)
    return paths
