"""Own the parts of a report that only a run on a device has."""

from __future__ import annotations

import pandas as pd

from harness.analysis.analysis import Analysis
from harness.analysis.gpu import COLUMNS, PRECISIONS, is_device
from harness.analysis.rows import Contests, GpuEntry, Point, Rival
from harness.problem import axes
from harness.problem.models import title
from harness.records.facts import DeviceFacts
from harness.report.formats import (
    NONE,
    format_limit,
    format_markdown_table,
    format_published,
    format_ratio,
    format_time,
)


def device_lines(device: DeviceFacts | None) -> list[str]:
    """Return what the head says of the device, and of how its state was told; nothing without one."""
    if device is None:
        return []
    lines = [
        f"- Device: {device.name} (sm_{device.capability.replace('.', '')}), {device.multiprocessors} "
        f"multiprocessors, L2 {device.l2_bytes / 2**20:.0f} MiB, {device.memory_bytes / 2**30:.0f} GiB, "
        f"{device.free_bytes / 2**30:.0f} of them free; torch {device.torch}, CUDA {device.cuda}"
    ]
    if device.unmetered:
        lines.append(
            f"- **Clock, power and throttling of the device are not told: {device.unmetered}**"
        )
    return lines


def _format(entry: GpuEntry, baseline: str) -> str:
    if entry.status == "none":
        return NONE
    if entry.ratio is None:
        return entry.status.upper()
    return "1" if entry.model == baseline else format_ratio(entry.ratio)


def gpu_frame(point: Point) -> pd.DataFrame:
    """Return the GPU half of the paper's table: a column each, a published one where there is any."""
    beside = any(entry.published for entry in point.gpu)
    rows: dict[str, dict[str, str]] = {}
    for entry in point.gpu:
        row = rows.setdefault(
            entry.model,
            {
                "model": title(entry.model),
                "limit": format_limit(entry.model, point.baseline),
            },
        )
        row[entry.column] = _format(entry, point.baseline)
        if beside:
            row[f"paper, {entry.column}"] = format_published(entry.published)
    return pd.DataFrame(list(rows.values()))


def point_lines(point: Point) -> list[str]:
    """Return the GPU columns of the paper's table at a point, none for a run on the CPU."""
    if not point.gpu:
        return []
    columns = ", ".join(f"{name} ({suffix})" for name, suffix in COLUMNS.items())
    papers = "; the paper's on an RTX A6000" if any(e.published for e in point.gpu) else ""
    return [
        "",
        f"Speedup over {title(point.baseline)} in the same column ({columns}){papers}:",
        "",
        format_markdown_table(gpu_frame(point)),
    ]  # fmt: skip


def contest_frame(contests: Contests) -> pd.DataFrame:
    """Return every FFF against the fastest FF of each precision."""
    return pd.DataFrame(
        {
            "FFF implementation": c.implementation,
            "model": title(c.model),
            "precision": c.precision,
            "launch": c.launch,
            **{f"over FF, {PRECISIONS[name]}": format_ratio(r) for name, r in c.ratios.items()},
        }
        for c in contests.rows
    )


def _rival_line(rival: Rival) -> str:
    if not rival.cell:
        return f"- {PRECISIONS[rival.precision]}: none was measured."
    return (
        f"- {PRECISIONS[rival.precision]}: {rival.implementation}, {rival.launch}, "
        f"{format_time(rival.pass_ns)} a pass."
    )


def contest_lines(analysis: Analysis) -> list[str]:
    """Return best against best on a device: over the fastest FF of each precision, under any launch."""
    if not is_device(analysis.head):
        return []
    lines = [
        "", "## Best against best on this device", "",
        "Each FFF, launched and replayed, over the fastest FF of each precision, launched or replayed from a "
        "graph. A ratio across two precisions compares layers that round differently; one across hot and "
        "cold weights, or of device time over wall time, is never taken.",
    ]  # fmt: skip
    for contests in analysis.contests:
        if not contests.rows:
            continue
        point = contests.point
        where = f"Batch {point.batch}, width {point.width}"
        differs = axes.title(axes.without_ways(point.conditions))
        lines += ["", f"### {where}{', ' + differs if differs else ''}", "", "The fastest FF:", ""]
        lines += [_rival_line(r) for r in contests.rivals]
        lines += ["", format_markdown_table(contest_frame(contests))]
    return lines


def reading_lines(analysis: Analysis) -> list[str]:
    """Return what the foot says of the figures of a device."""
    if not is_device(analysis.head):
        return []
    return [
        "- a pass: the device's time between two events around the passes of a sample. with launches: the "
        "host's time from before the first launch to after the wait for the last, over the passes. Both are "
        "of the same sample; cold passes have wall times of their own, behind a flush that was waited for.",
        "- THROTTLED: the driver said at either end of these samples that the clock was held down, and why. "
        "They are kept.",
        "- ceilings of the device: copies through torch and torch's products in each precision. Rates of the "
        "fastest samples; what only reads can pass a copy's rate by some percent.",
    ]
