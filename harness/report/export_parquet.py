"""Own the export as Parquet: all samples of a run with all that its cells are, for frames and databases."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis.measurements import Measurements
from harness.errors import UnavailableError
from harness.records.files import write_whole

# The head of the run, as run.json has it, under this name in the file's metadata.
HEAD_KEY = b"fff_harness_run"


def _schema(pa: Any, frame: pd.DataFrame) -> Any:
    """Return the types of columns; those of lists and maps are stated, for an empty one shows none."""
    stated = {
        "throttle": pa.list_(pa.string()),
        "entropy_bits": pa.list_(pa.float64()),
        "parts_ns": pa.map_(pa.string(), pa.int64()),
        "transformer": pa.string(),
    }
    schema = pa.Schema.from_pandas(frame.assign(**dict.fromkeys(stated)), preserve_index=False)
    for name, kind in stated.items():
        schema = schema.set(schema.get_field_index(name), pa.field(name, kind))
    return schema


def write_parquet(measured: Measurements, path: Path) -> list[Path]:
    """Write all samples of a run into a file of Parquet and return it.

    Raises OSError, and UnavailableError where pyarrow is missing.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UnavailableError(
            "--format parquet needs pyarrow; install it with: pip install 'fff-harness[parquet]'"
        ) from None
    samples = measured.samples
    parts: list[Any] = [[*spent.items()] for spent in samples["parts_ns"]]
    models = [made and json.dumps(asdict(made)) for made in samples["transformer"]]
    frame = samples.assign(parts_ns=parts, transformer=models)
    table = pa.Table.from_pandas(frame, schema=_schema(pa, frame), preserve_index=False)
    metadata = {**(table.schema.metadata or {}), HEAD_KEY: measured.head.model_dump_json().encode()}
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), file)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, file.getvalue())
    return [path]
