"""Own what of a run may stand beside a published figure: what was measured as the paper measured it."""

from __future__ import annotations

from harness.paper.published import PublishedCell, find
from harness.problem import axes
from harness.problem.axes import Conditions
from harness.problem.models import BASELINE
from harness.records.schema import RunHead


def find_differences(head: RunHead) -> list[str]:
    """Return how a run measured otherwise than the paper did, whatever the conditions of its sections."""
    sweep = head.sweep
    return [
        text
        for text, is_so in (
            (f"{sweep.threads} threads, the paper's figures are of one", sweep.threads != 1),
            (f"its samples were taken in {sweep.order} order", sweep.order != "interleaved"),
            (f"its own kernels were held to {sweep.isa}", bool(sweep.isa)),
            ("variables that change a BLAS library reached it", sweep.keep_blas_env),
        )
        if is_so
    ]


def find_beside(
    head: RunHead, conditions: Conditions, model: str, column: str, *, baseline: str = BASELINE
) -> PublishedCell | None:
    """Return the figure that the paper has beside one that a run measured under some conditions, if any.

    The paper's are speedups over its own baseline, of one thread, on random data in float32, with paths that
    are left to the data and weights as the last pass left them. Beside another batch or width they stand,
    which the section's title tells. model, column, baseline: as of `harness.paper.published.find`.
    """
    over_papers = head.sweep.baseline == BASELINE
    if not over_papers or conditions != axes.DEFAULTS or find_differences(head):
        return None
    return find(model, column, baseline=baseline)
