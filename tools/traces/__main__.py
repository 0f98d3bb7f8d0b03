"""Distil the feedforward layers of a small trained encoder, and write traces, errors and provenance.

`pip install -e '.[traces]' && python -m tools.traces` writes harness/data/traces/ anew; nothing is fetched.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import platform
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from harness.records.files import write_whole
from tools.traces import leaves
from tools.traces.distil import DEPTH, Row, distil_saved
from tools.traces.encoder import Encoder, read_documents, split, take
from tools.traces.students import (
    BALANCE,
    BATCH,
    RATE,
    REFINE_RATE,
    REFINE_STEPS,
    STEPS,
)

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "harness" / "data" / "traces"
HELD_OUT, TRAIN, SEEDS = 16384, 40960, 3  # tokens, tokens, seeds


def script_digest() -> str:
    """Return the digest of this script's own files."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def save_samples(folder: Path, encoder: Encoder, seed: int) -> tuple[list[Path], dict[str, Any]]:
    """Write each layer's sample into a file; return the files and the provenance of the text."""
    documents = read_documents()
    tokens = {name: encoder.tokenize(text) for name, text in documents.items()}
    learnt, apart = split(
        {name: len(found) for name, found in tokens.items()}, HELD_OUT + 512, seed
    )
    train = encoder.inputs(take([tokens[name] for name in learnt], TRAIN))
    held_out = encoder.inputs([tokens[name] for name in apart])
    paths = []
    for layer, block in enumerate(encoder.model.encoder.layer):
        parts = (block.intermediate.dense, block.output.dense)
        paths.append(folder / f"layer{layer}.pt")
        torch.save(
            {
                "layer": layer, "train": train[layer], "held_out": held_out[layer][:HELD_OUT],
                "weights": [w.detach() for part in parts for w in (part.weight, part.bias)],
            },
            paths[-1],
        )  # fmt: skip
    text = "\0".join(f"{name}\0{documents[name]}" for name in sorted(documents))
    return paths, {
        "source": f"pydoc_data.topics of CPython {platform.python_version()}, each paragraph once",
        "licence": "PSF-2.0", "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "train_tokens": len(train[0]), "held_out_tokens": HELD_OUT, "held_out_topics": apart,
        "split_seed": seed,
    }  # fmt: skip


def format_rows(rows: Iterable[Row]) -> str:
    """Return the students as CSV."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_trace(path: Path, found: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Write the leaves (tokens,) of one tree as uint16; return its line of the provenance."""
    file = io.BytesIO()
    np.save(file, found.astype(np.uint16), allow_pickle=False)
    write_whole(path, file.getvalue())
    return {
        "file": path.name, "sha256": hashlib.sha256(file.getvalue()).hexdigest(),
        "layer": int(path.stem.partition("-")[0].removeprefix("layer")), "trees": 1, "depth": DEPTH,
        "tokens": len(found), "drawn": path.stem.endswith("-drawn"), **leaves.describe(found, DEPTH),
    }  # fmt: skip


def describe(
    students: dict[str, int], text: Row, encoder: Row, traces: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what is written down of the traces: from what, by what and when they were made."""
    bits = {t["layer"]: t["entropy_bits"][-1] for t in traces if not t["drawn"]}
    return {
        "made_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python -m tools.traces", "script_sha256": script_digest(),
        "torch": torch.__version__, "text": text, "encoder": encoder,
        "students": {
            **students, "batch": BATCH, "rate": RATE, "refine_rate": REFINE_RATE,
            "refine_steps": REFINE_STEPS, "balance": BALANCE,
        },
        "trained_layer": leaves.choose_median(bits), "traces": traces,
    }  # fmt: skip


def main() -> None:
    """Write the traces, the students' errors and where they come from."""
    parser = argparse.ArgumentParser(prog="python -m tools.traces", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="layers at a time, a thread each")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="batches that a student learns from"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="students of each kind")
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args()
    torch.set_num_threads(1)
    encoder = Encoder()
    rows: list[Row] = []
    traces: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        paths, text = save_samples(Path(folder), encoder, seed=0)
        with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
            for seed in range(given.seeds):
                found = list(pool.map(partial(distil_saved, seed=seed, steps=given.steps), paths))
                rows += [row for made, _ in found for row in made]
                traces += [
                    write_trace(given.out / name, kept[name]) for _, kept in found for name in kept
                ]
                # After each seed, so that a script that is ended leaves what it has.
                write_whole(given.out / "students.csv", format_rows(rows))
                students = {"seeds": seed + 1, "steps": given.steps}
                provenance = describe(students, text, encoder.provenance(), traces)
                write_whole(given.out / "traces.json", json.dumps(provenance, indent=1) + "\n")


if __name__ == "__main__":
    main()
