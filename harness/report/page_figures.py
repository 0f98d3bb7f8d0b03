"""Own the figures of the page: which marks each has, and the sentence that says what it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from harness.analysis import by_batch, roofline
from harness.analysis.analysis import Analysis
from harness.analysis.bandwidth import find_bandwidths
from harness.analysis.by_batch import Crossing, Series
from harness.analysis.rows import Point, Speed, Versus
from harness.analysis.stats import Ratio
from harness.paper import ladder as paper_ladder
from harness.problem import axes
from harness.problem.models import speedup_limit, title
from harness.report import ladder_words, palette, repro
from harness.report.formats import (
    format_bytes,
    format_rate,
    format_ratio,
    format_share,
    format_source,
    format_time,
)
from harness.report.page_svg import (
    Plot,
    Scale,
    Tick,
    bar,
    log_ticks,
    marker,
    rule,
    spread,
    strip,
    whisker,
)
from harness.report.palette import Style, find_styles
from harness.report.table import format_place

_MARGIN = 1.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Hold a line of a legend: what is drawn, and what it stands for."""

    drawn: Markup
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Hold a row of a figure of bars: its name, what is drawn, the figure in words, and more on it."""

    name: str
    drawn: Markup
    value: str
    detail: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Hold one figure: bars, each a row of words with a drawn strip, or a plot with axes.

    says: the sentence that tells what it shows. notes: more sentences, of what was found.
    """

    id: str
    title: str
    says: str
    keys: Sequence[Key] = ()
    bars: Sequence[Bar] = ()
    ticks: Sequence[tuple[str, str, bool]] = ()  # share in percent, label, minor
    plot: Markup | None = None
    height: int = 0
    x_title: str = ""
    y_title: str = ""
    notes: Sequence[str] = field(default_factory=tuple)


# ---- what the figures share -----------------------------------------------------------------------


def _kind(style: Style) -> str:
    return f"c{style.hue}"


def swatch(kind: str, shape: int | None = None) -> Markup:
    """Return the mark of a legend: a filled box, or a marker of the palette."""
    inner = (
        Markup('<rect x="-7" y="-5" width="14" height="10"/>') if shape is None else marker(shape)
    )
    return Markup(
        '<svg class="key {}" viewBox="-8 -8 16 16" width="16" height="16" aria-hidden="true">{}</svg>'
    ).format(kind, inner)


def line_key(kind: str) -> Markup:
    """Return the mark of a legend that is a line."""
    return Markup(
        '<svg class="key" viewBox="0 0 24 16" width="24" height="16" aria-hidden="true">'
        '<line class="{}" x1="0" x2="24" y1="8" y2="8"/></svg>'
    ).format(kind)


def _layer_keys(styles: dict[str, Style], names: Sequence[str]) -> list[Key]:
    return [
        Key(drawn=swatch(_kind(styles[n]), styles[n].shape), says=n) for n in dict.fromkeys(names)
    ]


def _several(names: Sequence[str]) -> bool:
    return len(set(names)) > 1


def describe_speed(analysis: Analysis, point: Point, speed: Speed) -> list[str]:
    """Return what is to be said of one cell: its time, interval, shares, ratio, and how to repeat it."""
    cell, opponent = analysis.cells[speed.cell], analysis.cells.get(point.fastest)
    where = f"batch {point.batch}, width {point.width}"
    how = axes.title(point.conditions)
    lines = [
        f"{speed.implementation}, {title(speed.model)}, "
        f"{format_source(speed.implementation, speed.provider)}; {where}{', ' if how else ''}{how}"
    ]
    if speed.status != "ok":
        return [*lines, f"{speed.status}: {speed.reason}", *([cell.repro] if cell.repro else [])]
    spread_of = (
        f" (mean {format_time(speed.low_ns)} to {format_time(speed.high_ns)}, 95 % interval)"
        if math.isfinite(speed.low_ns)
        else ""
    )
    lines.append(f"{format_time(speed.pass_ns)} a pass, median of n = {speed.samples}{spread_of}")
    shares = [f"{format_rate(speed.gflops)} GFLOP/s"]
    if math.isfinite(speed.of_floor):
        shares.append(f"{format_share(speed.of_floor)} of the floor")
    if math.isfinite(speed.of_ceiling):
        shares.append(f"{format_share(speed.of_ceiling)} of the ceiling")
    lines.append(", ".join(shares))
    versus = next((v for v in point.versus if v.cell == speed.cell), None)
    if versus is not None and versus.ratio is not None:
        lines.append(f"{format_ratio(versus.ratio)} over the fastest FF")
    elif speed.cell == point.fastest:
        lines.append("the fastest FF here")
    lines += [f"unstable: {reason}" for reason in speed.unstable]
    return [*lines, repro.command(analysis.head.sweep, cell, opponent)]


