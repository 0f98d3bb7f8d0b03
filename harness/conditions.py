"""Own the conditions of a cell, its data, rows, routing and weights: combining, naming, contrasting them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import pandas as pd

from harness import locality, machine, recipes, stats
from harness.axes import Model
from harness.errors import UsageError
from harness.problem import Problem
from harness.records import Run
from harness.stats import Ratio

COLUMNS = ("data", "rows", "routing", "weights")
DEFAULTS = ("random", "distinct", "uniform", "hot")


class Recipes(NamedTuple):
    """Hold what the operands are made of."""

    data: str
    rows: str
    routing: str


def combine(
    data: Sequence[str], rows: Sequence[str], routing: Sequence[str]
) -> tuple[list[Recipes], list[str]]:
    """Return the combinations that make sense, and a line for each that does not.

    Raises UsageError where none is left.
    """
    found, left_out = [], []
    for recipe in (Recipes(*words) for words in product(data, rows, routing)):
        reason = recipes.conflict(*recipe)
        if reason:
            left_out.append(f"left out: {reason}")
        else:
            found.append(recipe)
    if not found:
        raise UsageError(left_out[0].removeprefix("left out: "))
    return found, list(dict.fromkeys(left_out))


def apply(problem: Problem, recipe: Recipes, models: Sequence[Model]) -> Problem:
    """Return a problem with its recipes; with a chosen routing an FF gets the x of the sweep's one FFF.

    Raises UsageError where there is not exactly one FFF, its turns exceed d_in, or a trace does not fit.
    """
    changes: dict[str, Any] = recipe._asdict()
    if recipe.routing != "uniform":
        trees = {(m.trees, m.depth): m.name for m in models if m.layer == "fff"}
        if len(trees) != 1:
            raise UsageError(
                f"--routing {recipe.routing}: the input is made for one FFF, so that it and the FF get the "
                f"same x; --models has {len(trees)} ({', '.join(trees.values()) or 'none'})"
            )
        if problem.layer == "ff":
            changes["routed_trees"], changes["routed_depth"] = next(iter(trees))
    try:
        changed = replace(problem, **changes)
        router = changed.router()
        if router is not None and recipe.routing.startswith(recipes.TRACE):
            path = recipe.routing.removeprefix(recipes.TRACE)
            recipes.read_trace(path, batch=router.batch, trees=router.trees, depth=router.depth)
    except ValueError as error:
        raise UsageError(f"--routing: {error}") from None
    return changed


def count_sets(problem: Problem, weights: str) -> tuple[int, str]:
    """Return the sets of weights that a cell needs, and why it can't have them."""
    if weights != "rotated":
        return 1, ""
    return locality.count_sets(problem, machine.last_level_bytes())


def weight_bytes(problems: Iterable[tuple[Problem, int]]) -> int:
    """Return the bytes of the weights that a process holds for its problems, each with its sets."""
    held = {
        weight_key(problem, turn): problem.weight_bytes()
        for problem, sets in problems
        for turn in range(sets)
    }
    return sum(held.values())


def weight_key(problem: Problem, turn: int = 0) -> tuple[Any, ...]:
    """Return what a set of weights depends on: problems of one key share it.

    Only further sets depend on whether paths are chosen (problem.make_weights).
    """
    steered = bool(turn) and problem.layer == "fff" and problem.routing != "uniform"
    return (
        problem.layer, *problem.weight_shapes(), problem.used_neurons, problem.data, problem.seed,
        turn, steered,
    )  # fmt: skip


# ---- names --------------------------------------------------------------------------------------


def suffix(problem: Problem, weights: str) -> list[str]:
    """Return the parts of a cell's id that say where its conditions differ from the default."""
    names = (problem.data, problem.rows, problem.routing, weights)
    return [
        f"{column}-{name}" if column == "rows" else recipes.label(name)
        for column, name, default in zip(COLUMNS, names, DEFAULTS, strict=True)
        if name != default
    ]


def title(conditions: Sequence[str]) -> str:
    """Return what differs from the default as words: `routing zipf, weights flushed`; empty for none."""
    named = zip(COLUMNS, conditions, DEFAULTS, strict=True)
    # A trace goes by its file's name: whole paths would fill the headings.
    return ", ".join(
        f"{column} {name.rpartition('/')[2]}" for column, name, default in named if name != default
    )


# ---- contrasts ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Hold one cell under conditions beside the same cell under the run's first ones.

    ratio: how many times longer it takes than under the first conditions; None for the first itself.
    """

    implementation: str
    model: str
    provider: str
    batch: int
    width: int
    conditions: tuple[str, ...]
    status: str
    pass_ns: float
    ratio: Ratio | None
    nodes_touched: int
    leaf_bits: float
    working_set_bytes: int


def contrasts(run: Run) -> list[Contrast]:
    """Return every layer cell that was measured under more than one set of conditions."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for cell in run.cells[run.cells["role"] == "layer"].itertuples():
        key = (cell.implementation, cell.model, cell.provider, cell.batch, cell.d_in)
        groups.setdefault(key, []).append(cell)
    return [
        _contrast(run, cell, min(group, key=_rank))
        for group in groups.values()
        if len(group) > 1
        for cell in sorted(group, key=_rank)
    ]


def _contrast(run: Run, cell: Any, first: Any) -> Contrast:
    both = cell.cell != first.cell and cell.status == first.status == "ok"
    return Contrast(
        implementation=cell.implementation, model=cell.model, provider=cell.provider,
        batch=int(cell.batch), width=int(cell.d_in), conditions=of_cell(cell), status=cell.status,
        pass_ns=stats.pass_ns(run.samples, cell.cell),
        ratio=stats.ratio(run.samples, cell.cell, first.cell) if both else None,
        nodes_touched=int(cell.nodes_touched),
        leaf_bits=cell.entropy_bits[-1] if cell.entropy_bits else float("nan"),
        working_set_bytes=int(cell.working_set_bytes),
    )  # fmt: skip


def of_cell(cell: Any) -> tuple[str, ...]:
    """Return the conditions of a row of the frame of cells."""
    return tuple(getattr(cell, column) for column in COLUMNS)


def _rank(cell: Any) -> int:
    """Return how many conditions differ from the default: a contrast is against the fewest."""
    return sum(a != b for a, b in zip(of_cell(cell), DEFAULTS, strict=True))


def of_frame(cells: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return the distinct conditions of some cells, the nearest to the default first."""
    found = {of_cell(cell): _rank(cell) for cell in cells.itertuples()}
    return sorted(found, key=lambda conditions: found[conditions])
