"""Own where the weights stand when a pass begins: hot in the caches, rotated past them, flushed out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.backends.timer import TimePasses
from harness.problem.operands import make_aligned, make_leaves
from harness.problem.problem import EXPERTS, TREES, Problem
from harness.problem.routing import path_of

_CACHES = (
    2  # the factor over the last-level cache: least-recently-used is only roughly what caches do
)
_ASSUMED_CACHE_BYTES = 32 << 20  # where the system does not tell
_MOST_HELD_BYTES = 1 << 30  # of weights for one cell, where the cache does not ask for more
_FLUSHED_PASSES = 8  # of one sample: each costs a walk of tens of MiB beside it


def eviction_bytes(last_level_bytes: int) -> int:
    """Return the bytes that must pass through the caches so that nothing older is left in them."""
    return _CACHES * (last_level_bytes or _ASSUMED_CACHE_BYTES)


# ---- rotated ------------------------------------------------------------------------------------


def touched_rows(problem: Problem) -> float:
    """Return the weight rows that one pass touches: all of an FF's, for an FFF those on the paths.

    With uniform routing the expectation of distinct nodes, else the count on the chosen paths. Of a control
    that of distinct experts, as if each were as likely, or of nodes: its scores' rows are not counted.
    """
    if problem.layer == "leaf":
        share = 1 / problem.n_leaves
        one = problem.data == "zeros" or problem.rows == "same"
        reached = share if one else 1 - (1 - share) ** problem.batch
        if problem.routing != "uniform":
            reached = len(np.unique(make_leaves(problem))) * share
        return reached * problem.neurons
    if problem.layer in EXPERTS:
        share = problem.active / problem.experts
        one = problem.data == "zeros" or problem.rows == "same"
        return problem.neurons * (share if one else 1 - (1 - share) ** problem.batch)
    if problem.layer not in TREES:
        return problem.neurons
    if problem.data == "zeros" or problem.rows == "same":
        return problem.used_neurons
    if problem.routing == "uniform" or problem.layer == "hash":
        widths = 2.0 ** np.arange(problem.depth + 1)
        return float(problem.trees * (widths * (1 - (1 - 1 / widths) ** problem.batch)).sum())
    leaves = make_leaves(problem)
    nodes, _ = path_of(leaves, problem.depth)
    trees = range(problem.trees)
    inner = sum(len(np.unique(nodes[:, k])) for k in trees) if problem.depth else 0
    return inner + sum(len(np.unique(leaves[:, k])) for k in trees)


def touched_bytes(problem: Problem) -> float:
    """Return the bytes of its weights that one pass touches: `touched_rows`, and all rows that score."""
    scoring: float = problem.routers if problem.layer in EXPERTS else 0
    chosen_from = problem.weight_bytes() - scoring * problem.d_in * problem.item_bytes
    touched = touched_rows(problem) * chosen_from / problem.neurons
    if problem.layer == "topk":  # the rows of w_in score, whichever are chosen
        scoring = problem.neurons - touched_rows(problem)
    return touched + scoring * problem.d_in * problem.item_bytes


def count_sets(problem: Problem, weights: str, last_level_bytes: int) -> tuple[int, str]:
    """Return how many sets of weights a cell needs, and why it can't have them (or an empty string).

    Several only where they are rotated. What the passes of one round touch must then be twice the
    last-level cache: an FFF at a small batch touches little of each set, and needs more sets the less it
    touches.
    """
    if weights != "rotated":
        return 1, ""
    touched = touched_bytes(problem)
    needed = eviction_bytes(last_level_bytes)
    sets = max(2, math.ceil(needed / touched))
    held = sets * problem.weight_bytes()
    # Weights that are all touched never need more than twice the round.
    most = max(_MOST_HELD_BYTES, 2 * needed)
    if sets == 2 or held <= most:
        return sets, ""
    return sets, (
        f"a pass touches {touched / 2**20:.2g} MiB of its weights: {needed / 2**20:.0f} MiB a round, twice "
        f"the last-level cache, would need {sets} sets, {held / 2**30:.1f} GiB (at most "
        f"{most / 2**30:.0f} GiB are held); --weights flushed shows the same from cold caches"
    )


def weight_bytes(problems: Iterable[tuple[Problem, int]]) -> int:
    """Return the bytes of the weights that a process holds for its problems, each with its sets."""
    held: dict[tuple[Any, ...], int] = {}
    for problem, sets in problems:
        first, further = weight_key(problem), weight_key(problem, 1)
        held[first] = problem.weight_bytes()
        # Those of one key share each set by its turn; a small layer beside a large cache has many.
        held[further] = max(held.get(further, 0), (sets - 1) * problem.weight_bytes())
    return sum(held.values())


def weight_key(problem: Problem, turn: int = 0) -> tuple[Any, ...]:
    """Return what a set of weights depends on: problems of one key share it.

    Only further sets depend on whether paths are chosen (problem.make_weights).
    """
    steered = bool(turn) and problem.layer == "fff" and problem.routing != "uniform"
    return (
        problem.layer, *problem.weights().values(), problem.used_neurons, problem.dtype, problem.data,
        problem.seed, turn, steered,
    )  # fmt: skip


def rotate_loops(loops: int, sets: int) -> int:
    """Return the passes of a sample as a multiple of the sets: every sample is of whole rounds."""
    return -(-loops // sets) * sets


# ---- flushed ------------------------------------------------------------------------------------


def clock_ns() -> int:
    """Return what reading the clock twice costs, in ns, from Python: at least what it costs from C."""
    reads = [time.monotonic_ns() for _ in range(1001)]
    return int(np.median(np.diff(reads)))


@dataclass(frozen=True, slots=True)
class Flusher:
    """Hold a buffer of twice the last-level cache; a walk over it evicts what was cached before.

    The walk reads and writes nothing: lines that it had changed would be written back to memory while the
    pass is timed that comes after it, and the more of them the more that pass reads. Each thread of a pass
    leaves weights in the caches of its own core, so as many threads walk as a pass has, each over all of the
    buffer. Nothing holds them to the cores of those threads, where there are more cores than threads.
    """

    buffer: np.ndarray[tuple[int, ...], np.dtype[np.uint64]]
    helpers: tuple[ThreadPoolExecutor, ...]

    @classmethod
    def make(cls, last_level_bytes: int, threads: int = 1) -> Flusher:
        """Return a flusher for a cache of this size; 0 where it is unknown. threads: of a pass."""
        buffer = make_aligned((eviction_bytes(last_level_bytes) // 8,), np.uint64)
        buffer.fill(1)
        return cls(buffer, tuple(ThreadPoolExecutor(1) for _ in range(threads - 1)))

    def _walk(self) -> int:
        return int(np.add.reduce(self.buffer))

    def flush(self) -> list[int]:
        """Read every byte of the buffer in each thread; return the sum of its words that each has found."""
        others = [helper.submit(self._walk) for helper in self.helpers]
        return [self._walk(), *(other.result() for other in others)]

    def singles(self, passes: TimePasses) -> TimePasses:
        """Return a clock that times each pass alone, the caches flushed before it, and sums the times."""

        def time_flushed(loops: int) -> int:
            elapsed = 0
            for _ in range(loops):
                self.flush()
                elapsed += passes(1)
            return elapsed

        return time_flushed

    def note(self, pass_ns: float) -> str:
        """Return what the record says: the walk, and the clock's share of a pass."""
        size = self.buffer.nbytes / 2**20
        share = 100 * clock_ns() / max(pass_ns, 1.0)
        return (
            f"{size:.0f} MiB walked before each pass, timed alone; reading the clock takes at most "
            f"{share:.2g} % of it"
        )


def flushed_loops(pass_ns: float, min_sample_ns: int) -> int:
    """Return the passes of a flushed sample: few, since the walk before each costs more than they do."""
    return int(np.clip(min_sample_ns / max(pass_ns, 1.0), 1, _FLUSHED_PASSES))