def _find_speed(point: Point, cell: str) -> Speed | None:
    return next((s for s in point.speeds if s.cell == cell), None)


def _percent_ticks(scale: Scale, ticks: Sequence[Tick]) -> list[tuple[str, str, bool]]:
    return [(f"{100 * scale.share(t.value):.2f}", t.label, t.minor) for t in ticks]


def _x(value: float) -> str:
    return f"{value:g}x"


# ---- speedups at one point ------------------------------------------------------------------------


def speedup_figure(analysis: Analysis, point: Point) -> Figure | None:
    """Draw each FFF over the fastest FF at a point, with its interval, the published figure and the limit."""
    rows = [v for v in point.versus if v.ratio is not None]
    if not rows:
        return None
    styles = find_styles(analysis)
    values = [1.0, *(v.ratio.value for v in rows if v.ratio)]
    values += [v.published.speedup for v in rows if v.published]
    values += [speedup_limit(v.model, point.baseline) for v in rows]
    scale = spread(values, margin=1.15)
    models, providers = [v.model for v in rows], [v.provider for v in rows if v.provider]

    def row(v: Versus) -> Bar:
        ratio = v.ratio
        assert ratio is not None
        parts = [rule(scale, 1.0, "one"),
                 bar(scale, 1.0, ratio.value, f"fill {_kind(styles[v.implementation])}")]  # fmt: skip
        if ratio.known:
            parts.append(whisker(scale, ratio.low, ratio.high))
        if v.published:
            parts.append(rule(scale, v.published.speedup, "published"))
        parts.append(rule(scale, speedup_limit(v.model, point.baseline), "limit"))
        model = f", {title(v.model)}" if _several(models) else ""
        source = f", {v.provider}" if _several(providers) and v.provider else ""
        paper = f"; published {v.published.text}x" if v.published else ""
        speed = _find_speed(point, v.cell)
        return Bar(
            name=f"{v.implementation}{model}{source}", drawn=strip(scale, parts),
            value=f"{format_ratio(ratio)}{paper}",
            detail=describe_speed(analysis, point, speed) if speed else (),
        )  # fmt: skip

    keys = [Key(drawn=line_key("whisker"), says="95 % interval")]
    if any(v.published for v in rows):
        keys.append(Key(drawn=line_key("published"), says="published figure"))
    keys.append(Key(drawn=line_key("limit"), says="limit that fewer operations give"))
    return Figure(
        id="speedups", title="Each FFF over the fastest FF",
        says="Each bar is how many times faster an FFF runs than the fastest FF of this machine, on a log "
        "axis; a bar left of the line at 1x is slower.",
        keys=keys, bars=[row(v) for v in rows], ticks=_percent_ticks(scale, log_ticks(scale, _x)),
    )  # fmt: skip


# ---- over the batch -------------------------------------------------------------------------------


def _describe_crossing(name: str, found: Crossing) -> str:
    what = "slower" if found.falls else "faster"
    sure = "" if found.sure else ", though an interval there holds 1"
    return (
        f"{name} becomes {what} than the fastest FF between batch {found.before} and {found.after}, near "
        f"{found.at:.3g}{sure}."
    )


_DASHES = 4  # kinds of line in the style sheet


def _variant(series: Series) -> str:
    """Return what tells a series from others of its implementation: where it differs from the plainest."""
    return (
        ", ".join(part for part in (series.provider, axes.title(series.conditions)) if part)
        or "plain"
    )


def _crossing_notes(rows: Sequence[Series]) -> list[str]:
    notes = [
        _describe_crossing(f"{s.implementation} ({_variant(s)})", c)
        for s in rows
        for c in by_batch.crossings(s.speedups)
    ]
    if notes:
        return notes
    ratios = [r for s in rows for r in s.speedups.values()]
    if all(r.value > 1 for r in ratios):
        return [
            "No crossover: every FFF is faster than the fastest FF at every batch that was measured."
        ]
    return ["No FFF changes from faster to slower over these batches."]


