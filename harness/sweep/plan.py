"""Own the plan of a sweep: what was asked for becomes cells, with their predicted time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

from harness.backends import registry
from harness.backends.registry import Implementation
from harness.errors import UnknownNameError, UsageError
from harness.machine.facts import Machine
from harness.measure import locality
from harness.measure.process_key import ProcessKey
from harness.problem import recipes, routing
from harness.problem.axes import AXES, Conditions
from harness.problem.models import Model, parse_model
from harness.problem.problem import ROUTERS, Problem
from harness.records.facts import DeviceFacts
from harness.sweep import ceilings as sweep_ceilings
from harness.sweep import estimate
from harness.sweep import gpu as sweep_gpu
from harness.sweep.cell import Cell, label, make_cell
from harness.sweep.estimate import GATE_S
from harness.sweep.spec import SweepSpec

# The published protocol times 250 passes as one mean; here a mean of this long is taken instead, in
# each fresh process anew, so that it has an interval.
PUBLISHED_PASSES = 250
PUBLISHED_SAMPLE_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Hold what will be measured on a machine, what can't be, and what the caller should be told.

    spec: what was asked for.
    """

    spec: SweepSpec
    machine: Machine
    cells: Sequence[Cell]
    unavailable: Sequence[tuple[Cell, str]] = ()
    notices: Sequence[str] = field(default=())
    published: Sequence[Cell] = ()  # role ladder: sampled cold and in this order, before the others
    published_sample_s: float = PUBLISHED_SAMPLE_S

    def on_device(self) -> bool:
        """Say whether its passes run on a device and not on the CPU."""
        return any(cell.on_device for cell in self.cells)

    def published_s(self) -> float:
        """Return the predicted time of the published protocol in one process."""
        passes = sum(c.predicted_s() * self.published_loops(c) for c in self.published)
        return passes + GATE_S * len(self.published)

    def published_loops(self, cell: Cell) -> int:
        """Return the passes behind one mean of the published protocol, 250 there, fewer where long."""
        fit = round(self.published_sample_s / cell.predicted_s())
        return max(1, min(PUBLISHED_PASSES, fit))

    def process_keys(self) -> list[ProcessKey]:
        """Return the measuring processes that the cells need, in order."""
        return list(dict.fromkeys(cell.runs_in for cell in self.cells))

    def gate_s(self, process: int) -> float:
        """Return the predicted time that one set of fresh processes needs before its first sample."""
        again = [c for c in self.cells if process == 0 or not c.is_checked_by_head()]
        whole = sum(cell.gate_s() for cell in again)
        checks = sum(cell.check_s() for cell in self.cells)
        compiled = sum(cell.compile_s(kept=process > 0) for cell in self.cells)
        return whole + checks + compiled + self.starts_s() + self.published_s()

    def starts_s(self) -> float:
        """Return the predicted time of starting one set of measuring processes."""
        return sum(estimate.start_s(key) for key in self.process_keys())

    def processes(self) -> int:
        """Return the predicted number of sets of fresh processes: those asked for that get a block."""
        asked = self.spec.processes
        if self.spec.passes:
            return asked
        rest = self.spec.budget_s - self.gate_s(0)
        return estimate.count_processes(asked, rest, self.gate_s(1), self.block_s())

    def gates_s(self) -> float:
        """Return the predicted time of the gates of all processes."""
        return sum(self.gate_s(process) for process in range(self.processes()))

    def block_s(self) -> float:
        """Return the predicted time of one block."""
        return sum(cell.sample_s() for cell in self.cells)

    def memory_bytes(self) -> int:
        """Return the predicted resident memory of all measuring processes together."""
        total = 0
        for key in self.process_keys():
            cells = [cell for cell in self.cells if cell.runs_in == key]
            if whole := [cell.transformer for cell in cells if cell.transformer]:
                total += estimate.resident_bytes(key) + estimate.transformer_bytes(whole)
                continue
            problems = [cell.problem for cell in cells]
            weights = locality.weight_bytes((cell.problem, cell.sets) for cell in cells)
            inputs = {p.input_key(): 0 for p in problems}
            for p in problems:
                inputs[p.input_key()] = max(inputs[p.input_key()], p.item_bytes * p.batch * p.d_in)
            total += estimate.resident_bytes(key) + weights + sum(inputs.values())
            # x is steered through the first set of weights, drawn for it.
            total += max((r.weight_bytes() // 2 for p in problems if (r := p.router())), default=0)
            if any(cell.weights == "flushed" for cell in cells):
                total += locality.eviction_bytes(self.machine.last_level_bytes())
            total += max(p.item_bytes * p.batch * p.d_out for p in problems)
            total += max(cell.workspace_bytes for cell in cells)
        return total

    def blocks(self) -> int:
        """Return the predicted number of blocks."""
        if self.spec.passes:
            return self.spec.passes
        left = self.spec.budget_s - self.gates_s()
        return max(self.processes(), int(left / self.block_s()))

    def predicted_s(self) -> float:
        """Return the predicted time of the whole sweep."""
        return self.gates_s() + self.blocks() * self.block_s()


def _choose(spec: SweepSpec) -> list[Implementation]:
    known = [i for i in registry.all() if spec.device in i.devices]
    chosen = select([i.id for i in known], spec.only, spec.skip)
    found = []
    for implementation in known:
        is_ceiling = implementation.layer == "ceiling"
        # A ceiling is measured with whatever was asked for: only --skip leaves it out.
        if is_ceiling and any(fnmatchcase(implementation.id, p) for p in spec.skip):
            continue
        if not is_ceiling and implementation.id not in chosen:
            continue
        if implementation.level is None or implementation.level in spec.levels or is_ceiling:
            found.append(implementation)
        elif implementation.id in spec.only:
            raise UsageError(
                f"--only: {implementation.id} is of level {implementation.level}, "
                f"and --levels asks for {', '.join(map(str, spec.levels))}"
            )
    for implementation in found:
        reason = implementation.unavailable()
        if reason and implementation.id in spec.only:
            raise UsageError(f"--only: {implementation.id} is unavailable: {reason}")
    return found


def _with_baseline(spec: SweepSpec, layers: set[str]) -> tuple[list[Model], list[str]]:
    """Return the models, the baseline before them where it was left out and can be measured."""
    models = list(spec.models)
    if "ff" not in layers or any(m.name == spec.baseline for m in models):
        return models, []
    notice = f"{spec.baseline} is measured too: every speedup is over it"
    return [parse_model(spec.baseline), *models], [notice]


def _check_machine(spec: SweepSpec, machine: Machine) -> None:
    """Refuse what a machine does not have. Raises UsageError that names the option."""
    if spec.threads > machine.cores:
        raise UsageError(
            f"--threads: need 1 to {machine.cores}, the processors here, got {spec.threads}"
        )
    if spec.isa and spec.isa not in machine.isas:
        raise UnknownNameError("instruction set of this processor", spec.isa, known=machine.isas)
    for name in spec.blas:
        if reason := machine.missing_providers.get(name):
            raise UsageError(f"--blas: {reason}")


def _check_labels(spec: SweepSpec) -> None:
    called: dict[str, str] = {}
    for name in spec.blas:
        other = called.setdefault(label(name), name)
        if other != name:
            raise UsageError(
                f"--blas: {other} and {name} would both be called {label(name)} in the run; "
                "make a link of another name to one of them, or sweep them one at a time"
            )


def _dtypes(spec: SweepSpec, fitting: Sequence[Implementation]) -> list[str]:
    """Return the dtypes of one layer's cells: those asked for, for an FF float32 too where it must serve.

    A dtype that no FF here takes still needs a baseline: the fastest float32 FF of the same run.
    """
    taken = {d for i in fitting if i.layer == "ff" and not i.unavailable() for d in i.dtypes}
    asked = spec.axes["dtype"]
    without = taken and set(asked) - taken
    return list(dict.fromkeys([*asked, *(["float32"] if without else [])]))


def _layer_cells(
    spec: SweepSpec,
    chosen: Sequence[Implementation],
    models: Sequence[Model],
    cache_bytes: int,
) -> tuple[list[Cell], dict[str, str]]:
    """Return the cells, and why some of them can't be measured as asked."""
    cells: dict[str, Cell] = {}
    refused: dict[str, str] = {}
    for width in spec.widths:
        for batch in spec.batches:
            for model in models:
                plain = model.problem(batch=batch, width=width, seed=spec.seed)
                fitting = [i for i in chosen if i.layer == plain.layer]
                combinations, _ = combine(spec, _dtypes(spec, fitting))
                for shared in combinations:
                    problem = apply_conditions(plain, shared, spec.models)
                    sets, reason = locality.count_sets(problem, shared.weights, cache_bytes)
                    for implementation, provider in product(fitting, spec.blas or [""]):
                        for own in sweep_gpu.ways(spec, implementation, shared):
                            cell = make_cell(
                                implementation, replace(problem, **own.of("problem")), model.name,
                                provider, sets=sets, **own.of("protocol"),
                            )  # fmt: skip
                            cells.setdefault(cell.id, cell)
                            if reason:
                                refused[cell.id] = reason
    return list(cells.values()), refused


def make_plan(spec: SweepSpec, machine: Machine) -> Plan:
    """Return the plan of a sweep on a machine; nothing is run, loaded or asked.

    Raises UsageError where nothing is left to measure, the machine lacks what was asked for, or the
    operands would not fit into its memory.
    """
    facts = sweep_gpu.find(spec.device, machine)
    _check_machine(spec, machine)
    _check_labels(spec)
    chosen = _choose(spec)
    models, notices = _with_baseline(spec, {i.layer for i in chosen})
    _, left_out = combine(spec, spec.axes["dtype"])
    notices += left_out
    cache_bytes = facts.l2_bytes if facts else machine.last_level_bytes(spec.threads)
    cells, refused = _layer_cells(spec, chosen, models, cache_bytes)
    reasons = {c.id: c_reason for c in cells if (c_reason := find_reason(spec, c, refused, facts))}
    usable = [c for c in cells if c.id not in reasons]
    takers = [c for c in cells if not by_nature(registry.get(c.implementation), c)]
    untaken = {c.problem.dtype for c in cells} - {c.problem.dtype for c in takers}
    if untaken and not refused:
        raise UsageError(f"--dtype: no chosen implementation that runs here takes {min(untaken)}")
    if not usable and refused:
        raise UsageError(f"--weights: {next(iter(refused.values()))}")
    if not usable and cells:
        raise UsageError(f"nothing is left to measure: {cells[0].id} {reasons[cells[0].id]}")
    if not usable:
        raise UsageError(
            "nothing is left to measure: no chosen implementation computes a chosen model"
        )
    ceiling_cells, remarks = (
        sweep_gpu.ceiling_cells(spec, facts, chosen)
        if facts
        else sweep_ceilings.ceiling_cells(spec, chosen, machine)
    )
    lacking = {
        c.id: w for c in ceiling_cells if (w := registry.get(c.implementation).unavailable())
    }
    plan = Plan(
        spec=spec,
        machine=machine,
        cells=[*usable, *(c for c in ceiling_cells if c.id not in lacking)],
        unavailable=[
            (c, why)
            for c in (*cells, *ceiling_cells)
            if (why := reasons.get(c.id) or lacking.get(c.id))
        ],
        notices=[*notices, *remarks],
    )
    check_memory(plan)
    if facts:
        sweep_gpu.check_memory(plan.cells, facts)
    return plan


def describe_available(machine: Machine) -> str:
    """Return what memory can be had, and the limit that this process was given."""
    limit = machine.memory_limit_bytes
    given = "" if limit is None else f" of the {limit / 2**30:.1f} GiB that the cgroup allows"
    return f"{machine.available_bytes / 2**30:.1f} GiB{given} are available"


def check_memory(plan: Plan) -> None:
    """Refuse what does not fit into the memory of the machine. Raises UsageError naming what is largest."""
    needed, machine = plan.memory_bytes(), plan.machine
    if needed > 0.9 * machine.available_bytes:
        largest = max(plan.cells, key=lambda c: c.weight_bytes() + c.workspace_bytes)
        raise UsageError(
            f"the operands need {needed / 2**30:.1f} GiB and {describe_available(machine)} "
            f"(the largest cell is {largest.id}: weights {largest.weight_bytes() / 2**30:.1f} GiB, "
            f"workspace {largest.workspace_bytes / 2**30:.1f} GiB); "
            "take a smaller --batch or --width, a smaller depth, or fewer --blas"
        )


def find_reason(
    spec: SweepSpec, cell: Cell, refused: Mapping[str, str], facts: DeviceFacts | None
) -> str:
    """Return why a cell can't be measured, or an empty string."""
    reason = by_nature(registry.get(cell.implementation), cell) or refused.get(cell.id, "")
    reason = reason or _too_slow_for_quick(spec, cell)
    return reason or (sweep_gpu.why_too_large(cell, facts) if facts else "")


def _too_slow_for_quick(spec: SweepSpec, cell: Cell) -> str:
    """Return why a quick sweep of the CPU leaves a cell out that nobody named, or an empty string.

    What compiles would do so in every process, and take from all others the blocks that they need.
    """
    if not spec.quick or spec.passes or spec.only or spec.device != "cpu" or not cell.compile_s():
        return ""
    return "compiles, which --quick has no time for; ask for it with --only, or leave --quick out"


def by_nature(implementation: Implementation, cell: Cell) -> str:
    """Return why an implementation can't be measured as a cell asks, whatever the size."""
    if cell.problem.dtype not in implementation.dtypes:
        return f"takes {' and '.join(implementation.dtypes)} alone, not {cell.problem.dtype}"
    if cell.launch == "graph" and not implementation.capturable:
        return "its passes can't be captured as a CUDA graph"
    return implementation.unavailable()


def select(ids: Sequence[str], only: Sequence[str], skip: Sequence[str]) -> list[str]:
    """Return the ids that match a pattern of `only` (all where it is empty) and none of `skip`.

    Raises UnknownNameError for a pattern that matches nothing.
    """
    for pattern in (*only, *skip):
        if not any(fnmatchcase(i, pattern) for i in ids):
            raise UnknownNameError("implementation", pattern, known=ids)
    return [
        i
        for i in ids
        if (not only or any(fnmatchcase(i, p) for p in only))
        and not any(fnmatchcase(i, p) for p in skip)
    ]


# ---- conditions ---------------------------------------------------------------------------------


def combine(spec: SweepSpec, dtypes: Sequence[str]) -> tuple[list[Conditions], list[str]]:
    """Return the combinations of these dtypes that make sense, and a line for each that does not.

    An axis that one device alone has is left at its default: its values hang on the implementation too.

    Raises UsageError where none is left.
    """
    lists = {axis.name: [axis.default] if axis.device else spec.axes[axis.name] for axis in AXES}
    lists["dtype"] = dtypes
    found, left_out = [], []
    for conditions in (Conditions(*values) for values in product(*lists.values())):
        reason = recipes.conflict(conditions.data, conditions.rows, conditions.routing)
        if reason:
            left_out.append(f"left out: {reason}")
        else:
            found.append(conditions)
    if not found:
        raise UsageError(left_out[0].removeprefix("left out: "))
    return found, list(dict.fromkeys(left_out))


def apply_conditions(problem: Problem, conditions: Conditions, models: Sequence[Model]) -> Problem:
    """Return a problem under conditions; with a chosen routing an FF gets the x of the sweep's one FFF.

    Leaf FFFs of one depth are one, whatever the width of their leaves: their routers are the same.

    Raises UsageError where there is not exactly one FFF, its turns exceed d_in, or a trace does not fit.
    """
    changes: dict[str, Any] = {**conditions.of("problem")}
    if conditions.routing != "uniform":
        trees = {(m.layer, m.trees, m.depth): m.name for m in models if m.layer in ROUTERS}
        if len(trees) != 1:
            raise UsageError(
                f"--routing {conditions.routing}: the input is made for one FFF, so that it and the FF get "
                f"the same x; --models has {len(trees)} ({', '.join(trees.values()) or 'none'})"
            )
        if problem.layer not in ROUTERS:
            names = ("routed_layer", "routed_trees", "routed_depth")
            changes |= zip(names, next(iter(trees)), strict=True)
    try:
        changed = replace(problem, **changes)
        router = changed.router()
        if router is not None and routing.is_recorded(conditions.routing):
            routing.read_recorded(
                conditions.routing, batch=router.batch, trees=router.trees, depth=router.depth
            )
    except ValueError as error:
        raise UsageError(f"--routing: {error}") from None
    return changed
