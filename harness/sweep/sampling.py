"""Own the sampling of a sweep: blocks that hold every cell, in an order drawn for each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from harness.measure.clock import Sample
from harness.measure.process import ProcessError
from harness.measure.protocol import SampleRequest, WrongOutput
from harness.sweep import gate
from harness.sweep.journal import Journal
from harness.sweep.processes import Processes, patience_s
from harness.sweep.state import CellState, CellTable

_SHARE_OF_BLOCK = 0.02  # a cell is sampled up to _MAX_REPEATS times a block within this share of it
_MAX_REPEATS = 5


def repeats(live: Sequence[CellState]) -> list[int]:
    """Return how often each cell is sampled in a block: short ones several times, spread over it.

    Ceilings once: there are many, and what counts of them is the fastest sample of the run.
    """
    allowed = _SHARE_OF_BLOCK * sum(state.sample_s() for state in live)
    return [
        1 if s.cell.role == "ceiling" else int(np.clip(allowed / s.sample_s(), 1, _MAX_REPEATS))
        for s in live
    ]


def block_s(live: Sequence[CellState]) -> float:
    """Return what a block takes."""
    return sum(s.sample_s() * times for s, times in zip(live, repeats(live), strict=True))


def run_block(
    cells: CellTable, journal: Journal, processes: Processes, *, last: bool = False
) -> None:
    """Sample every live cell that still wants samples, in an order drawn for this block.

    last: no block follows in these processes: what the last sample of a cell leaves behind is judged.
    """
    live = cells.live()
    times = {s.cell.id: n for s, n in zip(live, repeats(live), strict=True)}
    order = [state for state in cells.wanting() for _ in range(times[state.cell.id])]
    rng = np.random.default_rng([journal.spec.seed, journal.block])
    left = Counter(state.cell.id for state in order)
    for i in rng.permutation(len(order)):
        state = order[i]
        left[state.cell.id] -= 1
        sample(state, journal, processes, check=last and not left[state.cell.id])
    journal.block += 1


def run_blocked(blocks: int, cells: CellTable, journal: Journal, processes: Processes) -> None:
    """Sample cell after cell: all that `blocks` blocks hold of one, then the next, in a drawn order."""
    live, first = cells.live(), journal.block
    times = repeats(live)
    rng = np.random.default_rng([journal.spec.seed, first])
    for i in rng.permutation(len(live)):
        left = blocks * times[i]
        for journal.block in range(first, first + blocks):
            for _ in range(times[i]):
                left -= 1
                sample(live[i], journal, processes, check=not left)
    journal.block = first + blocks


def prove(cells: CellTable, journal: Journal, processes: Processes) -> None:
    """Judge what passes leave behind of cells whose last sample in these processes was not judged.

    It is a sample as the others, of which no record is made: the budget ended the blocks before it was known
    to.
    """
    for state in cells.live():
        if state.unproved and state.is_ready():
            ask_for_sample(state, journal, check=True)


def sample(
    state: CellState, journal: Journal, processes: Processes, *, check: bool = False
) -> None:
    """Take one sample of a cell and record it; a cell that fails, or whose output is wrong, is out.

    check: whether to judge the output that the sample leaves behind.
    """
    if not state.is_live():
        return
    cell = state.cell
    journal.monitor.stage(f"sampling {cell.id}")
    # Another cell may have taken the process with it: this one is then prepared in a fresh one and
    # sampled in the same block, so that blocks stay whole. Both stand under one process number; a
    # plugin shares its process with its own file's cells alone, so none of ours begin again with it.
    if not state.is_ready():
        gate.prepare(state, journal, processes)
    if not state.is_live():
        return
    started = time.monotonic()
    taken = ask_for_sample(state, journal, check=check)
    if taken is None:
        return
    record = journal.record_sample(cell, started, journal.block, taken)
    elapsed_s = taken.elapsed_ns / 1e9
    # What a check takes is not what a sample takes.
    untimed_s = state.untimed_s if check else time.monotonic() - started - elapsed_s
    state.add_sample(journal.block, elapsed_s / state.loops * state.slices, untimed_s)
    journal.show_sample(record)


def ask_for_sample(state: CellState, journal: Journal, *, check: bool) -> Sample | None:
    """Return a sample of a cell that is ready, None where it is out with it."""
    cell = state.cell
    if state.process is None:
        raise RuntimeError(f"{cell.id} is prepared in no process")
    # Without bound where no pass may warm the caches before the timed ones.
    expected_ns = 1e9 * state.slice_s() if cell.weights == "hot" else 1e18
    request = SampleRequest(
        cell=cell.id, loops=state.loops, turn=len(state.passes_s), expected_ns=expected_ns,
        check=check,
    )  # fmt: skip
    predicted_s = state.sample_s() + (cell.check_s() if check else 0.0)
    try:
        answer = state.process.ask(request, patience_s(journal.spec, cell, predicted_s))
    except ProcessError as error:
        state.lose("failed", str(error))
        journal.record_cell(state)
        return None
    if isinstance(answer, WrongOutput):
        state.lose("wrong", answer.verdict.reason)
        journal.record_cell(state, verdict=answer.verdict)
        return None
    state.unproved = not check
    return answer.sample
