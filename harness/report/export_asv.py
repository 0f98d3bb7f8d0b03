"""Own the export as results of airspeed velocity (asv): files beside those that it wrote itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.measurements import Measurement, Measurements
from harness.errors import UsageError
from harness.report.files import write_texts

_RESULTS, _BENCHMARKS, _MACHINE = 2, 2, 1  # versions of asv's files
_ENVIRONMENT = "fff-harness"
_BENCHMARK_FILE = "benchmarks.json"
_COLUMNS = ("result", "params", "version", "started_at", "duration", "stats_ci_99_a",
            "stats_ci_99_b", "stats_q_25", "stats_q_75", "stats_number", "stats_repeat",
            "samples")  # fmt: skip
# Of a benchmark in asv: what it measured has changed where this does. A cell's id says all that it is.
_VERSION = "1"


def _folder_name(text: str) -> str:
    """Return a text as the name of a folder, that leads nowhere else."""
    return re.sub(r"[^\w.-]", "_", text).lstrip(".") or "machine"


def _row(found: Measurement, started_ms: int) -> list[Any]:
    """Return a cell's values in the order of the columns: a list of one each, in seconds."""
    low, high = (
        (found.low_99_ns, found.high_99_ns) if found.has_interval else (-np.inf, np.inf)
    )  # what asv writes of one sample
    q1, q3 = np.quantile(found.block_ns, [0.25, 0.75]) / 1e9
    return [
        [found.mean_ns / 1e9], [], _VERSION, started_ms, None, [low / 1e9], [high / 1e9], [float(q1)],
        [float(q3)], [found.loops], [len(found.block_ns)], [(found.block_ns / 1e9).tolist()],
    ]  # fmt: skip


def _results(measured: Measurements, machine: dict[str, Any]) -> dict[str, Any]:
    started_ms = int(measured.started.timestamp() * 1000)
    return {
        "commit_hash": measured.commit, "env_name": _ENVIRONMENT, "date": started_ms,
        "params": {**machine, "python": measured.machine.python}, "python": measured.machine.python,
        "requirements": {}, "env_vars": {}, "result_columns": list(_COLUMNS),
        "results": {found.cell: _row(found, started_ms) for found in measured.found},
        "durations": {}, "version": _RESULTS,
    }  # fmt: skip


def _describe_machine(measured: Measurements) -> dict[str, Any]:
    machine = measured.machine
    system, _, rest = machine.system.partition(" ")
    return {
        "machine": _folder_name(machine.host), "arch": rest.rpartition(" ")[2], "cpu": machine.processor,
        "num_cpu": str(machine.cores), "os": f"{system} {rest.partition(' ')[0]}".strip(),
        "ram": str(machine.memory_bytes // 1024),
    }  # fmt: skip


def _benchmark(found: Measurement) -> dict[str, Any]:
    labels = "\n".join(f"{name}: {text}" for name, text in found.labels.items() if text)
    return {
        "name": found.cell, "type": "time", "unit": "seconds", "code": labels, "version": _VERSION,
        "params": [], "param_names": [], "timeout": 60.0,
    }  # fmt: skip


def _known_benchmarks(path: Path) -> dict[str, Any]:
    """Return the benchmarks that lie there already, asv's own and those of other runs."""
    if not path.exists():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"--out: {path} can't be read: {error}") from None
    if not isinstance(known, dict) or known.pop("version", None) != _BENCHMARKS:
        raise UsageError(f"--out: {path} is not of version {_BENCHMARKS} of asv's benchmarks")
    return known


def _text(document: Any) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def write_asv(measured: Measurements, folder: Path) -> list[Path]:
    """Write a run into a folder of asv's results and return the files; times in seconds.

    A benchmark a cell, a sample a block. What lies there of asv's own stays; a run of the same machine and
    commit is replaced. Raises OSError, and UsageError where the run has no commit, by which asv orders all.
    """
    if not measured.commit:
        raise UsageError(
            f"--format asv: {measured.folder} was measured with release "
            f"{measured.machine.commit}, and asv orders results by commit"
        )
    known = _known_benchmarks(folder / _BENCHMARK_FILE)
    machine = _describe_machine(measured)
    home = folder / machine["machine"]
    home.mkdir(parents=True, exist_ok=True)
    texts = {
        folder / _BENCHMARK_FILE: _text(
            {**known, **{f.cell: _benchmark(f) for f in measured.found}, "version": _BENCHMARKS}
        ),
        home / f"{measured.commit[:8]}-{_ENVIRONMENT}.json": _text(_results(measured, machine)),
    }
    if not (home / "machine.json").exists():
        texts[home / "machine.json"] = _text({**machine, "version": _MACHINE})
    return write_texts(texts)
