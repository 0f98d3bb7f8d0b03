"""Checkpoints of whole models: what a file's header says that they are of, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from made_checkpoint import HEADS, VOCABULARY, WIDTH, make_header, write_checkpoint

from harness.errors import UsageError
from harness.problem.checkpoint import read_checkpoint


def test_extents_are_read_from_themake_header(tmp_path: Path) -> None:
    """Layers, width, heads and vocabulary are the tensors', and the FFFs are named by their neurons."""
    found = read_checkpoint(str(write_checkpoint(tmp_path / "own.safetensors", make_header())))
    a = found.architecture
    assert (a.name, a.kind, a.layers, a.width, a.heads) == ("own", "ultrafastbert", 2, WIDTH, HEADS)
    assert (a.vocabulary, a.hidden, found.fff) == (VOCABULARY, 4 * WIDTH, "ultrafastbert-1x3")
    assert read_checkpoint(found.path, 1).architecture.layers == 1


def test_a_dense_one_has_no_fff(tmp_path: Path) -> None:
    """Of a model with dense FFs the hidden width is the file's."""
    found = read_checkpoint(
        str(write_checkpoint(tmp_path / "d.safetensors", make_header(kind="dense", neurons=64)))
    )
    assert (found.architecture.hidden, found.fff) == (64, "")


def test_the_label_tells_bytes_apart(tmp_path: Path) -> None:
    """Weights of another file of the same name have another label; the same bytes have the same."""
    path = tmp_path / "w.safetensors"
    labels = [
        read_checkpoint(str(write_checkpoint(path, make_header(), fill=n))).label for n in (0, 1, 0)
    ]
    assert labels[0] == labels[2] != labels[1]
    assert labels[0].startswith("w@")


def test_a_folder_of_transformers_is_read_by_its_configuration(tmp_path: Path) -> None:
    """A folder with a config.json of BERT is of that architecture, whatever its tensors are called."""
    write_checkpoint(tmp_path / "model.safetensors", {"embeddings.weight": [4, 4]})
    words = {
        "model_type": "bert", "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3,
        "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 32,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(words), encoding="utf-8")
    found = read_checkpoint(str(tmp_path))
    assert (found.architecture.kind, found.architecture.layers, found.fff) == ("bert", 3, "")


def test_shards_are_read_together(tmp_path: Path) -> None:
    """A folder with an index is read through all of its files."""
    names = make_header()
    half = dict(list(names.items())[:3]), dict(list(names.items())[3:])
    for i, part in enumerate(half):
        write_checkpoint(tmp_path / f"{i}.safetensors", part)
    index = {"weight_map": {n: f"{i}.safetensors" for i, part in enumerate(half) for n in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert read_checkpoint(str(tmp_path)).architecture.layers == 2


@pytest.mark.parametrize(
    ("shapes", "layers", "says"),
    [
        (make_header(neurons=30), None, "one tree"),
        ({k: v for k, v in make_header(3).items() if ".1." not in k}, None, "gap"),
        ({k: v for k, v in make_header().items() if "norm_factor" not in k}, None, "norm_factor"),
        ({"something.weight": [2, 2]}, None, "neither UltraFastBERT's layout"),
        (make_header(), 5, "--layers"),
    ],
)
def test_what_is_no_model_is_refused(
    shapes: dict[str, list[int]], layers: int | None, says: str, tmp_path: Path
) -> None:
    """A file that is not read says in one line what was needed."""
    path = write_checkpoint(tmp_path / "bad.safetensors", shapes)
    with pytest.raises(UsageError, match=says) as caught:
        read_checkpoint(str(path), layers)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A path that is not there, and a file that is cut, are named."""
    with pytest.raises(UsageError, match=r"need a \.safetensors file"):
        read_checkpoint(str(tmp_path / "none"))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(struct.pack("<Q", 1000) + b"{")
    with pytest.raises(UsageError, match="can't be read as safetensors"):
        read_checkpoint(str(cut))
