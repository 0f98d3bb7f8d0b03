"""Own what the page of the ladder says in words: of each step, of what it did, and of the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.analysis import ladder as analysis_ladder
from harness.analysis.analysis import Analysis
from harness.analysis.ladder import Climbs, Rung
from harness.paper import ladder as paper_ladder
from harness.paper.published import FASTEST_FF, PublishedCell, find
from harness.report import formats

NOT_MEASURED = "not measured"

TITLES = {
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


def find_claim(level: int) -> PublishedCell:
    """Return the published speedup of the FFF at a level over the fastest FF."""
    found = find(paper_ladder.FFF_MODEL, f"level {level}", baseline=FASTEST_FF)
    if found is None:
        raise LookupError(f"table2.csv has no level-{level} figure over the fastest FF")
    return found


def format_speedup(rung: Rung) -> str:
    """Return a rung's speedup with its interval."""
    return formats.format_ratio(rung.speedup) if rung.speedup else NOT_MEASURED


def format_factor(rung: Rung) -> str:
    """Return a rung's factor with its interval; nothing for the first rung, which has none."""
    if rung.step.key == paper_ladder.STEPS[0].key:
        return ""
    if rung.same:
        return "1"
    return formats.format_ratio(rung.factor) if rung.factor else NOT_MEASURED


def format_own(rungs: Sequence[Rung]) -> str:
    """Return the speedup of our own kernels, empty where the run has none."""
    last = rungs[-1]
    return format_speedup(last) if last.speedup and not last.same else ""


def format_plain(value: float) -> str:
    """Return a number with three digits, for a product that the reader may work out again."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"


def describe_effect(run: Rung) -> str:
    """Return in words what a step did to the speedup."""
    where = {"neither": "neither side changes", "both": "both sides change",
             "FF": "the FF changes", "FFF": "the FFF changes"}[run.step.changes[run.level]]  # fmt: skip
    if run.speedup is None:
        return f"{NOT_MEASURED}: {run.reason}."
    now = f"the speedup is {format_speedup(run)}"
    if run.step.key == paper_ladder.STEPS[0].key:
        return f"{now}; the paper says {find_claim(run.level).text}x."
    if run.same:
        return f"nothing changes; {now}."
    if run.factor is None:
        return f"{where}; {now}; the factor is not known, since the step before was not measured."
    if not run.factor.known:
        return f"{where}; the factor is {format_factor(run)} (one block, no interval); {now}."
    if run.factor.includes(1.0):
        return f"{where}, with no difference that this run can see ({format_factor(run)}); {now}."
    word = "raises" if run.factor.value > 1 else "lowers"
    return f"{where}, which {word} the speedup by the factor {format_factor(run)}; {now}."


def describe_product(rungs: Sequence[Rung]) -> str:
    """Return the first speedup times the factors, beside the last one as it was measured."""
    whole, last = analysis_ladder.product(rungs), rungs[-1].speedup
    if whole is None or last is None or rungs[0].speedup is None:
        return "a step was not measured, so there is no product."
    factors = [r.factor.value for r in rungs[1:] if r.factor and not r.same]
    terms = " x ".join(format_plain(v) for v in [rungs[0].speedup.value, *factors])
    return (
        f"{terms} = {format_plain(whole)}; measured at the last step: {format_plain(last.value)} "
        "(steps that change nothing left out; the terms are rounded, the product is not)."
    )


def describe_gap(climbs: Climbs, level: int) -> str:
    """Return what the published protocol makes of the speedup at a level, in a sentence."""
    first, strict = climbs[level][0].speedup, strict_rung(climbs[level]).speedup
    if first is None or strict is None:
        return ""
    claim = find_claim(level).speedup
    how = analysis_ladder.quotient(first, strict)
    if not how.known:
        made = f"multiplies it by {formats.format_ratio(how)} (one block, no interval)"
    elif how.includes(1.0):
        made = f"makes no difference that this run can see ({formats.format_ratio(how)})"
    elif how.value > 1:
        made = f"makes it larger by the factor {formats.format_ratio(how)}"
    else:
        made = f"makes it smaller: the factor is {formats.format_ratio(how)}"
    return (
        f"At level {level} the published way of measuring {made} on this machine; the strict figure is "
        f"{format_plain(100 * strict.value / claim)} % of the published {find_claim(level).text}x."
    )


def strict_rung(rungs: Sequence[Rung]) -> Rung:
    """Return the rung at which all faults are mended, before our own kernels come in."""
    return next(r for r in rungs if r.step.key == "baseline")


def _name(analysis: Analysis, cell: str) -> str:
    """Return an interleaved cell's implementation and provider."""
    record = analysis.cells[cell]
    source = formats.format_source(record.implementation, record.provider)
    return f"`{record.implementation}` ({source})"


def describe_step(analysis: Analysis, key: str) -> str:
    """Return a step's text, with what this run found of it."""
    text, ladder = _TEXTS[key], analysis.require_ladder()
    rung = next(r for r in ladder.climbs[paper_ladder.LEVELS[0]] if r.step.key == key)
    if key == "activation" and ladder.erfc_cost is not None:
        text += (
            " What it does to a comparison at level 1: the level-1 FF takes "
            f"{formats.format_ratio(ladder.erfc_cost)} as long with it "
            f"(measured over {ladder.erfc_batch} tokens)."
        )
    if key == "baseline" and rung.ff:
        asked = ", ".join(analysis.head.sweep.blas)
        text += f" Of those that this run measured (providers: {asked}) it is {_name(analysis, rung.ff)}."
    if key == "own":
        own = ladder.own_fff
        text += f" The fastest here is {_name(analysis, own)}." if own else " This run had none."
    return text
