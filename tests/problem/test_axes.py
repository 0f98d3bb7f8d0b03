"""The table of the axes itself, and what a problem makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UnknownNameError
from harness.problem import axes
from harness.problem.axes import AXES, DEFAULTS, DEVICES, Axis, Conditions
from harness.problem.operands import make_x
from harness.problem.problem import DTYPES, Problem

FFF = Problem(layer="fff", batch=4, d_in=16, d_out=8, depth=3, trees=1)
OF_PROBLEM = [axis for axis in AXES if axis.of == "problem"]


def test_conditions_are_in_the_order_of_the_table() -> None:
    """Each axis has its place in `Conditions`, in one order for ids, titles and columns."""
    assert axes.COLUMNS == Conditions._fields == tuple(axis.name for axis in AXES)
    assert tuple(axis.default for axis in AXES) == DEFAULTS


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.name)
def test_values_fit_together(axis: Axis) -> None:
    """An axis has more than its default, and takes what it says is usual on a device that there is."""
    assert len(axis.known) > 1
    assert set(axis.usual) <= set(DEVICES)
    assert all(axis.takes(value) for values in axis.usual.values() for value in values)
    assert not any(axis.takes(value) for value in ("", "other", *axis.files))
    assert axis.device in ("", *DEVICES)
    assert not axis.device or axis.usual.get("cpu", (axis.default,)) == (axis.default,)


@pytest.mark.parametrize("axis", OF_PROBLEM, ids=lambda axis: axis.name)
def test_a_problem_has_each_of_its_axes(axis: Axis) -> None:
    """A problem is made under every value of an axis of the problem, has the default, and refuses others."""
    assert getattr(FFF, axis.name) == axis.default
    for value in axis.values:
        problem = replace(FFF, **{axis.name: value})  # type: ignore[arg-type]
        assert problem.conditions() == DEFAULTS._replace(**{axis.name: value})
    with pytest.raises(ValueError, match=f"{axis.name} must be one of .*, got 'other'"):
        replace(FFF, **{axis.name: "other"})  # type: ignore[arg-type]


@pytest.mark.parametrize("axis", OF_PROBLEM, ids=lambda axis: axis.name)
def test_one_input_key_is_one_input(axis: Axis) -> None:
    """Problems that differ in an axis alone and have one key of the input have one input too."""
    plain = make_x(FFF)
    for value in axis.values:
        problem = replace(FFF, **{axis.name: value})  # type: ignore[arg-type]
        if problem.input_key() == FFF.input_key():
            assert make_x(problem).tobytes() == plain.tobytes()


def test_every_dtype_can_be_stored() -> None:
    """The dtypes of the table are those that arrays are made of."""
    assert tuple(axes.find("dtype").values) == DTYPES


def test_conditions_are_of_problem_and_protocol() -> None:
    """The two parts of a cell's conditions make up the whole, and a problem is told the protocol alone."""
    conditions = replace(FFF, routing="zipf").conditions(weights="flushed")
    assert conditions == DEFAULTS._replace(routing="zipf", weights="flushed")
    assert conditions.of("problem") | conditions.of("protocol") == conditions._asdict()
    assert not conditions.of("problem").keys() & conditions.of("protocol").keys()
    with pytest.raises(TypeError):
        FFF.conditions(routing="zipf")
    with pytest.raises(ValueError, match="weightz"):
        FFF.conditions(weightz="hot")


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.name)
def test_names_say_what_differs(axis: Axis) -> None:
    """Ids and titles name a value that is not the default, each by a text of its own, and no default."""
    several = [DEFAULTS._replace(**{axis.name: value}) for value in axis.values]
    assert (axes.suffix(several[0]), axes.title(several[0])) == ([], "")
    for names in ([tuple(axes.suffix(how)) for how in several], list(map(axes.title, several))):
        assert len(set(names)) == len(names)
    assert axes.title(several[1]) == f"{axis.name} {several[1][AXES.index(axis)]}"


def test_suffixes_stay() -> None:
    """Ids of cells are kept: an axis's values stand in them as they always did."""
    changed = DEFAULTS._replace(
        dtype="bfloat16", math="tf32", data="zeros", rows="same", routing="zipf", weights="rotated",
        launch="graph",
    )  # fmt: skip
    assert axes.suffix(changed) == [
        "bfloat16", "tf32", "zeros", "rows-same", "zipf", "rotated", "graph",
    ]  # fmt: skip


def test_no_two_suffixes_are_alike() -> None:
    """No value of one axis has the suffix of another's value: the id of a cell is of one cell."""
    found = [axis.label(value) for axis in AXES for value in axis.values]
    assert len(found) == len(set(found))


def test_a_file_is_named_by_its_bytes_in_ids(tmp_path: Path) -> None:
    """Two traces of one file name have two ids, and titles name the file without its folder."""
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokens.txt").write_text(name, encoding="utf-8")
        found.append(DEFAULTS._replace(routing=f"trace:{tmp_path / name / 'tokens.txt'}"))
    assert axes.suffix(found[0]) != axes.suffix(found[1])
    assert {axes.title(how) for how in found} == {"routing tokens.txt"}


def test_lists_hold_every_axis() -> None:
    """A sweep that is asked for one axis takes the defaults of all others; an unknown axis is refused."""
    found = axes.lists(weights=["hot", "flushed"])
    assert list(found) == list(axes.COLUMNS)
    assert [name for name, values in found.items() if len(values) > 1] == ["weights"]
    assert axes.usual("cpu") == axes.lists()
    with pytest.raises(UnknownNameError, match="unknown axis 'weightz'; known: dtype, math"):
        axes.lists(weightz=["hot"])
