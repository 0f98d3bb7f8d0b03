"""Own the text of a history of runs: Markdown, CSV, JSON, and the files that `--out` names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from harness.analysis.compare import Comparison
from harness.analysis.history_rows import History, Series, Value
from harness.records.reader import Run
from harness.report import escape
from harness.report.compare import (
    comparison_rows,
    format_change,
    format_verdicts,
    resolution_line,
    summarize,
)
from harness.report.formats import (
    NONE,
    format_csv,
    format_markdown_table,
    format_ratio,
    format_time,
    plain,
    plain_ratio,
)
from harness.report.header import format_machine

_SHOWN = 10  # the newest runs that a table has a column for; the other formats have all
_NAMED = 5  # cells without a history that are named; JSON has all
_SLOWER, _FASTER, _MOVED = "▲", "▼", "»"


def name_line(place: int) -> str:
    """Return what a line of runs is called: A, B, ... Z, AA."""
    name = ""
    place += 1
    while place:
        place, letter = divmod(place - 1, 26)
        name = chr(ord("A") + letter) + name
    return name


def _remarks(history: History, place: int, run: Run) -> str:
    ended = run.end.reason if run.end else "killed, or still going"
    parts = [
        "baseline" if place == history.baseline else "",
        "newest" if place == history.newest else "",
        "quick" if run.head.sweep.quick else "",
        "" if ended == "complete" else f"ended early ({ended})",
        f"{len(run.warnings)} damaged lines left out" if run.warnings else "",
    ]
    return ", ".join(filter(None, parts))


def _run_frame(history: History) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run": place + 1, "folder": run.folder.name, "began": run.head.started_utc[:16],
            "commit": run.head.machine.commit, "line": name_line(history.line_of(place)),
            "remarks": _remarks(history, place, run),
        }
        for place, run in enumerate(history.runs)
    )  # fmt: skip


def _line_lines(history: History) -> list[str]:
    """Return a line for each line of runs: its machine, and why its times stand apart."""
    lines = []
    for place, line in enumerate(history.lines):
        runs = ", ".join(str(run + 1) for run in line.runs)
        of = f"run{'s'[: len(line.runs) != 1]} {runs}"
        machine = format_machine(history.runs[line.runs[0]].head.machine)
        apart = f"; **its times are compared with no other's: {', '.join(line.differs)}**"
        lines.append(f"- {name_line(place)}: {of}; {machine}{apart if line.differs else ''}")
    return lines


def describe_changes(series: Series) -> str:
    """Return the change points of a series: `+8.1 % [+7.2, +9.0] from run 5 on`."""
    return "; ".join(f"{format_change(c.change)} from run {c.start + 1} on" for c in series.changes)


def _format_value(series: Series, value: Value | None) -> str:
    if value is None:
        return NONE
    moved = f"{_MOVED} " if any(c.start == value.run for c in series.changes) else ""
    if value.ratio is None:
        return f"{moved}{(value.verdict or NONE).upper()}"
    if series.kind == "speedup":
        return f"{moved}{format_ratio(value.ratio).partition(' ')[0]}"
    if value.run == series.base:
        return f"{moved}{format_time(value.pass_ns)}"
    mark = {"slower": f" {_SLOWER}", "faster": f" {_FASTER}"}.get(value.verdict or "", "")
    return f"{moved}{format_change(value.ratio).partition(' [')[0]}{mark}"


def _series_table(series: Iterable[Series], runs: tuple[int, ...]) -> str:
    """Return a table of a row a cell and a column a run, the newest ones and the base."""
    rows = []
    for of in series:
        by_run = {value.run: value for value in of.values}
        texts = {f"run {run + 1}": _format_value(of, by_run.get(run)) for run in runs}
        rows.append({"cell": of.cell, **texts, "level moved": describe_changes(of)})
    return format_markdown_table(pd.DataFrame(rows))


def _columns(runs: tuple[int, ...], base: int | None) -> tuple[int, ...]:
    shown = runs[-_SHOWN:]
    return shown if base is None or base in shown else (base, *shown[1:])


def _hidden_lines(runs: tuple[int, ...], shown: tuple[int, ...]) -> list[str]:
    if not (count := len(runs) - len(shown)):
        return []
    text = f"{count} older run{'s'[: count != 1]} without a column here: --format csv and json have all"
    return [f"- {text}", ""]


def _time_lines(history: History) -> list[str]:
    lines: list[str] = []
    for place, line in enumerate(history.lines):
        found = [s for s in history.series if s.kind == "time" and s.line == place]
        if not found:
            continue
        shown = _columns(line.runs, line.base)
        lines += [f"## Times on {name_line(place)}, over those of run {line.base + 1}", ""]
        lines += [*_hidden_lines(line.runs, shown), _series_table(found, shown), ""]
        if others := [s.cell for s in found if s.base != line.base]:
            lines += [f"- not in run {line.base + 1}, so over the oldest run that has them: "
                      f"{', '.join(others)}", ""]  # fmt: skip
    return lines


def _speedup_lines(history: History) -> list[str]:
    found = [s for s in history.series if s.kind == "speedup"]
    if not found:
        return []
    every = tuple(range(len(history.runs)))
    shown = every[-_SHOWN:]
    return [
        "## Speedups over the fastest FF of the same run, batch, width and conditions", "",
        *_hidden_lines(every, shown), _series_table(found, shown), "",
    ]  # fmt: skip


def _alone_lines(history: History) -> list[str]:
    if not history.alone:
        return []
    more = len(history.alone) - _NAMED
    named = ", ".join(history.alone[:_NAMED]) + (f", and {more} more" if more > 0 else "")
    return [f"- Measured in one run of a line alone, so without a history: {named}", ""]


def _judged_lines(history: History) -> list[str]:
    if history.judged is None or history.baseline is None:
        return ["No older run shares a cell with the newest one: it is compared with none."]
    of = f"run {history.newest + 1}, the newest (B), against run {history.baseline + 1} (A)"
    what = "times" if history.judged.same_machine else "ratios inside each run, not times"
    return [
        f"## Judged: {of}", "",
        f"- compared are {what}",
        resolution_line(history.judged), "",
        format_verdicts(history.judged), "",
        *[f"- {text}" for text in history.judged.unmatched], *([""] if history.judged.unmatched else []),
        summarize(history.judged),
    ]  # fmt: skip


_READING = (
    f"- A time is said as its change over the base's, whose own time is printed. {_SLOWER}, {_FASTER}: the "
    "whole 95 % interval lies beyond what the A/A pairs of the two runs resolve. "
    f"{_MOVED}: a level of two runs or more begins, which differs from the level before it "
    "(docs/runs.md#several-runs). The newest run alone is no level: its verdicts stand below."
)


def format_history(history: History) -> str:
    """Return a history as Markdown."""
    history = escape.each_text(history, escape.markdown)
    lines = [
        f"# {len(history.runs)} runs, by time", "", format_markdown_table(_run_frame(history)), "",
        *_line_lines(history),
        *(f"- **left out**: {out.folder}: {out.reason}" for out in history.left_out),
        _READING, "", *_time_lines(history), *_speedup_lines(history),
    ]  # fmt: skip
    lines += _alone_lines(history)
    return "\n".join([*lines, *_judged_lines(history)]) + "\n"


def history_rows(history: History) -> list[dict[str, Any]]:
    """Return a row for each cell, kind and run, as plain numbers, for other programs."""
    rows = []
    for series in history.series:
        starts = {c.start: c.change for c in series.changes}
        for value in series.values:
            run = history.runs[value.run]
            rows.append({
                "kind": series.kind, "cell": series.cell, "line": name_line(history.line_of(value.run)),
                "run": value.run + 1, "folder": run.folder.name, "began": run.head.started_utc,
                "commit": run.head.machine.commit,
                "base": None if series.base is None else series.base + 1,
                **dict(zip(("value", "low", "high"), plain_ratio(value.ratio), strict=True)),
                "pass_ns": plain(value.pass_ns), "verdict": value.verdict,
                **dict(zip(("level_change", "level_low", "level_high"),
                           plain_ratio(starts.get(value.run)), strict=True)),
            })  # fmt: skip
    return rows


def format_history_csv(history: History) -> str:
    """Return a history as CSV."""
    frame = pd.DataFrame(history_rows(history))
    return format_csv(frame.astype({"base": "Int64"}) if len(frame) else frame)


def _judged(history: History, comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None or history.baseline is None:
        return None
    return {
        "baseline": history.baseline + 1, "newest": history.newest + 1,
        "same_machine": comparison.same_machine, "resolution": comparison.resolution,
        "summary": summarize(comparison), "cells": comparison_rows(comparison),
        "unmatched": comparison.unmatched, "lost": comparison.lost,
    }  # fmt: skip


def format_history_json(history: History) -> str:
    """Return a history as JSON: its runs, their lines, what was left out, all values, the judgement."""
    document = {
        "runs": [
            {"run": place + 1, "folder": str(run.folder), "began": run.head.started_utc,
             "commit": run.head.machine.commit, "line": name_line(history.line_of(place)),
             "quick": run.head.sweep.quick}
            for place, run in enumerate(history.runs)
        ],
        "lines": [
            {"line": name_line(place), "runs": [run + 1 for run in line.runs], "base": line.base + 1,
             "machine": format_machine(history.runs[line.runs[0]].head.machine),
             "differs": list(line.differs)}
            for place, line in enumerate(history.lines)
        ],
        "left_out": [{"folder": str(out.folder), "reason": out.reason} for out in history.left_out],
        "values": history_rows(history), "alone": list(history.alone),
        "judged": _judged(history, history.judged),
    }  # fmt: skip
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


HISTORY_FILES = {
    "history.md": format_history,
    "history.csv": format_history_csv,
    "history.json": format_history_json,
}