def by_batch_figure(analysis: Analysis) -> Figure | None:
    """Draw each FFF's speedup over the batch with its intervals; None for a run of one batch."""
    if not by_batch.has_several_batches(analysis.points):
        return None
    points = by_batch.widest(analysis.points)
    rows = [s for s in by_batch.collect(points) if s.speedups]
    styles = find_styles(analysis)
    batches = sorted({b for s in rows for b in s.speedups})
    limits = {s.model: speedup_limit(s.model, analysis.head.sweep.baseline) for s in rows}
    variants = list(dict.fromkeys(map(_variant, rows)))
    if len({s.implementation for s in rows}) == len(rows):
        variants = []  # the implementation's name tells each curve
    values = [1.0, *limits.values(), *(r.value for s in rows for r in s.speedups.values())]
    plot = Plot(x=spread(batches, margin=1.3), y=spread(values, margin=_MARGIN), height=340)
    left, right = plot.x.low, plot.x.high
    parts = [
        plot.axes(
            [Tick(value=b, label=str(b), minor=i % 2 == 1 and len(batches) > 5)
             for i, b in enumerate(batches)], log_ticks(plot.y, _x),
        ),
        plot.line((left, 1.0), (right, 1.0), "one"),
    ]  # fmt: skip
    for model, limit in limits.items():
        parts.append(plot.line((left, limit), (right, limit), "limit"))
        of = f" of {title(model)}" if len(limits) > 1 else ""
        parts.append(plot.text((right, limit), f"limit{of} {limit:.2f}x", "end", dy=-5))
    by_point = {(p.batch, p.conditions): p for p in points}
    for series in rows:
        kind = _kind(styles[series.implementation])
        found, dash = (
            sorted(series.speedups),
            variants.index(_variant(series)) % _DASHES if variants else 0,
        )
        parts.append(
            plot.path([(b, series.speedups[b].value) for b in found], f"curve {kind} dash{dash}")
        )
        for b in found:
            parts.append(_interval(plot, b, series.speedups[b], kind))
        for b in found:
            point = by_point[b, series.conditions]
            speed = _find_speed(point, series.cells[b])
            if speed is None:
                continue
            also = f", {_variant(series)}" if variants else ""
            name = f"{series.implementation}{also}, batch {b}: {format_ratio(series.speedups[b])}"
            detail = "\n".join(describe_speed(analysis, point, speed))
            parts.append(
                plot.mark((b, series.speedups[b].value), styles[series.implementation].shape, kind,
                          name=name, detail=detail)
            )  # fmt: skip
    keys = _layer_keys(styles, [s.implementation for s in rows])
    if variants:
        keys += [Key(drawn=line_key(f"dash{i % _DASHES}"), says=v) for i, v in enumerate(variants)]
    return Figure(
        id="by-batch", title="Each FFF over the batch",
        says="Each curve is how many times faster one FFF runs than the fastest FF at that batch (another FF "
        "may be the fastest at each), with 95 % intervals; below the line at 1x the FF wins.",
        keys=keys, plot=Markup("").join(parts), height=plot.height, x_title="batch (tokens, log)",
        y_title="speedup over the fastest FF (log)", notes=_crossing_notes(rows),
    )  # fmt: skip


def _interval(plot: Plot, x: float, ratio: Ratio, kind: str) -> Markup:
    return (
        plot.line((x, ratio.low), (x, ratio.high), f"curve {kind}") if ratio.known else Markup("")
    )


# ---- where the time goes --------------------------------------------------------------------------


