"""Own the gate of weights in rotation: each set and a round of all of them are checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.backends.registry import Context, Implementation, Prepared
from harness.measure.buffers import Placed
from harness.problem.check import Verdict, check
from harness.problem.problem import Problem

_SET_TOKENS = 64  # compared with the oracle per set of weights


class CannotRotateError(RuntimeError):
    """Say that an implementation takes one set of weights only."""


def gate_rotation(
    implementation: Implementation, problem: Problem, sets: Sequence[Placed], context: Context
) -> tuple[Prepared, int, Verdict]:
    """Check an implementation on each set of weights, then on one round of all of them.

    After the round the output must be the last set's: so the passes really took the sets in turn.
    Returns the prepared rotation, the mean time of a pass of the round in ns, and the verdict, the first
    bad one if there is one.

    Raises CannotRotateError where the implementation takes one set only.
    """
    verdict: Verdict | None = None
    for i, placed in enumerate(sets):
        prepared = implementation.prepare(problem, placed.own, context)
        placed.poison()
        prepared.time(1)
        verdict = check(problem, placed.fetch(), seed=problem.seed, most=_SET_TOKENS)
        if not verdict.ok:
            reason = f"weight set {i + 1} of {len(sets)}: {verdict.reason}"
            return prepared, 0, replace(verdict, reason=reason)
    rotation = tuple((placed.own.w_in, placed.own.w_out) for placed in sets[1:])
    prepared = implementation.prepare(problem, replace(sets[0].own, rotation=rotation), context)
    if prepared.sets != len(sets):
        raise CannotRotateError(
            f"{implementation.id} takes one set of weights: it can't rotate several"
        )
    sets[-1].poison()
    pass_ns = prepared.time(len(sets)) // len(sets)
    verdict = check(problem, sets[-1].fetch(), seed=problem.seed, most=_SET_TOKENS)
    if not verdict.ok:
        verdict = replace(verdict, reason=f"after a round of all weight sets: {verdict.reason}")
    held = len(sets) * problem.weight_bytes() / 2**20
    note = f"{len(sets)} sets in turn, {held:.0f} MiB held"
    return replace(prepared, notes={**prepared.notes, "weights": note}), pass_ns, verdict
