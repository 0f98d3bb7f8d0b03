"""Own the export of a run: the formats of other programs, and how each is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.analysis.measurements import Measurements
from harness.report import export_asv, export_json, export_openmetrics, export_parquet
from harness.report.files import write_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFormat:
    """Describe a format that is one text. reads: who reads it. make: returns the text of a run."""

    reads: str
    make: Callable[[Measurements], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFormat:
    """Describe a format that is no text to print. reads: who reads it.

    needs: what has to be given as its place. write: writes a run there and returns the files. Raises OSError,
    and UsageError where the run or what lies there already does not go into the format.
    """

    reads: str
    needs: str
    write: Callable[[Measurements, Path], list[Path]]


FORMATS: Mapping[str, TextFormat | FileFormat] = {
    "pytest-benchmark": TextFormat(
        reads="pytest-benchmark compare", make=export_json.pytest_benchmark
    ),
    "google-benchmark": TextFormat(
        reads="compare.py of Google Benchmark", make=export_json.google_benchmark
    ),
    "bencher": TextFormat(reads="bencher run --adapter json", make=export_json.bencher),
    "github-action-benchmark": TextFormat(
        reads="github-action-benchmark, customSmallerIsBetter",
        make=export_json.github_action_benchmark,
    ),
    "openmetrics": TextFormat(reads="Prometheus", make=export_openmetrics.openmetrics),
    "asv": FileFormat(
        reads="asv compare, asv publish", needs="the folder of asv's results",
        write=export_asv.write_asv,
    ),
    "parquet": FileFormat(
        reads="pandas, Arrow, DuckDB; all samples", needs="a file", write=export_parquet.write_parquet
    ),
}  # fmt: skip


def write_export(measured: Measurements, name: str, path: Path) -> list[Path]:
    """Write a run in a format, by its name, and return the files. Raises OSError and UsageError."""
    chosen = FORMATS[name]
    if isinstance(chosen, FileFormat):
        return chosen.write(measured, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_texts({path: chosen.make(measured)})
