"""Own the export as OpenMetrics: gauges that Prometheus and its kin take in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from harness.analysis.measurements import Measurement, Measurements
from harness.report.export_json import describe_run

# Each gauge of a cell: its unit, what it is, and how it is taken from a measurement.
_GAUGES: Mapping[str, tuple[str, str, Callable[[Measurement], float]]] = {
    "fff_pass_seconds": (
        "seconds", "Mean time of a pass, the geometric mean over processes.",
        lambda found: found.mean_ns / 1e9,
    ),
    "fff_pass_low_seconds": (
        "seconds", "Lower end of the 95 percent interval of that mean.",
        lambda found: found.low_ns / 1e9,
    ),
    "fff_pass_high_seconds": (
        "seconds", "Upper end of the 95 percent interval of that mean.",
        lambda found: found.high_ns / 1e9,
    ),
    "fff_pass_median_seconds": (
        "seconds", "Median time of a pass over all samples.", lambda found: found.median_ns / 1e9,
    ),
    "fff_samples": ("", "Timed values.", lambda found: float(len(found.samples_ns))),
}  # fmt: skip


def _quoted(text: str) -> str:
    """Return a label's value between its quotes; OpenMetrics escapes a backslash, a quote, a line's end."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _labels(values: Mapping[str, str]) -> str:
    return ",".join(f"{name}={_quoted(text)}" for name, text in values.items())


def _family(name: str, unit: str, says: str, kind: str = "gauge") -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    if unit:
        yield f"# UNIT {name} {unit}"
    yield f"# HELP {name} {says}"


def _lines(measured: Measurements) -> Iterator[str]:
    yield from _family("fff_run", "", "The run, its machine and its code.", "info")
    yield f"fff_run_info{{{_labels(describe_run(measured))}}} 1"
    yield from _family("fff_run_started_seconds", "seconds", "When the run began, in Unix time.")
    yield f"fff_run_started_seconds {measured.started.timestamp():.0f}"
    for name, (unit, says, take) in _GAUGES.items():
        yield from _family(name, unit, says)
        for found in measured.found:
            if math.isfinite(value := take(found)):
                yield f"{name}{{{_labels({'cell': found.cell, **found.labels})}}} {value!r}"
    yield "# EOF"


def openmetrics(measured: Measurements) -> str:
    """Return a run as OpenMetrics text, times in seconds; an end that an interval lacks is left out.

    Without timestamps: node_exporter's collector of text files refuses them.
    """
    return "\n".join(_lines(measured)) + "\n"