def time_figure(analysis: Analysis, point: Point) -> Figure | None:
    """Draw how much of each pass computing and moving account for at the measured rates, and the rest."""
    found = []
    for s in point.speeds:
        compute, traffic = roofline.floor_parts_ns(analysis.ceilings, analysis.cells[s.cell])
        if s.pass_ns > 0 and math.isfinite(compute + traffic):
            found.append((s, compute / s.pass_ns, traffic / s.pass_ns))
    if not found:
        return None
    scale = Scale(low=0.0, high=max(1.0, *(c + t for _, c, t in found)), log=False)
    # The id says which layer it is; the model is named where a layer has several.
    several = len({s.model for s, _, _ in found}) > len(
        {palette.is_conditional(s.implementation) for s, _, _ in found}
    )

    def row(s: Speed, compute: float, traffic: float) -> Bar:
        both, rest = compute + traffic, max(0.0, 1 - compute - traffic)
        parts = [bar(scale, 0, compute, "computing"), bar(scale, compute, both, "moving")]
        parts.append(
            bar(scale, min(both, 1.0), 1.0, "rest") if rest > 0 else rule(scale, 1.0, "one")
        )
        words = f"{format_share(compute)} computing, {format_share(traffic)} moving, "
        words += f"{format_share(rest)} neither" if rest > 0 else "both at once"
        model = f", {title(s.model)}" if several else ""
        return Bar(
            name=f"{s.implementation}{model}", drawn=strip(scale, parts),
            value=f"{format_time(s.pass_ns)}: {words}", detail=describe_speed(analysis, point, s),
        )  # fmt: skip

    ticks = [Tick(value=x / 100, label=f"{x} %", minor=x in (25, 75)) for x in (0, 25, 50, 75, 100)]
    return Figure(
        id="time", title=f"A pass of each layer at {format_place(point).lower()}",
        says="Each bar is one pass: the part that its operations take at the measured peak, that "
        "of moving each of its bytes once at the measured bandwidth, and the rest, which neither explains.",
        keys=[Key(drawn=swatch("computing"), says="computing at the peak"),
              Key(drawn=swatch("moving"), says="moving bytes once"),
              Key(drawn=swatch("rest"), says="rest")],
        bars=[row(*each) for each in found], ticks=_percent_ticks(scale, ticks),
    )  # fmt: skip


# ---- ceilings -------------------------------------------------------------------------------------


def bandwidth_figure(analysis: Analysis) -> Figure | None:
    """Draw the bandwidths that were measured over the sets that they walked, with the caches' sizes."""
    found = find_bandwidths(analysis)
    if found is None:
        return None
    curve, told = found.curve, found.capacity
    plot = Plot(
        x=spread([*found.sizes, *told.values()], margin=1.6),
        y=spread(found.rates, margin=1.5),
        height=320,
    )
    top = plot.y.high
    powers = range(math.ceil(math.log2(plot.x.low)), math.floor(math.log2(plot.x.high)) + 1)
    x_ticks = [
        Tick(value=2.0**p, label=format_bytes(2**p), minor=p % 6 != 0) for p in powers if p % 3 == 0
    ]
    parts = [plot.axes(x_ticks, log_ticks(plot.y, lambda v: f"{v:g}"))]
    for name, size in told.items():
        parts.append(plot.line((size, plot.y.low), (size, top), "capacity"))
        parts.append(plot.text((size, top), name, "middle", dy=-5))
    if curve is not None:
        parts.append(plot.path([(r.set_bytes, r.gbs) for r in curve.rates], "walk"))
    shapes = found.shapes
    for stream in found.streams:
        s, name, size = stream.speed, stream.pattern, stream.set_bytes
        detail = [
            f"{name} of a set of {format_bytes(size)} in {s.place}",
            f"{format_rate(s.gbs)} GB/s, median of n = {s.samples}; fastest sample "
            f"{format_rate(s.gbs * s.pass_ns / s.fastest_ns)} GB/s",
            *(f"unstable: {reason}" for reason in s.unstable),
        ]
        parts.append(
            plot.mark((size, s.gbs), shapes[name], "plain",
                      name=f"{name}, {s.place}: {format_rate(s.gbs)} GB/s", detail="\n".join(detail))
        )  # fmt: skip
    keys = [Key(drawn=swatch("plain", shape), says=name) for name, shape in shapes.items()]
    if curve is not None:
        keys.append(Key(drawn=line_key("walk"), says="reading sets of many sizes, before the run"))
    keys.append(Key(drawn=line_key("capacity"), says="size of a cache"))
    return Figure(
        id="bandwidth", title="Bandwidth over the working set",
        says=f"Each point is the rate at which {found.of} walked a set of that size in one pattern: how much "
        "slower weights come from a farther cache or from memory.",
        keys=keys, plot=Markup("").join(parts), height=plot.height, x_title="working set (log)",
        y_title="bandwidth, GB/s (log)",
    )  # fmt: skip


