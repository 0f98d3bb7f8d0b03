"""Own the checkpoint of a whole model as a plan sees it: whose weights a file holds, by its header alone."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.problem.architecture import ARCHITECTURES, Architecture, find_architecture

_WORDS = "encoder.embedding.word_embedding.weight"
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.*)")
_FACTOR, _IN, _DENSE = (
    "attn.self_attention.norm_factor", "ffn.linear_in.weight", "ffn.dense_in.weight",
)  # fmt: skip
_LONGEST_HEADER = 100 << 20
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Say what a checkpoint is of. path: as it is opened again, whole.

    fff: the name of the FFFs that it has in the place of its FFs, empty for a model with dense ones. label:
    the file's name and the head of a digest of its bytes.
    """

    path: str
    architecture: Architecture
    fff: str
    label: str


# ---- files --------------------------------------------------------------------------------------


def _find_files(path: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint. Raises UsageError where there are none."""
    if path.is_file() and path.suffix == ".safetensors":
        return [path]
    index, whole = path / "model.safetensors.index.json", path / "model.safetensors"
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise UsageError(f"{index} can't be read as an index of safetensors: {error}") from None
        return [path / name for name in sorted(set(names))]
    if whole.is_file():
        return [whole]
    raise UsageError(
        f"{path}: need a .safetensors file, or a folder with model.safetensors or its index"
    )


def _read_header(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file: of each tensor its dtype, shape and place."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > _LONGEST_HEADER:
                raise ValueError(f"its header would be {size} bytes long")
            header = json.loads(file.read(size))
        return {name: {**of, "file": path, "begin": 8 + size + of["data_offsets"][0]}
                for name, of in header.items() if name != "__metadata__"}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UsageError(f"{path} can't be read as safetensors: {error}") from None


def _read_number(tensor: dict[str, Any]) -> float:
    """Return a tensor of one number."""
    with tensor["file"].open("rb") as file:
        file.seek(tensor["begin"])
        data: bytes = file.read(8)
    kinds = {"F32": "<f", "F64": "<d", "F16": "<e"}
    if tensor["dtype"] == "BF16":
        return float(struct.unpack("<f", b"\0\0" + data[:2])[0])
    if tensor["dtype"] not in kinds:
        raise UsageError(f"{_FACTOR}: need a number in floating point, got {tensor['dtype']}")
    kind = kinds[tensor["dtype"]]
    return float(struct.unpack(kind, data[: struct.calcsize(kind)])[0])


def _digest(files: list[Path]) -> str:
    found = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
    return found.hexdigest()[:12]


# ---- what it is of ------------------------------------------------------------------------------


def _name_fff(path: Path, neurons: int) -> str:
    """Return the name of an FFF of one tree of so many neurons. Raises UsageError for more trees."""
    if neurons & (neurons + 1):
        raise UsageError(
            f"{path}: {neurons} neurons a layer are not one tree of 2**(depth + 1) - 1 nodes, which is "
            "what is read here; nn.load_published_model(trees=...) reads others"
        )
    return f"ultrafastbert-1x{neurons.bit_length() - 1}"


def _read_ultrafastbert(path: Path, header: dict[str, Any]) -> tuple[Architecture, str]:
    """Return the architecture of the published layout, and the name of its FFFs, empty for none."""
    layers: dict[int, dict[str, Any]] = {}
    for name, tensor in header.items():
        if match := _LAYER.fullmatch(name):
            layers.setdefault(int(match[1]), {})[match[2]] = tensor
    if sorted(layers) != list(range(len(layers))) or not layers:
        raise UsageError(f"{path}: need layers from 0 on without a gap, got {sorted(layers)}")
    rows = {
        (kind, layer[kind]["shape"][0])
        for layer in layers.values() for kind in (_IN, _DENSE) if kind in layer
    }  # fmt: skip
    if len(rows) != 1 or _FACTOR not in layers[0]:
        raise UsageError(
            f"{path}: need {_FACTOR}, and one kind and size of FF in all layers ({_IN} or {_DENSE})"
        )
    ((kind, neurons),) = rows
    vocabulary, width = header[_WORDS]["shape"]
    own = ARCHITECTURES["ultrafastbert"]
    found = replace(
        own, name=_name(path), layers=len(layers), width=width, vocabulary=vocabulary,
        heads=max(1, round(width * _read_number(layers[0][_FACTOR]) ** 2)),
        hidden=neurons if kind == _DENSE else 4 * width,
    )  # fmt: skip
    return found, _name_fff(path, neurons) if kind == _IN else ""


def _name(path: Path) -> str:
    stem = path.resolve().name.removesuffix(".safetensors")
    return re.sub(r"[^A-Za-z0-9.-]+", "-", stem)


def read_checkpoint(word: str, layers: int | None = None) -> Checkpoint:
    """Return what a checkpoint is of: UltraFastBERT's published layout, or a folder of transformers.

    Neither torch nor the tensors are loaded. layers: of the model, the first of them; None for all.

    Raises UsageError for what can't be read, and for another model.
    """
    path = Path(word)
    files = _find_files(path)
    header = {name: tensor for file in files for name, tensor in _read_header(file).items()}
    if _WORDS in header:
        architecture, fff = _read_ultrafastbert(path, header)
    elif (path / "config.json").is_file():
        architecture, fff = find_architecture(str(path / "config.json")), ""
    else:
        raise UsageError(
            f"{path}: neither UltraFastBERT's layout (no {_WORDS}) nor a folder of transformers (no "
            "config.json)"
        )
    if layers is not None and layers > architecture.layers:
        raise UsageError(f"--layers: {path} has {architecture.layers}, got {layers}")
    return Checkpoint(
        path=str(path.resolve()),
        architecture=architecture if layers is None else replace(architecture, layers=layers),
        fff=fff, label=f"{_name(path)}@{_digest(files)}",
    )  # fmt: skip
