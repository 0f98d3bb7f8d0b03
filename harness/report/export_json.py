"""Own the exports as JSON: of benchmark tools (pytest-benchmark, Google Benchmark) and of trackers."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from harness.analysis.measurements import Measurement, Measurements
from harness.report.formats import format_time

_CACHE_LEVELS = {"L1d": ("Data", 1), "L2": ("Unified", 2), "L3": ("Unified", 3)}


def _text(document: Any) -> str:
    """Return JSON that holds no NaN, which is none: a number that there is not has to be left out before."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def describe_run(measured: Measurements) -> dict[str, str]:
    """Return what a run was measured on and with, as texts by name, for formats that take any."""
    machine, sweep = measured.machine, measured.sweep
    device = machine.device.name if machine.device else ""
    return {
        "host": machine.host, "processor": machine.processor, "device": device,
        "system": machine.system, "microarchitecture": machine.microarchitecture,
        "virtual_machine": machine.virtual_machine, "python": machine.python,
        "harness_version": machine.harness_version, "commit": machine.commit,
        "started": measured.head.started_utc, "run": measured.folder.name,
        "quick": str(sweep.quick).lower(),
    }  # fmt: skip


# ---- pytest-benchmark ---------------------------------------------------------------------------


def _pytest_stats(found: Measurement) -> dict[str, Any]:
    """Return the statistics of the samples in seconds, as pytest-benchmark takes them of its rounds."""
    times = np.sort(found.samples_ns) / 1e9
    q1, median, q3 = (float(q) for q in np.quantile(times, [0.25, 0.5, 0.75]))
    mean, iqr = float(times.mean()), q3 - q1
    deviation = float(times.std(ddof=1)) if len(times) > 1 else 0.0
    inside = times[(times >= q1 - 1.5 * iqr) & (times <= q3 + 1.5 * iqr)]
    outside = [int((abs(times - mean) > deviation).sum()), len(times) - len(inside)]
    return {
        "min": float(times[0]), "max": float(times[-1]), "mean": mean, "stddev": deviation,
        "rounds": len(times), "median": median, "iqr": iqr, "q1": q1, "q3": q3,
        "iqr_outliers": outside[1], "stddev_outliers": outside[0],
        "outliers": f"{outside[0]};{outside[1]}", "ld15iqr": float(inside[0]),
        "hd15iqr": float(inside[-1]), "ops": 1 / mean, "total": float(times.sum()),
        "data": (found.samples_ns / 1e9).tolist(), "iterations": found.loops,
    }  # fmt: skip


def _extra_info(found: Measurement) -> dict[str, Any]:
    ends = {"low_s": found.low_ns / 1e9, "high_s": found.high_ns / 1e9}
    return {
        **found.labels, "mean_s": found.mean_ns / 1e9, **(ends if found.has_interval else {}),
        "unstable": list(found.unstable),
    }  # fmt: skip


def pytest_benchmark(measured: Measurements) -> str:
    """Return a run as pytest-benchmark saves one: a benchmark a cell, a round a sample, times in seconds.

    The harness's own estimate and its interval stand in each benchmark's extra_info.
    """
    machine = measured.machine
    system, _, release = machine.system.partition(" ")
    return _text({
        "machine_info": {
            "node": machine.host, "processor": machine.processor, "system": system,
            "release": release, "python_version": machine.python, "python_implementation": "CPython",
            "cpu": {"brand_raw": machine.processor, "count": machine.cores, "flags": machine.isa},
            **{f"harness_{name}": text for name, text in describe_run(measured).items()},
        },
        "commit_info": {
            "id": measured.commit or machine.commit, "dirty": measured.is_dirty,
            "project": "fff-harness", "branch": None, "time": None, "author_time": None,
        },
        "benchmarks": [
            {
                "group": None, "name": found.cell, "fullname": found.cell, "params": None,
                "param": None, "extra_info": _extra_info(found), "options": {},
                "stats": _pytest_stats(found),
            }
            for found in measured.found
        ],
        "datetime": measured.head.started_utc, "version": machine.harness_version,
    })  # fmt: skip


# ---- Google Benchmark ---------------------------------------------------------------------------