def roofline_figure(analysis: Analysis) -> Figure | None:
    """Draw every cell of a run's layers below the roofs that its own ceilings make."""
    found = roofline.find_roofline(analysis.ceilings, analysis.cells, analysis.points)
    if found is None:
        return None
    styles, peak = find_styles(analysis), found.peak
    # From left of the slowest place's ridge on, so that the roofs are seen to bend.
    x = spread([*(c.intensity for c in found.cells), *found.ridges], margin=1.6)
    plot = Plot(
        x=x, y=spread([*(c.speed.gflops for c in found.cells), 1.1 * peak], margin=1.5), height=380
    )
    parts = [
        plot.axes(log_ticks(plot.x, lambda v: f"{v:g}"), log_ticks(plot.y, lambda v: f"{v:g}"))
    ]
    for i, (place, gbs) in enumerate(found.bandwidth.items()):
        start = max(plot.x.low, plot.y.low / gbs)
        end = min(peak / gbs, plot.x.high)
        if end > start:
            parts.append(plot.line((start, start * gbs), (end, end * gbs), "roof"))
            # Below where it bends, each a line deeper than the one before it.
            says = f"{place} {format_rate(gbs)}"
            parts.append(plot.text((end, end * gbs), says, "roof-label", dx=5, dy=14 + 13 * i))
    for name, rate in found.peaks.items():
        parts.append(
            plot.line((rate / max(found.bandwidth.values()), rate), (plot.x.high, rate), "roof")
        )
        parts.append(
            plot.text((plot.x.high, rate), f"peak {name} {format_rate(rate)} GFLOP/s", "end", dy=-5)
        )
    for cell in found.cells:
        point, s, at = cell.point, cell.speed, cell.intensity
        style = styles[s.implementation]
        detail = "\n".join(describe_speed(analysis, point, s))
        name = f"{s.implementation}, batch {point.batch}: {format_rate(s.gflops)} GFLOP/s"
        parts.append(plot.mark((at, s.gflops), style.shape, _kind(style), name=name, detail=detail))
    return Figure(
        id="roofline", title="Roofline: every cell",
        says="Each point is one cell: its rate over the operations that it has for each byte that any pass "
        "must move. The slanted lines are this machine's bandwidths in GB/s, the flat ones its peaks: no "
        "cell can lie above those of the place where its weights are, and what it lies below them is lost.",
        keys=_layer_keys(styles, [c.speed.implementation for c in found.cells]), plot=Markup("").join(parts),
        height=plot.height, x_title="operations per compulsory byte (log)", y_title="GFLOP/s (log)",
        notes=[f"No peak of {name} was measured, so nothing bounds its cells on the right."
               for name in analysis.peakless],
    )  # fmt: skip


# ---- the ladder -----------------------------------------------------------------------------------


def ladder_figures(analysis: Analysis) -> list[Figure]:
    """Draw, for each level, the speedup after each fault of the published benchmark is mended."""
    if analysis.ladder is None:
        return []
    found = []
    for level, rungs in analysis.ladder.climbs.items():
        claim = ladder_words.find_claim(level)
        values = [r.speedup.value for r in rungs if r.speedup]
        scale = spread([*values, claim.speedup, paper_ladder.limit(), 1.0], margin=1.15)
        before: float | None = None
        bars = []
        for number, rung in enumerate(rungs):
            parts = [rule(scale, 1.0, "one")]
            if rung.speedup is not None:
                value = rung.speedup.value
                if before is None:
                    parts.append(bar(scale, scale.low, value, "rest"))
                elif not rung.same:
                    parts.append(
                        bar(scale, before, value, "raises" if value > before else "lowers")
                    )
                if rung.speedup.known and not rung.same:
                    parts.append(whisker(scale, rung.speedup.low, rung.speedup.high))
                if rung.same:
                    parts.append(rule(scale, value, "whisker"))
                before = value
            parts += [
                rule(scale, claim.speedup, "published"),
                rule(scale, paper_ladder.limit(), "limit"),
            ]
            factor = f", a factor of {ladder_words.format_factor(rung)}" if number else ""
            bars.append(
                Bar(
                    name=f"{number}. {ladder_words.TITLES[rung.step.key]}", drawn=strip(scale, parts),
                    value=f"{ladder_words.format_speedup(rung)}{factor}",
                    detail=[ladder_words.describe_step(analysis, rung.step.key)],
                )
            )  # fmt: skip
        found.append(
            Figure(
                id=f"ladder-{level}", title=f"The ladder, FFF at level {level}",
                says=f"Each row mends one more fault of the published benchmark: its bar runs from the "
                f"speedup before it to the one after it; the paper prints {claim.text}x.",
                keys=[Key(drawn=swatch("rest"), says="as published"),
                      Key(drawn=swatch("lowers"), says="lowers it"),
                      Key(drawn=swatch("raises"), says="raises it"),
                      Key(drawn=line_key("published"), says="published figure"),
                      Key(drawn=line_key("limit"), says="limit that fewer operations give")],
                bars=bars, ticks=_percent_ticks(scale, log_ticks(scale, _x)),
            )
        )  # fmt: skip
    return found
