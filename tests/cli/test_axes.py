"""The axes on the command line: their options, and the display of a sweep that runs."""

from __future__ import annotations

import re

import pytest
import typer
from fabricated_runs import Fake

from harness import cli
from harness.cli import grammar
from harness.cli.progress import Display
from harness.errors import UnknownNameError, UsageError
from harness.problem import axes
from harness.problem.axes import AXES, DEFAULTS, Axis

LAYERS = ("ff_l1_blas/bert-base-4095", "fff_l1_blas/ultrafastbert-1x11")


@pytest.fixture(params=AXES, ids=lambda axis: axis.name)
def axis(request: pytest.FixtureRequest) -> Axis:
    """Return each axis of the table."""
    found: Axis = request.param
    return found


def test_each_axis_is_an_option(axis: Axis, capsys: pytest.CaptureFixture[str]) -> None:
    """`sweep --help` names the axis's option, its values and what is measured where none is asked for."""
    assert cli.run(["sweep", "--help"]) == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    says = text.partition(f"--{axis.name} <str> ")[2].partition("--")[0]
    assert axis.asks in says
    assert all(value in says for value in axis.known)
    on_cuda = f"; on cuda {','.join(axis.usual['cuda'])}" if "cuda" in axis.usual else ""
    assert f"[default: {axis.default}{on_cuda}]" in says


def test_options_stay() -> None:
    """The axes are the options that they always were."""
    command = typer.main.get_command(cli.make_app("sweep"))
    found = {option for p in command.commands["sweep"].params for option in p.opts}  # type: ignore[attr-defined]
    assert found >= {
        "--dtype", "--math", "--data", "--rows", "--routing", "--weights", "--launch", "--isa",
        "--order", "--processes",
    }  # fmt: skip


def test_lists_are_read(axis: Axis) -> None:
    """A list of an axis's values is read on the device that has them, each value once, in order."""
    values = list(axis.values)
    text = ",".join([*reversed(values), values[0]])
    assert grammar.parse_axis(axis, axis.device or "cpu", text) == values[::-1]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_not_asked_for_is_usual(axis: Axis, device: str) -> None:
    """An option that is left out takes the device's usual values, one that is given changes no other."""
    usual = axes.usual(device)
    assert grammar.parse_axes(device, dict.fromkeys(axes.COLUMNS)) == usual
    found = grammar.parse_axes(device, {axis.name: axis.default})
    assert found == usual | {axis.name: [axis.default]}


def test_mistakes_name_the_option(axis: Axis) -> None:
    """An unknown value, an empty list, and what the CPU does not have are one line that names the option."""
    known = ", ".join(axis.known)
    for text, says in (
        ("other", f"--{axis.name}: unknown value 'other'; known: {known}"),
        (",", f"--{axis.name}: need at least one of {known}, got ','"),
    ):
        with pytest.raises(UsageError) as caught:
            grammar.parse_axis(axis, "cpu", text)
        assert str(caught.value) == says
    if axis.device:
        value = list(axis.values)[1]
        with pytest.raises(UsageError, match=f"--{axis.name}: the CPU has {axis.default} alone"):
            grammar.parse_axis(axis, "cpu", value)
    with pytest.raises(UnknownNameError, match="unknown axis 'weightz'"):
        grammar.parse_axes("cpu", {"weightz": "hot"})


# ---- the display of a sweep that runs -----------------------------------------------------------


@pytest.fixture
def display() -> Display:
    """Return a display that is not shown."""
    return Display()


def rows(display: Display) -> list[tuple[str, ...]]:
    """Return the rows of a display's table: all of it but the counts."""
    columns = {str(c.header): list(c.cells) for c in display._table().columns}
    names = ("implementation", "model", "batch", "width", "provider", "same level")
    return list(zip(*(columns[name] for name in names), strict=True))


def feed(display: Display, *runs: Fake) -> None:
    """Let a display hear the cells and samples of made-up runs."""
    for fake in runs:
        for cell in fake.cells():
            if cell.role != "ceiling":
                display.cell(cell)
        for sample in fake.samples():
            display.sample(sample)


QUIET = {"noise": 0.0, "process_noise": 0.0, "processes": 1, "blocks": 1}


def make(**changes: object) -> Fake:
    """Return a run of two layers at one level without noise."""
    times = dict(zip(LAYERS, (8e8, 4e6), strict=True))
    return Fake(**{**QUIET, "times": times, "twin_of": LAYERS[0], **changes})  # type: ignore[arg-type]


def test_the_display_shows_two(axis: Axis, display: Display) -> None:
    """Cells that differ in one axis are two rows, each over the baseline under its own value."""
    value = list(axis.values)[1]
    several = (DEFAULTS, DEFAULTS._replace(**{axis.name: value}))
    slow = next(c.cell for c in make(conditions=several).cells() if c.conditions != DEFAULTS)
    feed(display, make(conditions=several, factors={slow: 10.0}))
    found = rows(display)
    assert len(found) == len(set(found)) == 6
    fff = {row[1]: row[-1] for row in found if row[0].startswith("fff")}
    name = "ultrafastbert-1x11"
    assert fff == {name: "200x", f"{name}, {axis.name} {value}": "2e+03x"}


@pytest.mark.parametrize("changes", [{"batch": 128}, {"width": 64}], ids=["batch", "width"])
def test_the_display_tells_shapes_apart(changes: dict[str, object], display: Display) -> None:
    """Cells of two batches or widths are two rows, each over its own baseline."""
    feed(display, make(), make(factors={"fff": 4.0}, **changes))
    found = rows(display)
    assert len(found) == len(set(found)) == 6
    assert sorted(row[-1] for row in found if row[0].startswith("fff")) == ["200x", "50x"]
