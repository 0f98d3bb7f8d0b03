"""Own the axes: what may differ between two cells of one implementation and shape, in one table.

Ids of cells, records, resuming, comparisons, merged tables, sections, legends, contrasts, and the command
line's options derive from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from harness.errors import UnknownNameError
from harness.problem import recipes, routing

DEVICES = ("cpu", "cuda")


Part = Literal["problem", "protocol"]


class Conditions(NamedTuple):
    """State what a cell is measured under: its value on each axis, in the order of ids and titles."""

    dtype: str
    math: str
    data: str
    rows: str
    routing: str
    weights: str
    launch: str

    def of(self, part: Part) -> dict[str, Any]:
        """Return the values on the axes of the problem, or on those of the protocol, by name."""
        return {axis.name: getattr(self, axis.name) for axis in AXES if axis.of == part}


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Describe one axis.

    name: of the record's field, the table's column and the option. of: what has the value, the problem (what
    is computed on what) or the protocol (how passes are run). asks: what is chosen. values: the known ones,
    each with what it is where its name does not say that; the first is the default. files: how values begin
    that name a file, each with what is read from it. usual: what a sweep takes on a device where nothing is
    asked for; the default elsewhere. device: the one device that has more than the default, empty where all
    have. is_way: whether its values are ways to compute the same, so that cells that differ in them alone may
    be set against each other. label: returns how a value is called in an id.
    """

    name: str
    of: Part
    asks: str
    values: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    usual: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    device: str = ""
    is_way: bool = False
    label: Callable[[str], str] = str

    @property
    def default(self) -> str:
        """Return the value of a cell that says nothing."""
        return next(iter(self.values))

    @property
    def known(self) -> tuple[str, ...]:
        """Return all values as a person is told them: `trace:FILE` stands for those that name a file."""
        return (*self.values, *(f"{start}FILE" for start in self.files))

    def takes(self, value: str) -> bool:
        """Say whether a value is one of this axis, whatever is in the file that it may name."""
        return value in self.values or any(
            value.startswith(start) and value != start for start in self.files
        )


# The one list of the axes, in the order of `Conditions`.
AXES = (
    Axis(
        name="dtype", of="problem", is_way=True,
        asks="What x, the weights and y are stored in (sums are float32)",
        values={"float32": "", "bfloat16": ""}, usual={"cuda": ("float32", "bfloat16")},
    ),
    # On a GPU what tensor cores make of the same layer stands beside plain float32, replayed passes beside
    # launched ones, and cold figures beside hot ones: a claim over one of them says little of the others.
    Axis(
        name="math", of="problem", is_way=True, asks="Products of float32 on cuda",
        values={"ieee": "", "tf32": "rounded to 10 bits, on tensor cores"},
        usual={"cuda": ("ieee", "tf32")}, device="cuda",
    ),
    Axis(
        name="data", of="problem", asks="What x and the weights hold",
        values={"random": "", "zeros": "all 0"},
    ),
    Axis(
        name="rows", of="problem", asks="Tokens",
        values={"distinct": "", "same": "every token is one row"}, label="rows-{}".format,
    ),
    Axis(
        name="routing", of="problem", asks="Paths of the tokens through the FFF",
        values={
            "uniform": "left to random data", "zipf": "leaves by Zipf's law, exponent 1",
            "single": "one path, distinct rows",
            recipes.TRAINED: "leaves of text in a distilled 1x11, docs/trained-routing.md",
        },
        files={recipes.TRACE: "leaves from a file"}, label=routing.label,
    ),
    Axis(
        name="weights", of="protocol", asks="Where the weights stand as a pass begins",
        values={
            "hot": "as the last pass left them",
            "rotated": "several sets in turn, twice the last-level cache",
            "flushed": "caches evicted",
        },
        usual={"cuda": ("hot", "flushed")},
    ),
    Axis(
        name="launch", of="protocol", is_way=True, asks="How passes start on cuda",
        values={"eager": "", "graph": "replayed from a CUDA graph"},
        usual={"cuda": ("eager", "graph")}, device="cuda",
    ),
)  # fmt: skip

COLUMNS = tuple(axis.name for axis in AXES)
WAYS = tuple(axis.name for axis in AXES if axis.is_way)
DEFAULTS = Conditions(*(axis.default for axis in AXES))


def find(name: str) -> Axis:
    """Return an axis by name. Raises UnknownNameError listing the known ones."""
    for axis in AXES:
        if axis.name == name:
            return axis
    raise UnknownNameError("axis", name, known=COLUMNS)


# ---- what a sweep takes -------------------------------------------------------------------------


def lists(**given: Sequence[str]) -> dict[str, list[str]]:
    """Return the values that a sweep takes on each axis: those given, of all others the default alone.

    Raises UnknownNameError for what is no axis.
    """
    found = {axis.name: [axis.default] for axis in AXES}
    for name, values in given.items():
        found[find(name).name] = list(values)
    return found


def usual(device: str) -> dict[str, list[str]]:
    """Return the values that a sweep takes on each axis on a device where nothing is asked for."""
    return {axis.name: list(axis.usual.get(device, (axis.default,))) for axis in AXES}


# ---- names --------------------------------------------------------------------------------------


def suffix(conditions: Conditions) -> list[str]:
    """Return the parts of a cell's id that say where its conditions differ from the default.

    Raises ValueError where a file that a value names can't be read.
    """
    values = zip(AXES, conditions, strict=True)
    return [axis.label(value) for axis, value in values if value != axis.default]


def changes(conditions: Conditions) -> dict[str, str]:
    """Return the values that differ from the default, by axis."""
    values = zip(AXES, conditions, strict=True)
    return {axis.name: value for axis, value in values if value != axis.default}


def title(conditions: Conditions) -> str:
    """Return what differs from the default as words: `routing zipf, weights flushed`; empty for none."""
    # A trace goes by its file's name: whole paths would fill the headings.
    return ", ".join(
        f"{name} {value.rpartition('/')[2]}" for name, value in changes(conditions).items()
    )


def in_float32(conditions: Conditions) -> Conditions:
    """Return the same conditions with float32 operands."""
    return conditions._replace(dtype="float32")


def without_ways(conditions: Conditions) -> Conditions:
    """Return the same conditions with the defaults of the ways to compute the same."""
    return conditions._replace(**{name: getattr(DEFAULTS, name) for name in WAYS})