def _aggregates(times: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return the aggregates of repetitions by name: the spread of a single one is none."""
    found = {"mean": float(times.mean()), "median": float(np.median(times))}
    if len(times) > 1:
        found["stddev"] = float(times.std(ddof=1))
        found["cv"] = found["stddev"] / found["mean"] if found["mean"] else 0.0
    return found


def _repetitions(found: Measurement, family: int) -> list[dict[str, Any]]:
    """Return a cell's blocks as repetitions, and their aggregates."""
    shared = {
        "family_index": family, "per_family_instance_index": 0, "run_name": found.cell,
        "repetitions": len(found.block_ns), "threads": found.record.threads, "time_unit": "ns",
    }  # fmt: skip
    blocks = zip(found.block_ns, found.block_cpu_ns, found.block_loops, strict=True)
    rows: list[dict[str, Any]] = [
        {"name": found.cell, **shared, "run_type": "iteration", "repetition_index": index,
         "iterations": int(loops), "real_time": float(real), "cpu_time": float(cpu)}
        for index, (real, cpu, loops) in enumerate(blocks)
    ]  # fmt: skip
    real, cpu = _aggregates(found.block_ns), _aggregates(found.block_cpu_ns)
    rows += [
        {"name": f"{found.cell}_{name}", **shared, "run_type": "aggregate", "aggregate_name": name,
         "aggregate_unit": "percentage" if name == "cv" else "time",
         "iterations": len(found.block_ns), "real_time": real[name], "cpu_time": cpu[name]}
        for name in real
    ]  # fmt: skip
    return rows


def google_benchmark(measured: Measurements) -> str:
    """Return a run as Google Benchmark writes one: a repetition a block, times in nanoseconds.

    cpu_time is 0 where a run did not record the processor's time.
    """
    machine = measured.machine
    caches = [
        {"type": kind, "level": level, "size": machine.caches[name], "num_sharing": 0}
        for name, (kind, level) in _CACHE_LEVELS.items()
        if name in machine.caches
    ]
    return _text({
        "context": {
            "date": measured.head.started_utc, "host_name": machine.host, "executable": "fff-harness",
            "num_cpus": machine.cores, "mhz_per_cpu": 0,
            "cpu_scaling_enabled": any(g != "performance" for g in machine.facts.governors),
            "caches": caches, "load_avg": machine.facts.load,
            "library_version": machine.harness_version, "library_build_type": "release",
            "json_schema_version": 1, **describe_run(measured),
        },
        "benchmarks": [
            row
            for family, found in enumerate(measured.found)
            for row in _repetitions(found, family)
        ],
    })  # fmt: skip


# ---- trackers -----------------------------------------------------------------------------------


def bencher(measured: Measurements) -> str:
    """Return a run in Bencher's Metric Format: the latency of each cell in ns, with its interval."""
    document: dict[str, Any] = {}
    for found in measured.found:
        latency = {"value": found.mean_ns}
        if found.has_interval:
            latency |= {"lower_value": found.low_ns, "upper_value": found.high_ns}
        document[found.cell] = {"latency": latency}
    return _text(document)


def _range(found: Measurement) -> str:
    """Return the longer arm of an interval in ns, as that tool's chart shows a deviation."""
    return f"± {max(found.mean_ns - found.low_ns, found.high_ns - found.mean_ns):.6g}"


def _extra(measured: Measurements, found: Measurement) -> str:
    ends = f"[{format_time(found.low_ns)}, {format_time(found.high_ns)}]"
    lines = {
        "interval, 95 %": ends if found.has_interval else "none: one block",
        "median": format_time(found.median_ns), "samples": str(len(found.samples_ns)),
        **{name: text for name, text in found.labels.items() if text},
        **{name: text for name, text in describe_run(measured).items() if text},
        **({"unstable": ", ".join(found.unstable)} if found.unstable else {}),
    }  # fmt: skip
    return "\n".join(f"{name}: {text}" for name, text in lines.items())


def github_action_benchmark(measured: Measurements) -> str:
    """Return a run as github-action-benchmark takes what is smaller the better: a pass of each cell in ns."""
    return _text([
        {
            "name": found.cell, "unit": "ns", "value": found.mean_ns,
            **({"range": _range(found)} if math.isfinite(found.low_ns) else {}),
            "extra": _extra(measured, found),
        }
        for found in measured.found
    ])  # fmt: skip
