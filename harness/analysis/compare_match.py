"""Own what is matched between runs: cells with their likes, and hardware with its own."""

from __future__ import annotations

import re
from collections import Counter

from harness.analysis.index import RunIndex
from harness.problem.axes import changes
from harness.records.identity import Identity, identify
from harness.records.reader import Run
from harness.records.schema import RunHead

_MACHINE = ("processor", "microarchitecture", "cores", "caches", "virtual_machine")


def hardware(head: RunHead) -> dict[str, str]:
    """Return what of the hardware under a run bears on a time, by name; the host's name does not."""
    device = head.machine.device
    told = {name: str(getattr(head.machine, name)) for name in _MACHINE}
    return told | {"device": device.name if device is not None else head.sweep.device}


def is_same_machine(a: Run, b: Run) -> bool:
    """Say whether two runs stood on the same hardware."""
    return hardware(a.head) == hardware(b.head)


def provider_name(label: str) -> str:
    """Return a provider's label without the version of its file: libopenblas.so.0.3 -> libopenblas."""
    return re.sub(r"\.so(\.\d+)*$", "", label.rsplit("/", 1)[-1])


def provider_names(*runs: RunIndex) -> dict[str, str]:
    """Return what each provider of some runs is matched by: its label without the version of its file.

    The version stays where a run has several versions of one file.
    """
    labels = [{cell.provider for cell in run.cells.values()} for run in runs]
    counts = [Counter(map(provider_name, found)) for found in labels]
    return {
        label: name if all(count[name] <= 1 for count in counts) else label
        for label in set.union(*labels)
        for name in [provider_name(label)]
    }


def identify_layers(run: RunIndex, names: dict[str, str]) -> dict[Identity, str]:
    """Return each layer's cell of a run under the identity that it is matched by."""
    cells = run.of_role("layer")
    return {identify(c)._replace(provider=names[c.provider]): c.cell for c in cells}


def _where(of: Identity) -> str:
    return "/".join(
        filter(None, (of.implementation, of.model, f"b{of.batch}", f"w{of.d_in}", of.provider))
    )


def name_cell(of: Identity) -> str:
    """Return what is printed of a cell: where it stands, and its conditions that are not the default."""
    differs = ", ".join(f"{name} {value}" for name, value in changes(of.conditions).items())
    return f"{_where(of)} ({differs})" if differs else _where(of)


def describe_cell(of: Identity) -> str:
    """Return all that a cell is matched by, as text."""
    how = {"threads": of.threads, "seed": of.seed, **of.conditions._asdict()}
    return f"{_where(of)} ({', '.join(f'{name}={value}' for name, value in how.items())})"
